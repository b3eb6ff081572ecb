"""What analytics tells: events, and what the lines and zones of a source have counted up to a frame."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class EventKind(str, enum.Enum):
    """What happened; stable names for records and programs. Events of one frame come in this order."""

    COUNTS = "counts"  # the counts of an interval that is over
    LINE_CROSSED = "line_crossed"
    ZONE_ENTERED = "zone_entered"
    ZONE_LEFT = "zone_left"
    LOITERING = "loitering"
    STOPPED = "stopped"
    MOVED_ON = "moved_on"
    WRONG_DIRECTION = "wrong_direction"
    SPEEDING = "speeding"
    OVERCROWDED = "overcrowded"
    OVERCROWDING_ENDED = "overcrowding_ended"


@dataclass(frozen=True, slots=True)
class Event:
    """One thing that happened; `docs/records.md` describes its record.

    Attributes:
        kind: What.
        source_id: Where.
        frame: `index` of the frame in which it happened; for an object that was lost, the last one that showed it.
        pts_s: Presentation time of that frame in seconds; None if the container states none.
        time_s: When that frame was decoded: seconds since 1970-01-01 UTC.
        name: Of the line or zone.
        direction: Of a crossing: the name of the way across.
        class_id: The object's class in that frame; None for what belongs to no object.
        label: The class's name.
        track_id: The object's track.
        values: What was measured: numbers, and for `counts` numbers by direction and class.
        position: The frame of the batch that brought it to light; None if its source had ended by then.
    """

    kind: EventKind
    source_id: str
    frame: int
    pts_s: float | None
    time_s: float
    name: str
    direction: str | None = None
    class_id: int | None = None
    label: str | None = None
    track_id: int | None = None
    values: Mapping[str, Any] = field(default_factory=dict)
    position: int | None = None


Point = tuple[float, float]


@dataclass(frozen=True, slots=True, eq=False)
class LineShape:
    """A line in display pixels.

    Attributes:
        name: Its name.
        start: First end.
        end: Second end.
        directions: Names of the way from left to right (looking from `start` to `end`) and of the way back.
        hysteresis: Distance from the line, in pixels, at which a side counts.
    """

    name: str
    start: Point
    end: Point
    directions: tuple[str, str]
    hysteresis: float


@dataclass(frozen=True, slots=True, eq=False)
class ZoneShape:
    """An area in display pixels.

    Attributes:
        name: Its name.
        polygon: Corners; empty for a circle.
        circle: x, y and radius; None for a polygon.
        hysteresis: Distance outside, in pixels, from which on an object has left.
        direction: The arrow that objects are to follow; None: they may go anywhere.
        wrong_way: Pixels against the arrow that are an alarm.
    """

    name: str
    polygon: tuple[Point, ...]
    circle: tuple[float, float, float] | None
    hysteresis: float
    direction: tuple[Point, Point] | None
    wrong_way: float


@dataclass(frozen=True, slots=True, eq=False)
class Layout:
    """The lines and zones of a source, for pictures of one size.

    Attributes:
        size: Width and height of the picture in display pixels.
        lines: In the order of the configuration.
        zones: In the order of the configuration.
    """

    size: tuple[int, int]
    lines: tuple[LineShape, ...]
    zones: tuple[ZoneShape, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What is known of the lines and zones of a source at a frame.

    Attributes:
        layout: Where they are.
        crossed: Of each line, how many objects have crossed it so far in its two directions.
        occupancy: Of each zone, how many objects are in it.
        crowded: Of each zone, whether they are too many.
    """

    layout: Layout
    crossed: tuple[tuple[int, int], ...]
    occupancy: tuple[int, ...]
    crowded: tuple[bool, ...]
