"""Predictions by rows, and crops that go with their detections."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.crops import Crops, followed, joined, taken
from pipeline.frames import Classifications, Detections, Predictions
from pipeline.masks import Segmentations
from pipeline.poses import Poses


def detections(counts, seed=0):
    rng = np.random.default_rng(seed)
    total = sum(counts)
    low = rng.uniform(0, 50, (total, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 20, (total, 2))], 1).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Detections(boxes, rng.random(total).astype(np.float32), rng.integers(0, 3, total).astype(np.int32), offsets)


def everything(counts, seed=0):
    """Predictions of every task, of len(counts) frames."""
    rng = np.random.default_rng(seed)
    n, found = len(counts), detections(counts, seed)
    poses = Poses(
        found.boxes,
        found.scores,
        rng.random((len(found), 2, 2)).astype(np.float32),
        rng.random((len(found), 2)).astype(np.float32),
        rng.random((len(found), 2)) > 0.5,
        found.offsets,
        ("a", "b"),
        (),
    )
    return Predictions(
        found,
        Classifications(
            rng.integers(0, 9, (n, 2)).astype(np.int32), rng.random((n, 2)).astype(np.float32), np.full(n, 2)
        ),
        {"y": rng.random((n, 3))},
        poses,
        Segmentations(rng.integers(0, 3, (n, 4, 5)).astype(np.uint8), rng.random((n, 4)) + 1, np.full((n, 2), 50.0)),
        rng.random((n, 4)).astype(np.float32),
    )


def as_lists(found):
    """One frame's results as what can be compared."""
    return (
        found.detections.boxes.tolist(),
        found.detections.scores.tolist(),
        found.classes,
        found.tensors["y"].tolist(),
        found.poses.points.tolist(),
        found.poses.visible.tolist(),
        found.segmentation.classes.tolist(),
        found.segmentation.transform,
        found.embedding.tolist(),
    )


counts = st.lists(st.integers(0, 3), min_size=1, max_size=5)


@given(counts, st.data())
def test_taken_rows_are_the_frames_results(own, data):
    rows = data.draw(st.lists(st.integers(0, len(own) - 1), max_size=6))
    whole = everything(own)
    some = taken(whole, np.array(rows, np.int64))
    assert [as_lists(some.frame(i)) for i in range(len(rows))] == [as_lists(whole.frame(row)) for row in rows]


@given(st.lists(counts, min_size=1, max_size=3))
def test_joined_calls_are_one_after_another(parts):
    made = [everything(own, seed) for seed, own in enumerate(parts)]
    whole = joined(made)
    got = [as_lists(whole.frame(i)) for i in range(sum(map(len, parts)))]
    assert got == [as_lists(part.frame(i)) for part, own in zip(made, parts, strict=True) for i in range(len(own))]


def crops_of(parents, found, predictions, of=None):
    regions = np.zeros((len(parents), 4), np.float32)
    return Crops("m@0", of, np.array(parents, np.int64), found.offsets, regions, np.arange(len(parents)), predictions)


def test_crops_of_one_frame_count_its_own_detections():
    found = detections([2, 0, 3])
    crops = crops_of([1, 2, 4], found, everything([1, 2, 0]))
    assert crops.offsets.tolist() == [0, 1, 1, 3]
    assert crops.found_offsets.tolist() == [0, 1, 1, 3]
    assert crops.found_parents.tolist() == [1, 2, 2]
    third = crops.frame(2)
    assert third.parents.tolist() == [0, 2]
    assert third.parent_offsets.tolist() == [0, 3]
    assert as_lists(third.at(0)) == as_lists(crops.at(2))
    assert third.at(1) is None
    assert crops.at(0) is None
    assert crops.at(99) is None
    assert len(crops.frame(1)) == 0


@st.composite
def kept_and_shuffled(draw):
    """Counts of detections of frames, and for each frame which of them stay, in which order."""
    own = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    return own, [
        draw(st.permutations(range(n)).flatmap(lambda p: st.integers(0, len(p)).map(lambda k: p[:k]))) for n in own
    ]


@given(kept_and_shuffled(), st.data())
def test_crops_follow_their_detections(drawn, data):
    own, orders = drawn
    before = detections(own)
    rows = [int(before.offsets[i]) + k for i, order in enumerate(orders) for k in order]
    offsets = np.concatenate([[0], np.cumsum([len(order) for order in orders])]).astype(np.int64)
    after = replace(
        before,
        boxes=before.boxes[rows],
        scores=before.scores[rows],
        class_ids=before.class_ids[rows],
        offsets=offsets,
    )
    parents = [row for row in range(len(before)) if data.draw(st.booleans())]
    faces = crops_of(parents, before, everything([data.draw(st.integers(0, 2)) for _ in parents]))
    child_count = len(faces.predictions.detections)
    moods = Crops(
        "n@0",
        "face",
        np.arange(child_count),
        faces.found_offsets,
        np.zeros((child_count, 4), np.float32),
        np.zeros(child_count, np.int64),
        everything([1] * child_count) if child_count else Predictions(),
    )
    got = followed({"face": faces, "mood": moods}, before, after)
    for new, old in enumerate(rows):
        found, expected = got["face"].at(new), faces.at(old)
        assert (found is None) == (expected is None)
        if found is not None:
            assert as_lists(found) == as_lists(expected)
    # A grandchild is found by its face's box, wherever that went.
    boxes = faces.predictions.detections.boxes
    for new, box in enumerate(got["face"].predictions.detections.boxes):
        old = int(np.flatnonzero((boxes == box).all(1))[0])
        assert as_lists(got["mood"].at(new)) == as_lists(moods.at(old))
    assert got["mood"].parent_offsets.tolist() == got["face"].found_offsets.tolist()


def test_without_detections_nothing_is_left_of_their_crops():
    before = detections([2, 1])
    got = followed({"e": crops_of([0, 2], before, everything([0, 0]))}, before, None)
    assert len(got["e"]) == 0
    assert got["e"].parent_offsets.tolist() == [0, 0, 0]


def test_a_plugin_that_leaves_out_detections_leaves_out_their_crops():
    from pipeline.frames import Colour, Frame, Picture, ResultBatch
    from pipeline.plugins.checks import check_results

    before = detections([2])
    picture = Picture((), (1, 1), Colour(), 64, 48)
    predictions = everything([0, 0])
    given_batch = ResultBatch(
        [Frame("a", 0, 0.0, 0.0, picture)],
        Predictions(before),
        "m@0",
        crops={"e": crops_of([0, 1], before, predictions)},
    )
    second = replace(
        before,
        boxes=before.boxes[1:],
        scores=before.scores[1:],
        class_ids=before.class_ids[1:],
        offsets=np.array([0, 1], np.int64),
    )
    result = check_results(replace(given_batch, predictions=Predictions(second)), given_batch)
    (only,) = result
    assert only.crops["e"].parents.tolist() == [0]
    assert as_lists(only.crops["e"].at(0)) == as_lists(predictions.frame(1))
    assert check_results(None, given_batch) is given_batch


def test_repr_tells_how_many():
    found = detections([2, 1])
    assert repr(crops_of([0, 2], found, everything([0, 0]))) == "Crops(2 of 3 detections in 2 frames)"
