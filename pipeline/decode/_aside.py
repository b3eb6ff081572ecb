"""Calls in a thread of their own, while the thread that asked for them does something else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

_Call = Callable[[], int]


class Aside:
    """Does one call after the other, in the order in which they were begun.

    Its thread keeps nothing alive but the call that it is in, and ends with `close`. It is a daemon: a call that a driver
    never returns from does not keep the process.
    """

    def __init__(self, name: str) -> None:
        """`name` is the thread's, which starts with the first call."""
        self._name = name
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ends: SimpleQueue[int | Exception] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, call: _Call) -> None:
        """Has it done, behind those that were begun before."""
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self._calls, self._ends), name=self._name, daemon=True)
            self._thread.start()
        self._calls.put(call)

    def end(self, timeout_s: float | None = None) -> int:
        """Waits for the oldest call whose end has not been asked for; what it returned, or raises what it raised.

        Raises:
            TimeoutError: it is not over after `timeout_s`.
        """
        try:
            found = self._ends.get(timeout=timeout_s)
        except Empty:
            raise TimeoutError from None
        if isinstance(found, Exception):
            raise found
        return found

    def close(self) -> None:
        """No more calls; does not wait."""
        self._calls.put(None)
        self._thread = None


def _work(calls: SimpleQueue[_Call | None], ends: SimpleQueue[int | Exception]) -> None:
    while (call := calls.get()) is not None:
        found: int | Exception
        try:
            found = call()
        except Exception as e:
            found = e
        call = None  # it keeps a decoder
        ends.put(found)
        found = 0  # and so may an error's frames
