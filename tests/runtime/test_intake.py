"""Where frames wait for the model, and how batches are closed."""

from __future__ import annotations

import dataclasses
import random
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.frames import Frame
from pipeline.queues import Closed
from pipeline.runtime.batching import AdaptivePatience, FixedPatience, collect
from pipeline.runtime.flow import SourceEnd, SourceItem
from pipeline.runtime.intake import Intake, Slot
from pipeline.stages import DropCause, SinkSource

sys.path.insert(0, str(Path(__file__).parent))
import fakes

WAIT_S = 20.0


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Dropped(list[tuple[str, int, DropCause]]):
    def __call__(self, frame: Frame, cause: DropCause) -> None:
        self.append((frame.source_id, frame.index, cause))


def owned(intake: Intake, source_id: str = "a", **options: object) -> Slot:
    slot = intake.open(source_id, **{"capacity": 4, **options})  # type: ignore[arg-type]
    slot.hand_over(slot)
    return slot


def put(slot: Slot, index: int, received_s: float | None = None) -> None:
    slot.put(dataclasses.replace(fakes.frame(slot.source_id, index), received_s=received_s), slot)


def index_of(item: SourceItem) -> int:
    assert isinstance(item, Frame)
    return item.index


def rest(intake: Intake) -> list[SourceItem]:
    intake.close()
    items = []
    while True:
        try:
            items.append(intake.get())
        except Closed:
            return items


@settings(deadline=None)
@given(st.lists(st.integers(0, 40), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 3))
def test_every_frame_arrives_once_and_each_source_in_order(counts: list[int], capacity: int, consumers: int) -> None:
    intake = Intake(Dropped())
    slots = [owned(intake, str(i), capacity=capacity) for i in range(len(counts))]
    taken: list[tuple[str, int]] = []
    lock = threading.Lock()

    def produce(slot: Slot, count: int) -> None:
        for index in range(count):
            put(slot, index)

    def consume() -> None:
        while True:
            try:
                item = intake.get(WAIT_S)
            except Closed:
                return
            assert isinstance(item, Frame)
            with lock:
                taken.append((item.source_id, item.index))

    producers = [threading.Thread(target=produce, args=pair, daemon=True) for pair in zip(slots, counts, strict=True)]
    takers = [threading.Thread(target=consume, daemon=True) for _ in range(consumers)]
    for thread in (*producers, *takers):
        thread.start()
    for thread in producers:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    intake.close()
    for thread in takers:
        thread.join(WAIT_S)
        assert not thread.is_alive()
    wanted = [(str(i), index) for i, count in enumerate(counts) for index in range(count)]
    assert sorted(taken) == sorted(wanted)
    if consumers == 1:
        for i, count in enumerate(counts):
            assert [index for source, index in taken if source == str(i)] == list(range(count))


@given(st.lists(st.one_of(st.integers(0, 3), st.just(None)), max_size=200))
def test_what_replaces_keeps_the_newest_and_counts_every_frame_once(steps: list[int | None]) -> None:
    """Numbers put a frame into that slot, None takes one out."""
    dropped = Dropped()
    intake = Intake(dropped)
    slots = [owned(intake, str(i), capacity=1, replaces=True) for i in range(4)]
    sent: Counter[int] = Counter()
    taken: list[tuple[str, int]] = []
    for step in steps:
        if step is not None:
            put(slots[step], sent[step])
            sent[step] += 1
        elif any(slot.items for slot in slots):
            item = intake.get()
            assert index_of(item) == sent[int(item.source_id)] - 1  # type: ignore[union-attr]
            taken.append((item.source_id, index_of(item)))  # type: ignore[union-attr]
    taken += [(item.source_id, index_of(item)) for item in rest(intake)]  # type: ignore[union-attr]
    assert {cause for *_, cause in dropped} <= {DropCause.SUPERSEDED}
    lost = [(source, index) for source, index, _ in dropped]
    assert sorted(taken + lost) == sorted((str(i), index) for i in range(4) for index in range(sent[i]))


