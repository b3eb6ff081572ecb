"""Runs a configuration on trial under a tracer, and says what crossed between host and device.

A run is warmed up first: loading the model, the first launches and opening the decoders do not count.
"""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from pipeline.config.models import Config
from pipeline.errors import DeviceError, VramlineError
from pipeline.inference.tensorflow import DEFAULT_BATCH_SIZE_ON_GPU
from pipeline.observe.machine import choose_device
from pipeline.observe.status import RunStatus
from pipeline.observe.trace.account import Account, account
from pipeline.observe.trace.records import Trace
from pipeline.observe.trace.verdict import Limits, Setting, Verdict, verdicts
from pipeline.observe.trace.windows import StageWindows
from pipeline.runtime.build import Progress, build_stages
from pipeline.runtime.pipeline import Pipeline
from pipeline.runtime.ranges import DECODE, DOWNLOAD, INFER, OPEN, RANGES, SINKS, with_ranges
from pipeline.runtime.rehearsal import rehearsal

log = logging.getLogger(__name__)

# From when the tracer records to when the measurement begins: what was asked for before is done by then.
_SETTLE_BATCHES = 8
# The batch that is under way when the measurement begins does not count.
_UNDER_WAY = 1
_LOOK_S = 0.1
_STALL_S = 60.0
_END_S = 10.0


class Tracer(Protocol):
    """What records; see `pipeline.observe.trace.cupti.CuptiTracer`."""

    def now_ns(self) -> int:
        """Its clock."""

    def start(self) -> None:
        """Begins to record."""

    def begin(self) -> None:
        """The measurement begins."""

    def end(self) -> None:
        """The measurement ends."""

    def stop(self) -> Trace:
        """Ends the recording and returns it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is verified, and how.

    Attributes:
        batches: How many are measured.
        warm_up: How many come before.
        limits: What is allowed.
        allow_drawing: Whether pixels may come down for sinks that draw.
    """

    batches: int = 50
    warm_up: int = 10
    limits: Limits = field(default_factory=Limits)
    allow_drawing: bool = False


@dataclass(frozen=True, slots=True)
class Verification:
    """What was found.

    Attributes:
        account: What each stage had done.
        verdicts: What follows from it.
        status: Of the run.
        plan: What was asked for.
    """

    account: Account
    verdicts: list[Verdict]
    status: RunStatus
    plan: Plan

    @property
    def passed(self) -> bool:
        """Whether all is as it should be."""
        return all(verdict.passed for verdict in self.verdicts)


@dataclass(frozen=True, slots=True)
class _Measured:
    """What is known of a measurement besides the trace."""

    setting: Setting
    bytes_per_packet: float


