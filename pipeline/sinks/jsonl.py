"""One JSON record a frame, one record a line; `docs/records.md` describes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import orjson

from pipeline.config.sinks import JsonlSink
from pipeline.frames import Frame, ResultBatch
from pipeline.interpreter import giving_way
from pipeline.sinks._base import FileSink
from pipeline.sinks._events import late_events, with_events
from pipeline.sinks._lines import LinesWriter
from pipeline.sinks._names import encodable
from pipeline.sinks._records import FRAME_SCHEMA, pts, utc
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
        found = self._first(batch.predictions, as_text=not batch.crops)
        second = self._second(batch, found.detections) if batch.models or batch.crops else None
        lines = []
        for i, (frame, pts_text) in enumerate(giving_way(zip(batch.frames, _pts_texts(batch.frames), strict=True))):
            results = {name: values[i] for name, values in found.fields.items()}
            more = {} if second is None else second[i]
            if self._empty_frames or any(results.values()) or _any_found(more):
                rest = orjson.dumps(results | more, option=orjson.OPT_APPEND_NEWLINE)
                lines.append(_head(frame, pts_text, batch.model) + (b"," if results or more else b"") + rest[1:])
            else:
                lines.append(b"")
        return lines


def _any_found(second: dict[str, Any]) -> bool:
    """Whether another model found anything; what was found in crops is of detections, which count themselves."""
    sides = second.get("models", {}).values()
    return any(value for side in sides for name, value in side.items() if name != "model")


# A record's beginning, as text: with a dictionary for each frame it would take several times as long.
_HEAD = b'{"schema":%b,"source":%%b,"frame":%%d,"pts_s":%%b,"time":"%%b"%%b,%%b' % orjson.dumps(FRAME_SCHEMA)


def _head(frame: Frame, pts_text: bytes, model: str) -> bytes:
    """What stands in front of the results, without a comma behind it."""
    picture = frame.picture
    sar = picture.sar
    captured = b"" if frame.captured_s is None else b',"captured":"%b"' % utc(frame.captured_s).encode()
    shape = _shape((picture.width, picture.height), picture.rotation, (sar.numerator, sar.denominator), model)
    return _HEAD % (_json(frame.source_id), frame.index, pts_text, utc(frame.time_s).encode(), captured, shape)


def _pts_texts(frames: Sequence[Frame]) -> list[bytes]:
    return orjson.dumps([pts(frame.pts_s) for frame in frames])[1:-1].split(b",") if frames else []


@lru_cache(maxsize=1024)
def _shape(size: tuple[int, int], rotation: int, sar: tuple[int, int], model: str) -> bytes:
    return b'"width":%d,"height":%d,"rotation":%d,"sar":"%d:%d","model":%b' % (*size, rotation, *sar, _json(model))


@lru_cache(maxsize=4096)
def _json(words: str) -> bytes:
    return orjson.dumps(encodable(words))
