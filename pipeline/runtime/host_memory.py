"""Memory that the C library keeps when connections have ended.

What a thread frees stays in an arena of glibc's, of which there are eight for each core. Nothing is lost, but the free
pieces lie scattered: streams that reconnect for weeks would make the process grow by a tenth of a MB each time.
"""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable

# Takes milliseconds, in which threads that allocate may wait.
_EVERY_S = 30.0


def give_back() -> None:
    """Hands the system what is free; does nothing where the C library is not glibc."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class HostMemory:
    """Gives memory back when something was freed, now and then. Used by one thread."""

    def __init__(self, give_back: Callable[[], None] = give_back, clock: Callable[[], float] = time.monotonic) -> None:
        self._give_back = give_back
        self._clock = clock
        self._has_freed = False
        self._given_back_s = clock()

    def freed(self) -> None:
        """A connection has ended."""
        self._has_freed = True

    def tick(self) -> None:
        """To be called again and again."""
        if self._has_freed and self._clock() - self._given_back_s >= _EVERY_S:
            self._has_freed = False
            self._give_back()
            self._given_back_s = self._clock()
