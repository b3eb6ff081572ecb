"""A turnstile: how many threads may do something at the same moment, first come, first served."""

from __future__ import annotations

import threading
from collections import deque


class Turnstile:
    """To be entered by `with`. Unlike a semaphore it hands a turn to who has waited longest, and nobody overtakes."""

    def __init__(self, number: int) -> None:
        """`number` is how many turns there are at the same moment, at least 1."""
        self._free = number
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            if self._free:
                self._free -= 1
                return
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        gate.acquire()  # until a turn is handed over

    def __exit__(self, *_: object) -> None:
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1
