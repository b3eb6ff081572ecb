"""What turns a model's raw numbers into probabilities."""

from __future__ import annotations

from typing import Literal

import numpy as np

from pipeline.errors import ModelError
from pipeline.frames import Array, FloatArray

Activation = Literal["none", "sigmoid", "softmax"]

# Rounding in half precision and in dequantised models takes probabilities a little above 1; more than this is no rounding.
_LARGEST_PROBABILITY = 1.01


def sigmoid(x: Array) -> FloatArray:
    """1 / (1 + exp(-x)) in float32, without overflow for any finite x."""
    x = np.asarray(x, np.float32)
    e = np.exp(-np.abs(x))
    result: FloatArray = np.where(x >= 0, 1, e) / (1 + e)
    return result


def softmax(x: Array) -> FloatArray:
    """exp(x) over its sum along the last axis, in float32, without overflow for any finite x."""
    x = np.asarray(x, np.float32)
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    result: FloatArray = e / e.sum(axis=-1, keepdims=True)
    return result


def activate(x: Array, activation: Activation) -> FloatArray:
    """Probabilities (same shape, float32) of raw numbers; plus infinity, which means overflow, becomes NaN."""
    x = np.asarray(x, np.float32)
    usable: FloatArray = np.where(x == np.inf, np.float32(np.nan), x)
    if activation == "none":
        return usable
    return sigmoid(usable) if activation == "sigmoid" else softmax(usable)


def as_probabilities(scores: FloatArray) -> FloatArray:
    """Scores with rounding above 1 taken off.

    Raises:
        ModelError: a score is so far above 1 that it is no probability.
    """
    if scores.size:
        check_largest(float(scores.max()))
    return np.minimum(scores, np.float32(1))


def check_largest(score: float) -> None:
    """Raises `ModelError` if the largest score is no probability."""
    if score > _LARGEST_PROBABILITY:
        raise ModelError(
            f"the model gave a score of {score:.4g}, but scores are probabilities in 0..1",
            remedy="if its outputs are logits, set pipeline.postprocess.activation to sigmoid or softmax where the family "
            "has it; else see that the right output is named",
        )
