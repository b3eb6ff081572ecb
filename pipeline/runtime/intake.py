"""Where the frames of all sources wait for the model, each source's in a slot of its own.

A source that is slow, full or silent keeps no other from being served: slots that hold something take turns, by their
weights (stride scheduling; Waldspurger and Weihl, 1995).
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Sequence

from pipeline.frames import Frame
from pipeline.queues import Closed, QueueStats
from pipeline.runtime.flow import SourceItem
from pipeline.stages import DropCause

OnDrop = Callable[[Frame, DropCause], None]

# A new frame counts for this much in a slot's mean interval.
_SMOOTHING = 0.2
# A slot that had nothing for so many of its intervals, and at least so long, is not waited for.
_SILENT_INTERVALS = 2.5
_SILENT_S = 0.2


class Slot:
    """One source's place in an `Intake`. One thread puts in at a time: the slot's owner."""

    def __init__(
        self,
        intake: Intake,
        source_id: str,
        *,
        capacity: int,
        replaces: bool,
        weight: float,
        max_age_s: float | None,
    ) -> None:
        self.source_id = source_id
        self.capacity = capacity
        self.replaces = replaces
        self.weight = weight
        self.max_age_s = max_age_s
        self.items: deque[SourceItem] = deque()
        self.frames = 0
        self.stats = QueueStats(capacity)
        self.turn = 0.0
        self.is_ready = False
        self.interval_s: float | None = None
        self.last_put_s: float | None = None
        self.owner: object = None
        self._intake = intake
        self.not_full = threading.Condition(intake.lock)

    def put(self, item: SourceItem, owner: object) -> None:
        """Appends an item. A frame waits for space, or takes the oldest one's place; other items always fit.

        Raises:
            Closed: the intake has ended, or the slot has another owner by now; the item was not taken.
        """
        if self._intake.put(self, (item,), owner):
            raise Closed

    def put_frames(self, frames: Sequence[Frame], owner: object) -> Sequence[Frame]:
        """Appends frames, as `put` does, and returns those that were not taken since it is closed."""
        left = self._intake.put(self, frames, owner)
        return frames[len(frames) - len(left) :]

    def hand_over(self, owner: object) -> None:
        """From now on only `owner` may put in; whoever waits to do so is told that it is closed."""
        with self._intake.lock:
            self.owner = owner
            self.not_full.notify_all()


class Intake:
    """The slots of all sources.

    Args:
        on_drop: Called, from any thread, with every frame that is dropped, and why.
        clock: `time.monotonic`.
    """

    def __init__(self, on_drop: OnDrop, clock: Callable[[], float] = time.monotonic) -> None:
        self.lock = threading.Lock()
        self.on_drop = on_drop
        self._clock = clock
        self._not_empty = threading.Condition(self.lock)
        self._ready: list[tuple[float, int, Slot]] = []
        self._ties = itertools.count()  # among equals the one that has waited longest
        self._slots: set[Slot] = set()
        self._turn = 0.0
        self._frames = 0  # in all slots
        self._marks = 0  # beginnings and ends in all slots
        self._held_back = 0  # how many wait for space
        self._takers: list[tuple[int, bool]] = []  # of each that waits: for how many frames, and whether only so long
        self._last_put_s = 0.0
        self._closed = False

    def open(
        self,
        source_id: str,
        *,
        capacity: int,
        replaces: bool = False,
        weight: float = 1.0,
        max_age_s: float | None = None,
    ) -> Slot:
        """A new source's slot.

        Args:
            source_id: The source.
            capacity: Frames that may wait in it.
            replaces: Whether a new frame takes the oldest one's place when it is full, or waits. While whoever takes waits
                for more frames, none has to give way: it is as good as taken.
            weight: Its share of the turns when all slots hold something.
            max_age_s: Frames that were received longer ago than this are dropped when their turn comes; None: never.
        """
        if capacity < 1:
            raise ValueError(f"a slot holds at least 1 frame, not {capacity}")
        slot = Slot(self, source_id, capacity=capacity, replaces=replaces, weight=weight, max_age_s=max_age_s)
        with self.lock:
            self._slots.add(slot)
        return slot

    def forget(self, slot: Slot) -> None:
        """The slot's last item is in; what waits is still served."""
        with self.lock:
            self._slots.discard(slot)

    def put(self, slot: Slot, items: Sequence[SourceItem], owner: object) -> Sequence[SourceItem]:
        """See `Slot.put`; returns the items that were not taken since it is closed."""
        superseded: list[Frame] = []
        left: Sequence[SourceItem] = ()
        with self.lock:
            for done, item in enumerate(items):
                is_frame = isinstance(item, Frame)
                if is_frame and slot.frames >= slot.capacity and not slot.replaces:
                    self._wait_for_room(slot, owner)
                if self._closed or slot.owner is not owner:
                    left = items[done:]
                    break
                if not is_frame:
                    self._marks += 1
                elif slot.frames >= slot.capacity and not self._is_awaited():
                    superseded.append(_take_oldest_frame(slot))
                else:
                    slot.frames += 1
                    self._frames += 1
                slot.items.append(item)
                if not slot.is_ready:
                    self._make_ready(slot)
            slot.stats.items = slot.frames
            slot.stats.high_water = max(slot.stats.high_water, slot.frames)
            self._note_interval(slot, len(items) - len(left))
            self._wake_taker()
        for frame in superseded:
            self.on_drop(frame, DropCause.SUPERSEDED)
        return left

    def get(self, timeout_s: float | None = None) -> SourceItem:
        """The next item of the slot whose turn it is; raises what `take` does."""
        return self.take(1, timeout_s)[0]

    def take(
        self, most: int, timeout_s: float | None = None, *, least: int = 1, is_renewed: bool = True
    ) -> list[SourceItem]:
        """The next items, each of the slot whose turn it is.

        Args:
            most: How many at most.
            timeout_s: Waits no longer than this; None: as long as it takes.
            least: Waits for so many frames, but not at all where a source begins or ends. When the time is over what is
                there is enough; without a time limit, once a source is held back.
            is_renewed: Whether with each frame that comes there is `timeout_s` for the next.

        Raises:
            Closed: it was closed and is empty.
            TimeoutError: nothing came in time.
        """
        end_s = None if timeout_s is None else self._clock() + timeout_s
        while True:
            stale: list[Frame] = []
            with self.lock:
                self._wait_for_items(least, timeout_s, end_s, is_renewed=is_renewed)
                if not self._ready:
                    if self._closed:
                        raise Closed
                    raise TimeoutError
                items = self._taken(most, stale)
                self._wake_taker()  # there may be another
            for frame in stale:
                self.on_drop(frame, DropCause.STALE)
            if items:
                return items

    def close(self, *, discard: bool = False) -> None:
        """Ends it: what is in it can still be taken, unless `discard`. May be called again."""
        dropped: list[Frame] = []
        with self.lock:
            self._closed = True
            if discard:
                for _, _, slot in self._ready:
                    dropped += [item for item in slot.items if isinstance(item, Frame)]
                    slot.items.clear()
                    slot.frames, slot.is_ready = 0, False
                    slot.stats.items = 0
                self._ready.clear()
                self._frames = self._marks = 0
            self._not_empty.notify_all()
            for slot in self._slots:
                slot.not_full.notify_all()
        for frame in dropped:
            self.on_drop(frame, DropCause.CLOSED)

    def fastest_interval_s(self) -> float | None:
        """Mean time between two frames of the fastest source that is giving frames; None if there is none."""
        with self.lock:
            return min(
                (s.interval_s for s in self._slots if s.interval_s is not None and self._is_giving(s)), default=None
            )

    def expected(self, source_ids: Collection[str]) -> int:
        """How many frames wait, or are to be expected soon of other sources than these, one of each.

        No fewer than that many have to come until there is one of each source.
        """
        with self.lock:
            others = sum(1 for s in self._slots if s.source_id not in source_ids and self._is_giving(s))
            return max(others, 1) if self._ready else others

    def _is_giving(self, slot: Slot) -> bool:
        if slot.last_put_s is None or slot.interval_s is None:
            return False
        return self._clock() - slot.last_put_s < max(_SILENT_INTERVALS * slot.interval_s, _SILENT_S)

    def _wait_for_room(self, slot: Slot, owner: object) -> None:
        self._held_back += 1
        self._wake_taker()
        start = time.perf_counter()
        try:
            slot.not_full.wait_for(lambda: self._closed or slot.owner is not owner or slot.frames < slot.capacity)
        finally:
            self._held_back -= 1
            slot.stats.count_put_wait(start)

    def _wait_for_items(self, least: int, timeout_s: float | None, end_s: float | None, *, is_renewed: bool) -> None:
        while not self._is_enough(least, timeout_s is not None):
            left_s = None
            if timeout_s is not None and end_s is not None:
                if least > 1 and is_renewed:
                    end_s = max(end_s, self._last_put_s + timeout_s)
                left_s = end_s - self._clock()
                if left_s <= 0:
                    return
            taker = least, timeout_s is not None
            self._takers.append(taker)
            try:
                self._not_empty.wait(left_s)
            finally:
                self._takers.remove(taker)

    def _is_enough(self, least: int, has_limit: bool) -> bool:
        if self._closed or self._marks > 0 or self._frames >= least:
            return True
        # There may never be as many as are waited for: all slots are full.
        return not has_limit and self._held_back > 0 and self._frames > 0

    def _is_awaited(self) -> bool:
        """Whether a taker waits for more frames than there are."""
        return any(not self._is_enough(*taker) for taker in self._takers)

    def _wake_taker(self) -> None:
        """Lets a taker go on for whom there is enough: each time one wakes up for nothing costs both threads."""
        if self._takers and any(self._is_enough(*taker) for taker in self._takers):
            self._not_empty.notify()

    def _note_interval(self, slot: Slot, frames: int) -> None:
        now_s = self._last_put_s = self._clock()
        if slot.last_put_s is not None and frames:
            interval_s = (now_s - slot.last_put_s) / frames
            mean_s = slot.interval_s
            # After a silence the mean starts anew: the gap says nothing of the rate.
            if mean_s is None or interval_s > max(_SILENT_INTERVALS * mean_s, _SILENT_S):
                slot.interval_s = interval_s if mean_s is None else mean_s
            else:
                slot.interval_s = mean_s + _SMOOTHING * (interval_s - mean_s)
        slot.last_put_s = now_s

    def _make_ready(self, slot: Slot) -> None:
        # A slot that had nothing for a while has not saved up turns.
        slot.turn = max(slot.turn, self._turn)
        slot.is_ready = True
        heapq.heappush(self._ready, (slot.turn, next(self._ties), slot))

    def _taken(self, most: int, stale: list[Frame]) -> list[SourceItem]:
        """Takes up to `most` items, and beside them the frames whose turn it is but which are too old: into `stale`."""
        items: list[SourceItem] = []
        while self._ready and len(items) < most:
            turn, _, slot = heapq.heappop(self._ready)
            self._turn = turn
            item = slot.items.popleft()
            slot.is_ready = False
            if not isinstance(item, Frame):
                self._marks -= 1
                items.append(item)
            else:
                slot.turn += 1.0 / slot.weight
                slot.frames -= 1
                slot.stats.items = slot.frames
                self._frames -= 1
                # Who is held back goes on when there is room for a few frames: it would come back for each one.
                if self._held_back and 2 * slot.frames <= slot.capacity:
                    slot.not_full.notify()
                (stale if self._is_stale(slot, item) else items).append(item)
            if slot.items:
                self._make_ready(slot)
        return items

    def _is_stale(self, slot: Slot, frame: Frame) -> bool:
        if slot.max_age_s is None or frame.received_s is None:
            return False
        return self._clock() - frame.received_s > slot.max_age_s


def _take_oldest_frame(slot: Slot) -> Frame:
    index = next(i for i, item in enumerate(slot.items) if isinstance(item, Frame))
    frame = slot.items[index]
    del slot.items[index]
    assert isinstance(frame, Frame)
    return frame
