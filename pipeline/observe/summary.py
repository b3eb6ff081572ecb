"""The closing summary: for people as text, for programs as JSON."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pipeline.errors import ExitCode
from pipeline.observe.latency import QUANTILES
from pipeline.observe.memory import allowance_as_dict, plan_as_dict, plan_lines, queue_as_dict
from pipeline.observe.status import LATENCY_STAGES, CropCounts, RunStatus, SourceState, SourceStatus
from pipeline.observe.text import count, duration, rate, safe, shown
from pipeline.stages import DropCause

REPORT_VERSION = 1
BEST_LABELS = 10
SOURCES_LISTED = 10
SECOND_LABELS = 4
_KEY_WIDTH = 12

Style = Callable[[str], str]


def render(status: RunStatus, heading: Style = str) -> str:
    """The summary as text, readable at 80 columns; long paths are not broken.

    Args:
        status: Of a run that has ended.
        heading: Styles the headings, for a terminal.
    """
    blocks = [
        [f"{heading(_verdict(status))}{_totals(status)}"],
        _facts(status),
        _section("found", _found(status), heading),
        _section("further models", _second(status), heading),
        _section("time spent", _stages(status), heading),
        _section("plug-ins", _plugins(status), heading),
        _section("live streams", _live(status), heading),
        _section("latency in ms", _latencies(status), heading),
        _section("failed", _failed(status), heading),
        _section("errors", [shown(error) for error in status.errors], heading),
        _section("written", [shown(str(path)) for path in status.outputs], heading),
        _section("kept incomplete", [shown(str(path)) for path in status.partial_outputs], heading),
    ]
    return _joined(blocks)


def render_plan(status: RunStatus, sinks: Sequence[str], heading: Style = str) -> str:
    """What a prepared run would do, for a dry run.

    Args:
        status: Of a pipeline that is prepared.
        sinks: Where the results would go, a line each.
        heading: Styles the headings, for a terminal.
    """
    waiting = [shown(s.source_id) for s in list(status.sources.values()) if s.state is SourceState.WAITING]
    if len(waiting) > SOURCES_LISTED:
        waiting[SOURCES_LISTED:] = [f"and {len(waiting) - SOURCES_LISTED:,} more"]
    verdict = "Ready to run" if waiting else "Nothing to run"
    return _joined(
        [
            [f"{heading(verdict)}; nothing was processed"],
            _table({"device": _device(status), "model": _model(status)}),
            _section("further models", [f"{name}: {shown(m.model)}" for name, m in status.models.items()], heading),
            _section("sources", waiting, heading),
            _section("GPU memory", [] if status.memory is None else plan_lines(status.memory), heading),
            _section("failed", _failed(status), heading),
            _section("results go to", [shown(sink) for sink in sinks], heading),
        ]
    )


def as_dict(status: RunStatus) -> dict[str, Any]:
    """The summary as JSON's types, for `observe.report`; `report` is the version of this format."""
    return {
        "report": REPORT_VERSION,
        "exit_code": int(status.exit_code),
        "interrupted": status.interrupted,
        "device": status.device,
        "device_reason": status.device_reason,
        "model": safe(status.model),
        "batch_size": status.batch_size,
        "frames": _decoded(status),
        "results": status.results,
        "elapsed_s": status.elapsed_s,
        "frames_per_s": status.frames_per_s,
        "stages": {
            name: {**dataclasses.asdict(times), "ms_per_frame": times.ms_per_frame}
            for name, times in status.stages.items()
        },
        "plugins": [
            {
                "field": name,
                **dataclasses.asdict(plugin),
                "use": safe(plugin.use),
                "last_error": None if plugin.last_error is None else safe(plugin.last_error),
            }
            for name, plugin in list(status.plugins.items())
        ],
        "labels": {safe(label): n for label, n in status.labels.most_common()},
        "models": [
            {
                "name": name,
                "model": safe(second.model),
                "labels": {safe(label): n for label, n in second.labels.most_common()},
                "crops": None if second.crops is None else dataclasses.asdict(second.crops),
            }
            for name, second in list(status.models.items())
        ],
        "sources": [_source_as_dict(source) for source in list(status.sources.values())],
        "outputs": [safe(str(path)) for path in status.outputs],
        "partial_outputs": [safe(str(path)) for path in status.partial_outputs],
        "errors": [safe(error) for error in status.errors],
        "removed_sources": status.removed,
        "queues": {name: queue_as_dict(stats) for name, stats in list(status.queues.items())},
        "memory": None if status.memory is None else plan_as_dict(status.memory),
        "decoder_memory": None if status.decoder_memory is None else allowance_as_dict(status.decoder_memory),
    }


