"""What a run knows of itself while it runs and when it has ended; the runtime writes, displays and reports read."""

from __future__ import annotations

import enum
import logging
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ExitCode, SourceError, SourceErrorCode
from pipeline.stages import DecodeStats, StreamInfo

log = logging.getLogger(__name__)


class SourceState(str, enum.Enum):
    """Where a source stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


@dataclass(slots=True)
class SourceStatus:
    """One video.

    Attributes:
        source_id: Its id.
        location: Path or URL without credentials.
        state: Where it stands.
        info: Known once it is open.
        decode: The decoder's counters.
        results: Frames whose results have been handed to the sinks.
        last_pts_s: Presentation time of the last of these.
        frame_limit: Frames to process at most; None: all. Only for estimating what is left.
        error: Why it failed, in one sentence; None if it did not.
        error_code: The same as a stable name.
    """

    source_id: str
    location: str
    state: SourceState = SourceState.WAITING
    info: StreamInfo | None = None
    decode: DecodeStats = field(default_factory=DecodeStats)
    results: int = 0
    last_pts_s: float | None = None
    frame_limit: int | None = None
    error: str | None = None
    error_code: SourceErrorCode | None = None

    def fail(self, error: SourceError) -> None:
        """Records the first error that ended this source, and logs it."""
        if self.error is None:
            self.state, self.error, self.error_code = SourceState.FAILED, str(error), error.code
            log.error("source %s: %s", self.source_id, error)


@dataclass(slots=True)
class StageTimes:
    """What a stage has cost: busy seconds of its thread, and how much it has done."""

    busy_s: float = 0.0
    batches: int = 0
    frames: int = 0

    def add(self, busy_s: float, frames: int) -> None:
        """Counts one batch (or, in the decoder, one frame)."""
        self.busy_s += busy_s
        self.batches += 1
        self.frames += frames

    @property
    def ms_per_frame(self) -> float:
        """Busy milliseconds a frame; 0 before the first."""
        return 1e3 * self.busy_s / self.frames if self.frames else 0.0


@dataclass(slots=True)
class RunStatus:
    """The whole run; a snapshot of it is the closing summary.

    Attributes:
        device: The engine that runs: `cpu` or `cuda`.
        device_reason: Why this one, in a few words.
        model: `name@hash`.
        batch_size: Frames per model call.
        sources: By id, in the order of the configuration.
        stages: By name (`decode`, `preprocess`, `infer`, `postprocess`, `sinks`), in pipeline order.
        labels: How many detections (or best classes) of each label.
        outputs: Files that were written, complete.
        partial_outputs: Files that were kept incomplete after an error or an interruption.
        errors: Errors that belong to no source, in words.
        started_s: `time.monotonic()` at the start of the run, None before.
        first_frame_s: The same for the first decoded frame: the rate counts from here, so that loading is left out.
        ended_s: The same for the end.
        interrupted: Whether the user ended the run.
    """

    device: str = "cpu"
    device_reason: str = ""
    model: str = ""
    batch_size: int = 0
    sources: dict[str, SourceStatus] = field(default_factory=dict)
    stages: dict[str, StageTimes] = field(default_factory=dict)
    labels: Counter[str] = field(default_factory=Counter)
    outputs: list[Path] = field(default_factory=list)
    partial_outputs: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    started_s: float | None = None
    first_frame_s: float | None = None
    ended_s: float | None = None
    interrupted: bool = False

    @property
    def results(self) -> int:
        """Frames whose results have been handed to the sinks."""
        return sum(s.results for s in self.sources.values())

    @property
    def elapsed_s(self) -> float:
        """Seconds since the first frame was decoded: model loading and warm-up are left out."""
        if self.first_frame_s is None:
            return 0.0
        return (self.ended_s or time.monotonic()) - self.first_frame_s

    @property
    def frames_per_s(self) -> float:
        """Results a second; 0 before the first."""
        return self.results / self.elapsed_s if self.results and self.elapsed_s > 0 else 0.0

    @property
    def exit_code(self) -> ExitCode:
        """What the process ends with."""
        if self.interrupted:
            return ExitCode.INTERRUPTED
        failed = [s for s in self.sources.values() if s.state is SourceState.FAILED]
        if not self.results and (failed or self.errors):
            return ExitCode.NOTHING_COULD_RUN
        return ExitCode.SOME_SOURCES_FAILED if failed or self.errors else ExitCode.DONE
