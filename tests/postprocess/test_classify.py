"""Classification."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ModelError


def classify(tools, values, frames=None, **fields):
    values = np.asarray(values)
    frames = len(values) if frames is None else frames
    return tools.build({"o": values}, family="classify", **fields)({"o": values}, tools.batch(frames)).classes


def test_softmax_by_hand(tools):
    c = classify(tools, np.log([[0.1, 0.6, 0.3], [0.7, 0.1, 0.2]]).astype(np.float32), top_k=2, labels=["a", "b", "c"])
    assert [(label, i, round(p, 5)) for label, i, p in c.frame(0)] == [("b", 1, 0.6), ("c", 2, 0.3)]
    assert [(label, i, round(p, 5)) for label, i, p in c.frame(1)] == [("a", 0, 0.7), ("c", 2, 0.2)]
    assert c.class_ids.dtype == np.int32
    assert c.scores.dtype == np.float32
    assert c.counts.dtype == np.int64


def test_sigmoid_and_none(tools):
    c = classify(tools, np.array([[-1.0, 2.0]], np.float32), activation="sigmoid")
    np.testing.assert_allclose(c.scores, [[1 / (1 + np.exp(-2)), 1 / (1 + np.exp(1))]], rtol=1e-6)
    c = classify(tools, np.array([[0.25, 0.5]], np.float16), activation="none", class_offset=3)
    assert c.frame(0) == [("4", 4, 0.5), ("3", 3, 0.25)]


def test_threshold_cuts_the_list(tools):
    c = classify(
        tools, np.array([[0.5, 0.3, 0.2], [0.1, 0.1, 0.1]], np.float32), activation="none", score_threshold=0.3
    )
    assert [i for _, i, _ in c.frame(0)] == [0, 1]
    assert c.frame(1) == []
    assert c.counts.tolist() == [2, 0]


def test_equal_scores_are_ordered_by_class(tools):
    values = np.array([[0.1, 0.4, 0.1, 0.1, 0.1, 0.1, 0.1]], np.float32)
    assert classify(tools, values, activation="none", top_k=4).class_ids.tolist() == [[1, 0, 2, 3]]


def test_huge_logits_do_not_overflow_and_what_is_not_finite_is_no_result(tools):
    values = np.array([[1e30, -1e30, 0], [np.nan, 1, 2], [np.inf, 1, 2], [-np.inf, 0, 0]], np.float32)
    c = classify(tools, values, score_threshold=0.1)
    assert [c.frame(i) for i in range(3)] == [[("0", 0, 1.0)], [], []]
    assert [i for _, i, _ in c.frame(3)] == [1, 2]
    c = classify(tools, values, activation="sigmoid")
    assert np.isfinite(c.scores).all()
    assert [i for _, i, _ in c.frame(2)] == [2, 1]


def test_logits_taken_for_probabilities_are_an_error(tools):
    with pytest.raises(ModelError, match="a score of 7"):
        classify(tools, np.array([[7.0, 0]], np.float32), activation="none")


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 5), st.integers(1, 50), st.integers(1, 60), st.integers(0, 3))
def test_equals_a_full_sort(tools, seed, frames, classes, k, padding):
    rng = np.random.default_rng(seed)
    logits = rng.integers(-3, 3, (frames + padding, classes)).astype(np.float32)  # Many ties.
    c = classify(tools, logits, frames, top_k=k)
    assert c.class_ids.shape == (frames, min(k, classes))
    for i in range(frames):
        exps = np.exp(logits[i].astype(np.float64))
        order = sorted(range(classes), key=lambda j: (-logits[i, j], j))[:k]
        assert c.class_ids[i].tolist() == order
        np.testing.assert_allclose(c.scores[i], exps[order] / exps.sum(), rtol=1e-5)


def test_outputs_with_axes_of_one(tools):
    values = np.array([[0.2, 0.8]], np.float32)
    c = classify(tools, values.reshape(1, 1, 1, 2), activation="none")
    assert c.class_ids.tolist() == [[1, 0]]


def test_the_output_is_named_where_there_are_several(tools):
    values = {"p": np.array([[0.2, 0.8]], np.float32), "features": np.zeros((1, 512), np.float32)}
    with pytest.raises(ModelError, match="has 2 outputs: p, features"):
        tools.build(values, family="classify")
    c = tools.build(values, family="classify", output="p", activation="none")(values, tools.batch(1)).classes
    assert c.class_ids.tolist() == [[1, 0]]
    with pytest.raises(ModelError, match=r"'p' is \[\?, 7, 7, 8\], but \[N, C\] is needed"):
        tools.build({"p": (None, 7, 7, 8)}, family="classify")
