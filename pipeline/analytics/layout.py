"""From the configuration to lines and zones in the pixels of one picture, and whether they lie in it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from pipeline.analytics.events import Layout, LineShape, Point, ZoneShape
from pipeline.config.analytics import SourceAnalytics
from pipeline.errors import SourceError, SourceErrorCode

log = logging.getLogger(__name__)

_HYSTERESIS = 0.01
_WRONG_WAY = 0.05
_STILL_RADIUS = 0.02


class Scale:
    """Points and lengths of the configuration -> display pixels of pictures of one size."""

    def __init__(self, settings: SourceAnalytics, size: tuple[int, int]) -> None:
        self._smaller = float(min(size))
        is_fraction = settings.unit == "fraction"
        self._x, self._y = (float(size[0]), float(size[1])) if is_fraction else (1.0, 1.0)
        self._length = self._smaller if is_fraction else 1.0

    def point(self, point: tuple[float, float]) -> Point:
        """In pixels."""
        return point[0] * self._x, point[1] * self._y

    def points(self, points: Sequence[tuple[float, float]]) -> tuple[Point, ...]:
        """In pixels."""
        return tuple(map(self.point, points))

    def length(self, length: float | None, share: float = 0.0) -> float:
        """In pixels; None stands for this share of the smaller side."""
        return share * self._smaller if length is None else length * self._length


def layout_of(settings: SourceAnalytics, size: tuple[int, int]) -> Layout:
    """The lines and zones in display pixels; `size` is the picture's width and height."""
    scale = Scale(settings, size)
    lines = tuple(
        LineShape(
            line.name,
            scale.point(line.points[0]),
            scale.point(line.points[1]),
            line.directions,
            scale.length(line.hysteresis, _HYSTERESIS),
        )
        for line in settings.lines
    )
    zones = tuple(
        ZoneShape(
            zone.name,
            scale.points(zone.polygon or ()),
            None if zone.circle is None else (*scale.point(zone.circle.center), scale.length(zone.circle.radius)),
            scale.length(zone.hysteresis, _HYSTERESIS),
            None if zone.direction is None else (scale.point(zone.direction[0]), scale.point(zone.direction[1])),
            scale.length(zone.wrong_way, _WRONG_WAY),
        )
        for zone in settings.zones
    )
    return Layout(size, lines, zones)


def still_radius(settings: SourceAnalytics, size: tuple[int, int]) -> float:
    """How far, in pixels, an object moves that stands still."""
    return Scale(settings, size).length(settings.still_radius, _STILL_RADIUS)


def check_layout(settings: SourceAnalytics | None, size: tuple[int, int], source_id: str) -> list[str]:
    """Whether the lines and zones lie in the picture.

    Returns:
        A sentence for every one of which a part lies outside; it is used as it is.

    Raises:
        SourceError: one lies outside as a whole: it would never see anything, so it was written for another picture.
    """
    if settings is None:
        return []
    layout = layout_of(settings, size)
    shapes: list[tuple[str, bool, bool]] = []
    for i, line in enumerate(layout.lines):
        ends = (line.start, line.end)
        field = f"analytics.lines[{i}].points ({line.name!r})"
        shapes.append((field, _edge_is_seen(*ends, size), all(_is_in(p, size) for p in ends)))
    for i, zone in enumerate(layout.zones):
        key = "polygon" if zone.polygon else "circle"
        shapes.append((f"analytics.zones[{i}].{key} ({zone.name!r})", *_zone_is_seen(zone, size)))
    warnings = []
    for field, is_seen, is_whole in shapes:
        if not is_seen:
            raise SourceError(
                f"{source_id}: {field} lies outside the picture, which is {size[0]}x{size[1]}",
                source_id=source_id,
                code=SourceErrorCode.UNSUPPORTED,
                remedy="points are display pixels unless unit: fraction; `vramline zones` shows the picture with a grid",
            )
        if not is_whole:
            warnings.append(f"{source_id}: a part of {field} lies outside the picture, which is {size[0]}x{size[1]}")
    return warnings


def _is_in(point: Point, size: tuple[int, int]) -> bool:
    return 0 <= point[0] <= size[0] and 0 <= point[1] <= size[1]


def _zone_is_seen(zone: ZoneShape, size: tuple[int, int]) -> tuple[bool, bool]:
    """Whether anything of a zone lies in the picture, and whether all of it does."""
    if zone.circle is not None:
        x, y, radius = zone.circle
        beyond_x, beyond_y = max(-x, 0.0, x - size[0]), max(-y, 0.0, y - size[1])
        is_whole = radius <= min(x, y, size[0] - x, size[1] - y)
        return beyond_x**2 + beyond_y**2 < radius**2, is_whole
    corners = zone.polygon
    edges = zip(corners, corners[1:] + corners[:1], strict=True)
    is_seen = any(_edge_is_seen(*edge, size) for edge in edges) or _holds(corners, (size[0] / 2, size[1] / 2))
    return is_seen, all(_is_in(corner, size) for corner in corners)


def _edge_is_seen(start: Point, end: Point, size: tuple[int, int]) -> bool:
    """Whether a part of a segment lies in the picture (Liang and Barsky, "A new concept and method for line clipping", 1984)."""
    enters, leaves = 0.0, 1.0
    for axis in (0, 1):
        step = end[axis] - start[axis]
        for towards, room in ((-step, start[axis]), (step, size[axis] - start[axis])):
            if towards == 0:
                if room < 0:
                    return False
            elif towards < 0:
                enters = max(enters, room / towards)
            else:
                leaves = min(leaves, room / towards)
    return enters < leaves


def _holds(corners: tuple[Point, ...], point: Point) -> bool:
    """Whether a point lies in a polygon, by the even-odd rule."""
    x, y = point
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd
