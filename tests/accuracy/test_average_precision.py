"""The metric itself, by hand and against what is known of detections that others made."""

from __future__ import annotations

import numpy as np
import pytest
from average_precision import average_precision, load_mot_boxes
from hypothesis import given, settings
from hypothesis import strategies as st

A, B, C = ([0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10])


def measured(truth, detections, min_iou=0.5):
    """`detections` are (frame, box, score)."""
    frames = np.array([frame for frame, _, _ in detections], np.int64)
    boxes = np.array([box for _, box, _ in detections], np.float64).reshape(-1, 4)
    scores = np.array([score for _, _, score in detections], np.float64)
    true = {frame: np.array(b, np.float64).reshape(-1, 4) for frame, b in truth.items()}
    return average_precision(true, frames, boxes, scores, min_iou)


def test_all_found_and_nothing_else_is_1():
    assert measured({0: [A, B], 3: [C]}, [(3, C, 0.1), (0, B, 0.5), (0, A, 0.9)]) == 1


def test_nothing_found_is_0():
    assert measured({0: [A]}, []) == 0
    assert measured({0: [A]}, [(1, A, 0.9), (0, B, 0.8)]) == 0


def test_by_hand():
    """Right, wrong, right, wrong; one of three is never found: 1/3 * 1 + 1/3 * 2/3."""
    found = [(0, A, 0.9), (7, A, 0.8), (0, B, 0.7), (0, [80, 0, 90, 10], 0.6)]
    assert measured({0: [A, B, C]}, found) == pytest.approx(1 / 3 + 2 / 9)


def test_precision_is_interpolated_from_the_right():
    """Wrong, right, right: precision 0, 1/2, 2/3 counts as 2/3 throughout."""
    assert measured({0: [A, B]}, [(0, C, 0.9), (0, A, 0.8), (0, B, 0.7)]) == pytest.approx(2 / 3)


def test_a_true_box_is_found_once():
    assert measured({0: [A, B]}, [(0, A, 0.9), (0, A, 0.8), (0, B, 0.7)]) == pytest.approx(0.5 + 0.5 * 2 / 3)


def test_the_best_free_box_is_taken():
    """Two detections between two people: the second takes the one that the first has left."""
    near = [2, 0, 12, 10]
    found = [(0, [1.5, 0, 11.5, 10], 0.9), (0, [1.4, 0, 11.4, 10], 0.8)]
    assert measured({0: [A, near]}, found) == 1


def test_the_least_overlap_counts():
    half = [0, 0, 10, 5]  # IoU exactly 0.5.
    assert measured({0: [A]}, [(0, half, 0.9)]) == 1
    assert measured({0: [A]}, [(0, half, 0.9)], min_iou=0.51) == 0


def test_without_truth_there_is_no_average_precision():
    with pytest.raises(ValueError, match="no true boxes"):
        measured({}, [(0, A, 0.9)])


def test_mot_files(tmp_path):
    path = tmp_path / "gt.txt"
    path.write_text("1,7,10,20,30,40,1,-1,-1,0\n3,7,0,0,5,5,0,-1,-1,0\n1,8,1,2,3,4,1,-1,-1,0\n")
    boxes = load_mot_boxes(path)
    assert {frame: b.tolist() for frame, b in boxes.items()} == {0: [[10, 20, 40, 60], [1, 2, 4, 6]], 2: [[0, 0, 5, 5]]}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30), st.integers(0, 10))
def test_equals_the_definition(hits, missed):
    """Area under max over r' >= r of precision(r'), summed over the steps of recall."""
    count = sum(hits) + missed
    if not count:
        return
    truth = {i: [A] for i in range(len(hits)) if hits[i]} | {1000 + i: [A] for i in range(missed)}
    found = [(i if hit else 500, A, 1 - i / 100) for i, hit in enumerate(hits)]
    points = [(sum(hits[: k + 1]) / count, sum(hits[: k + 1]) / (k + 1)) for k in range(len(hits))]
    area = sum(max(p for r, p in points if r >= n / count) / count for n in range(1, sum(hits) + 1))
    assert measured(truth, found) == pytest.approx(area)


@pytest.mark.assets
@pytest.mark.parametrize(("detector", "expected"), [("coco_ssd", 0.683), ("nanodet", 0.909)])
def test_detections_of_others(assets, detector, expected):
    """Detections that came from other code: about the figures that are known of these models."""
    rows = np.loadtxt(assets / "ground_truth" / "detections" / f"vtest_{detector}.txt")
    truth = load_mot_boxes(assets / "ground_truth" / "PETS09-S2L1" / "gt.txt")
    assert sum(map(len, truth.values())) == 4650
    value = average_precision(truth, rows[:, 0].astype(np.int64) - 1, rows[:, 1:5], rows[:, 5])
    assert value == pytest.approx(expected, abs=0.002)
