"""Which detections are looked at, and what is kept of tracks: against references that do it one detection at a time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.cascade.kept import KeptResults
from pipeline.cascade.turns import NO_TRACK, Turns
from pipeline.frames import Classifications, Predictions


class Reference:
    """One entry of the cascade, one frame at a time. A detection is (track id or -1, value that the model gives for it)."""

    def __init__(self, every, most):
        self.every, self.most = every, most
        self.last = {}  # (source, track) -> [value, frame, frames since]

    def frame(self, source, index, detections):
        """For each detection (value, frame it is from, whether it is new), or None."""
        due = []
        for row, (track, _) in enumerate(detections):
            state = self.last.get((source, track)) if track != NO_TRACK else None
            if state is None:
                due.append(((0, 0) if track == NO_TRACK else (-2, 0), row))
                continue
            state[2] += 1
            if state[2] >= self.every:
                due.append(((-1, -state[2]), row))
        if self.most is not None:
            due = sorted(due)[: self.most]
        looked_at = {row for _, row in due}
        told = []
        for row, (track, value) in enumerate(detections):
            if row in looked_at:
                told.append((value, index, True))
                if track != NO_TRACK:
                    self.last[source, track] = [value, index, 0]
            elif (source, track) in self.last and track != NO_TRACK:
                told.append((*self.last[source, track][:2], False))
            else:
                told.append(None)
        return told

    def forget(self, source):
        self.last = {key: state for key, state in self.last.items() if key[0] != source}


def classes(values):
    """What a classifier gives for some crops: class ids are the values."""
    column = np.array(values, np.int32).reshape(-1, 1)
    return Predictions(classes=Classifications(column, column.astype(np.float32), np.ones(len(column), np.int64)))


def run_batch(turns, kept, frames, has_result=None):
    """frames: (source, index, [(track, value)]) -> for each frame and detection (value, frame, is new) or None."""
    counts = [len(own) for _, _, own in frames]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    flat = [detection for _, _, own in frames for detection in own]
    chosen = turns([source for source, _, _ in frames], offsets, np.array([t for t, _ in flat], np.int64))
    numbers = np.repeat([index for _, index, _ in frames], counts).astype(np.int64)
    values = [flat[row][1] for row in chosen.rows[chosen.is_new].tolist()]
    fine = np.ones(len(values), bool) if has_result is None else np.array([has_result(v) for v in values], bool)
    sound = [value for value, ok in zip(values, fine, strict=True) if ok]
    merged = kept.merge(chosen, numbers[chosen.rows], classes(sound) if sound else None, fine)
    told = [None] * len(flat)
    is_new = dict(zip(chosen.rows.tolist(), chosen.is_new.tolist(), strict=True))
    if merged is not None:
        found = merged.predictions.classes
        for i, row in enumerate(merged.rows.tolist()):
            told[row] = (int(found.class_ids[i, 0]), int(merged.frame_numbers[i]), is_new[row])
    return [told[start:end] for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)]


@st.composite
def runs(draw):
    """Batches of (source, frame number, detections) of two sources; between them sources may end."""
    number = {"a": 0, "b": 0}
    value = iter(range(10**6))
    batches = []
    for _ in range(draw(st.integers(1, 6))):
        frames = []
        for _ in range(draw(st.integers(0, 5))):
            source = draw(st.sampled_from("ab"))
            tracks = draw(st.lists(st.integers(-1, 6), max_size=5))
            unique = [t for i, t in enumerate(tracks) if t == NO_TRACK or t not in tracks[:i]]
            frames.append((source, number[source], [(t, next(value)) for t in unique]))
            number[source] += draw(st.integers(1, 3))
        batches.append((frames, draw(st.sampled_from(["", "", "", "a", "b"]))))
    return batches


@settings(max_examples=300)
@given(runs(), st.integers(1, 4), st.none() | st.integers(1, 3))
def test_it_is_as_one_at_a_time(batches, every, most):
    if every == 1 and most is None:
        most = 100  # else nothing is kept, as nothing need be
    turns, kept, reference = Turns(every, most), KeptResults(), Reference(every, most)
    for frames, ended in batches:
        got = run_batch(turns, kept, frames)
        want = [reference.frame(source, index, own) for source, index, own in frames]
        assert got == want
        if ended:
            turns.forget(ended)
            reference.forget(ended)


@settings(max_examples=200)
@given(runs(), st.integers(2, 4))
def test_the_order_of_batches_does_not_matter_for_what_is_found(batches, every):
    """All in one batch, and each frame in a batch of its own."""
    frames = [frame for own, _ in batches for frame in own]
    together = run_batch(Turns(every), KeptResults(), frames)
    turns, kept = Turns(every), KeptResults()
    assert together == [run_batch(turns, kept, [frame])[0] for frame in frames]


def test_every_fifth_frame_of_a_track():
    turns, kept = Turns(5), KeptResults()
    told = [run_batch(turns, kept, [("a", i, [(7, 100 + i)])])[0][0] for i in range(12)]
    assert [new for _, _, new in told] == [i % 5 == 0 for i in range(12)]
    assert [frame for _, frame, _ in told] == [0] * 5 + [5] * 5 + [10] * 2
    assert [value for value, _, _ in told] == [100] * 5 + [105] * 5 + [110] * 2


def test_of_too_many_those_that_wait_longest_come_first():
    turns, kept = Turns(1, 2), KeptResults()
    seen = []
    for i in range(6):
        (told,) = run_batch(turns, kept, [("a", i, [(t, 10 * i + t) for t in (1, 2, 3, 4)])])
        seen.append([t for t, one in zip((1, 2, 3, 4), told, strict=True) if one is not None and one[2]])
    assert seen == [[1, 2], [3, 4], [1, 2], [3, 4], [1, 2], [3, 4]]


def test_without_tracks_the_best_are_looked_at():
    chosen = Turns(1, 2)(["a", "b"], np.array([0, 3, 4]), None)
    assert chosen.rows.tolist() == [0, 1, 3]
    assert chosen.is_new.all()


def test_what_has_no_place_in_the_picture_alone_is_kept():
    turns = Turns(3, keeps=False)
    rows = [turns(["a"], np.array([0, 1]), np.array([5])).rows.tolist() for _ in range(4)]
    assert rows == [[0], [], [], [0]]


def test_a_look_in_vain_leaves_nothing_until_the_next():
    turns, kept = Turns(2), KeptResults()
    told = [run_batch(turns, kept, [("a", i, [(1, i)])], has_result=lambda value: value != 2)[0][0] for i in range(6)]
    assert told == [(0, 0, True), (0, 0, False), None, None, (4, 4, True), (4, 4, False)]


def test_memory_is_bounded_and_the_oldest_goes():
    turns, kept = Turns(100, capacity=3), KeptResults()
    for track in (1, 2, 3):
        run_batch(turns, kept, [("a", track, [(track, track)])])
    ((again,),) = run_batch(turns, kept, [("a", 4, [(1, 99)])])
    assert again == (1, 1, False)
    run_batch(turns, kept, [("a", 5, [(4, 4)])])  # in place of 2, which was not seen for longest
    told = run_batch(turns, kept, [("a", 6, [(1, 9), (3, 9), (4, 9), (2, 42)])])
    assert told == [[(1, 1, False), (3, 3, False), (4, 5, False), (42, 6, True)]]
    assert len(turns._tracks) == 3


@pytest.mark.parametrize("tracks", [200])
def test_storage_grows(tracks):
    turns, kept = Turns(10), KeptResults()
    first = [("a", 0, [(t, 1000 + t) for t in range(tracks)])]
    run_batch(turns, kept, first)
    (told,) = run_batch(turns, kept, [("a", 1, [(t, 0) for t in range(tracks)])])
    assert told == [(1000 + t, 0, False) for t in range(tracks)]
