"""Back-pressure on the `cuda` engine: how many surfaces of a source may be out of its decoder's hands at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable

_WAIT_S = 1.0


class SurfaceRing:
    """Slots for the surfaces that are on loan; shared by everything that decodes one source."""

    def __init__(self, size: int) -> None:
        """`size` is at least 1."""
        if size < 1:
            raise ValueError(f"a ring of {size} surfaces cannot hand out any")
        self._slots = threading.Semaphore(size)
        self._closed = False

    def take(self) -> bool:
        """Waits for a slot; False if the ring was closed meanwhile."""
        while not self._slots.acquire(timeout=_WAIT_S):
            if self._closed:
                return False
        return not self._closed

    def give_back(self) -> None:
        """From any thread."""
        self._slots.release()

    def close(self) -> None:
        """Whoever waits stops waiting; from any thread."""
        self._closed = True
        self._slots.release()


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
        self()
