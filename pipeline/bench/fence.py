"""Keeps somebody who only enqueues work from running far ahead of the device that does it."""

from __future__ import annotations

from collections import deque
from typing import Any

from pipeline.frames import Predictions

# Batches in flight, as in a pipeline: one that the device works on, and some for it to go on with.
_IN_FLIGHT = 3


class Fence:
    """Called behind every batch. On the `cpu` engine, where nothing is left to be done then, it does nothing."""

    def __init__(self, *, on_device: bool) -> None:
        self._stream: Any = None
        self._events: deque[Any] = deque()
        if on_device:
            from pipeline.inference.shared_stream import open_shared_stream

            self._stream = open_shared_stream().cupy

    def __call__(self) -> int:
        """Returns how many batches are known to be done by this call, having waited if too many are in flight."""
        if self._stream is None:
            return 1
        self._events.append(self.mark())
        if len(self._events) <= _IN_FLIGHT:
            return 0
        self._events.popleft().synchronize()
        return 1

    def drain(self) -> None:
        """Waits for all of it."""
        while self._events:
            self._events.popleft().synchronize()

    def mark(self) -> Any:
        """An event behind all that has been enqueued so far; None without a device."""
        if self._stream is None:
            return None
        import cupy

        event = cupy.cuda.Event(block=True, disable_timing=True)  # who waits sleeps
        event.record(self._stream)
        return event


class Nothing:
    """Results that are empty, once the device has come so far."""

    def __init__(self, event: Any) -> None:
        self._event = event

    def result(self) -> Predictions:
        """Waits; see `pipeline.stages.PendingPredictions`."""
        if self._event is not None:
            self._event.synchronize()
        return Predictions()
