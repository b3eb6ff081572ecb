"""Events as JSON records; `docs/records.md` describes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import orjson

from pipeline.frames import ResultBatch
from pipeline.sinks._records import pts, text, utc

if TYPE_CHECKING:
    from pipeline.analytics.events import Event

EVENT_SCHEMA = "vramline.event/1"


def with_events(records: Callable[[ResultBatch], Sequence[bytes]]) -> Callable[[ResultBatch], Sequence[bytes]]:
    """The same records with those of each frame's events behind them."""

    def prepare(batch: ResultBatch) -> Sequence[bytes]:
        lines = records(batch)
        if not batch.events:
            return lines
        lines = list(lines)
        for event in batch.events:
            if event.position is not None:
                lines[event.position] += encoded(event)
        return lines

    return prepare


def late_events(batch: ResultBatch) -> list[tuple[str, bytes]]:
    """(source id, record) of the events that belong to no frame of the batch: their sources had ended."""
    return [(event.source_id, encoded(event)) for event in batch.events if event.position is None]


def encoded(event: Event) -> bytes:
    """One line, with its line feed. What an event has not is left out."""
    record: dict[str, Any] = {
        "schema": EVENT_SCHEMA,
        "type": "event",
        "source": text(event.source_id),
        "frame": event.frame,
        "pts_s": pts(event.pts_s),
        "time": utc(event.time_s),
        "event": event.kind.value,
        "name": text(event.name),
    }
    if event.direction is not None:
        record["direction"] = text(event.direction)
    if event.label is not None:
        record |= {"label": text(event.label), "class_id": event.class_id, "track_id": event.track_id}
    record["values"] = _encodable(event.values)
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def _encodable(value: Any) -> Any:
    """Labels are keys of counts, and may hold what UTF-8 cannot."""
    if isinstance(value, dict):
        return {text(key): _encodable(inner) for key, inner in value.items()}
    return value