def test_beginnings_and_ends_are_never_replaced() -> None:
    dropped = Dropped()
    intake = Intake(dropped)
    slot = owned(intake, capacity=1, replaces=True)
    slot.put(SinkSource("a", fakes.INFO), slot)
    for index in range(3):
        put(slot, index)
    slot.put(SourceEnd("a"), slot)
    begin, frame, end = rest(intake)
    assert (type(begin), index_of(frame), type(end)) == (SinkSource, 2, SourceEnd)
    assert [index for _, index, _ in dropped] == [0, 1]


def test_a_full_slot_holds_its_own_source_back_and_no_other() -> None:
    intake = Intake(Dropped())
    full, other = owned(intake, "full", capacity=1), owned(intake, "other")
    put(full, 0)
    done = threading.Event()
    thread = threading.Thread(target=lambda: (put(full, 1), done.set()), daemon=True)
    thread.start()
    put(other, 0)
    assert not done.wait(0.05)
    assert {index_of(intake.get(WAIT_S)) for _ in range(2)} == {0}
    assert done.wait(WAIT_S)
    thread.join(WAIT_S)


def test_a_slot_counts_its_frames_and_the_waits_for_space() -> None:
    intake = Intake(Dropped())
    slot = owned(intake, capacity=2)
    slot.put(SinkSource("a", fakes.INFO), slot)  # no frame
    put(slot, 0)
    put(slot, 1)
    assert (slot.stats.capacity, slot.stats.items, slot.stats.high_water, slot.stats.put_waits) == (2, 2, 2, 0)
    waiting = threading.Thread(target=put, args=(slot, 2), daemon=True)
    waiting.start()
    while waiting.is_alive() and not slot.not_full._waiters:  # type: ignore[attr-defined]
        waiting.join(0.01)
    intake.get(20)
    intake.get(20)
    waiting.join(20)
    assert (slot.stats.items, slot.stats.put_waits) == (2, 1)
    assert slot.stats.put_wait_s > 0
    intake.close(discard=True)
    assert (slot.stats.items, slot.stats.high_water) == (0, 2)


def test_sources_take_turns_by_their_weights() -> None:
    intake = Intake(Dropped())
    light, heavy = owned(intake, "light", capacity=100), owned(intake, "heavy", capacity=100, weight=4.0)
    for index in range(100):
        put(light, index)
        put(heavy, index)
    first = Counter(intake.get().source_id for _ in range(50))  # type: ignore[union-attr]
    assert first["heavy"] == pytest.approx(40, abs=1)


def test_a_source_that_was_away_has_saved_up_no_turns() -> None:
    intake = Intake(Dropped())
    busy, back = owned(intake, "busy", capacity=500), owned(intake, "back", capacity=100)
    for index in range(400):
        put(busy, index)
    for _ in range(300):
        intake.get()
    for index in range(100):
        put(back, index)
    assert Counter(intake.get().source_id for _ in range(20)) == {"busy": 10, "back": 10}  # type: ignore[union-attr]


def test_frames_that_are_too_old_are_dropped_when_their_turn_comes() -> None:
    clock, dropped = Clock(), Dropped()
    intake = Intake(dropped, clock)
    slot = owned(intake, max_age_s=2.0)
    put(slot, 0, clock.now_s - 2.5)
    put(slot, 1, clock.now_s - 1.5)
    put(slot, 2, None)
    assert [index_of(intake.get()) for _ in range(2)] == [1, 2]
    assert dropped == [("a", 0, DropCause.STALE)]


@pytest.mark.parametrize("end", ["hand over", "close", "discard"])
def test_who_waits_for_space_is_told_of_the_end(end: str) -> None:
    dropped = Dropped()
    intake = Intake(dropped)
    slot = owned(intake, capacity=1)
    put(slot, 0)
    told: list[type] = []

    def produce() -> None:
        try:
            put(slot, 1)
        except Closed:
            told.append(Closed)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    time.sleep(0.02)  # also right if it is not waiting yet
    if end == "hand over":
        slot.hand_over(None)
    else:
        intake.close(discard=end == "discard")
    thread.join(WAIT_S)
    assert told == [Closed]
    assert [index_of(item) for item in rest(intake)] == ([] if end == "discard" else [0])
    assert dropped == ([("a", 0, DropCause.CLOSED)] if end == "discard" else [])


