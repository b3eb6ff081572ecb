"""The `analytics` of a source: its lines, zones, ground plane, heat map and interval counts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import Bool, Int, Number, PositiveInt, Section, one_of

Point = tuple[Number, Number]
Segment = tuple[Point, Point]
Name = Annotated[str, Field(min_length=1, max_length=100)]
Length = Annotated[Number, Field(ge=0, le=100_000)]
Seconds = Annotated[Number, Field(gt=0, le=1_000_000)]
Classes = list[str | Int] | None

# Of a triangle's area by its longest side squared: thinner ones count as a straight line.
_THINNEST = 1e-6


class Line(Section):
    """A line that objects cross; counts them by direction and class."""

    name: Name = Field(..., title="Name", description="In events and in the annotated video.")
    points: Segment = Field(
        ..., title="Points", description="Its two ends, [[x1, y1], [x2, y2]].", examples=[[[0, 500], [1280, 500]]]
    )
    directions: tuple[Name, Name] = Field(
        ("forward", "backward"),
        title="Directions",
        description="What the two ways across are called. The first is from the left to the right of somebody who stands at the first point and looks to the second.",
    )
    hysteresis: Length | None = Field(
        None,
        title="Hysteresis",
        description="An object has crossed once it was further than this from the line on one side and then on the other. Default: 1 % of the picture's smaller side.",
    )
    classes: Classes = Field(None, title="Classes", description="Labels or ids that count. Default: all.")

    @model_validator(mode="after")
    def _check(self) -> Line:
        if self.points[0] == self.points[1]:
            raise ValueError("the two points of a line differ")
        if self.directions[0] == self.directions[1]:
            raise ValueError("the two directions have different names")
        return self


class Circle(Section):
    """A circular zone."""

    center: Point = Field(..., title="Centre", description="[x, y].")
    radius: Annotated[Number, Field(gt=0, le=100_000)] = Field(..., title="Radius", description="A length.")


class Zone(Section):
    """An area; says who enters and leaves it, for how long they stay, how many are in it, and raises alarms."""

    name: Name = Field(..., title="Name", description="In events and in the annotated video.")
    polygon: Annotated[list[Point], Field(min_length=3, max_length=256)] | None = Field(
        None, title="Polygon", description="Corners [x, y], either way round; its edges do not cross."
    )
    circle: Circle | None = Field(None, title="Circle", description="Instead of a polygon: center and radius.")
    hysteresis: Length | None = Field(
        None,
        title="Hysteresis",
        description="An object has left once it is further than this outside. Default: 1 % of the picture's smaller side.",
    )
    classes: Classes = Field(None, title="Classes", description="Labels or ids that count. Default: all.")
    max_occupancy: Annotated[Int, Field(ge=0, le=100_000)] | None = Field(
        None, title="Most objects", description="More than these in the zone at once are an alarm: overcrowded."
    )
    crowd_s: Annotated[Number, Field(ge=0, le=1_000_000)] = Field(
        0.0,
        title="Crowded for",
        description="Seconds that there have to be too many before the alarm, and no longer too many before its end.",
    )
    loiter_s: Seconds | None = Field(
        None, title="Loitering after", description="Seconds in the zone after which an object raises an alarm."
    )
    stopped_s: Seconds | None = Field(
        None,
        title="Stopped after",
        description="Seconds without moving (see still_radius) after which an object in the zone raises an alarm.",
    )
    direction: Segment | None = Field(
        None,
        title="Direction",
        description="An arrow [[x1, y1], [x2, y2]]: the way that objects are to go. Those that go against it raise an alarm.",
    )
    wrong_way: Annotated[Number, Field(gt=0, le=100_000)] | None = Field(
        None,
        title="Wrong way after",
        description="Length that an object has gone back against `direction` before the alarm. Default: 5 % of the picture's smaller side.",
    )
    limit_kmh: Annotated[Number, Field(gt=0, le=10_000)] | None = Field(
        None, title="Speed limit", description="km/h; faster objects raise an alarm. Needs `ground`."
    )

    @property
    def alarms_of_tracks(self) -> list[str]:
        """The keys that are set and need to know which object is which."""
        return [key for key in ("loiter_s", "stopped_s", "direction", "limit_kmh") if getattr(self, key) is not None]

    @model_validator(mode="after")
    def _check(self) -> Zone:
        one_of(self, "polygon", "circle")
        if self.polygon is not None:
            _check_polygon(self.polygon)
        if self.direction is not None and self.direction[0] == self.direction[1]:
            raise ValueError("the two points of direction differ")
        return self


class Ground(Section):
    """Where the ground is: four points of the picture whose places in metres are known. Gives speeds."""

    image: tuple[Point, Point, Point, Point] = Field(
        ..., title="Image points", description="Four points [x, y] on the ground, no three in a line."
    )
    metres: tuple[Point, Point, Point, Point] = Field(
        ..., title="Metres", description="The same four points in metres, in any level coordinate system."
    )
    window_s: Annotated[Number, Field(gt=0, le=60)] = Field(
        1.0, title="Window", description="Speeds are means over half to all of so many seconds."
    )

    @model_validator(mode="after")
    def _check(self) -> Ground:
        for key, points in (("image", self.image), ("metres", self.metres)):
            for left_out in range(4):
                if _is_flat([p for i, p in enumerate(points) if i != left_out]):
                    raise ValueError(f"no three of the points of {key} lie in a line")
        return self


class Heatmap(Section):
    """Where objects have been for how long: written when the source has ended, as a PNG and, beside it, as an NPZ file."""

    path: Path = Field(
        ...,
        title="Path",
        description="Of the PNG; the NPZ file lies beside it. {source} stands for the source's id.",
        examples=["out/{source}-heat.png"],
    )
    cell: Annotated[Int, Field(ge=1, le=512)] = Field(8, title="Cell", description="Side of a cell in display pixels.")
    overwrite: Bool = Field(
        False, title="Overwrite", description="Whether existing files are replaced; otherwise they are an error."
    )

    @model_validator(mode="after")
    def _check(self) -> Heatmap:
        if self.path.suffix.lower() != ".png":
            raise ValueError("the path of a heat map ends in .png")
        return self


class SourceAnalytics(Section):
    """What is counted and measured of the objects of a source. Lines, alarms of single objects and speeds need a tracker."""

    unit: Literal["pixel", "fraction"] = Field(
        "pixel",
        title="Unit",
        description="Of all points and lengths here: display pixels, or fractions of the picture's width and height. A length is then a fraction of the smaller side.",
    )
    anchor: Literal["bottom", "center"] = Field(
        "bottom",
        title="Anchor",
        description="The point of a box that stands for the object: the middle of its lower edge, or its centre.",
    )
    classes: Classes = Field(None, title="Classes", description="Labels or ids that are looked at. Default: all.")
    lines: Annotated[list[Line], Field(max_length=64)] = Field(
        default_factory=list, title="Lines", description="Lines that are crossed."
    )
    zones: Annotated[list[Zone], Field(max_length=64)] = Field(
        default_factory=list, title="Zones", description="Areas."
    )
    ground: Ground | None = Field(None, title="Ground", description="Gives speeds in km/h. Default: none are measured.")
    still_radius: Annotated[Number, Field(gt=0, le=100_000)] | None = Field(
        None,
        title="Still radius",
        description="An object that stays within this length of a place stands still. Default: 2 % of the picture's smaller side.",
    )
    interval_s: Seconds | None = Field(
        None, title="Interval", description="Write the counts of every so many seconds as an event. Default: do not."
    )
    heatmap: Heatmap | None = Field(
        None, title="Heat map", description="Where objects have been for how long. Default: none is made."
    )
    forget_s: Annotated[Number, Field(gt=0, le=3600)] = Field(
        2.0, title="Forget after", description="Seconds after which an object that is no longer seen has gone."
    )
    max_tracks: PositiveInt = Field(
        2000,
        title="Most objects",
        description="How many objects of the source are remembered at the same time; beyond that the longest unseen go.",
    )

    @property
    def needs_tracks(self) -> Iterator[tuple[str | int, ...]]:
        """The paths of what is set here and needs to know which object is which."""
        if self.lines:
            yield ("lines",)
        for index, zone in enumerate(self.zones):
            yield from (("zones", index, key) for key in zone.alarms_of_tracks)
        if self.ground is not None:
            yield ("ground",)

    @model_validator(mode="after")
    def _check(self) -> SourceAnalytics:
        names = [*(line.name for line in self.lines), *(zone.name for zone in self.zones)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"every line and zone has its own name; found {twice!r} twice")
        if self.ground is None and any(zone.limit_kmh is not None for zone in self.zones):
            raise ValueError("limit_kmh needs ground")
        for field, points, lengths in _numbers(self):
            if min(min(point) for point in points) < 0:
                raise ValueError(f"{field}: coordinates are not negative")
            if self.unit == "fraction" and max([*map(max, points), *lengths]) > 1:
                raise ValueError(f"{field}: fractions lie in 0..1")
        return self


def _numbers(analytics: SourceAnalytics) -> Iterator[tuple[str, Sequence[Point], list[float]]]:
    """(field, points, lengths) of everything that is measured in the picture."""

    def given(*lengths: float | None) -> list[float]:
        return [length for length in lengths if length is not None]

    for index, line in enumerate(analytics.lines):
        yield f"lines[{index}]", line.points, given(line.hysteresis)
    for index, zone in enumerate(analytics.zones):
        points = list(zone.polygon or [])
        if zone.circle is not None:
            points.append(zone.circle.center)
        radius = zone.circle.radius if zone.circle is not None else None
        points += zone.direction or ()
        yield f"zones[{index}]", points, given(radius, zone.hysteresis, zone.wrong_way)
    if analytics.ground is not None:
        yield "ground.image", analytics.ground.image, []


def _check_polygon(points: list[Point]) -> None:
    """Raises ValueError unless the polygon is simple: then all definitions of its inside agree."""
    edges = list(pairwise([*points, points[0]]))
    if any(a == b for a, b in edges):
        raise ValueError("neighbouring points of a polygon differ; it closes by itself")
    if abs(sum(ax * by - bx * ay for (ax, ay), (bx, by) in edges)) == 0:
        raise ValueError("the polygon has no area")
    for i, first in enumerate(edges):
        for j in range(i + 1, len(edges)):
            second = edges[j]
            if j == i + 1 or (i == 0 and j == len(edges) - 1):
                before, corner, after = (
                    (first[0], first[1], second[1]) if j == i + 1 else (second[0], second[1], first[1])
                )
                if _turn(before, corner, after) == 0 and _ahead(before, corner, after) < 0:
                    raise ValueError("the polygon turns back on itself")
            elif _touch(first, second):
                raise ValueError("the edges of a polygon do not cross or touch")


def _turn(a: Point, b: Point, c: Point) -> float:
    return (b[0] - a[0]) * (c[1] - a[1]) - (b[1] - a[1]) * (c[0] - a[0])


def _ahead(before: Point, corner: Point, after: Point) -> float:
    return (corner[0] - before[0]) * (after[0] - corner[0]) + (corner[1] - before[1]) * (after[1] - corner[1])


def _touch(first: Segment, second: Segment) -> bool:
    """Whether two segments have a point in common."""
    (a, b), (c, d) = first, second
    turns = _sign(_turn(a, b, c)), _sign(_turn(a, b, d)), _sign(_turn(c, d, a)), _sign(_turn(c, d, b))
    if turns[0] * turns[1] < 0 and turns[2] * turns[3] < 0:
        return True
    on = ((turns[0], a, b, c), (turns[1], a, b, d), (turns[2], c, d, a), (turns[3], c, d, b))
    return any(turn == 0 and _is_between(p, q, r) for turn, p, q, r in on)


def _is_between(a: Point, b: Point, c: Point) -> bool:
    return min(a[0], b[0]) <= c[0] <= max(a[0], b[0]) and min(a[1], b[1]) <= c[1] <= max(a[1], b[1])


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)


def _is_flat(corners: Iterable[Point]) -> bool:
    a, b, c = corners
    longest = max((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2 for p, q in ((a, b), (b, c), (c, a)))
    return abs(_turn(a, b, c)) <= _THINNEST * longest
