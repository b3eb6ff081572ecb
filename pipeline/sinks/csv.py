"""One row a detection, class, person or mask, as RFC 4180 wants it; `docs/records.md` describes the columns."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from typing import Any

from pipeline.config.models import CsvSink
from pipeline.frames import Frame, Predictions, ResultBatch
from pipeline.poses import PERSON
from pipeline.sinks._base import FileSink
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import ROW_SCHEMA, Labels, class_columns, detection_columns, pts, rounded, text, utc

COLUMNS = (
    *("schema", "source", "frame", "pts_s", "time", "width", "height", "model"),
    *("kind", "label", "class_id", "score", "x1", "y1", "x2", "y2", "track_id"),
)


def csv_sink(config: CsvSink) -> FileSink[bytes]:
    """The sink that a `csv` section describes."""
    header = _encode([COLUMNS])
    return FileSink(config.path, lambda path: LinesWriter(path, overwrite=config.overwrite, header=header), CsvRows())


class CsvRows:
    """Turns batches into encoded rows."""

    def __init__(self) -> None:
        self._labels = Labels()

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """The rows of each frame; empty for a frame without results."""
        rows: list[list[tuple[Any, ...]]] = [[] for _ in batch.frames]
        detections = batch.predictions.detections
        if detections is not None:
            labels, class_ids, scores, boxes, tracks = detection_columns(detections, self._labels)
            offsets = detections.offsets.tolist()
            for i, own in enumerate(rows):
                own += [
                    ("detection", labels[d], class_ids[d], scores[d], *boxes[d], None if tracks is None else tracks[d])
                    for d in range(offsets[i], offsets[i + 1])
                ]
        if batch.predictions.classes is not None:
            for own, classes in zip(rows, class_columns(batch.predictions.classes, self._labels), strict=True):
                own += [("class", *row, None, None, None, None, None) for row in classes]
        for i in range(len(rows)):
            rows[i] += self._poses_and_masks(batch.predictions, i)
        model = text(batch.model)
        return [
            _encode((*head, *row) for row in own) if own else b""
            for own, head in zip(rows, (_head(frame, model) for frame in batch.frames), strict=True)
        ]

    def _poses_and_masks(self, predictions: Predictions, frame: int) -> list[tuple[Any, ...]]:
        rows: list[tuple[Any, ...]] = []
        if predictions.poses is not None:
            poses = predictions.poses.frame(frame)
            columns = zip(rounded(poses.scores, 4), rounded(poses.boxes, 2), strict=True)
            rows += [("pose", PERSON, None, score, *box, None) for score, box in columns]
        if predictions.segmentations is not None:
            own = predictions.segmentations.frame(frame)
            found = own.found()
            labels = self._labels.of(own.names, [class_id for _, class_id, _ in found])
            shares = rounded([share for _, _, share in found], 4)
            rows += [
                ("mask", label, class_id, share, None, None, None, None, None)
                for label, (_, class_id, _), share in zip(labels, found, shares, strict=True)
            ]
        return rows


def _head(frame: Frame, model: str) -> tuple[Any, ...]:
    size = frame.picture.width, frame.picture.height
    return (ROW_SCHEMA, text(frame.source_id), frame.index, pts(frame.pts_s), utc(frame.time_s), *size, model)


def _encode(rows: Iterable[Iterable[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()
