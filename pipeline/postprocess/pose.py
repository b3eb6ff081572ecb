"""Persons with keypoints, as MoveNet gives them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.config.tasks import PosePost
from pipeline.errors import ModelError
from pipeline.frames import Array, FloatArray, InputBatch, Predictions
from pipeline.poses import COCO_EDGES, COCO_KEYPOINTS, Poses
from pipeline.postprocess.activations import check_largest
from pipeline.postprocess.geometry import has_area
from pipeline.postprocess.named_outputs import Shape, check_rows, drop_ones, only_name, require_name, shape_text
from pipeline.stages import TensorInfo

# Of a row of several persons: y1, x1, y2, x2 and the score, behind the keypoints.
_BOX_AND_SCORE = 5


class _Persons(NamedTuple):
    """What a model gives of N frames with P persons each, coordinates as x, y in display pixels, not clipped.

    Attributes:
        points: (N, P, K, 2) float32.
        point_scores: (N, P, K) float32, 0 where a number of the keypoint is not finite.
        boxes: (N, P, 4) float64; None if the model gives none.
        scores: (N, P) float32; None if the model gives none.
    """

    points: FloatArray
    point_scores: FloatArray
    boxes: npt.NDArray[np.float64] | None
    scores: FloatArray | None


class PosePostprocessor:
    """The best `max_persons` persons of each frame that reach the threshold; of equal scores the first comes first.

    A person's box is the model's, or the one around the keypoints that reach their threshold. Persons whose box has no
    area in the picture are left out.

    Raises:
        ModelError: the model's output does not fit.
    """

    def __init__(self, config: PosePost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._config = config
        self._model_size = model_size if config.normalized else (1, 1)
        self._swap = [1, 0] if config.order == "yx" else [0, 1]
        self._names = COCO_KEYPOINTS if config.keypoints is None else tuple(config.keypoints)
        coco = COCO_EDGES if config.keypoints is None else ()
        self._edges = coco if config.edges is None else tuple(config.edges)
        self.name = only_name(config.output, [info.name for info in outputs])
        shape = next(info.shape for info in outputs if info.name == self.name)
        if shape is not None:
            self._layout(shape)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; raises `ModelError` if the output is not what is needed."""
        require_name(self.name, outputs, "output")
        with np.errstate(all="ignore"):
            persons = self._persons(np.asarray(outputs[self.name]), batch)
            return Predictions(poses=self._select(persons, batch.display_sizes))

    def _layout(self, shape: Shape) -> tuple[Shape, bool]:
        """The output's shape behind the batch axis as (P, K, 3) or (P, 3 * K + 5), and whether it is the latter."""
        count = len(self._names)
        row = 3 * count + _BOX_AND_SCORE
        for known in ((None, count, 3), (None, row), (count, 3)):
            found = drop_ones(shape, len(known))
            if found is not None and all(a is None or b in (None, a) for a, b in zip(known, found, strict=True)):
                return ((1, *found) if len(known) == 2 and known[0] else found), known == (None, row)
        raise ModelError(
            f"pipeline.postprocess.output: the model's output {self.name!r} is {shape_text(shape)}, but [N, P, {count}, 3] "
            f"or [N, P, {row}] is needed for {count} keypoints",
            remedy="set pipeline.postprocess.keypoints to the names of those that the model has",
        )

    def _persons(self, output: Array, batch: InputBatch) -> _Persons:
        frames, count = len(batch.frames), len(self._names)
        check_rows(self.name, output.shape, frames)
        (persons, *_), in_rows = self._layout(output.shape)
        width = 3 * count + (_BOX_AND_SCORE if in_rows else 0)
        numbers = np.asarray(output[:frames], np.float32).reshape(frames, persons or 0, width)
        keypoints = numbers[..., : 3 * count].reshape(frames, persons or 0, count, 3)
        points = self._to_display(keypoints[..., :2], batch).astype(np.float32)
        point_scores = keypoints[..., 2]
        usable = np.isfinite(points).all(axis=-1) & np.isfinite(point_scores)
        points = np.where(usable[..., None], points, np.float32(0))
        point_scores = _probabilities(np.where(usable, point_scores, np.float32(0)))
        if not in_rows:
            return _Persons(points, point_scores, None, None)
        corners = self._to_display(numbers[..., 3 * count : 3 * count + 4].reshape(frames, persons or 0, 2, 2), batch)
        scores = np.where(np.isfinite(numbers[..., -1]), numbers[..., -1], np.float32(-1))
        return _Persons(points, point_scores, corners.reshape(*corners.shape[:2], 4), _probabilities(scores))

    def _to_display(self, pairs: FloatArray, batch: InputBatch) -> npt.NDArray[np.float64]:
        """(N, ..., 2) coordinates in the model's order and unit -> x, y in display pixels."""
        transforms = batch.transforms.reshape(len(pairs), *(1,) * (pairs.ndim - 2), 4)
        model = pairs[..., self._swap].astype(np.float64) * self._model_size
        display: npt.NDArray[np.float64] = (model - transforms[..., 2:]) / transforms[..., :2]
        return display

    def _select(self, persons: _Persons, sizes: npt.NDArray[np.float64]) -> Poses:
        points, point_scores, boxes, scores = persons
        visible = point_scores >= np.float32(self._config.keypoint_threshold)
        if boxes is None:
            # Of no keypoints at all the box runs from infinity to minus infinity, and has no area.
            low = np.where(visible[..., None], points, np.inf).min(axis=2)
            high = np.where(visible[..., None], points, -np.inf).max(axis=2)
            boxes = np.concatenate([low, high], axis=-1)
        if scores is None:
            scores = point_scores.mean(axis=2, dtype=np.float64).astype(np.float32)
        ends = np.tile(sizes, (1, 2))[:, None]
        clipped = np.clip(boxes, 0, ends).astype(np.float32)
        wanted = has_area(clipped.reshape(-1, 4)).reshape(scores.shape) & np.isfinite(boxes).all(axis=2)
        frame, person = np.nonzero(wanted & (scores >= np.float32(self._config.score_threshold)))
        order = np.lexsort((-scores[frame, person], frame))  # Stable: equal scores keep the model's order.
        order = order[_ranks(frame[order]) < self._config.max_persons]
        frame, person = frame[order], person[order]
        return Poses(
            clipped[frame, person],
            scores[frame, person],
            points[frame, person],
            point_scores[frame, person],
            visible[frame, person],
            np.searchsorted(frame, np.arange(len(sizes) + 1)).astype(np.int64),
            self._names,
            self._edges,
        )


def _probabilities(scores: FloatArray) -> FloatArray:
    """Scores, none of them NaN, with rounding above 1 taken off; raises `ModelError` if one is no probability."""
    check_largest(float(scores.max(initial=0)))
    return np.minimum(scores, np.float32(1))


def _ranks(frames: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """(M,) sorted frame numbers -> (M,) how many of the same frame come before."""
    starts: npt.NDArray[np.int64] = np.searchsorted(frames, frames)
    return np.arange(len(frames)) - starts