def test_a_thread_that_was_left_behind_puts_nothing_in() -> None:
    dropped = Dropped()
    intake = Intake(dropped)
    slot = intake.open("a", capacity=1, replaces=True)
    slot.hand_over("old")
    slot.put(fakes.frame("a", 0), "old")
    slot.hand_over("new")
    with pytest.raises(Closed):
        slot.put(fakes.frame("a", 1), "old")
    slot.put(fakes.frame("a", 7), "new")
    assert [index_of(item) for item in rest(intake)] == [7]


# --------------------------------------------------------------------------------------------------------------- batches


def giving(intake: Intake, clock: Clock, rates: dict[str, float], for_s: float = 2.0) -> dict[str, Slot]:
    """Slots that have been giving frames at these rates until now; nothing waits in them."""
    slots = {name: owned(intake, name, capacity=1, replaces=True) for name in rates}
    begin_s = clock.now_s
    times = sorted((begin_s + i / fps, name) for name, fps in rates.items() for i in range(int(for_s * fps)))
    for time_s, name in times:
        clock.now_s = time_s
        put(slots[name], 0)
        intake.get()
    return slots


def test_a_batch_waits_a_quarter_of_the_fastest_sources_interval() -> None:
    clock = Clock()
    intake = Intake(Dropped(), clock)
    giving(intake, clock, {"slow": 2.0, "fast": 25.0})
    assert intake.fastest_interval_s() == pytest.approx(1 / 25, rel=0.05)
    assert AdaptivePatience(intake).deadline_s(100.0, 100.01) == pytest.approx(100.01, abs=0.002)


def test_a_silent_source_is_not_waited_for() -> None:
    clock = Clock()
    intake = Intake(Dropped(), clock)
    slots = giving(intake, clock, {"a": 25.0, "b": 25.0})
    patience = AdaptivePatience(intake)
    assert patience.least({"a"}, 8) == 1
    for _ in range(25):
        clock.now_s += 1 / 25
        put(slots["a"], 0)
        intake.get()
    assert patience.least({"a"}, 8) == 0


def test_a_batch_with_a_frame_of_each_source_goes_on_at_once() -> None:
    clock = Clock()
    intake = Intake(Dropped(), clock)
    slots = giving(intake, clock, {"a": 10.0, "b": 10.0})
    put(slots["a"], 1)
    put(slots["b"], 1)
    batch = collect(intake, 8, AdaptivePatience(intake), clock)  # a clock that stands still: waiting would be for ever
    assert batch is not None
    assert len(batch.frames) == 2


def test_while_a_batch_waits_for_more_no_frame_gives_way() -> None:
    dropped = Dropped()
    intake = Intake(dropped)
    slots = [owned(intake, name, capacity=1, replaces=True) for name in "ab"]
    taken: list[SourceItem] = []
    thread = threading.Thread(
        target=lambda: taken.extend(intake.take(8, WAIT_S, least=3, is_renewed=False)), daemon=True
    )
    thread.start()
    while thread.is_alive() and not intake._takers:
        thread.join(0.001)
    for index in range(2):
        put(slots[0], index)
    put(slots[1], 0)
    thread.join(WAIT_S)
    assert [(item.source_id, index_of(item)) for item in taken] == [("a", 0), ("b", 0), ("a", 1)]  # type: ignore[union-attr]
    for index in range(2, 4):  # nobody waits any more
        put(slots[0], index)
    assert dropped == [("a", 2, DropCause.SUPERSEDED)]


