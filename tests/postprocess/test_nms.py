"""Non-maximum suppression against brute force in Python's doubles, and against TensorFlow's."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.postprocess.nms import iou_matrix, nms


def brute_force(boxes, groups, threshold, iou):
    kept = []
    for i, box in enumerate(boxes):
        if not any(groups[k] == groups[i] and iou(boxes[k], box) > threshold for k in kept):
            kept.append(i)
    return kept


@st.composite
def crowded_boxes(draw):
    """Boxes on a coarse grid: equal boxes, touching boxes and overlaps of exactly the threshold are common."""
    count = draw(st.integers(0, 60))
    seed = draw(st.integers(0, 2**32 - 1))
    grid = draw(st.sampled_from([4, 12, 100]))
    rng = np.random.default_rng(seed)
    corner = rng.integers(0, grid, (count, 2))
    size = rng.integers(1, grid // 2 + 1, (count, 2))
    groups = rng.integers(0, draw(st.integers(1, 8)), count)
    return np.hstack([corner, corner + size]).astype(np.float32), groups.astype(np.int64)


@settings(max_examples=150, deadline=None)
@given(crowded_boxes(), st.sampled_from([0.0, 0.25, 1 / 3, 0.5, 0.6, 0.75, 1.0]))
def test_equals_brute_force(tools, case, threshold):
    boxes, groups = case
    keep = nms(boxes, groups, threshold)
    assert np.flatnonzero(keep).tolist() == brute_force(boxes.tolist(), groups.tolist(), threshold, tools.iou)


@pytest.mark.parametrize("count", [255, 256, 257, 700])
def test_equals_brute_force_across_blocks(tools, count):
    rng = np.random.default_rng(count)
    corner = rng.uniform(0, 100, (count, 2))
    boxes = np.hstack([corner, corner + rng.uniform(5, 40, (count, 2))]).astype(np.float32)
    groups = (rng.random(count) < 0.1).astype(np.int64)  # One group spans blocks, one does not.
    keep = nms(boxes, groups, 0.4)
    assert np.flatnonzero(keep).tolist() == brute_force(boxes.tolist(), groups.tolist(), 0.4, tools.iou)


def test_a_long_chain_is_settled_link_by_link():
    """Each box suppresses only the next one, so every second one stays: the worst case for an iterated solution."""
    left = np.arange(600, dtype=np.float32) * 4
    boxes = np.stack([left, np.zeros(600), left + 10, np.ones(600)], axis=1).astype(np.float32)
    keep = nms(boxes, np.zeros(600, np.int64), 0.4)  # Neighbours overlap by 6 / 14, next but one by 2 / 18.
    assert keep.tolist() == [True, False] * 300


def test_an_overlap_of_exactly_the_threshold_stays():
    boxes = np.array([[0, 0, 2, 1], [1, 0, 3, 1]], np.float32)  # 1 / 3
    assert nms(boxes, np.zeros(2, np.int64), 1 / 3).all()
    assert nms(boxes, np.zeros(2, np.int64), 0.333).tolist() == [True, False]


def test_iou_by_hand():
    a = np.array([[0, 0, 4, 4], [10, 10, 12, 12.0]])
    b = np.array([[2, 2, 6, 6], [0, 0, 4, 4], [4, 0, 8, 4.0]])
    np.testing.assert_allclose(iou_matrix(a, b), [[4 / 28, 1, 0], [0, 0, 0]])


def test_nothing():
    assert nms(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 0.5).shape == (0,)


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_equals_tensorflow(threshold):
    tf = pytest.importorskip("tensorflow")
    rng = np.random.default_rng(5)
    corner = rng.uniform(0, 500, (1500, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 150, (1500, 2))]).astype(np.float32)
    scores = np.sort(rng.random(1500).astype(np.float32))[::-1].copy()
    theirs = tf.image.non_max_suppression(boxes[:, [1, 0, 3, 2]], scores, 1500, iou_threshold=threshold).numpy()
    assert np.flatnonzero(nms(boxes, np.zeros(1500, np.int64), threshold)).tolist() == theirs.tolist()


def test_ten_thousand_boxes_are_quick():
    """In one group and in a thousand; comparing them one by one takes minutes."""
    rng = np.random.default_rng(6)
    corner = rng.uniform(0, 600, (10_000, 2))
    boxes = np.hstack([corner, corner + rng.uniform(20, 100, (10_000, 2))]).astype(np.float32)
    start = time.perf_counter()
    nms(boxes, np.zeros(10_000, np.int64), 0.5)
    nms(boxes, rng.integers(0, 1000, 10_000), 0.5)
    assert time.perf_counter() - start < 10  # Generous: this machine may be busy.