def _source_as_dict(source: SourceStatus) -> dict[str, Any]:
    info, decode = source.info, source.totals
    return {
        "source": safe(source.source_id),
        "location": safe(source.location),
        "state": source.state.value,
        "frames": decode.frames,
        "results": source.results,
        "corrupt": decode.corrupt,
        "dropped": decode.dropped,
        "decode_errors": decode.errors,
        "last_decode_error": None if decode.last_error is None else safe(decode.last_error),
        "last_pts_s": source.last_pts_s,
        "live": source.is_live,
        "packets": decode.packets,
        "drops": {cause.value: n for cause, n in source.dropped.items()},
        "connects": source.connects,
        "last_connection_error": None if source.last_error is None else safe(source.last_error),
        "latency": {
            name: values
            for name, histogram in source.latency.items()
            if (values := histogram.quantiles_ms()) is not None
        },
        "slot": queue_as_dict(source.slot),
        "surfaces": None if decode.surfaces is None else queue_as_dict(decode.surfaces),
        "error": None if source.error is None else safe(source.error),
        "error_code": None if source.error_code is None else source.error_code.value,
        "stream": None
        if info is None
        else {
            "codec": info.codec,
            "width": info.width,
            "height": info.height,
            "frame_rate": None if info.frame_rate is None else float(info.frame_rate),
            "frame_count": info.frame_count,
            "duration_s": info.duration_s,
        },
    }


def _verdict(status: RunStatus) -> str:
    return {
        ExitCode.DONE: "Done",
        ExitCode.SOME_SOURCES_FAILED: "Done, with errors",
        ExitCode.INTERRUPTED: "Interrupted",
    }.get(status.exit_code, "Nothing could run")


def _totals(status: RunStatus) -> str:
    if not status.results:
        return ": no results"
    return f": {count(status.results, 'frame')} in {duration(status.elapsed_s)}, {rate(status.frames_per_s)}"


def _joined(blocks: Iterable[list[str]]) -> str:
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _table(values: Mapping[str, str]) -> list[str]:
    return [f"  {key:<{_KEY_WIDTH}}{value}" for key, value in values.items() if value]


def _facts(status: RunStatus) -> list[str]:
    return _table(
        {
            "device": _device(status),
            "model": _model(status),
            "sources": _sources(status),
            "results": _results(status),
            "dropped": _per_source(status, lambda s: s.totals.dropped, "corrupt frame"),
            "corrupt": _per_source(status, lambda s: s.totals.corrupt - s.totals.dropped, "frame", suffix="kept"),
            "damaged": _per_source(status, lambda s: s.totals.errors, "packet", suffix="skipped"),
        }
    )


def _device(status: RunStatus) -> str:
    return f"{status.device} ({shown(status.device_reason)})" if status.device_reason else status.device


def _model(status: RunStatus) -> str:
    return f"{shown(status.model)}, batches of {status.batch_size}" if status.model else ""


def _sources(status: RunStatus) -> str:
    states = [source.state for source in list(status.sources.values())]
    counted = [f"{states.count(state):,} {state.value}" for state in SourceState if state in states]
    if len(counted) == 1 and len(states) > 0:
        return counted[0]
    return f"{len(states):,}: {', '.join(counted)}" if states else "none"


def _decoded(status: RunStatus) -> int:
    return status.removed_frames + sum(source.totals.frames for source in list(status.sources.values()))


def _results(status: RunStatus) -> str:
    decoded, results = _decoded(status), status.results
    if decoded <= results:
        return f"{results:,} of {count(results, 'decoded frame')}"
    return f"{results:,} of {count(decoded, 'decoded frame')}; {decoded - results:,} not processed"


def _per_source(status: RunStatus, number: Callable[[SourceStatus], int], noun: str, suffix: str = "") -> str:
    """`5 packets skipped (4 in a.mp4, 1 in b.mp4)`; empty if there were none."""
    found = sorted(((number(s), s.source_id) for s in list(status.sources.values()) if number(s) > 0), reverse=True)
    if not found:
        return ""
    where = [f"{n:,} in {shown(name)}" for n, name in found[:3]]
    if len(found) > len(where):
        where.append(f"{len(found) - len(where):,} more sources")
    total = count(sum(n for n, _ in found), noun)
    return f"{total}{' ' + suffix if suffix else ''} ({', '.join(where)})"


def _section(title: str, lines: Sequence[str], heading: Style) -> list[str]:
    return [f"  {heading(title)}", *(f"    {line}" for line in lines)] if lines else []


