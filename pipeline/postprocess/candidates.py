"""From scores per anchor to the few boxes that are worth looking at."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, FloatArray
from pipeline.postprocess.activations import as_probabilities, sigmoid
from pipeline.postprocess.class_rules import ClassRules

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Anchors:
    """What a family makes of a model's outputs: N frames with A possible boxes each.

    Attributes:
        scores: (N, A, C), a column per class; or (N, A) with `class_ids`. Any floating type.
        boxes: (M,) frames and (M,) anchors -> (M, 4) float32 x1, y1, x2, y2 in model pixels. Only what is worth it is decoded.
        class_ids: (N, A) the class of each anchor; None if scores has a column per class, whose ids are the indices.
        logits: Whether the sigmoid of `scores` is meant.
    """

    scores: Array
    boxes: Callable[[IntArray, IntArray], FloatArray]
    class_ids: Array | None = None
    logits: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """M scored boxes of all frames, sorted by frame, then score (descending), then anchor, then class.

    Attributes:
        frames: (M,) int64.
        anchors: (M,) int64.
        class_ids: (M,) int64.
        scores: (M,) float32.
    """

    frames: IntArray
    anchors: IntArray
    class_ids: IntArray
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.frames)

    def __getitem__(self, rows: npt.NDArray[np.bool_] | IntArray) -> Candidates:
        return Candidates(self.frames[rows], self.anchors[rows], self.class_ids[rows], self.scores[rows])

    def ranks(self) -> IntArray:
        """(M,) how many better candidates the same frame has."""
        starts: IntArray = np.searchsorted(self.frames, self.frames)
        return np.arange(len(self), dtype=np.int64) - starts


def select(anchors: Anchors, rules: ClassRules, class_offset: int) -> Candidates:
    """The candidates that reach their class's threshold. Scores that are not finite never do.

    Raises:
        ModelError: scores are no probabilities.
    """
    found = (
        _of_columns(anchors, rules, class_offset)
        if anchors.class_ids is None
        else _of_ids(anchors, rules, class_offset)
    )
    if anchors.logits:
        probabilities = sigmoid(found.scores)
        enough = probabilities >= rules.thresholds(found.class_ids)
        found = Candidates(found.frames, found.anchors, found.class_ids, probabilities)[enough]
    scores = as_probabilities(found.scores)
    order = np.lexsort((-scores, found.frames))  # Stable, so equal scores keep the order of anchors and classes.
    return Candidates(found.frames, found.anchors, found.class_ids, scores)[order]


def _of_columns(anchors: Anchors, rules: ClassRules, class_offset: int) -> Candidates:
    class_ids = np.arange(anchors.scores.shape[2], dtype=np.int64) + class_offset
    limits = rules.thresholds(class_ids)
    wanted = np.flatnonzero(limits <= 1)
    scores = anchors.scores if len(wanted) == len(class_ids) else anchors.scores[..., wanted]
    frames, rows, columns = _where(scores, raw_limits(limits[wanted], anchors.logits))
    return Candidates(frames, rows, class_ids[wanted][columns], scores[frames, rows, columns].astype(np.float32))


def _of_ids(anchors: Anchors, rules: ClassRules, class_offset: int) -> Candidates:
    given = np.asarray(anchors.class_ids)
    # Some models fill up with class -1, or with not a number.
    valid = np.isfinite(given) & (given > -0.5)
    class_ids = np.rint(np.where(valid, given, 0)).astype(np.int64) + class_offset
    limits = np.where(valid, rules.thresholds(class_ids), np.float32(np.inf))
    frames, rows = _where(anchors.scores, raw_limits(limits, anchors.logits))
    return Candidates(frames, rows, class_ids[frames, rows], anchors.scores[frames, rows].astype(np.float32))


def _where(scores: Array, limits: FloatArray) -> tuple[IntArray, ...]:
    """Indices, per axis, of the finite scores that reach their limit; in C order."""
    flat = np.flatnonzero(scores >= limits)
    indices = np.unravel_index(flat, scores.shape)
    finite = np.isfinite(scores[indices])
    return tuple(axis[finite].astype(np.int64) for axis in indices)


def raw_limits(limits: FloatArray, logits: bool) -> FloatArray:
    """Limits for the numbers as they are: for logits slightly too low, so that few but no wrong ones need a sigmoid."""
    if not logits:
        return limits
    p = np.clip(limits.astype(np.float64) - 1e-6, 1e-30, 1 - 1e-6)
    raw = np.where(limits > 1, np.inf, np.where(limits <= 1e-6, -np.inf, np.log(p) - np.log1p(-p)))
    return raw.astype(np.float32)
