"""What a run knows of itself while it runs and when it has ended; the runtime writes, displays and reports read."""

from __future__ import annotations

import enum
import logging
import math
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.errors import ExitCode, SourceError, SourceErrorCode
from pipeline.observe.latency import LatencyHistogram
from pipeline.queues import QueueStats
from pipeline.stages import DecodeStats, DropCause, Drops, StreamInfo
from pipeline.vram import Allowance, MemoryPlan

log = logging.getLogger(__name__)


class SourceState(str, enum.Enum):
    """Where a source stands. Those from `CONNECTING` to `PAUSED` are a live stream's."""

    WAITING = "waiting"
    CONNECTING = "connecting"
    RUNNING = "running"
    STALLED = "stalled"
    BACKING_OFF = "backing_off"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"
    STOPPED = "stopped"


ENDED = frozenset({SourceState.DONE, SourceState.FAILED, SourceState.STOPPED})
CONNECTED = frozenset({SourceState.CONNECTING, SourceState.RUNNING, SourceState.STALLED})
_AFTER_CONNECTION = frozenset({SourceState.BACKING_OFF, SourceState.PAUSED, SourceState.WAITING, *ENDED})
# What may follow what; everything else is a mistake in the program. A failed stream can be started again by hand.
TRANSITIONS: dict[SourceState, frozenset[SourceState]] = {
    SourceState.WAITING: CONNECTED | {SourceState.PAUSED} | ENDED,
    SourceState.CONNECTING: _AFTER_CONNECTION | {SourceState.RUNNING},
    SourceState.RUNNING: _AFTER_CONNECTION | {SourceState.STALLED},
    SourceState.STALLED: _AFTER_CONNECTION | {SourceState.RUNNING},
    SourceState.BACKING_OFF: frozenset({SourceState.WAITING, SourceState.PAUSED, SourceState.STOPPED}),
    SourceState.PAUSED: frozenset({SourceState.WAITING, SourceState.STOPPED}),
    SourceState.DONE: frozenset(),
    SourceState.FAILED: frozenset({SourceState.WAITING, SourceState.STOPPED}),
    SourceState.STOPPED: frozenset(),
}

# What a live stream's frames go through: from the camera to here, out of the decoder, out of the model, out of the sinks;
# then all of it from when the packet came, and from when the camera took it. `receive` and `capture_to_emit` are known only
# where the camera states its time.
LATENCY_STAGES = ("receive", "decode", "infer", "emit", "total", "capture_to_emit")


# How far back a stream's rate looks.
_RATE_WINDOW_S = 5.0


class Rate:
    """Events a second over the last seconds, older ones counting less and less; falls to 0 in a silence."""

    __slots__ = ("_per_s", "_since_s")

    def __init__(self) -> None:
        self._per_s = 0.0
        self._since_s = 0.0

    def add(self, now_s: float) -> None:
        """One more; `now_s` is `time.monotonic()`."""
        self._per_s = self.per_s(now_s) + 1.0 / _RATE_WINDOW_S
        self._since_s = now_s

    def per_s(self, now_s: float) -> float:
        """The rate now."""
        return self._per_s * math.exp(-max(0.0, now_s - self._since_s) / _RATE_WINDOW_S)


