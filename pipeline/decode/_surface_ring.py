"""Back-pressure on the `cuda` engine: how many surfaces of a source may be out of its decoder's hands at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

_WAIT_S = 1.0


class SurfaceRing:
    """Slots for the surfaces that are on loan; shared by everything that decodes one source.

    One thread takes, any thread gives back. At thousands of frames/s a semaphore's lock and condition cost more than the
    decoding does: as long as nobody waits, a loan that comes back is one `append`, which is atomic.
    """

    def __init__(self, size: int) -> None:
        """`size` is at least 1."""
        if size < 1:
            raise ValueError(f"a ring of {size} surfaces cannot hand out any")
        self._free = size  # slots that the taking thread knows to be free
        self._returned: deque[None] = deque()
        self._is_awaited = False
        self._wake = threading.Event()
        self._closed = False

    def take(self) -> bool:
        """Waits for a slot; False if the ring was closed meanwhile."""
        while not self._free and not self._closed:
            self._collect()
            if not self._free:
                self._wait()
        if self._closed:
            return False
        self._free -= 1
        return True

    def has_room(self) -> bool:
        """Whether `take` returns at once; asked by the thread that takes."""
        if not self._free:
            self._collect()
        return self._free > 0 or self._closed

    def give_back(self) -> None:
        """From any thread."""
        self._returned.append(None)
        if self._is_awaited:
            self._wake.set()

    def close(self) -> None:
        """Whoever waits stops waiting; from any thread."""
        self._closed = True
        self._wake.set()

    def _collect(self) -> None:
        returned = self._returned
        while returned:
            returned.popleft()
            self._free += 1

    def _wait(self) -> None:
        self._wake.clear()
        self._is_awaited = True
        # What came back before that was seen wakes nobody.
        if not self._returned and not self._closed:
            self._wake.wait(_WAIT_S)
        self._is_awaited = False


class Loan:
    """A surface that is on loan, called once to give it back: from any thread, further calls do nothing.

    Nothing but a hint to the owner's queue happens in the calling thread. A loan that is forgotten gives itself back.
    """

    __slots__ = ("_steps",)

    def __init__(self, give_back: Callable[[int], None], memory: int, ring: SurfaceRing) -> None:
        """`give_back` gets `memory`: an address, or a number that means something to the owner."""
        self._steps = [(give_back, memory, ring)]

    def __call__(self) -> None:
        try:
            give_back, memory, ring = self._steps.pop()  # one thread alone gets it
        except IndexError:
            return
        give_back(memory)
        ring.give_back()

    def __del__(self) -> None:
        if self._steps:
            self()
