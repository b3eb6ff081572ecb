"""One row a detection, class, person or mask, as RFC 4180 wants it; `docs/records.md` describes the columns."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np

from pipeline.config.sinks import CsvSink
from pipeline.frames import Detections, Frame, Predictions, ResultBatch
from pipeline.interpreter import giving_way
from pipeline.masks import Segmentations
from pipeline.poses import PERSON, Poses
from pipeline.sinks._base import FileSink
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import ROW_SCHEMA, Labels, class_columns, detection_columns, pts, rounded, text, utc

COLUMNS = (
    *("schema", "source", "frame", "pts_s", "time", "width", "height", "model"),
    *("kind", "label", "class_id", "score", "x1", "y1", "x2", "y2", "track_id", "name"),
)
Row = tuple[Any, ...]
_NOWHERE = (None, None, None, None)


def csv_sink(config: CsvSink) -> FileSink[bytes]:
    """The sink that a `csv` section describes."""
    header = _encode([COLUMNS])
    return FileSink(config.path, lambda path: LinesWriter(path, overwrite=config.overwrite, header=header), CsvRows())


class CsvRows:
    """Turns batches into encoded rows."""

    def __init__(self) -> None:
        self._labels: dict[str, Labels] = {}

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """The rows of each frame; empty for a frame without results."""
        rows: list[list[Row]] = [[] for _ in batch.frames]
        first = self._rows(batch.predictions, "", len(rows))
        for i, own in enumerate(rows):
            own += [(text(batch.model), *row, None) for row in first[i]]
        for name, side in batch.models.items():
            found = self._rows(side.predictions, name, len(rows))
            for i, own in enumerate(rows):
                own += [(text(side.model), *row, name) for row in found[i]]
        self._add_crops(batch, rows)
        return [
            _encode((*head, *row) for row in own) if own else b""
            for own, head in zip(rows, map(_head, giving_way(batch.frames)), strict=True)
        ]

    def _rows(self, predictions: Predictions, name: str, count: int) -> list[list[Row]]:
        """For each of `count` frames (or crops) the columns from `kind` to `track_id`."""
        labels = self._labels.setdefault(name, Labels())
        columns: list[list[list[Row]]] = []
        if predictions.detections is not None:
            columns.append(_detections(predictions.detections, labels))
        if predictions.classes is not None:
            found = class_columns(predictions.classes, labels)
            columns.append([[("class", *row, *_NOWHERE, None) for row in own] for own in found])
        if predictions.poses is not None:
            columns.append(_poses(predictions.poses))
        if predictions.segmentations is not None:
            columns.append(_masks(predictions.segmentations, labels))
        return [[row for column in columns for row in column[i]] for i in range(count)]

    def _add_crops(self, batch: ResultBatch, rows: list[list[Row]]) -> None:
        """What has no place of its own has that of the detection; the track is that of the detection that it all began with."""
        known: dict[str | None, list[tuple[Row, Any]]] = {None: _places(batch.predictions.detections)}
        known |= {name: _places(side.predictions.detections) for name, side in batch.models.items()}
        for name, crops in batch.crops.items():
            parents = [known[crops.of][row] for row in crops.parents.tolist()]
            frames = np.repeat(np.arange(len(rows)), np.diff(crops.offsets)).tolist()
            found = self._rows(crops.predictions, name, len(crops))
            for i, ((place, track), frame) in enumerate(zip(parents, frames, strict=True)):
                for kind, label, class_id, score, *own, _ in found[i]:
                    box = place if own[0] is None else own
                    rows[frame].append((text(crops.model), kind, label, class_id, score, *box, track, name))
            own_places = _places(crops.predictions.detections)
            tracks = [known[crops.of][row][1] for row in crops.found_parents.tolist()]
            known[name] = [(place, track) for (place, _), track in zip(own_places, tracks, strict=True)]


def _detections(detections: Detections, labels: Labels) -> list[list[Row]]:
    names, class_ids, scores, boxes, tracks = detection_columns(detections, labels)
    rows = [
        ("detection", names[d], class_ids[d], scores[d], *boxes[d], None if tracks is None else tracks[d])
        for d in range(len(names))
    ]
    return [rows[start:end] for start, end in itertools.pairwise(detections.offsets.tolist())]


def _poses(poses: Poses) -> list[list[Row]]:
    columns = zip(rounded(poses.scores, 4), rounded(poses.boxes, 2), strict=True)
    rows: list[Row] = [("pose", PERSON, None, score, *box, None) for score, box in columns]
    return [rows[start:end] for start, end in itertools.pairwise(poses.offsets.tolist())]


def _masks(segmentations: Segmentations, labels: Labels) -> list[list[Row]]:
    rows: list[list[Row]] = []
    for i in range(len(segmentations)):
        own = segmentations.frame(i)
        found = own.found()
        names = labels.of(own.names, [class_id for _, class_id, _ in found])
        shares = rounded([share for _, _, share in found], 4)
        rows.append(
            [
                ("mask", label, class_id, share, *_NOWHERE, None)
                for label, (_, class_id, _), share in zip(names, found, shares, strict=True)
            ]
        )
    return rows


def _places(detections: Detections | None) -> list[tuple[Row, Any]]:
    """(box, track id) of each detection."""
    if detections is None:
        return []
    tracks = [None] * len(detections) if detections.track_ids is None else detections.track_ids.tolist()
    boxes = rounded(detections.boxes, 2)
    return [(tuple(box), None if t is None or t < 0 else t) for box, t in zip(boxes, tracks, strict=True)]


def _head(frame: Frame) -> Row:
    size = frame.picture.width, frame.picture.height
    return (ROW_SCHEMA, text(frame.source_id), frame.index, pts(frame.pts_s), utc(frame.time_s), *size)


def _encode(rows: Iterable[Iterable[Any]]) -> bytes:
    buffer = io.StringIO(newline="")
    csv.writer(buffer, lineterminator="\r\n").writerows(rows)
    return buffer.getvalue().encode()
