"""The bounded queues between threads: back-pressure is a full queue, an end is a closed one.

`queue.Queue` has neither an end nor a way to wake up a blocked producer when the consumer has died; both are what a
pipeline hangs on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Closed(Exception):  # noqa: N818 - a signal between stages, not an error
    """The queue has ended: nothing can be put any more, or nothing is left to get."""


@dataclass(slots=True)
class QueueStats:
    """What a bounded queue, or ring of buffers, tells of the stages around it; its owner writes, anyone reads.

    Attributes:
        capacity: Most items that it takes.
        items: Those in it now; of a ring, buffers on loan.
        high_water: Most items that were in it at the same time.
        put_waits: How often producers waited for space: the consumer is the slow one.
        put_wait_s: How many seconds, all together.
        get_waits: How often consumers waited for items: the producer is the slow one.
        get_wait_s: How many seconds, all together.
        item_bytes: Device memory of an item; 0 where it is not the queue that bounds it.
    """

    capacity: int = 0
    items: int = 0
    high_water: int = 0
    put_waits: int = 0
    put_wait_s: float = 0.0
    get_waits: int = 0
    get_wait_s: float = 0.0
    item_bytes: int = 0

    def count_put_wait(self, start_s: float) -> None:
        """A producer has waited for space since this time of `time.perf_counter()`."""
        self.put_waits += 1
        self.put_wait_s += time.perf_counter() - start_s

    @property
    def high_water_bytes(self) -> int:
        """Most device memory that its items took."""
        return self.high_water * self.item_bytes


class BoundedQueue(Generic[T]):
    """First in, first out, for any number of producers and consumers."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue's capacity is at least 1, not {capacity}")
        self.capacity = capacity
        self.stats = QueueStats(capacity)
        self._items: deque[T] = deque()
        self._closed = False
        lock = threading.Lock()
        self._not_empty = threading.Condition(lock)
        self._not_full = threading.Condition(lock)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Appends an item, waiting for space.

        Raises:
            Closed: the queue was closed, before or while waiting.
        """
        with self._not_full:
            self._await_room()
            self._items.append(item)
            self.stats.items = len(self._items)
            self.stats.high_water = max(self.stats.high_water, self.stats.items)
            self._not_empty.notify()

    def wait_for_room(self) -> None:
        """Waits until an item can be put in, for a single producer that would rather make it late.

        Raises:
            Closed: the queue was closed, before or while waiting.
        """
        with self._not_full:
            self._await_room()

    def _await_room(self) -> None:
        if len(self._items) >= self.capacity and not self._closed:
            start = time.perf_counter()
            self._not_full.wait_for(lambda: self._closed or len(self._items) < self.capacity)
            self.stats.count_put_wait(start)
        if self._closed:
            raise Closed

    def get(self, timeout_s: float | None = None) -> T:
        """Takes the oldest item, waiting for one.

        Raises:
            Closed: the queue was closed and is empty.
            TimeoutError: nothing came within `timeout_s`.
        """
        with self._not_empty:
            if not self._items and not self._closed:
                start = time.perf_counter()
                in_time = self._not_empty.wait_for(lambda: self._closed or bool(self._items), timeout_s)
                self.stats.get_waits += 1
                self.stats.get_wait_s += time.perf_counter() - start
                if not in_time:
                    raise TimeoutError
            if not self._items:
                raise Closed
            item = self._items.popleft()
            self.stats.items = len(self._items)
            self._not_full.notify()
            return item

    def close(self, *, discard: bool = False) -> list[T]:
        """Ends the queue: what is in it can still be taken, unless `discard`; returns what was discarded. May be called again."""
        discarded: list[T] = []
        with self._not_empty:
            self._closed = True
            if discard:
                discarded += self._items
                self._items.clear()
                self.stats.items = 0
            self._not_empty.notify_all()
            self._not_full.notify_all()
        return discarded
