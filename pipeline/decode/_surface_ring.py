"""Back-pressure on the `cuda` engine: how many surfaces of a source may be out of its decoder's hands at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from pipeline.queues import QueueStats


class SurfaceRing:
    """Slots for the surfaces that are on loan; shared by everything that decodes one source.

    Attributes:
        size: Most slots that there may be.
        stats: How many of them are taken, and how often the decoder waited for one.
    """

    def __init__(self, size: int) -> None:
        """`size` is at least 1."""
        if size < 1:
            raise ValueError(f"a ring of {size} surfaces cannot hand out any")
        self.size = size
        self.stats = QueueStats(size)
        # Reentrant: a loan that is collected in the middle of a call comes back from there.
        self._freed = threading.Condition()
        self._closed = False

    @property
    def is_closed(self) -> bool:
        """Whether nothing is lent any more."""
        return self._closed

    def bound(self, surfaces: int, surface_bytes: int) -> None:
        """From now on surfaces are of this size, and no more than so many are on loan; never more than `size`."""
        with self._freed:
            self.stats.capacity = max(1, min(surfaces, self.size))
            self.stats.item_bytes = max(self.stats.item_bytes, surface_bytes)
            self._freed.notify_all()

    def take(self) -> bool:
        """Waits for a slot; False if the ring was closed meanwhile."""
        stats = self.stats
        with self._freed:
            if stats.items >= stats.capacity and not self._closed:
                start = time.perf_counter()
                self._freed.wait_for(lambda: self._closed or stats.items < stats.capacity)
                stats.put_waits += 1
                stats.put_wait_s += time.perf_counter() - start
            if self._closed:
                return False
            stats.items += 1
            stats.high_water = max(stats.high_water, stats.items)
            return True

    def give_back(self) -> None:
        """From any thread."""
        with self._freed:
            self.stats.items -= 1
            self._freed.notify()

    def close(self) -> None:
        """Whoever waits stops waiting; from any thread."""
        with self._freed:
            self._closed = True
            self._freed.notify_all()


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
