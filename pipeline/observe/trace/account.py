"""Whose work was what: a trace and the stages' windows -> an account for each stage. Pure arithmetic.

Work belongs to the call that asked for it, and a call to the stage that was at work in its thread at that time. Calls of
threads that are no stage's, while the model was being called, are the model's: TensorFlow has threads of its own. What
remains is `ELSEWHERE`. A window that was open when the measurement began or ended is left out with all of its work, so
that counts and windows go together.
"""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.observe.trace.records import Call, Copy, Direction, Trace, Window

ELSEWHERE = "elsewhere"
_LEFT_OUT = ""


@dataclass(slots=True)
class StageAccount:
    """What one stage had done, in the whole measurement.

    Attributes:
        stage: Its name.
        ranges: How often it was at work: of most stages once a batch.
        frames: Frames that it worked on.
        batches: Batches that it worked on; of a stage that works on single frames, as many as these are.
        packet_bytes: Compressed packets that it gave to the decoder, whose driver takes them up without a copy that shows.
        up_bytes: Copied from the host to the device.
        down_bytes: Copied from the device to the host.
        device_bytes: Copied on the device.
        largest_up_bytes: The largest single copy up.
        largest_down_bytes: The largest single copy down.
        waits: How often the host waited for the device.
        launches: Kernels.
        waited_for: The calls that waited -> how many.
    """

    stage: str
    ranges: int = 0
    frames: float = 0.0
    batches: float = 0.0
    packet_bytes: float = 0.0
    up_bytes: int = 0
    down_bytes: int = 0
    device_bytes: int = 0
    largest_up_bytes: int = 0
    largest_down_bytes: int = 0
    waits: int = 0
    launches: int = 0
    waited_for: dict[str, int] = field(default_factory=dict)

    def add_copy(self, copy: Copy) -> None:
        """Counts a copy."""
        size = copy.size_bytes
        if copy.direction is Direction.UP:
            self.up_bytes += size
            self.largest_up_bytes = max(self.largest_up_bytes, size)
        elif copy.direction is Direction.DOWN:
            self.down_bytes += size
            self.largest_down_bytes = max(self.largest_down_bytes, size)
        elif copy.direction is Direction.DEVICE:
            self.device_bytes += size

    def add_wait(self, what: str) -> None:
        """Counts a wait."""
        self.waits += 1
        self.waited_for[what] = self.waited_for.get(what, 0) + 1

    def per_frame(self, number: float) -> float:
        """A number of this account for each frame."""
        return number / self.frames if self.frames else 0.0

    def per_batch(self, number: float) -> float:
        """A number of this account for each batch."""
        return number / self.batches if self.batches else 0.0


@dataclass(slots=True)
class Account:
    """All stages.

    Attributes:
        stages: By name, in the order of the pipeline; those that were never at work are missing.
        batches: Batches that were measured.
        frames_per_batch: On average.
        elapsed_s: How long the measurement took.
        work: Copies, waits and kernels that were recorded, whosever they are.
    """

    stages: dict[str, StageAccount]
    batches: int
    frames_per_batch: float
    elapsed_s: float
    work: int


