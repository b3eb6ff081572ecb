"""One JSON record a frame, one record a line; `docs/records.md` describes them."""

from __future__ import annotations

import itertools
from typing import Any

import orjson

from pipeline.config.models import JsonlSink
from pipeline.frames import Classifications, Detections, Frame, Predictions, ResultBatch
from pipeline.sinks._base import FileSink
from pipeline.sinks._events import late_events, with_events
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import FRAME_SCHEMA, Labels, class_columns, detection_columns, pts, text, utc
from pipeline.sinks._task_records import embedding_records, mask_records, pose_records


def jsonl_sink(config: JsonlSink) -> FileSink[bytes]:
    """The sink that a `jsonl` section describes."""
    return FileSink(
        config.path,
        lambda path: LinesWriter(path, overwrite=config.overwrite),
        with_events(JsonRecords(empty_frames=config.empty_frames, mask_side=config.mask_side)),
        late=late_events,
    )


class JsonRecords:
    """Turns batches into encoded records. Numbers become Python lists once a batch, not once a frame."""

    def __init__(self, *, empty_frames: bool = True, mask_side: int | None = None) -> None:
        self._empty_frames = empty_frames
        self._mask_side = mask_side
        self._labels = Labels()

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """One line a frame, with its line feed; an empty one for a frame that gets no record."""
        model = text(batch.model)
        detections = classes = None
        if batch.predictions.detections is not None:
            detections = self._detections(batch.predictions.detections)
        if batch.predictions.classes is not None:
            classes = self._classes(batch.predictions.classes)
        others = self._others(batch.predictions)
        lines = []
        for i, frame in enumerate(batch.frames):
            record = _head(frame, model)
            if detections is not None:
                record["detections"] = detections[i]
            if classes is not None:
                record["classes"] = classes[i]
            record |= {name: values[i] for name, values in others.items()}
            if self._empty_frames or any(record.get(name) for name in ("detections", "classes", *others)):
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
                if track_id is not None:
                    record["track_id"] = track_id
        offsets = detections.offsets.tolist()
        return [records[start:end] for start, end in itertools.pairwise(offsets)]

    def _others(self, predictions: Predictions) -> dict[str, list[Any]]:
        """Field -> its value for each frame, for what is neither boxes nor classes of whole pictures."""
        found: dict[str, list[Any]] = {}
        if predictions.poses is not None:
            found["poses"] = pose_records(predictions.poses)
        if predictions.segmentations is not None:
            found["masks"] = mask_records(predictions.segmentations, self._labels, self._mask_side)
        if predictions.embeddings is not None:
            found["embedding"] = embedding_records(predictions.embeddings)
        return found

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
