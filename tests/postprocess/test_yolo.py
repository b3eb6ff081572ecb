"""YOLO heads of both layouts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError


def head(rng, frames, anchors, classes, objectness):
    """(frames, anchors, 4 or 5 + classes) with boxes in a 640x640 input."""
    centre_size = np.concatenate(
        [rng.uniform(0, 640, (frames, anchors, 2)), rng.uniform(1, 200, (frames, anchors, 2))], axis=2
    )
    scores = rng.random((frames, anchors, classes + (1 if objectness else 0)))
    return np.concatenate([centre_size, scores], axis=2).astype(np.float32)


def slow(tools, rows, objectness, tail):
    """One frame after another; each anchor counts for its best class."""
    expected = []
    for frame in rows.astype(np.float64):
        candidates = []
        for a, (x, y, w, h, *scores) in enumerate(frame.tolist()):
            weight = scores.pop(0) if objectness else 1.0
            best = max(range(len(scores)), key=lambda c: (scores[c], -c))
            box = (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
            candidates.append(tools.Candidate(a, best, weight * scores[best], box))
        expected.append(tools.slow_tail(candidates, tail, (1, 1, 0, 0), (640, 640)))
    return expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 6), st.booleans(), st.booleans())
def test_equals_the_slow_way_in_every_layout(tools, seed, frames, classes, objectness, anchors_last):
    rows = head(np.random.default_rng(seed), frames, 40, classes, objectness)
    given_rows = rows.transpose(0, 2, 1).copy() if anchors_last else rows
    d = tools.detect(
        {"out": given_rows}, tools.batch(frames, (640, 640)), family="yolo", objectness=objectness, score_threshold=0.3
    )
    tools.assert_same(d, slow(tools, rows, objectness, tools.Tail(threshold=0.3)))


@pytest.mark.parametrize(("shape", "objectness"), [((1, 84, 8400), False), ((1, 25200, 85), True)])
def test_full_size_heads_need_no_options(tools, shape, objectness):
    rows = head(np.random.default_rng(1), 1, max(shape), 80, objectness)
    rows[..., 4:] **= 8  # Few good scores, as in a real picture.
    outputs = {"output0": rows.transpose(0, 2, 1) if shape[1] == 84 else rows}
    assert outputs["output0"].shape == shape
    d = tools.detect(outputs, tools.batch(1, (640, 640)), family="yolo", score_threshold=0.9, labels="coco80")
    tools.assert_same(d, slow(tools, rows, objectness, tools.Tail(threshold=0.9)))


@pytest.mark.parametrize(
    ("shape", "labels", "objectness", "anchor_axis", "class_id", "score"),
    [
        ((1, 9, 6), None, None, None, 0, 0.5 * 0.8),  # Anchors first: objectness.
        ((1, 6, 9), None, None, None, 1, 0.8),  # Anchors last: none.
        ((1, 9, 6), ["a", "b"], None, None, 1, 0.8),  # The labels say that there are two classes.
        ((1, 6, 9), ["a"], None, None, 0, 0.5 * 0.8),
        ((1, 9, 6), None, False, None, 1, 0.8),
        ((1, 6, 9), None, True, None, 0, 0.5 * 0.8),
        ((1, 6, 3), None, True, 2, 0, 0.5 * 0.8),  # Fewer anchors than columns.
        ((1, 6, 6), None, False, 1, 1, 0.8),
        ((1, 1, 9, 6), None, None, None, 0, 0.5 * 0.8),
    ],
)
def test_layouts(tools, shape, labels, objectness, anchor_axis, class_id, score):
    row = np.array([50, 60, 20, 10, 0.5, 0.8], np.float32)
    out = np.zeros(shape, np.float32)
    if shape[-1] == 6 and not (shape[-2] == 6 and anchor_axis == 2):
        out[..., 2, :] = row
    else:
        out[..., :, 2] = row
    options = {"labels": labels, "objectness": objectness, "anchor_axis": anchor_axis}
    d = tools.detect({"o": out}, tools.batch(1), family="yolo", score_threshold=0.3, **options)
    assert d.boxes.tolist() == [[40, 55, 60, 65]]
    assert d.class_ids.tolist() == [class_id]
    np.testing.assert_allclose(d.scores, [score], rtol=1e-6)


def test_normalised_boxes(tools):
    out = np.zeros((1, 5, 9), np.float32)
    out[0, :, 0] = [0.5, 0.5, 0.25, 0.5, 0.9]
    d = tools.detect({"o": out}, tools.batch(1, (400, 200)), family="yolo", normalized=True)
    assert d.boxes.tolist() == [[150, 50, 250, 150]]


def test_class_filter_does_not_bring_back_second_best_classes(tools):
    out = np.zeros((1, 6, 9), np.float32)
    out[0, :, 0] = [50, 50, 10, 10, 0.7, 0.9]
    assert len(tools.detect({"o": out}, tools.batch(1), family="yolo", classes=[0])) == 0
    assert len(tools.detect({"o": out}, tools.batch(1), family="yolo", classes=[1])) == 1


def test_half_precision(tools):
    rows = head(np.random.default_rng(3), 2, 40, 3, True).astype(np.float16)
    d = tools.detect({"o": rows}, tools.batch(2, (640, 640)), family="yolo", score_threshold=0.2)
    tools.assert_same(d, slow(tools, rows, True, tools.Tail(threshold=0.2)))


def test_scores_that_are_not_finite(tools):
    out = np.zeros((1, 6, 9), np.float32)
    out[0, :, :3] = np.array([[50, 50, 10, 10, np.nan, 0.9], [50, 50, 10, 10, np.inf, 0.9], [20, 20, 9, 9, 0, 0.8]]).T
    assert tools.detect({"o": out}, tools.batch(1), family="yolo").boxes[:, 2].tolist() == [24.5]


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ({"a": (1, 84, 8400), "b": (1, 3)}, {}, r"postprocess\.output is not given, and the model has 2 outputs: a, b"),
        ({"a": (1, 84, 8400)}, {"output": "c"}, r"the model has no output 'c'"),
        ({"a": (1, 84)}, {}, r"'a' is \[1, 84\], but \[N, 4\+C, A\] or \[N, A, 5\+C\] is needed"),
        ({"a": (1, 84, 84)}, {}, r"'a' is \[1, 84, 84\]: which axis counts anchors .*anchor_axis to 1 or 2"),
        ({"a": (1, 4, 8400)}, {}, r"4 numbers an anchor, but a box and at least one class are 5"),
        ({"a": (1, 8400, 5)}, {}, r"5 numbers an anchor, but a box, objectness and at least one class are 6"),
    ],
)
def test_outputs_that_do_not_fit(tools, outputs, options, message):
    with pytest.raises(ModelError, match=message):
        tools.build(outputs, (640, 640), family="yolo", **options)


def test_unknown_shapes_are_checked_when_they_are_known(tools):
    post = tools.build({"a": (None, None, 8400)}, (640, 640), family="yolo")
    with pytest.raises(ModelError, match="3 numbers an anchor"):
        post({"a": np.zeros((1, 3, 8400), np.float32)}, tools.batch(1))
