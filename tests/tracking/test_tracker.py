"""Scenes whose tracks are known."""

from __future__ import annotations

import numpy as np
import pytest
from tracking_scenes import batch, box, follow, found, frame, tracker

from pipeline.frames import Predictions, ResultBatch

KINDS = ["bytetrack", "iou"]


def at(rate: float, count: int) -> list[float]:
    return [i / rate for i in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_track_has_an_id_from_its_second_hit_on(kind):
    assert follow(tracker(kind), [[box(100 + i)] for i in range(4)], at(25, 4)) == [
        {100: -1},
        {101: 1},
        {102: 1},
        {103: 1},
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("hits", [1, 3, 5])
def test_hits_to_confirm(kind, hits):
    ids = follow(tracker(kind, min_hits=hits), [[box(100)]] * 8, at(25, 8))
    assert [i[100] for i in ids] == [-1] * (hits - 1) + [1] * (9 - hits)


@pytest.mark.parametrize("kind", KINDS)
def test_a_tentative_track_that_is_missed_is_given_up(kind):
    made = tracker(kind, min_hits=3)
    ids = follow(made, [[box(100)], [box(100)], [], [box(100)], [box(100)], [box(100)]], at(25, 6))
    assert [i.get(100) for i in ids] == [-1, -1, None, -1, -1, 1]


def test_crossing_people_keep_their_ids():
    """Two that walk through each other, and are seen as one while they overlap nearly."""
    frames = []
    for i in range(60):
        a, b = 200 + 4 * i, 440 - 4 * i
        frames.append([box(a), box(b, 310)] if abs(a - b) > 12 else [box(a)])
    ids = follow(tracker(), frames, at(25, 60))
    start, end = ids[5], ids[-1]
    assert start[220] != start[420]
    assert end[200 + 4 * 59] == start[220]
    assert end[440 - 4 * 59] == start[420]


def test_who_is_hidden_for_a_while_keeps_the_id():
    """24 frames behind a tree, walking on."""
    frames = [[] if 20 <= i < 44 else [box(100 + 3 * i)] for i in range(60)]
    ids = follow(tracker(), frames, at(25, 60))
    assert ids[19][157] == ids[44][232] == ids[-1][277] == 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("gap_s", "same"), [(0.5, True), (2.0, True), (2.1, False), (60, False)])
def test_a_gap_in_the_stream_within_the_bound_keeps_ids(kind, gap_s, same):
    """As after a reconnection: no frames at all, and time goes on."""
    made = tracker(kind)
    before = follow(made, [[box(100), box(300)]] * 10, at(25, 10))[-1]
    times_s = [9 / 25 + gap_s + i / 25 for i in range(3)]
    after = follow(made, [[box(100), box(300)]] * 3, times_s, start=10)
    assert (after[0] == before) is same
    if not same:
        assert after[0] == {100: -1, 300: -1}
        assert sorted(after[-1].values()) == [3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("max_age_s", "missed", "same"), [(0, 0, 1), (0, 1, 0), (0.3, 2, 1), (0.3, 3, 0), (1, 9, 1), (1, 10, 0)]
)
def test_the_bound_is_time_without_a_detection(kind, max_age_s, missed, same):
    """Frames in which nothing is found, a tenth of a second each."""
    seen = [[box(100)]] * 3 + [[]] * missed + [[box(100)]] * 2
    assert follow(tracker(kind, max_age_s=max_age_s), seen, at(10, len(seen)))[-1] == {100: 1 if same else 2}


@pytest.mark.parametrize("kind", KINDS)
def test_a_slow_stream_is_tracked_however_slow_it_is(kind):
    """A frame every 10 s is no gap; but one that is missing is."""
    ids = follow(tracker(kind, min_hits=1), [[box(100)]] * 7, [0, 10, 20, 30, 55, 65, 75])
    assert [own[100] for own in ids] == [1, 1, 1, 1, 2, 2, 2]


def test_dropped_frames_and_variable_rates_keep_ids():
    """A camera of 30 frames/s of which any two of three may be lost: steps from 1/30 to 1/3 s."""
    random = np.random.default_rng(3)
    kept = np.flatnonzero(np.concatenate([np.ones(10), random.random(290)]) > 0.67) | 0
    kept = np.unique(np.concatenate([np.arange(10), kept]))
    frames = [[box(50 + 3.5 * i), box(1250 - 3 * i, 500), box(600, 120 + 1.2 * i)] for i in kept]
    ids = follow(tracker(), frames, [float(i) / 30 for i in kept])
    for number, own in zip(kept[2:], ids[2:], strict=True):
        assert own == {
            round(50 + 3.5 * number): ids[1][round(50 + 3.5)],
            round(1250 - 3 * number): ids[1][1247],
            600: ids[1][600],
        }


@pytest.mark.parametrize("height_a_second", [0, 2, 5, 8])
def test_fast_vehicles_keep_their_ids(height_a_second):
    """A car of 120 x 60 pixels at up to 8 of its heights a second, seen 10 times a second."""
    frames = [[box(100 + 60 * height_a_second * i / 10, 300, 120, 60)] for i in range(20)]
    ids = follow(tracker(), frames, at(10, 20))
    assert {i for own in ids[1:] for i in own.values()} == {1}


def test_low_scores_keep_a_track_alive_but_begin_none():
    """Scores of somebody who is covered more and more; and of a shadow."""
    frames = [[box(100 + i, score=0.9 if i < 5 else 0.3), box(600, score=0.45)] for i in range(20)]
    result = follow(tracker(), frames, at(25, 20))
    assert [set(own.values()) for own in result] == [{-1}] + [{1}] * 19
    assert all(600 not in own for own in result)
    result = follow(tracker("iou"), [own[:1] for own in frames], at(25, 20))
    assert [list(own.values()) for own in result] == [[-1]] + [[1]] * 4 + [[]] * 15


def test_a_lost_track_takes_no_low_scores():
    frames = [[box(100)]] * 5 + [[]] + [[box(100, score=0.3)]] * 3 + [[box(100)]]
    assert [list(own.values()) for own in follow(tracker(), frames, at(25, 10))][5:] == [[], [], [], [], [1]]


def test_thresholds_of_classes():
    """What is high is up to the user, for each class; a class above all that have a rule has the default."""
    made = tracker(thresholds={"person": 0.8, "car": 0.3})
    seen = [box(100, score=0.7), box(300, score=0.45, class_id=1), box(500, score=0.7, class_id=2)]
    result = [follow(made, [seen], [i / 25], start=i)[0] for i in range(3)]
    assert result[-1] == {300: 1, 500: 2} or result[-1] == {300: 2, 500: 1}


@pytest.mark.parametrize(
    ("threshold", "score", "begins"), [(0.5, 0.55, False), (0.5, 0.61, True), (0.9, 0.94, False), (0.9, 0.96, True)]
)
def test_a_new_track_needs_a_little_more(threshold, score, begins):
    ids = follow(tracker(score_threshold=threshold), [[box(100, score=score)]] * 3, at(25, 3))
    assert [own[100] for own in ids] == ([-1, 1, 1] if begins else [-1, -1, -1])
    made = tracker(score_threshold=threshold, new_track_score=0.1)  # never below the threshold
    assert follow(made, [[box(100, score=score), box(300, score=threshold - 0.01)]] * 2, at(25, 2))[1] == {100: 1}


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_apart_unless_they_are_to_be_one(kind):
    """A lorry that the model takes for a bus now and then."""
    frames = [[box(100, class_id=1 + i % 2)] for i in range(8)]
    assert {i for own in follow(tracker(kind, max_age_s=0.06), frames, at(25, 8)) for i in own.values()} == {-1}
    made = tracker(kind, class_agnostic=True)
    assert [list(own.values()) for own in follow(made, frames, at(25, 8))] == [[-1]] + [[1]] * 7
    last = found(made(batch([frame(8, 8 / 25)], [[box(100, class_id=2)]])))
    assert last.class_ids.tolist() == [2]  # what the model says stays


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_tracked(kind):
    ids = follow(tracker(kind, output="tracked"), [[box(100)]] * 3, at(25, 3))
    assert ids == [{}, {100: 1}, {100: 1}]


def test_records_keep_what_the_model_says():
    """Boxes, scores and order are those of the detections; only ids are added and rows left out."""
    made = tracker()
    seen = [box(100, score=0.9), box(300, score=0.95), box(500, score=0.3), box(700, score=0.6, class_id=1)]
    one = batch([frame(0, 0.0)], [seen])
    result = made(one)
    assert result.frames is one.frames
    assert result.model == one.model
    given, kept = one.predictions.detections, found(result)
    assert kept.names is given.names
    np.testing.assert_array_equal(kept.boxes, given.boxes[:3])
    np.testing.assert_array_equal(kept.scores, given.scores[:3])
    np.testing.assert_array_equal(kept.class_ids, given.class_ids[:3])
    assert kept.offsets.tolist() == [0, 3]
    assert given.track_ids is None


def test_ids_begin_at_1_and_follow_the_scores():
    made = tracker()
    follow(made, [[box(100, score=0.7), box(300, score=0.9), box(500, score=0.8)]], [0])
    second = follow(made, [[box(100, score=0.9), box(300, score=0.8), box(500, score=0.7)]], [0.04], start=1)
    assert second == [{100: 1, 300: 2, 500: 3}]


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_never_used_again(kind):
    """A source that ends and comes again, and people who come and go."""
    made, used = tracker(kind, max_age_s=0.1), set()
    for round_ in range(30):
        ids = follow(made, [[box(100), box(300)]] * 2, [round_, round_ + 0.04])[1]
        assert not used & set(ids.values())
        used |= set(ids.values())
        if round_ % 3 == 0:
            made.forget("cam")
            assert len(made) == 0
    assert used == set(range(1, 61))


def test_an_ended_source_leaves_the_others_alone():
    made = tracker()
    for source in ("a", "b", "c"):
        follow(made, [[box(100)]] * 3, at(25, 3), source)
    made.forget("b")
    made.forget("never seen")
    assert len(made) == 2
    assert follow(made, [[box(100)]], [0.12], "a", 3) == [{100: 1}]
    assert follow(made, [[box(100)]], [0.12], "c", 3) == [{100: 1}]
    assert follow(made, [[box(100)]] * 2, [0.0, 0.04], "b") == [{100: -1}, {100: 2}]


@pytest.mark.parametrize("times_s", [[0.0] * 10, [None] * 10, [1 - i / 100 for i in range(10)], [0, 9, 0, 9, 0] * 2])
def test_odd_times_do_no_harm(times_s):
    ids = follow(tracker(max_age_s=10), [[box(100)]] * 10, times_s)
    assert [own[100] for own in ids] == [-1] + [1] * 9


def test_a_batch_without_detections_stays_as_it_is():
    made = tracker()
    for one in (ResultBatch([frame(0, 0.0)], Predictions(), "m"), batch([frame(0, 0.0)], [[]])):
        result = made(one)
        assert len(result) == 1
    assert found(result).offsets.tolist() == [0, 0]
    assert len(found(result)) == 0


def test_memory_stays_bounded_over_10000_frames_of_coming_and_going():
    random = np.random.default_rng(0)
    made, most = tracker(), 0
    for index in range(10_000):
        seen = [box(float(x), float(y)) for x, y in random.uniform(100, 600, (4, 2))]
        made(batch([frame(index, index / 25)], [seen]))
        most = max(most, len(made))
    assert most <= 4 * (2 * 25 + 2)  # no more than were seen within max_age_s
    assert most == pytest.approx(len(made), abs=200)
    made(batch([frame(10_000, 1000.0)], [[]]))
    assert len(made) == 0
