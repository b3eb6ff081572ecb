"""What models find, by their task, as it stands in JSON records."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson

from pipeline import rle
from pipeline.frames import Detections, FloatArray, Predictions
from pipeline.masks import Segmentations
from pipeline.poses import Poses
from pipeline.sinks._detection_texts import DetectionTexts
from pipeline.sinks._records import (
    BOX_DECIMALS,
    SCORE_DECIMALS,
    Labels,
    class_columns,
    detection_columns,
    rounded,
    text,
)

_SHARE_DECIMALS = 6
_EMBEDDING_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class TaskFields:
    """A model's results of N frames (or crops).

    Attributes:
        fields: Name of a field -> its value for each frame, which is false where there is nothing in it.
        detections: The records of all detections, one after another: the same ones that are in `fields`. None of them
            where these are text already.
    """

    fields: dict[str, list[Any]]
    detections: list[dict[str, Any]]


class TaskRecords:
    """Turns one model's predictions into fields. Numbers become Python lists once a batch, not once a frame.

    Args:
        mask_side: Masks of larger pictures are scaled down to this many pixels; None: none are.
    """

    def __init__(self, mask_side: int | None) -> None:
        self._mask_side = mask_side
        self._labels = Labels()
        self._texts = DetectionTexts()

    def __call__(self, predictions: Predictions, *, as_text: bool = False) -> TaskFields:
        """The fields of the tasks that the model has; with `as_text`, detections to which nothing is added any more."""
        found: dict[str, list[Any]] = {}
        detections: list[dict[str, Any]] = []
        if predictions.detections is not None and as_text:
            texts = self._texts(predictions.detections)
            found["detections"] = [[] if text == b"[]" else orjson.Fragment(text) for text in texts]
        elif predictions.detections is not None:
            detections = self._detections(predictions.detections)
            offsets = predictions.detections.offsets.tolist()
            found["detections"] = [detections[start:end] for start, end in itertools.pairwise(offsets)]
        if predictions.classes is not None:
            found["classes"] = [
                [{"label": label, "class_id": class_id, "score": score} for label, class_id, score in rows]
                for rows in class_columns(predictions.classes, self._labels)
            ]
        if predictions.poses is not None:
            found["poses"] = pose_records(predictions.poses)
        if predictions.segmentations is not None:
            found["masks"] = mask_records(predictions.segmentations, self._labels, self._mask_side)
        if predictions.embeddings is not None:
            found["embedding"] = embedding_records(predictions.embeddings)
        return TaskFields(found, detections)

    def _detections(self, detections: Detections) -> list[dict[str, Any]]:
        labels, class_ids, scores, boxes, tracks = detection_columns(detections, self._labels)
        records: list[dict[str, Any]] = [
            {"label": label, "class_id": class_id, "score": score, "box": box}
            for label, class_id, score, box in zip(labels, class_ids, scores, boxes, strict=True)
        ]
        if tracks is not None:
            for record, track_id in zip(records, tracks, strict=True):
                if track_id is not None:
                    record["track_id"] = track_id
        return records


def pose_records(poses: Poses) -> list[list[dict[str, Any]]]:
    """For each frame of a batch its persons, best first, each with the keypoints that reach the threshold."""
    names = [text(name) for name in poses.names]
    columns = zip(
        rounded(poses.scores, SCORE_DECIMALS),
        rounded(poses.boxes, BOX_DECIMALS),
        rounded(poses.points, 2),
        rounded(poses.point_scores, SCORE_DECIMALS),
        poses.visible.tolist(),
        strict=True,
    )
    persons: list[dict[str, Any]] = [
        {
            "score": score,
            "box": box,
            "keypoints": [
                {"name": name, "x": x, "y": y, "score": point_score}
                for name, (x, y), point_score, shown in zip(names, points, point_scores, visible, strict=True)
                if shown
            ],
        }
        for score, box, points, point_scores, visible in columns
    ]
    return [persons[start:end] for start, end in itertools.pairwise(poses.offsets.tolist())]


def mask_records(segmentations: Segmentations, labels: Labels, longer_side: int | None) -> list[list[dict[str, Any]]]:
    """For each frame of a batch the classes that are there, the largest first, with their masks.

    Args:
        segmentations: Of the batch.
        labels: Looked up here.
        longer_side: Masks of larger pictures are scaled down to this many pixels; None: none are.
    """
    records = []
    for i in range(len(segmentations)):
        own = segmentations.frame(i)
        found = own.found()
        size = mask_size(own.size, longer_side)
        shown = own.upright(size) if found else own.classes
        ids = [class_id for _, class_id, _ in found]
        shares = rounded([share for _, _, share in found], _SHARE_DECIMALS)
        records.append(
            [
                {
                    "label": label,
                    "class_id": class_id,
                    "share": share,
                    "rle": rle.encode(shown == class_id - own.class_offset),
                }
                for label, class_id, share in zip(labels.of(own.names, ids), ids, shares, strict=True)
            ]
        )
    return records


def mask_size(picture: tuple[int, int], longer_side: int | None) -> tuple[int, int]:
    """(width, height) of a picture's masks: its own, or scaled down so that the longer side is this many pixels."""
    longest = max(picture)
    if longer_side is None or longest <= longer_side:
        return picture
    width, height = (max(1, round(side * longer_side / longest)) for side in picture)
    return width, height


def embedding_records(embeddings: FloatArray) -> list[list[float] | None]:
    """For each frame of a batch its vector; None for one that is not finite."""
    finite: list[bool] = np.all(np.isfinite(embeddings), axis=1).tolist()
    vectors = rounded(embeddings, _EMBEDDING_DECIMALS)
    return [vector if usable else None for vector, usable in zip(vectors, finite, strict=True)]