def account(
    trace: Trace,
    windows: Iterable[Window],
    order: Sequence[str],
    *,
    frame_stages: Sequence[str],
    batch_stage: str,
    model: str,
) -> Account:
    """Accounts for a trace.

    Args:
        trace: What was recorded.
        windows: When the stages were at work; also before and behind the measurement.
        order: The stages, in the order of the pipeline.
        frame_stages: Those whose windows are a frame's; the others' are a batch's.
        batch_stage: The stage whose windows count batches and their frames.
        model: The stage that calls TensorFlow.
    """
    timeline = _Timeline(trace, windows, model)
    stages = {name: StageAccount(name) for name in (*order, ELSEWHERE)}
    for window in timeline.measured:
        stages[window.stage].ranges += 1
        stages[window.stage].frames += window.frames
    batches, frames = _batches(timeline.measured, batch_stage)
    per_batch = frames / batches if batches else 0.0
    for name, found in stages.items():
        if name in frame_stages:
            found.batches = found.frames / per_batch if per_batch else 0.0
        else:
            found.batches = batches if name == ELSEWHERE else found.ranges
            found.frames = found.frames or found.batches * per_batch
    calls = {call.correlation: (timeline.stage_of(call), call) for call in trace.calls}

    def owner(start_ns: int, correlation: int) -> tuple[str, Call | None]:
        if correlation in calls:
            return calls[correlation]
        # Asked for before the calls were recorded, or by somebody whose calls are not.
        return (ELSEWHERE if trace.start_ns <= start_ns <= trace.end_ns else _LEFT_OUT), None

    for copy in trace.copies:
        name, call = owner(copy.start_ns, copy.correlation)
        if name:
            stages[name].add_copy(copy)
            if waits_for(copy, call):
                stages[name].add_wait("copy" if call is None else call.name)
    for wait in trace.waits:
        name, call = owner(wait.start_ns, wait.correlation)
        # CUPTI notes a synchronisation also where somebody asks whether he would have to wait.
        if name and not (call is not None and "Query" in call.name):
            stages[name].add_wait(wait.what if call is None else call.name)
    for launch in trace.launches:
        name, _ = owner(launch.start_ns, launch.correlation)
        if name:
            stages[name].launches += 1
    used = {name: found for name, found in stages.items() if found.ranges or _has_work(found)}
    work = len(trace.copies) + len(trace.waits) + len(trace.launches)
    return Account(used, batches, per_batch, (trace.end_ns - trace.start_ns) / 1e9, work)


def waits_for(copy: Copy, call: Call | None) -> bool:
    """Whether the host stands still until a copy is done: down into memory that is not pinned, or a call that says so."""
    if copy.direction is Direction.DOWN and copy.is_pageable:
        return True
    crosses = copy.direction in (Direction.UP, Direction.DOWN)
    return crosses and call is not None and "Memcpy" in call.name and "Async" not in call.name


def _has_work(found: StageAccount) -> bool:
    return bool(found.up_bytes or found.down_bytes or found.device_bytes or found.waits or found.launches)


def _batches(windows: Sequence[Window], stage: str) -> tuple[int, int]:
    sizes = [window.frames for window in windows if window.stage == stage and window.frames]
    return len(sizes), sum(sizes)


class _Timeline:
    """Which stage was at work in a thread at a time.

    Attributes:
        measured: The windows that lie in the measurement.
    """

    def __init__(self, trace: Trace, windows: Iterable[Window], model: str) -> None:
        self._trace, self._model = trace, model
        self._threads: dict[int, list[Window]] = defaultdict(list)
        for window in windows:
            self._threads[window.thread].append(window)
        for found in self._threads.values():
            found.sort(key=_start)
        everywhere = [window for found in self._threads.values() for window in found]
        self._model_windows = sorted((window for window in everywhere if window.stage == model), key=_start)
        self.measured = [window for window in everywhere if self._is_measured(window)]

    def stage_of(self, call: Call) -> str:
        """The stage that made a call; `_LEFT_OUT` if it does not count."""
        own = self._threads.get(call.thread)
        window = _at(self._model_windows if own is None else own, call.start_ns)
        if window is not None:
            return window.stage if self._is_measured(window) else _LEFT_OUT
        return ELSEWHERE if self._trace.start_ns <= call.start_ns <= self._trace.end_ns else _LEFT_OUT

    def _is_measured(self, window: Window) -> bool:
        return window.start_ns >= self._trace.start_ns and window.end_ns <= self._trace.end_ns


def _start(window: Window) -> int:
    return window.start_ns


def _at(windows: Sequence[Window], time_ns: int) -> Window | None:
    """The one of the windows, which are in order and do not overlap, that a time lies in."""
    index = bisect.bisect_right(windows, time_ns, key=_start) - 1
    return windows[index] if index >= 0 and time_ns <= windows[index].end_ns else None
