"""What models find in the crops of detections, and predictions by rows: taken, joined, moved after their detections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import Classifications, Detections, FloatArray, Found, Predictions
from pipeline.masks import Segmentations
from pipeline.poses import Poses

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Crops:
    """What one of `pipeline.cascade` found in crops of N frames' detections. Detections without a result have no crop here.

    Attributes:
        model: `name@hash`.
        of: Whose detections were looked at: the name of another entry; None: the pipeline's own model's.
        parents: (C,) int64, ascending: the row of the detection that each crop shows.
        parent_offsets: (N + 1,) int64: frame i owns the parents' rows parent_offsets[i]:parent_offsets[i + 1].
        regions: (C, 4) float32: x1, y1, x2, y2 of what was cut, in display pixels.
        frame_numbers: (C,) int64: `Frame.index` of the frame that each was cut from; an earlier one where a result was kept.
        predictions: What was found, with a crop where others have a frame; all coordinates are those of the whole picture.
    """

    model: str
    of: str | None
    parents: Rows
    parent_offsets: Rows
    regions: FloatArray
    frame_numbers: Rows
    predictions: Predictions

    def __len__(self) -> int:
        return len(self.parents)

    def __repr__(self) -> str:
        return f"Crops({len(self)} of {self.parent_offsets[-1]} detections in {len(self.parent_offsets) - 1} frames)"

    @property
    def offsets(self) -> Rows:
        """(N + 1,): frame i owns the crops offsets[i]:offsets[i + 1]."""
        return np.searchsorted(self.parents, self.parent_offsets).astype(np.int64)

    @property
    def found_offsets(self) -> Rows:
        """(N + 1,): frame i owns these of the detections in `predictions`; all 0 where the model is no detector."""
        detections = self.predictions.detections
        return np.zeros_like(self.parent_offsets) if detections is None else detections.offsets[self.offsets]

    @property
    def found_parents(self) -> Rows:
        """(D,): for each of the detections in `predictions` the row of the detection in whose crop it was found."""
        detections = self.predictions.detections
        if detections is None:
            return np.zeros(0, np.int64)
        return np.repeat(self.parents, np.diff(detections.offsets))

    def at(self, row: int) -> Found | None:
        """What was found for the detection in this row; None if nothing is known of it."""
        place = int(np.searchsorted(self.parents, row))
        if place == len(self.parents) or self.parents[place] != row:
            return None
        return self.predictions.frame(place)

    def frame(self, index: int) -> Crops:
        """The crops of one frame; rows are those of the frame's own detections."""
        start, end = self.offsets[index : index + 2].tolist()
        first, last = self.parent_offsets[index : index + 2].tolist()
        return replace(
            self,
            parents=self.parents[start:end] - first,
            parent_offsets=np.array([0, last - first], np.int64),
            regions=self.regions[start:end],
            frame_numbers=self.frame_numbers[start:end],
            predictions=taken(self.predictions, np.arange(start, end)),
        )


def vectors_of(crops: Crops) -> FloatArray | None:
    """(D, E) a vector for each of the detections that were looked at, NaN for those without one; None if there are none at all."""
    embeddings = crops.predictions.embeddings
    if embeddings is None:
        return None
    vectors = np.full((int(crops.parent_offsets[-1]), embeddings.shape[1]), np.nan, np.float32)
    vectors[crops.parents] = embeddings
    return vectors


def taken(predictions: Predictions, rows: Rows) -> Predictions:
    """The predictions of some frames (or crops), in the order of `rows`."""
    p = predictions
    return Predictions(
        None if p.detections is None else _taken_detections(p.detections, rows),
        None if p.classes is None else _taken_classes(p.classes, rows),
        None if p.tensors is None else {name: values[rows] for name, values in p.tensors.items()},
        None if p.poses is None else _taken_poses(p.poses, rows),
        None if p.segmentations is None else _taken_maps(p.segmentations, rows),
        None if p.embeddings is None else p.embeddings[rows],
    )


