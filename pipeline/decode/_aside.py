"""Calls in a thread of their own, while the thread that asked for them does something else."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

T = TypeVar("T")
_Call = Callable[[], int]


class Aside(Generic[T]):
    """Does one call after the other, in the order in which they were begun; used by one thread.

    Its own thread keeps nothing alive but the call that it is in, and ends with `close`. It is a daemon: a call that a driver
    never returns from does not keep the process.
    """

    def __init__(self, name: str) -> None:
        """`name` is the thread's, which starts with the first call."""
        self._name = name
        self._notes: deque[T] = deque()  # of the calls whose end has not been asked for
        self._calls: SimpleQueue[_Call | None] = SimpleQueue()
        self._ends: SimpleQueue[int | Exception] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def __len__(self) -> int:
        """How many calls have been begun and not been ended."""
        return len(self._notes)

    def begin(self, call: _Call, note: T) -> None:
        """Has it done, behind those that were begun before; `note` says what it is about."""
        if self._thread is None:
            self._thread = threading.Thread(target=_work, args=(self._calls, self._ends), name=self._name, daemon=True)
            self._thread.start()
        self._notes.append(note)
        self._calls.put(call)

    @property
    def oldest(self) -> T:
        """The note of the call that `end` waits for."""
        return self._notes[0]

    def end(self) -> int:
        """Waits for the oldest call; what it returned, or raises what it raised."""
        found = self._ends.get()
        self._notes.popleft()
        if isinstance(found, Exception):
            raise found
        return found

    def forget(self, timeout_s: float | None = None) -> list[T]:
        """Waits for the end of all calls, whatever it is; their notes. Behind a timeout no more calls can be begun."""
        notes = list(self._notes)
        self._notes.clear()
        with contextlib.suppress(Empty):
            for _ in notes:
                self._ends.get(timeout=timeout_s)
        return notes

    def close(self) -> None:
        """No more calls; does not wait."""
        self._calls.put(None)


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
