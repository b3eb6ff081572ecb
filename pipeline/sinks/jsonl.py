"""One JSON record a frame, one record a line; `docs/records.md` describes them."""

from __future__ import annotations

import itertools
from typing import Any

import orjson

from pipeline.config.models import JsonlSink
from pipeline.frames import Classifications, Detections, Frame, ResultBatch
from pipeline.sinks._base import FileSink
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import FRAME_SCHEMA, Labels, class_columns, detection_columns, pts, text, utc


def jsonl_sink(config: JsonlSink) -> FileSink[bytes]:
    """The sink that a `jsonl` section describes."""
    return FileSink(
        config.path,
        lambda path: LinesWriter(path, overwrite=config.overwrite),
        JsonRecords(empty_frames=config.empty_frames),
    )


class JsonRecords:
    """Turns batches into encoded records. Numbers become Python lists once a batch, not once a frame."""

    def __init__(self, *, empty_frames: bool = True) -> None:
        self._empty_frames = empty_frames
        self._labels = Labels()

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """One line a frame, with its line feed; an empty one for a frame that gets no record."""
        model = text(batch.model)
        detections = classes = None
        if batch.predictions.detections is not None:
            detections = self._detections(batch.predictions.detections)
        if batch.predictions.classes is not None:
            classes = self._classes(batch.predictions.classes)
        lines = []
        for i, frame in enumerate(batch.frames):
            record = _head(frame, model)
            if detections is not None:
                record["detections"] = detections[i]
            if classes is not None:
                record["classes"] = classes[i]
            if self._empty_frames or record.get("detections") or record.get("classes"):
                lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            else:
                lines.append(b"")
        return lines

    def _detections(self, detections: Detections) -> list[list[dict[str, Any]]]:
        labels, class_ids, scores, boxes, tracks = detection_columns(detections, self._labels)
        records: list[dict[str, Any]] = [
            {"label": label, "class_id": class_id, "score": score, "box": box}
            for label, class_id, score, box in zip(labels, class_ids, scores, boxes, strict=True)
        ]
        if tracks is not None:
            for record, track_id in zip(records, tracks, strict=True):
                record["track_id"] = track_id
        offsets = detections.offsets.tolist()
        return [records[start:end] for start, end in itertools.pairwise(offsets)]

    def _classes(self, classes: Classifications) -> list[list[dict[str, Any]]]:
        return [
            [{"label": label, "class_id": class_id, "score": score} for label, class_id, score in rows]
            for rows in class_columns(classes, self._labels)
        ]


def _head(frame: Frame, model: str) -> dict[str, Any]:
    picture = frame.picture
    sar = picture.sar
    captured = {} if frame.captured_s is None else {"captured": utc(frame.captured_s)}
    return {
        "schema": FRAME_SCHEMA,
        "source": text(frame.source_id),
        "frame": frame.index,
        "pts_s": pts(frame.pts_s),
        "time": utc(frame.time_s),
        **captured,
        "width": picture.width,
        "height": picture.height,
        "rotation": picture.rotation,
        "sar": f"{sar.numerator}:{sar.denominator}",
        "model": model,
    }