def joined(parts: Sequence[Predictions]) -> Predictions:
    """The predictions of one model in several calls, one after another; at least one call."""
    first = parts[0]
    if len(parts) == 1:
        return first
    detections = [p.detections for p in parts if p.detections is not None]
    classes = [p.classes for p in parts if p.classes is not None]
    poses = [p.poses for p in parts if p.poses is not None]
    maps = [p.segmentations for p in parts if p.segmentations is not None]
    embeddings = [p.embeddings for p in parts if p.embeddings is not None]
    tensors = [p.tensors for p in parts if p.tensors is not None]
    return Predictions(
        replace(
            detections[0],
            **_columns(detections, "boxes", "scores", "class_ids"),
            offsets=_offsets([d.offsets for d in detections]),
        )
        if detections
        else None,
        replace(classes[0], **_columns(classes, "class_ids", "scores", "counts")) if classes else None,
        {name: np.concatenate([t[name] for t in tensors]) for name in tensors[0]} if tensors else None,
        replace(
            poses[0],
            **_columns(poses, "boxes", "scores", "points", "point_scores", "visible"),
            offsets=_offsets([p.offsets for p in poses]),
        )
        if poses
        else None,
        Segmentations(
            **_columns(maps, "classes", "transforms", "sizes"), names=maps[0].names, class_offset=maps[0].class_offset
        )
        if maps
        else None,
        np.concatenate(embeddings) if embeddings else None,
    )


def followed(crops: Mapping[str, Crops], before: Detections, after: Detections | None) -> dict[str, Crops]:
    """The crops of a batch whose own detections somebody has replaced: each goes with its detection, or is left out with it.

    A detection is the same if it is in the same frame and has the same box, class and score.
    """
    if after is None:
        after = Detections.empty(len(before.offsets) - 1)
    moved: dict[str | None, Rows] = {None: _new_rows(before, after)}
    offsets: dict[str | None, Rows] = {None: after.offsets}
    result: dict[str, Crops] = {}
    for name, own in crops.items():  # parents come first
        if own.of not in moved:
            result[name] = own
            continue
        parents = moved[own.of][own.parents]
        rows = np.flatnonzero(parents >= 0)
        rows = rows[np.argsort(parents[rows], kind="stable")]
        result[name] = replace(
            own,
            parents=parents[rows],
            parent_offsets=offsets[own.of],
            regions=own.regions[rows],
            frame_numbers=own.frame_numbers[rows],
            predictions=taken(own.predictions, rows),
        )
        if own.predictions.detections is not None:
            indices, _ = _segments(own.predictions.detections.offsets, rows)
            moved[name] = np.full(len(own.predictions.detections), -1, np.int64)
            moved[name][indices] = np.arange(len(indices))
            offsets[name] = result[name].found_offsets
    return result


def _new_rows(before: Detections, after: Detections) -> Rows:
    """(D,) the row behind of each row before; -1 for those that are gone."""
    places: dict[tuple[object, ...], list[int]] = {}
    for row, key in reversed(list(enumerate(_keys(after)))):
        places.setdefault(key, []).append(row)
    found = [rows.pop() if (rows := places.get(key)) else -1 for key in _keys(before)]
    return np.array(found, np.int64)


def _keys(detections: Detections) -> list[tuple[object, ...]]:
    frames = np.repeat(np.arange(len(detections.offsets) - 1), np.diff(detections.offsets))
    columns = frames.tolist(), detections.boxes.tolist(), detections.class_ids.tolist(), detections.scores.tolist()
    return [(frame, *box, class_id, score) for frame, box, class_id, score in zip(*columns, strict=True)]


def _segments(offsets: Rows, rows: Rows) -> tuple[Rows, Rows]:
    """Which items the given frames own, one frame after another, and the offsets among these."""
    counts = np.diff(offsets)[rows]
    after = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return np.arange(after[-1]) + np.repeat(offsets[rows] - after[:-1], counts), after


def _taken_detections(detections: Detections, rows: Rows) -> Detections:
    items, offsets = _segments(detections.offsets, rows)
    return replace(
        detections,
        boxes=detections.boxes[items],
        scores=detections.scores[items],
        class_ids=detections.class_ids[items],
        offsets=offsets,
        track_ids=None if detections.track_ids is None else detections.track_ids[items],
    )


def _taken_classes(classes: Classifications, rows: Rows) -> Classifications:
    return replace(classes, class_ids=classes.class_ids[rows], scores=classes.scores[rows], counts=classes.counts[rows])


def _taken_poses(poses: Poses, rows: Rows) -> Poses:
    items, offsets = _segments(poses.offsets, rows)
    return replace(
        poses,
        boxes=poses.boxes[items],
        scores=poses.scores[items],
        points=poses.points[items],
        point_scores=poses.point_scores[items],
        visible=poses.visible[items],
        offsets=offsets,
    )


def _taken_maps(maps: Segmentations, rows: Rows) -> Segmentations:
    return Segmentations(maps.classes[rows], maps.transforms[rows], maps.sizes[rows], maps.names, maps.class_offset)


def _columns(parts: Sequence[Any], *names: str) -> dict[str, Any]:
    return {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}


def _offsets(parts: Sequence[Rows]) -> Rows:
    counts = np.concatenate([np.diff(part) for part in parts])
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
