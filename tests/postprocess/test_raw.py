"""Outputs as they are."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ModelError

OUTPUTS = {"a": np.arange(24, dtype=np.float16).reshape(4, 2, 3), "b": np.arange(4, dtype=np.int64)}


def test_all_without_padding(tools):
    p = tools.build(OUTPUTS, family="raw")(OUTPUTS, tools.batch(3, rows=4))
    assert list(p.tensors) == ["a", "b"]
    np.testing.assert_array_equal(p.tensors["a"], OUTPUTS["a"][:3])
    assert p.tensors["a"].dtype == np.float16
    assert p.tensors["b"].tolist() == [0, 1, 2]
    assert p.detections is None
    assert p.classes is None


def test_some(tools):
    assert list(tools.build(OUTPUTS, family="raw", outputs=["b"])(OUTPUTS, tools.batch(4)).tensors) == ["b"]


def test_errors(tools):
    with pytest.raises(ModelError, match=r"outputs\[1\]: the model has no output 'c' \(its outputs are: a, b\)"):
        tools.build(OUTPUTS, family="raw", outputs=["a", "c"])
    with pytest.raises(ModelError, match="'a' has 4 rows for a batch of 5 frames"):
        tools.build(OUTPUTS, family="raw")(OUTPUTS, tools.batch(5))
