"""One JSON record a frame, one record a line; `docs/records.md` describes them."""

from __future__ import annotations

from typing import Any

import orjson

from pipeline.config.sinks import JsonlSink
from pipeline.frames import Frame, ResultBatch
from pipeline.interpreter import giving_way
from pipeline.sinks._base import FileSink
from pipeline.sinks._events import late_events, with_events
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._records import FRAME_SCHEMA, pts, text, utc
from pipeline.sinks._second_records import SecondRecords
from pipeline.sinks._task_records import TaskRecords


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

    def __call__(self, batch: ResultBatch) -> list[bytes]:
        """One line a frame, with its line feed; an empty one for a frame that gets no record."""
        model = text(batch.model)
        found = self._first(batch.predictions, as_text=not batch.crops)
        second = self._second(batch, found.detections) if batch.models or batch.crops else None
        lines = []
        for i, frame in enumerate(giving_way(batch.frames)):
            results = {name: values[i] for name, values in found.fields.items()}
            more = {} if second is None else second[i]
            if self._empty_frames or any(results.values()) or _any_found(more):
                record = _head(frame, model) | results | more
                lines.append(orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE))
            else:
                lines.append(b"")
        return lines


def _any_found(second: dict[str, Any]) -> bool:
    """Whether another model found anything; what was found in crops is of detections, which count themselves."""
    sides = second.get("models", {}).values()
    return any(value for side in sides for name, value in side.items() if name != "model")


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