def _found(status: RunStatus) -> list[str]:
    best = status.labels.most_common(BEST_LABELS)
    lines = _columns([(shown(label), f"{n:,}") for label, n in best])
    if len(status.labels) > len(best):
        others = sum(status.labels.values()) - sum(n for _, n in best)
        lines.append(f"and {others:,} of {count(len(status.labels) - len(best), 'other label')}")
    return lines


def _second(status: RunStatus) -> list[str]:
    """For each its most frequent labels, and for those on crops what became of the detections."""
    lines = []
    for name, second in list(status.models.items()):
        lines.append(f"{name}: {shown(second.model)}")
        best = [f"{shown(label)} {n:,}" for label, n in second.labels.most_common(SECOND_LABELS)]
        if best:
            lines.append(f"  {', '.join(best)}{', ...' if len(second.labels) > SECOND_LABELS else ''}")
        if second.crops is not None:
            lines.append(f"  {_crops(second.crops)}")
    return lines


def _crops(crops: CropCounts) -> str:
    parts = [count(crops.crops, "crop")]
    parts += [
        f"{number:,} {what}"
        for number, what in (
            (crops.kept, "kept from earlier frames"),
            (crops.left_out, "left out"),
            (crops.too_small, "too small"),
            (crops.unusable, "outside the picture"),
            (crops.failed, "failed"),
        )
        if number
    ]
    return ", ".join(parts)


def _stages(status: RunStatus) -> list[str]:
    rows = [
        (
            name,
            f"{times.ms_per_frame:.2f} ms/{'crop' if name.startswith('cascade.') else 'frame'}",
            f"{times.busy_s:.1f} s busy",
        )
        for name, times in status.stages.items()
        if times.frames
    ]
    return _columns(rows)


def _plugins(status: RunStatus) -> list[str]:
    plugins = list(status.plugins.items())
    lines = _columns(
        [
            (f"{name}: {shown(p.use)}", count(p.calls, "call"), f"{p.busy_s:.1f} s busy", count(p.errors, "error"))
            for name, p in plugins
        ]
    )
    return lines + [f"{name}: last error: {shown(p.last_error)}" for name, p in plugins if p.last_error is not None]


def _live_sources(status: RunStatus) -> list[SourceStatus]:
    return [source for source in list(status.sources.values()) if source.is_live]


def _live(status: RunStatus) -> list[str]:
    """A line for each stream, those that had the most trouble first."""
    streams = sorted(_live_sources(status), key=lambda s: s.reconnects, reverse=True)
    lines = _columns(
        [
            (
                shown(s.source_id),
                count(s.totals.packets, "frame") + " received",
                f"{s.results:,} with results",
                count(s.reconnects, "reconnect"),
            )
            for s in streams[:SOURCES_LISTED]
        ]
    )
    if len(streams) > SOURCES_LISTED:
        lines.append(f"and {count(len(streams) - SOURCES_LISTED, 'more stream')}; observe.report lists them all")
    causes: Counter[DropCause] = Counter()
    for source in streams:
        causes.update(source.dropped)
    if causes:
        lines.append("dropped: " + ", ".join(f"{causes[c]:,} {c.value}" for c in DropCause if causes[c]))
    return lines


def _latencies(status: RunStatus) -> list[str]:
    """p50, p95 and p99 of each step, over the streams' worst, because a mean would hide it."""
    rows: list[tuple[str, ...]] = [("", "p50", "p95", "p99")]
    for name in LATENCY_STAGES:
        worst = [source.latency[name] for source in _live_sources(status) if source.latency[name].count]
        if worst:
            values = [max(h.quantile(q) or 0.0 for h in worst) * 1e3 for q in QUANTILES]
            rows.append((f"{name} (worst stream)" if len(worst) > 1 else name, *(f"{v:.1f}" for v in values)))
    return _columns(rows) if len(rows) > 1 else []


def _failed(status: RunStatus) -> list[str]:
    failed = [source for source in list(status.sources.values()) if source.state is SourceState.FAILED]
    lines = [line for source in failed[:SOURCES_LISTED] for line in _failure(source)]
    if len(failed) > SOURCES_LISTED:
        lines.append(f"and {count(len(failed) - SOURCES_LISTED, 'more source')}; observe.report lists them all")
    return lines


def _failure(source: SourceStatus) -> Iterable[str]:
    code = f" [{source.error_code.value}]" if source.error_code else ""
    yield f"{shown(source.source_id)}: {shown(source.error or 'no reason given')}{code}"
    if source.results:
        yield f"  after {count(source.results, 'frame')}, which are in the results"


def _columns(rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Aligned columns: the first to the left, the others to the right."""
    if not rows:
        return []
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    widths[0] = max(widths[0], _KEY_WIDTH)
    return [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
