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
    """What a queue tells of the stages around it.

    Attributes:
        high_water: Most items that waited at the same time.
        put_wait_s: Seconds that producers waited for space: the consumer is the slow one.
        get_wait_s: Seconds that consumers waited for items: the producer is the slow one.
    """

    high_water: int = 0
    put_wait_s: float = 0.0
    get_wait_s: float = 0.0


class BoundedQueue(Generic[T]):
    """First in, first out, for any number of producers and consumers."""

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"a queue's capacity is at least 1, not {capacity}")
        self.capacity = capacity
        self.stats = QueueStats()
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
            if len(self._items) >= self.capacity and not self._closed:
                start = time.perf_counter()
                self._not_full.wait_for(lambda: self._closed or len(self._items) < self.capacity)
                self.stats.put_wait_s += time.perf_counter() - start
            if self._closed:
                raise Closed
            self._items.append(item)
            self.stats.high_water = max(self.stats.high_water, len(self._items))
            self._not_empty.notify()

    def wait_for_room(self) -> None:
        """Waits until an item can be put in, for a single producer that would rather make it late.

        Raises:
            Closed: the queue was closed, before or while waiting.
        """
        with self._not_full:
            self._not_full.wait_for(lambda: self._closed or len(self._items) < self.capacity)
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
                self.stats.get_wait_s += time.perf_counter() - start
                if not in_time:
                    raise TimeoutError
            if not self._items:
                raise Closed
            item = self._items.popleft()
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
            self._not_empty.notify_all()
            self._not_full.notify_all()
        return discarded