@dataclass(slots=True)
class SourceStatus:
    """One video or live stream.

    Attributes:
        source_id: Its id.
        location: Path or URL without credentials.
        state: Where it stands.
        info: Known once it is open.
        decode: The decoder's counters, of a live stream those of its last connection.
        results: Frames whose results have been handed to the sinks.
        last_pts_s: Presentation time of the last of these.
        frame_limit: Frames to process at most; None: all. Only for estimating what is left.
        error: Why it failed, in one sentence; None if it did not.
        error_code: The same as a stable name.
        earlier: The decoder's counters of the connections before.
        drops: Frames that were dropped behind the decoder.
        is_live: Whether it is a live stream, which is reconnected.
        is_removed: Whether it was removed at run time: it is forgotten once its last result is out.
        is_out: Whether its last result is out and the sinks have been told of its end.
        priority: Its share of the model where that cannot keep up.
        changed_s: `time.monotonic()` when it came to be in this state.
        connects: How often it has been connected, of a live stream.
        failed_attempts: How often in a row it could not be, or broke soon.
        retry_s: `time.monotonic()` of the next attempt while it is backing off.
        last_error: Why its last connection ended or failed, in one sentence, of a live stream that goes on.
        last_error_code: The same as a stable name.
        latency: By `LATENCY_STAGES`, of a live stream.
        rate: Of its results, of a live stream.
        slot: Its frames that wait for the model.
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
    earlier: DecodeStats = field(default_factory=DecodeStats)
    drops: Drops = field(default_factory=Drops)
    is_live: bool = False
    is_removed: bool = False
    is_out: bool = False
    priority: int = 1
    changed_s: float = field(default_factory=time.monotonic)
    connects: int = 0
    failed_attempts: int = 0
    retry_s: float | None = None
    last_error: str | None = None
    last_error_code: SourceErrorCode | None = None
    latency: dict[str, LatencyHistogram] = field(
        default_factory=lambda: {name: LatencyHistogram() for name in LATENCY_STAGES}
    )
    rate: Rate = field(default_factory=Rate, compare=False)
    slot: QueueStats = field(default_factory=QueueStats, compare=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def reconnects(self) -> int:
        """How often it was connected again."""
        return max(0, self.connects - 1)

    @property
    def in_flight(self) -> int:
        """Frames that were received and have neither a result nor been dropped yet."""
        return self.totals.packets - self.results - sum(self.dropped.values())

    @property
    def totals(self) -> DecodeStats:
        """The decoder's counters over all connections."""
        with self._lock:
            return self.earlier + self.decode

    def connect(self, stats: DecodeStats) -> None:
        """Another connection begins, whose decoder counts in `stats`."""
        with self._lock:
            self.earlier, self.decode = self.earlier + self.decode, stats

    def detach(self) -> DecodeStats:
        """What was counted so far, apart from who still counts."""
        with self._lock:
            self.decode = DecodeStats() + self.decode
            return self.decode

    @property
    def dropped(self) -> dict[DropCause, int]:
        """How many frames were dropped by each cause that there was, in the decoder and behind it."""
        early = self.totals.drops
        return {cause: n for cause in DropCause if (n := early[cause] + self.drops[cause])}

    def enter(self, state: SourceState, why: str = "", *, is_news: bool = True) -> None:
        """Changes the state; a live stream's changes are logged, at level debug those that are no news.

        What has failed stays so, whatever the others have not heard of it yet, until it is started again.

        Raises:
            ValueError: `TRANSITIONS` does not have this change.
        """
        with self._lock:
            before = self.state
            if state is before:
                return
            if state not in TRANSITIONS[before]:
                if before is SourceState.FAILED:
                    return
                raise ValueError(f"source {self.source_id}: {before.value} is not followed by {state.value}")
            self.state, self.changed_s = state, time.monotonic()
        if self.is_live:
            # That a camera which is down is tried again goes without saying.
            is_news = is_news and not (state is SourceState.WAITING and self.failed_attempts)
            log.log(
                logging.INFO if is_news else logging.DEBUG,
                "stream %s: %s%s",
                self.source_id,
                state.value,
                f": {why}" if why else "",
            )

    def connecting(self) -> bool:
        """A waiting stream forgets its error and is connected; False if it has failed meanwhile."""
        with self._lock:
            if self.state is not SourceState.WAITING:
                return False
            self.error = self.error_code = None
            self.state, self.changed_s = SourceState.CONNECTING, time.monotonic()
        log.log(logging.DEBUG if self.failed_attempts else logging.INFO, "stream %s: connecting", self.source_id)
        return True

    def fail(self, error: SourceError) -> None:
        """Records the first error that ended this source, and logs it."""
        with self._lock:
            if self.error is not None:
                return
            self.error, self.error_code = str(error), error.code
            self.state, self.changed_s = SourceState.FAILED, time.monotonic()
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
class PluginStatus:
    """One plug-in of the configuration.

    Attributes:
        use: What it is, as the configuration names it.
        calls: Batches that it was given.
        errors: Exceptions that came out of it, in these or in the calls around them.
        last_error: The last of these in words, without credentials.
        busy_s: Seconds that its calls have taken.
        copied_bytes: What was copied from a device because it takes NumPy arrays.
    """

    use: str
    calls: int = 0
    errors: int = 0
    last_error: str | None = None
    busy_s: float = 0.0
    copied_bytes: int = 0


