"""NanoDet's heads."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError

SIZE = (40, 24)
STRIDES = (8, 16)
GRIDS = {8: (5, 3), 16: (3, 2)}  # Columns and rows: rounded up.
LENGTHS = [15, 6]


def levels(rng, frames, classes, reg_max):
    scores = [rng.random((frames, n, classes)).astype(np.float32) for n in LENGTHS]
    sides = [rng.normal(0, 2, (frames, n, 4 * (reg_max + 1))).astype(np.float32) for n in LENGTHS]
    return scores, sides


def slow(tools, scores, sides, reg_max, shift, tail):
    """Cell by cell, side by side, bin by bin."""
    expected = []
    for i in range(len(scores[0])):
        candidates, anchor = [], 0
        for stride, level_scores, level_sides in zip(STRIDES, scores, sides, strict=True):
            columns, rows = GRIDS[stride]
            for k in range(columns * rows):
                x, y = (k % columns + shift) * stride, (k // columns + shift) * stride
                distances = []
                for side in range(4):
                    bins = level_sides[i, k, side * (reg_max + 1) : (side + 1) * (reg_max + 1)].tolist()
                    weights = [math.exp(b) for b in bins]
                    distances.append(stride * sum(j * w for j, w in enumerate(weights)) / sum(weights))
                left, top, right, bottom = distances
                for c, score in enumerate(level_scores[i, k].tolist()):
                    candidates.append(tools.Candidate(anchor, c, score, (x - left, y - top, x + right, y + bottom)))
                anchor += 1
        expected.append(tools.slow_tail(candidates, tail, (1, 1, 0, 0), SIZE))
    return expected


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 11),
    st.sampled_from(["corner", "centre"]),
)
def test_equals_the_slow_way(tools, seed, frames, classes, reg_max, cell_centre):
    scores, sides = levels(np.random.default_rng(seed), frames, classes, reg_max)
    joined = np.concatenate([np.concatenate(scores, axis=1), np.concatenate(sides, axis=1)], axis=2)
    fields = {
        "family": "gfl",
        "strides": list(STRIDES),
        "reg_max": reg_max,
        "cell_centre": cell_centre,
        "score_threshold": 0.4,
    }
    batch = tools.batch(frames, SIZE)
    expected = slow(tools, scores, sides, reg_max, 0.5 if cell_centre == "centre" else 0.0, tools.Tail(threshold=0.4))
    together = tools.detect({"out": joined}, batch, **fields)
    tools.assert_same(together, expected)

    parts = {"s8": scores[0], "d16": sides[1], "s16": scores[1], "d8": sides[0]}
    order = ["s8", "d8", "s16", "d16"]
    tools.assert_equal(tools.detect(parts, batch, **fields, outputs=order), together)
    if classes != 4 * (reg_max + 1):
        tools.assert_equal(tools.detect(parts, batch, **fields), together)


def test_one_anchor_by_hand(tools):
    """All weight on one bin: distances of 2, 1, 3 and 0 strides around the second cell of the second row."""
    sides = np.zeros((1, 21, 4, 8), np.float32)
    for side, distance in enumerate((2, 1, 3, 0)):
        sides[0, 6, side, distance] = 100
    scores = np.zeros((1, 21, 2), np.float32)
    scores[0, 6, 1] = 0.8
    joined = np.concatenate([scores, sides.reshape(1, 21, 32)], axis=2)
    for cell_centre, x, y in (("centre", 12, 12), ("corner", 8, 8)):
        d = tools.detect(
            {"o": joined}, tools.batch(1, SIZE), family="gfl", strides=list(STRIDES), cell_centre=cell_centre
        )
        np.testing.assert_allclose(d.boxes, [[max(x - 16, 0), y - 8, x + 24, y]], atol=1e-4)
        assert d.class_ids.tolist() == [1]


def test_sigmoid(tools):
    scores, sides = levels(np.random.default_rng(0), 2, 3, 7)
    logits = [np.log(s / (1 - s)) for s in scores]
    fields = {"family": "gfl", "strides": list(STRIDES)}
    outputs = {"a": logits[0], "b": sides[0], "c": logits[1], "d": sides[1]}
    d = tools.detect(outputs, tools.batch(2, SIZE), **fields, activation="sigmoid")
    tools.assert_same(d, slow(tools, scores, sides, 7, 0.5, tools.Tail()))


def test_strides_in_falling_order(tools):
    scores, sides = levels(np.random.default_rng(0), 1, 3, 7)
    outputs = {"a": scores[0], "b": sides[0], "c": scores[1], "d": sides[1]}
    fields = {"family": "gfl", "nms_iou": None, "score_threshold": 0.6}
    rising = tools.detect(outputs, tools.batch(1, SIZE), **fields, strides=[8, 16])
    falling = tools.detect(outputs, tools.batch(1, SIZE), **fields, strides=[16, 8])
    tools.assert_equal(rising, falling)


def test_as_many_classes_as_distribution_columns(tools):
    """The shapes do not tell scores from distributions, their order does."""
    scores, sides = levels(np.random.default_rng(0), 1, 32, 7)
    outputs = {"a": scores[0], "b": sides[0], "c": scores[1], "d": sides[1]}
    fields = {"family": "gfl", "strides": list(STRIDES), "score_threshold": 0.9}
    d = tools.detect(outputs, tools.batch(1, SIZE), **fields, outputs=["a", "b", "c", "d"])
    tools.assert_same(d, slow(tools, scores, sides, 7, 0.5, tools.Tail(threshold=0.9)))
    with pytest.raises(ModelError, match="name the outputs: score, distribution for each stride"):
        tools.build(outputs, SIZE, **fields)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_distributions_that_are_not_finite(tools, value):
    scores, sides = levels(np.random.default_rng(0), 1, 1, 7)
    sides[0][0, 3, 5] = value
    scores[0][0, 3] = 1.0
    outputs = {"a": scores[0], "b": sides[0], "c": scores[1], "d": sides[1]}
    d = tools.detect(outputs, tools.batch(1, SIZE), family="gfl", strides=list(STRIDES))
    assert len(d)
    assert np.isfinite(d.boxes).all()
    assert d.scores.max() < 1


@pytest.mark.parametrize(
    ("outputs", "options", "message"),
    [
        ({"o": (1, 20, 42)}, {}, r"'o' is \[1, 20, 42\], but \[N, 21, C\] is needed"),
        ({"o": (1, 21, 32)}, {}, r"need one output \[N, 21, C \+ 32\], .*found o \[1, 21, 32\]"),
        ({"a": (1, 15, 3), "b": (1, 15, 44)}, {}, r"found a \[1, 15, 3\], b \[1, 15, 44\] \(set reg_max and strides"),
        (
            {"a": (1, 15, 3), "b": (1, 15, 32), "c": (1, 7, 3), "d": (1, 6, 32)},
            {},
            r"'c' is \[1, 7, 3\], but \[N, 6, C\]",
        ),
        ({"o": (1, 21, 42)}, {"outputs": ["oo"]}, r"outputs\[0\]: the model has no output 'oo' \(did you mean 'o'\?"),
    ],
)
def test_outputs_that_do_not_fit(tools, outputs, options, message):
    with pytest.raises(ModelError, match=message):
        tools.build(outputs, SIZE, family="gfl", strides=list(STRIDES), **options)


def test_unknown_shapes_are_checked_when_they_are_known(tools):
    post = tools.build({"o": (None, None, 42)}, SIZE, family="gfl", strides=list(STRIDES))
    with pytest.raises(ModelError, match=r"\[N, 21, C\] is needed"):
        post({"o": np.zeros((1, 20, 42), np.float32)}, tools.batch(1, SIZE))
