"""One JSON record a frame, one record a line; `docs/records.md` describes them."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson

from pipeline.config.sinks import JsonlSink
from pipeline.frames import ResultBatch
from pipeline.interpreter import giving_way
from pipeline.sinks._base import FileSink
from pipeline.sinks._detection_texts import detection_head
from pipeline.sinks._events import late_events, with_events
from pipeline.sinks._frame_heads import FrontMaker, head, pts_texts
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import PerClass
from pipeline.sinks._second_records import SecondRecords
from pipeline.sinks._task_records import TaskRecords
from pipeline.sinks.native_texts import NativeTexts


def jsonl_sink(config: JsonlSink) -> FileSink[bytes]:
    """The sink that a `jsonl` section describes."""
    return FileSink(
        config.path,
        lambda path: LinesWriter(path, overwrite=config.overwrite),
        with_events(JsonRecords(empty_frames=config.empty_frames, mask_side=config.mask_side)),
        late=late_events,
    )


class JsonRecords:
    """Turns batches into encoded records."""

    def __init__(self, *, empty_frames: bool = True, mask_side: int | None = None) -> None:
        self._empty_frames = empty_frames
        self._first = TaskRecords(mask_side)
        self._second = SecondRecords(mask_side)
        self._fronts = FrontMaker()
        self._native = NativeTexts(PerClass(detection_head))

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """One line a frame, with its line feed; an empty one for a frame that gets no record."""
        lines = self._native_lines(batch)
        return self._lines(batch) if lines is None else lines

    def _native_lines(self, batch: ResultBatch) -> list[bytes] | None:
        """The lines of a batch of which there is nothing but detections, where there is a library that writes them."""
        found = batch.predictions
        detections = found.detections
        if detections is None or not self._native.is_there() or batch.models or batch.crops:
            return None
        if any(other is not None for other in (found.classes, found.poses, found.segmentations, found.embeddings)):
            return None
        fronts = self._fronts(batch.frames, batch.model)
        lines = None if fronts is None else self._native(detections, fronts)
        if lines is None or self._empty_frames:
            return lines
        counts = np.diff(detections.offsets).tolist()
        return [line if count else b"" for line, count in zip(lines, counts, strict=True)]

    def _lines(self, batch: ResultBatch) -> list[bytes]:
        found = self._first(batch.predictions, as_text=not batch.crops)
        second = self._second(batch, found.detections) if batch.models or batch.crops else None
        lines = []
        for i, (frame, pts_text) in enumerate(giving_way(zip(batch.frames, pts_texts(batch.frames), strict=True))):
            results = {name: values[i] for name, values in found.fields.items()}
            more = {} if second is None else second[i]
            if self._empty_frames or any(results.values()) or _any_found(more):
                rest = orjson.dumps(results | more, option=orjson.OPT_APPEND_NEWLINE)
                lines.append(head(frame, pts_text, batch.model) + (b"," if results or more else b"") + rest[1:])
            else:
                lines.append(b"")
        return lines


def _any_found(second: dict[str, Any]) -> bool:
    """Whether another model found anything; what was found in crops is of detections, which count themselves."""
    sides = second.get("models", {}).values()
    return any(value for side in sides for name, value in side.items() if name != "model")