@dataclass(slots=True)
class CropCounts:
    """What became of the detections that one of `pipeline.cascade` might look at.

    Attributes:
        crops: Those that were looked at.
        kept: Those that kept the last result of their track.
        left_out: Those that were not looked at and had no result to keep: `max_per_frame`, or results with places in the picture.
        too_small: Those smaller than `min_size_px`.
        unusable: Those whose box is no box inside the picture.
        failed: Those that were looked at in vain, as the user's own postprocessor failed.
    """

    crops: int = 0
    kept: int = 0
    left_out: int = 0
    too_small: int = 0
    unusable: int = 0
    failed: int = 0


@dataclass(slots=True)
class SecondStatus:
    """One of `pipeline.models` or `pipeline.cascade`.

    Attributes:
        model: `name@hash`.
        labels: As `RunStatus.labels`, of its own results.
        crops: What became of the detections that it looks at; None if it looks at frames.
    """

    model: str
    labels: Counter[str] = field(default_factory=Counter)
    crops: CropCounts | None = None


@dataclass(slots=True)
class RunStatus:
    """The whole run; a snapshot of it is the closing summary.

    Attributes:
        device: The engine that runs: `cpu` or `cuda`.
        device_reason: Why this one, in a few words.
        model: `name@hash`.
        models: By name the further models, of `pipeline.models` and `pipeline.cascade`.
        batch_size: Frames per model call.
        sources: By id, in the order of the configuration; then those that were added later.
        removed: How many sources were removed at run time.
        removed_results: Frames of these whose results have been handed to the sinks.
        removed_frames: Frames of these that were decoded.
        stages: By name (`decode`, `preprocess`, `infer`, `postprocess`, `sinks`), in pipeline order; `models.NAME` for each
            of `pipeline.models`, and `cascade.NAME`, where what is counted are crops.
        queues: Of batches, by who takes them: `model`, `results` and, of the Python API, `consumer`.
        memory: What is planned to be taken of the device's memory; None on the CPU.
        decoder_memory: What decoders have taken of that.
        plugins: By field, such as `sinks[0]`.
        drawing: The sinks that draw on the frames, such as `sinks[1] (video)`; for them pixels come to the host.
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
    models: dict[str, SecondStatus] = field(default_factory=dict)
    batch_size: int = 0
    sources: dict[str, SourceStatus] = field(default_factory=dict)
    removed: int = 0
    removed_results: int = 0
    removed_frames: int = 0
    stages: dict[str, StageTimes] = field(default_factory=dict)
    queues: dict[str, QueueStats] = field(default_factory=dict)
    memory: MemoryPlan | None = None
    decoder_memory: Allowance | None = None
    plugins: dict[str, PluginStatus] = field(default_factory=dict)
    drawing: tuple[str, ...] = ()
    labels: Counter[str] = field(default_factory=Counter)
    outputs: list[Path] = field(default_factory=list)
    partial_outputs: list[Path] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    started_s: float | None = None
    first_frame_s: float | None = None
    ended_s: float | None = None
    interrupted: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False, compare=False)

    @property
    def results(self) -> int:
        """Frames whose results have been handed to the sinks."""
        with self._lock:
            return self.removed_results + sum(s.results for s in list(self.sources.values()))

    def remove(self, source_id: str) -> None:
        """A source is forgotten once its last result is out, which may have been long ago."""
        with self._lock:
            source = self.sources[source_id]
            source.is_removed = True
            if source.is_out:
                self._forget(source)

    def out(self, source_id: str) -> None:
        """A source's last result is out and the sinks have been told of its end."""
        with self._lock:
            source = self.sources[source_id]
            source.is_out = True
            if source.is_removed:
                self._forget(source)

    def _forget(self, source: SourceStatus) -> None:
        """Its numbers stay in the totals."""
        del self.sources[source.source_id]
        self.removed += 1
        self.removed_results += source.results
        self.removed_frames += source.totals.frames

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
        failed = [s for s in list(self.sources.values()) if s.state is SourceState.FAILED]
        has_errors = bool(failed or self.errors or any(plugin.errors for plugin in list(self.plugins.values())))
        if has_errors and not self.results:
            return ExitCode.NOTHING_COULD_RUN
        return ExitCode.SOME_SOURCES_FAILED if has_errors else ExitCode.DONE