class Verifier:
    """One verification.

    Args:
        config: What to verify.
        plan: How.
        open_tracer: Gives the tracer.
        progress: Told of what is fetched.
    """

    def __init__(
        self, config: Config, plan: Plan, open_tracer: Callable[[], Tracer], *, progress: Progress | None = None
    ) -> None:
        self._config, self._plan, self._open_tracer, self._progress = config, plan, open_tracer, progress
        self._pipeline: Pipeline | None = None
        self._failure: BaseException | None = None
        self._is_interrupted = False

    def interrupt(self) -> None:
        """Ends it soon; from any thread or signal handler."""
        self._is_interrupted = True
        if self._pipeline is not None:
            self._pipeline.stop()

    def __call__(self) -> Verification | None:
        """Runs; None if it was interrupted.

        Raises:
            VramlineError: nothing could be measured, in words.
        """
        _check_device(self._config)
        tracer, plan = self._open_tracer(), self._plan
        batch_size = self._config.runtime.batch_size or DEFAULT_BATCH_SIZE_ON_GPU
        wanted = plan.warm_up + _SETTLE_BATCHES + _UNDER_WAY + plan.batches
        windows = StageWindows(tracer.now_ns, SINKS)
        with tempfile.TemporaryDirectory(prefix="vramline-verify-") as folder:
            config = rehearsal(self._config, Path(folder), (wanted + 2) * batch_size, self._progress)
            self._pipeline = Pipeline(
                config, progress=self._progress, build=lambda *given: with_ranges(build_stages(*given), windows)
            )
            with self._pipeline as pipeline:
                pipeline.prepare()
                measured = self._measure(pipeline, tracer, windows)
        if self._is_interrupted:
            return None
        if self._failure is not None:
            raise self._failure
        if measured is None:
            raise _too_short(pipeline.status, windows.batches, plan)
        trace = tracer.stop()
        found = account(trace, windows.all(), RANGES, frame_stages=(OPEN, DECODE), batch_stage=SINKS, model=INFER)
        _check(trace, found, pipeline.status, windows.batches, plan)
        if DECODE in found.stages:
            decode = found.stages[DECODE]
            decode.packet_bytes = decode.frames * measured.bytes_per_packet
        return Verification(found, verdicts(found, plan.limits, measured.setting), pipeline.status, plan)

    def _measure(self, pipeline: Pipeline, tracer: Tracer, windows: StageWindows) -> _Measured | None:
        """Runs the pipeline for as long as it takes; None if it ended before the measurement began."""
        plan, status = self._plan, pipeline.status
        runner = threading.Thread(target=self._run, args=(pipeline,), name="verify", daemon=True)
        runner.start()
        measured = None
        log.info("warming up for %s batches", plan.warm_up)
        if self._reach(plan.warm_up, windows, runner):
            tracer.start()
            if self._reach(windows.batches + _SETTLE_BATCHES, windows, runner):
                log.info("measuring %s batches", plan.batches)
                tracer.begin()
                packets, size = _packets(status)
                self._reach(windows.batches + _UNDER_WAY + plan.batches, windows, runner)
                tracer.end()
                more, larger = _packets(status)
                setting = _setting(status, allow_drawing=plan.allow_drawing)
                measured = _Measured(setting, (larger - size) / max(more - packets, 1))
        pipeline.stop()
        runner.join(self._config.runtime.drain_s + _END_S)
        return measured

    def _run(self, pipeline: Pipeline) -> None:
        try:
            pipeline.run()
        except BaseException as e:  # raised where somebody waits for it
            self._failure = e

    def _reach(self, count: int, windows: StageWindows, runner: threading.Thread) -> bool:
        """Waits until so many batches are through in all; False if the run has ended before."""
        seen, moved_s = windows.batches, time.monotonic()
        while not windows.wait_for_batches(count, _LOOK_S):
            if not runner.is_alive() or self._is_interrupted:
                return windows.batches >= count
            if windows.batches != seen:
                seen, moved_s = windows.batches, time.monotonic()
            elif time.monotonic() > moved_s + _STALL_S:
                raise VramlineError(
                    f"no batch came through for {_STALL_S:.0f} s: nothing can be measured",
                    remedy="see whether the sources give frames: vramline run does",
                )
        return True


def _check_device(config: Config) -> None:
    device, reason = choose_device(config.device)
    if device != "cuda":
        why = "device: cpu" if config.device == "cpu" else reason
        raise DeviceError(
            f"there is nothing to verify without a GPU: this pipeline runs on the CPU ({why})",
            remedy="run it where vramline doctor finds a GPU, with device: cuda or auto",
        )


def _packets(status: RunStatus) -> tuple[int, int]:
    """How many were read so far, and their bytes."""
    totals = [source.totals for source in list(status.sources.values())]
    return sum(total.packets for total in totals), sum(total.packet_bytes for total in totals)


def _setting(status: RunStatus, *, allow_drawing: bool) -> Setting:
    sources = list(status.sources.values())
    pictures = [source.info.width * source.info.height for source in sources if source.info is not None]
    return Setting(
        min(pictures, default=1),
        uncounted=(OPEN,),
        download=DOWNLOAD,
        decode=DECODE,
        drawing=status.drawing,
        uploaded=tuple(source.source_id for source in sources if source.totals.uploaded),
        allow_drawing=allow_drawing,
    )


def _too_short(status: RunStatus, batches: int, plan: Plan) -> VramlineError:
    failed = [f"{source.source_id}: {source.error}" for source in status.sources.values() if source.error]
    why = f": {'; '.join([*failed, *status.errors][:3])}" if failed or status.errors else ""
    return VramlineError(
        f"the sources ended after {batches} batches, before the warm-up was over{why}",
        remedy=None if why else f"give longer videos, or fewer batches than --warm-up {plan.warm_up}",
    )


def _check(trace: Trace, found: Account, status: RunStatus, batches: int, plan: Plan) -> None:
    """A trace that cannot be true must not pass for one without copies."""
    if not found.batches:
        raise _too_short(status, batches, plan)
    if not any(stage.launches for stage in found.stages.values()):
        raise DeviceError(
            f"CUPTI recorded no kernel in {found.batches} batches: it does not work on this machine",
            remedy="see that no other profiler is attached, and that libcupti is that of the CUDA version in use",
        )
    if trace.dropped:
        raise DeviceError(
            f"CUPTI lost {trace.dropped:,} records: the account would be wrong", remedy="measure fewer batches"
        )