class Arrivals:
    """In the place of an intake's condition: whoever waits lets time pass, and with it come the frames that are due."""

    def __init__(self, clock: Clock, due: list[tuple[float, Slot, int]]) -> None:
        self.due = due
        self.waits = 0
        self._clock, self._is_notified = clock, False

    def notify(self) -> None:
        self._is_notified = True

    notify_all = notify

    def wait(self, timeout_s: float | None) -> None:
        self.waits += 1
        self._is_notified = False
        end_s = float("inf") if timeout_s is None else self._clock.now_s + timeout_s
        while not self._is_notified and self.due and self.due[0][0] <= end_s:
            time_s, slot, index = self.due.pop(0)
            self._clock.now_s = max(self._clock.now_s, time_s)
            slot._intake.lock.release()
            put(slot, index)
            slot._intake.lock.acquire()
        if not self._is_notified:
            assert end_s < float("inf"), "it would wait for ever"
            self._clock.now_s = max(self._clock.now_s, end_s)


@given(
    st.lists(st.floats(2.0, 60.0), min_size=1, max_size=12),
    st.integers(1, 16),
    st.randoms(use_true_random=False),
)
def test_a_batch_is_closed_in_time_and_costs_few_wake_ups(rates: list[float], size: int, rng: random.Random) -> None:
    """Against the rule itself: when all is there, or a quarter of the fastest interval after the first frame."""
    clock, dropped = Clock(), Dropped()
    intake = Intake(dropped, clock)
    fps = {f"cam{i}": rate for i, rate in enumerate(rates)}
    slots = giving(intake, clock, fps)
    begin_s, phases = clock.now_s, {name: rng.random() for name in fps}
    times = sorted((begin_s + (i + phases[name]) / rate, name, i) for name, rate in fps.items() for i in range(20))
    came_s = {(name, i): time_s for time_s, name, i in times}
    arrivals = Arrivals(clock, [(time_s, slots[name], i) for time_s, name, i in times])
    intake._not_empty = arrivals  # type: ignore[assignment]
    last_s = min(came_s[name, 19] for name in fps) - 1 / min(rates)  # up to here all go on
    seen: dict[str, int] = dict.fromkeys(fps, -1)
    patience = AdaptivePatience(intake)
    while clock.now_s < last_s:
        waits = arrivals.waits
        interval_s = intake.fastest_interval_s()
        assert interval_s is not None
        batch = collect(intake, size, patience, clock)
        assert batch is not None
        frames = [(frame.source_id, frame.index) for frame in batch.frames]
        for name, index in frames:
            assert index == seen[name] + 1, "in order, and none is lost: the model is always there"
            seen[name] = index
        first_s = min(came_s[frame] for frame in frames)
        sources = {name for name, _ in frames}
        is_complete = len(frames) == size or sources == set(fps)
        wait_s = clock.now_s - first_s
        limit_s = min(max(0.25 * min(interval_s, 1 / max(rates)), 0.002), 0.05)
        assert len(frames) <= size
        assert wait_s <= 1.5 * limit_s + 1e-9
        assert is_complete or wait_s >= 0.5 * limit_s - 1e-9
        # The first frame, as many as there are sources without one, and what those lack where others gave several.
        assert arrivals.waits - waits <= 3 + len(frames) - len(sources)
    assert not dropped


def test_without_patience_a_batch_waits_until_it_is_full_or_all_is_over() -> None:
    intake = Intake(Dropped())
    slot = owned(intake, capacity=10)
    for index in range(6):
        put(slot, index)
    slot.put(SourceEnd("a"), slot)
    intake.close()
    first, second = collect(intake, 4, FixedPatience(None)), collect(intake, 4, FixedPatience(None))
    assert first is not None
    assert second is not None
    assert [len(first.frames), len(second.frames), second.finished] == [4, 2, ["a"]]
    assert collect(intake, 4, FixedPatience(None)) is None


def test_the_end_of_a_source_does_not_wait_for_another_source_to_give_frames() -> None:
    intake = Intake(Dropped())
    slot = owned(intake)
    slot.put(SourceEnd("a"), slot)
    batch = collect(intake, 4, FixedPatience(None))
    assert batch is not None
    assert (batch.frames, batch.finished) == ([], ["a"])
