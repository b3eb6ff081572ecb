"""Notes when which stage was at work in which thread, while the pipeline runs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sized

from pipeline.observe.trace.records import Window


class StageWindows:
    """Opens ranges as `pipeline.runtime.ranges` asks for them, and keeps them.

    Args:
        clock: The tracer's, in nanoseconds.
        batch_stage: The stage whose ranges with frames are counted as batches.
    """

    def __init__(self, clock: Callable[[], int], batch_stage: str) -> None:
        self._clock = clock
        self._batch_stage = batch_stage
        self._windows: list[Window] = []
        self._batches = 0
        self._changed = threading.Condition()

    def __call__(self, stage: str, frames: Sized) -> _Open:
        """A range for `with`."""
        return _Open(self, stage, frames)

    @property
    def batches(self) -> int:
        """How many batches are through."""
        return self._batches

    def wait_for_batches(self, count: int, timeout_s: float) -> bool:
        """Waits until so many are through in all; whether they are."""
        with self._changed:
            return self._changed.wait_for(lambda: self._batches >= count, timeout_s)

    def all(self) -> list[Window]:
        """Those that are complete."""
        with self._changed:
            return list(self._windows)

    def now_ns(self) -> int:
        """The clock."""
        return self._clock()

    def add(self, window: Window) -> None:
        """Keeps one."""
        with self._changed:
            self._windows.append(window)
            if window.stage == self._batch_stage and window.frames:
                self._batches += 1
                self._changed.notify_all()


class _Open:
    __slots__ = ("_frames", "_stage", "_start_ns", "_windows")

    def __init__(self, windows: StageWindows, stage: str, frames: Sized) -> None:
        self._windows, self._stage, self._frames = windows, stage, frames
        self._start_ns = 0

    def __enter__(self) -> None:
        self._start_ns = self._windows.now_ns()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        end_ns = self._windows.now_ns()
        frames = len(self._frames) if kind is None else 0
        self._windows.add(Window(self._stage, threading.get_native_id(), self._start_ns, end_ns, frames))
