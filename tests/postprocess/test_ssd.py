"""SSD heads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError

LOGITS = np.array([[[2.0, 0.5, -1.0], [-3.0, 0.1, 4.0]]], np.float32)
BOXES = np.array([[[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.25, 1.0]]], np.float32)


def test_normalised_y_x_boxes_by_hand(tools):
    scores = np.array([[[0.9, 0.2], [0.1, 0.8]]], np.float32)
    d = tools.detect({"boxes": BOXES, "scores": scores}, tools.batch(1, (200, 100)), family="ssd")
    np.testing.assert_allclose(d.boxes, [[40, 10, 120, 50], [0, 0, 200, 25]], rtol=1e-6)
    assert d.class_ids.tolist() == [0, 1]


@pytest.mark.parametrize(
    ("box_format", "numbers"),
    [
        ("xyxy", (10, 20, 50, 80)),
        ("yxyx", (20, 10, 80, 50)),
        ("xywh", (10, 20, 40, 60)),
        ("cxcywh", (30, 50, 40, 60)),
    ],
)
@pytest.mark.parametrize("normalized", [False, True])
def test_box_formats(tools, box_format, numbers, normalized):
    boxes = np.array([[numbers]], np.float32)
    if normalized:
        x_first = np.array([200, 100] * 2)
        boxes /= x_first[::-1] if box_format == "yxyx" else x_first
    given = {"boxes": boxes, "scores": np.full((1, 1, 1), 0.9, np.float32)}
    d = tools.detect(given, tools.batch(1, (200, 100)), family="ssd", box_format=box_format, normalized=normalized)
    np.testing.assert_allclose(d.boxes, [[10, 20, 50, 80]], rtol=1e-6)


def test_boxes_with_an_axis_of_one(tools):
    scores = np.array([[[0.9, 0.2], [0.1, 0.8]]], np.float32)
    flat = tools.detect({"boxes": BOXES, "scores": scores}, tools.batch(1), family="ssd")
    deep = tools.detect({"boxes": BOXES[:, :, None], "scores": scores[:, None]}, tools.batch(1), family="ssd")
    tools.assert_equal(flat, deep)


def test_sigmoid(tools):
    d = tools.detect({"boxes": BOXES, "scores": LOGITS}, tools.batch(1), family="ssd", activation="sigmoid")
    expected = 1 / (1 + np.exp(-np.array([4.0, 2.0, 0.5, 0.1])))
    np.testing.assert_allclose(d.scores, expected, rtol=1e-6)
    assert d.class_ids.tolist() == [2, 0, 1, 1]


def test_softmax_with_background(tools):
    """The background has its share of the probability, but is no result; class ids start behind it."""
    fields = {"family": "ssd", "activation": "softmax", "score_threshold": 0.0, "nms_iou": None}
    given = {"boxes": BOXES, "scores": LOGITS}
    exps = np.exp(LOGITS[0].astype(np.float64))
    p = exps / exps.sum(axis=1, keepdims=True)
    d = tools.detect(given, tools.batch(1), **fields)
    np.testing.assert_allclose(d.scores, np.sort(p.ravel())[::-1], rtol=1e-5)
    d = tools.detect(given, tools.batch(1), **fields, background=True, class_offset=1)
    np.testing.assert_allclose(d.scores, np.sort(p[:, 1:].ravel())[::-1], rtol=1e-5)
    assert d.class_ids.tolist() == [2, 1, 2, 1]


@pytest.mark.parametrize("activation", ["sigmoid", "softmax"])
def test_huge_logits_do_not_overflow_and_infinite_ones_are_no_result(tools, activation):
    scores = np.array([[[1e30, -1e30], [np.inf, -1e30], [-np.inf, 90.0], [np.nan, np.nan]]], np.float32)
    boxes = np.array([[[0, i / 4, 1, i / 4 + 0.2] for i in range(4)]], np.float32)
    d = tools.detect({"boxes": boxes, "scores": scores}, tools.batch(1), family="ssd", activation=activation)
    np.testing.assert_allclose(d.boxes[:, 0], [0, 50])
    assert d.scores.tolist() == [1.0, 1.0]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from(["none", "sigmoid", "softmax"]), st.booleans(), st.floats(0.0, 0.99))
def test_equals_the_slow_way(tools, seed, activation, background, threshold):
    rng = np.random.default_rng(seed)
    frames, anchors, classes = rng.integers(1, 4), rng.integers(1, 20), rng.integers(2, 5)
    corner = rng.random((frames, anchors, 2)) * 0.8
    boxes = np.concatenate([corner, corner + rng.random((frames, anchors, 2)) * 0.5], axis=2).astype(np.float32)
    raw = rng.normal(0, 2, (frames, anchors, classes)).astype(np.float32)
    if activation == "none":
        raw = rng.random(raw.shape, np.float32)
    d = tools.detect(
        {"boxes": boxes, "scores": raw},
        tools.batch(frames, (64, 48)),
        family="ssd",
        activation=activation,
        background=background,
        score_threshold=threshold,
    )
    exact = raw.astype(np.float64)
    if activation == "sigmoid":
        exact = 1 / (1 + np.exp(-exact))
    if activation == "softmax":
        exact = np.exp(exact) / np.exp(exact).sum(axis=2, keepdims=True)
    if np.abs(exact - threshold).min() < 1e-6:
        return  # Too near the threshold to be told apart in single precision.
    first = 1 if background else 0
    expected = []
    for i in range(frames):
        candidates = [
            tools.Candidate(a, c - first, exact[i, a, c], (x1 * 64, y1 * 48, x2 * 64, y2 * 48))
            for a, (y1, x1, y2, x2) in enumerate(boxes[i].tolist())
            for c in range(first, classes)
        ]
        expected.append(tools.slow_tail(candidates, tools.Tail(threshold=threshold), (1, 1, 0, 0), (64, 48)))
    tools.assert_same(d, expected)


@pytest.mark.parametrize(
    ("boxes", "scores", "message"),
    [
        (
            (None, 1917, 5),
            (None, 1917, 90),
            r"postprocess\.boxes: .*'boxes' is \[\?, 1917, 5\], but \[N, A, 4\] is needed",
        ),
        ((None, 1917, 4), (None, 100, 90), r"'scores' is \[\?, 100, 90\], but \[N, A, C\] with A = 1917 as in 'boxes'"),
        ((None, 1917, 4), (None, 1917), r"'scores' is \[\?, 1917\], but \[N, A, C\] is needed"),
    ],
)
def test_known_shapes_that_do_not_fit_are_told_before_the_first_frame(tools, boxes, scores, message):
    with pytest.raises(ModelError, match=message):
        tools.build({"boxes": boxes, "scores": scores}, family="ssd")


def test_unknown_shapes_are_checked_when_they_are_known(tools):
    post = tools.build({"boxes": (None, None, None), "scores": (None, None, None)}, family="ssd")
    with pytest.raises(ModelError, match=r"with A = 2 as in 'boxes'"):
        post({"boxes": BOXES, "scores": np.zeros((1, 3, 2), np.float32)}, tools.batch(1))
