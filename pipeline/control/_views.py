"""From the run's status to what the HTTP interface answers. The status changes meanwhile: nothing is read twice."""

from __future__ import annotations

import time
from collections import Counter
from typing import Literal

from pipeline.control import _schemas as schemas
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.observe.text import safe


def snapshot(status: RunStatus) -> list[SourceStatus]:
    """The sources that there are now; other threads may add and remove some while one looks at them."""
    return list(status.sources.values())


def find_id(status: RunStatus, asked: str) -> str:
    """The id that is meant: itself, or else that of the source which is shown so."""
    if asked in status.sources:
        return asked
    return next((s.source_id for s in snapshot(status) if safe(s.source_id) == asked), asked)


def stream(source: SourceStatus) -> schemas.Stream:
    """One stream as JSON shows it."""
    now_s, info, retry_s = time.monotonic(), source.info, source.retry_s
    is_backing_off = source.state is SourceState.BACKING_OFF and retry_s is not None
    return schemas.Stream(
        id=safe(source.source_id),
        location=safe(source.location),
        state=source.state,
        state_s=max(0.0, now_s - source.changed_s),
        live=source.is_live,
        priority=source.priority,
        error=_safe_or_none(source.error),
        error_code=source.error_code,
        last_error=_safe_or_none(source.last_error),
        last_error_code=source.last_error_code,
        connects=source.connects,
        reconnects=source.reconnects,
        failed_attempts=source.failed_attempts,
        retry_in_s=max(0.0, retry_s - now_s) if is_backing_off and retry_s is not None else None,
        stream=None
        if info is None
        else schemas.StreamFormat(
            codec=info.codec,
            width=info.width,
            height=info.height,
            frame_rate=None if info.frame_rate is None else float(info.frame_rate),
        ),
        counters=counters(source),
        results_per_s=source.rate.per_s(now_s),
        last_pts_s=source.last_pts_s,
        latency={
            stage: schemas.Latency(**values)
            for stage, histogram in source.latency.items()
            if (values := histogram.quantiles_ms()) is not None
        },
    )


def run(status: RunStatus) -> schemas.Run:
    """The run as JSON shows it."""
    results, elapsed_s = status.results, status.elapsed_s
    state: Literal["starting", "running", "ended"] = "running"
    if status.started_s is None:
        state = "starting"
    elif status.ended_s is not None:
        state = "ended"
    return schemas.Run(
        state=state,
        device=status.device,
        device_reason=safe(status.device_reason),
        model=safe(status.model),
        models={name: safe(second.model) for name, second in list(status.models.items())},
        batch_size=status.batch_size,
        elapsed_s=elapsed_s,
        results=results,
        frames_per_s=results / elapsed_s if elapsed_s > 0 else 0.0,
        streams=Counter(source.state for source in snapshot(status)),
        stages={
            name: schemas.StageTotals(
                busy_s=times.busy_s, batches=times.batches, frames=times.frames, ms_per_frame=times.ms_per_frame
            )
            for name, times in list(status.stages.items())
        },
        errors=[safe(error) for error in list(status.errors)],
    )


def why_not_ready(status: RunStatus) -> str | None:
    """Why the run does no work now, in words; None if it does."""
    if status.started_s is None:
        return "the run has not started"
    if status.ended_s is not None:
        return "the run has ended"
    states = Counter(source.state for source in snapshot(status))
    if not states or states[SourceState.RUNNING]:
        return None
    return f"no stream runs: {', '.join(f'{number} {state.value}' for state, number in states.items())}"


def counters(source: SourceStatus) -> schemas.Counters:
    """A stream's counters, over all its connections; they fit together as well as can be without stopping it."""
    totals, results, dropped = source.totals, source.results, source.dropped
    all_dropped = sum(dropped.values())
    return schemas.Counters(
        packets=totals.packets,
        decoded=totals.decoded,
        results=results,
        corrupt=totals.corrupt,
        decode_errors=totals.errors,
        dropped=all_dropped,
        dropped_by_cause=dropped,
        in_flight=max(0, totals.packets - results - all_dropped),
    )


def _safe_or_none(text: str | None) -> str | None:
    return None if text is None else safe(text)
