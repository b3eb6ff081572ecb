"""Vectors, against Python's own arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.errors import ModelError


def embed(tools, values, frames=None, **fields):
    values = np.asarray(values)
    frames = len(values) if frames is None else frames
    return tools.build({"o": values}, family="embedding", **fields)({"o": values}, tools.batch(frames)).embeddings


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float32, st.tuples(st.integers(0, 4), st.integers(1, 40)), elements=st.floats(-(2.0**99), 2.0**99, width=32)
    )
)
def test_vectors_have_length_one(tools, values):
    found = embed(tools, values)
    assert (found.shape, found.dtype) == (values.shape, np.float32)
    for row, own in zip(values.astype(float).tolist(), found, strict=True):
        length = math.hypot(*row)
        if length:
            np.testing.assert_allclose(own, [v / length for v in row], rtol=1e-6, atol=1e-7)


def test_as_they_are_without_padding(tools):
    values = np.arange(12, dtype=np.float16).reshape(3, 1, 1, 4)
    found = embed(tools, values, 2, normalize=False)
    np.testing.assert_array_equal(found, values[:2, 0, 0])
    assert found.dtype == np.float32
    found[:] = 0
    assert values.any(), "the model's memory is not written to"


def test_zeros_and_what_is_not_finite(tools):
    found = embed(tools, np.array([[0, 0], [3, np.nan], [np.inf, 1], [3, 4]], np.float32))
    np.testing.assert_array_equal(found, np.array([[0, 0], [np.nan] * 2, [np.nan] * 2, [0.6, 0.8]], np.float32))


def test_errors(tools):
    with pytest.raises(ModelError, match=r"'o' is \[\?, 7, 7, 8\], but \[N, D\] is needed"):
        tools.build({"o": (None, 7, 7, 8)}, family="embedding")
    with pytest.raises(ModelError, match="has 2 outputs: a, b"):
        tools.build({"a": (None, 7), "b": (None, 8)}, family="embedding")
