"""Back-pressure on the `cuda` engine: how many surfaces of a source may be out of its decoder's hands at a time."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from pipeline.queues import QueueStats

_WAIT_S = 1.0


class SurfaceRing:
    """Slots for the surfaces that are on loan; shared by everything that decodes one source.

    One thread takes, any thread gives back. At thousands of frames/s a lock and a condition cost more than all else in
    handing out a surface: as long as nobody waits, a loan that comes back is one `append`, which is atomic.

    Attributes:
        size: Most slots that there may be.
        stats: How many of them are taken, and how often the decoder waited for one.
    """

    def __init__(self, size: int) -> None:
        """`size` is at least 1."""
        if size < 1:
            raise ValueError(f"a ring of {size} surfaces cannot hand out any")
        self.size = size
        self.out = 0  # on loan, as far as the taking thread knows
        self.returned: deque[None] = deque()  # and what has come back since
        self.stats = _RingStats(self)
        self._is_awaited = False
        # Held unless somebody is to wake up. No event: a loan that the collector finds comes back in the middle of
        # anything, also of an event's own code, which holds a lock.
        self._gate = threading.Lock()
        self._gate.acquire()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing is lent any more."""
        return self._closed

    def bound(self, surfaces: int, surface_bytes: int) -> None:
        """From now on surfaces are of this size, and no more than so many are on loan; never more than `size`.

        Called by the thread that takes.
        """
        self.stats.capacity = max(1, min(surfaces, self.size))
        self.stats.item_bytes = max(self.stats.item_bytes, surface_bytes)

    def take(self, wanted: int = 1) -> int:
        """Waits for a slot and takes it, with further ones up to `wanted` that are free too; how many, 0 if the ring was closed."""
        stats = self.stats
        if not self.has_room():
            start = time.perf_counter()
            while not self.has_room():
                self._wait()
            stats.count_put_wait(start)
        if self._closed:
            return 0
        taken = min(wanted, stats.capacity - self.out)
        self.out += taken
        stats.high_water = max(stats.high_water, self.out)
        return taken

    def has_room(self) -> bool:
        """Whether `take` returns at once; asked by the thread that takes."""
        if self.returned:
            self._take_back()
        return self.out < self.stats.capacity or self._closed

    def _take_back(self) -> None:
        # High water is what was out at the same time: nothing that has come back counts.
        while self.returned:
            self.returned.popleft()
            self.out -= 1

    def give_back(self) -> None:
        """From any thread."""
        self.returned.append(None)
        if self._is_awaited:
            self._wake()

    def close(self) -> None:
        """Whoever waits stops waiting; from any thread."""
        self._closed = True
        self._wake()

    def _wait(self) -> None:
        self._is_awaited = True
        # What came back before that was seen wakes nobody.
        if not self.returned and not self._closed:
            self._gate.acquire(timeout=_WAIT_S)
        self._is_awaited = False

    def _wake(self) -> None:
        with contextlib.suppress(RuntimeError):  # somebody else has just done it
            self._gate.release()


class _RingStats(QueueStats):
    """Counts when it is asked: giving back does not."""

    __slots__ = ("_ring",)

    def __init__(self, ring: SurfaceRing) -> None:
        self._ring = ring
        super().__init__(ring.size)

    @property
    def items(self) -> int:
        """Surfaces on loan."""
        return max(0, self._ring.out - len(self._ring.returned))

    @items.setter
    def items(self, _: int) -> None:
        """The ring's alone."""


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
