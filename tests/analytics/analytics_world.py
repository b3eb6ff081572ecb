"""Objects on known ways, as results; and slow, exact implementations of what analytics says of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

from pipeline.analytics.engine import Analytics
from pipeline.analytics.events import Event
from pipeline.config.analytics import SourceAnalytics
from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch

NAMES = {0: "person", 1: "car", 2: "bus"}
Place = tuple[float, float]
# What is seen in one frame: its time, and where each track's anchor is.
Seen = tuple[float | None, Mapping[int, Place]]


def settings(**keys: Any) -> SourceAnalytics:
    return SourceAnalytics.model_validate(keys)


def frame(source_id: str, index: int, pts_s: float | None, size: Place = (640, 480), time_s: float = 0.0) -> Frame:
    picture = Picture((), (1, 1), Colour(), int(size[0]), int(size[1]))
    return Frame(source_id, index, pts_s, time_s or 1.7e9 + index / 10, picture)


def batch_of(
    frames: Sequence[Frame],
    places: Sequence[Mapping[int, Place]],
    *,
    classes: Mapping[int, int] | None = None,
    tracked: bool = True,
) -> ResultBatch:
    """Boxes whose lower edge's middle is where the track is; exact for multiples of 1/8 below 2**15."""
    rows = [(track, place) for own in places for track, place in own.items()]
    boxes = np.array([[x - 6, y - 20, x + 6, y] for _, (x, y) in rows], np.float32).reshape(-1, 4)
    ids = np.array([track for track, _ in rows], np.int64)
    detections = Detections(
        boxes,
        np.full(len(rows), 0.9, np.float32),
        np.array([(classes or {}).get(track, 1) for track, _ in rows], np.int32),
        np.cumsum([0, *map(len, places)]).astype(np.int64),
        NAMES,
        ids if tracked else None,
    )
    return ResultBatch(frames, Predictions(detections), "model@0")


def run(
    config: SourceAnalytics, seen: Sequence[Seen], *, batch: int | Sequence[int] = 4, finish: bool = True, **how: Any
) -> list[Event]:
    """The events of one source "cam", in batches of so many frames (or of these sizes, then one a batch)."""
    size = how.pop("size", (640, 480))
    analytics = Analytics({"cam": config})
    frames = [frame("cam", i, pts_s, size) for i, (pts_s, _) in enumerate(seen)]
    events: list[Event] = []
    start, sizes = 0, iter(batch) if not isinstance(batch, int) else None
    while start < len(frames):
        end = start + (batch if isinstance(batch, int) else next(sizes, 1))
        events += analytics(batch_of(frames[start:end], [places for _, places in seen[start:end]], **how)).events
        start = end
    return events + (list(analytics.finish("cam")) if finish else [])


def way(points: Iterable[Place], track: int = 7, fps: float = 10) -> list[Seen]:
    """One object at these places, one a frame."""
    return [(i / fps, {track: place}) for i, place in enumerate(points)]


def kinds(events: Iterable[Event], *wanted: str) -> list[Event]:
    return [event for event in events if event.kind.value in wanted]


def told(events: Iterable[Event]) -> list[tuple[Any, ...]]:
    """Events without the batch's part in them, comparable."""
    return [
        (e.kind.value, e.frame, e.pts_s, e.name, e.direction, e.class_id, e.track_id, dict(e.values)) for e in events
    ]


# --------------------------------------------------------------------------------------- exact and slow: the reference


def exact(place: Place) -> tuple[Fraction, Fraction]:
    return Fraction(place[0]), Fraction(place[1])


def cross(a: Place, b: Place, p: Place) -> Fraction:
    (ax, ay), (bx, by), (px, py) = exact(a), exact(b), exact(p)
    return (bx - ax) * (py - ay) - (by - ay) * (px - ax)


def crossings(a: Place, b: Place, hysteresis: float, points: Sequence[Place]) -> list[tuple[int, str]]:
    """(index of the point, direction) of each crossing of the segment a-b by one object."""
    (ax, ay), (bx, by) = exact(a), exact(b)
    square = (bx - ax) ** 2 + (by - ay) ** 2
    side = half = 0
    passed = False
    found = []
    for i, point in enumerate(points):
        c = cross(a, b, point)
        sign = (c > 0) - (c < 0)
        if sign and half and sign != half:
            before = points[i - 1]
            c1 = cross(a, b, before)
            part = c1 / (c1 - c)
            (x1, y1), (x2, y2) = exact(before), exact(point)
            x, y = x1 + part * (x2 - x1), y1 + part * (y2 - y1)
            along = (x - ax) * (bx - ax) + (y - ay) * (by - ay)
            passed = 0 <= along <= square
        half = sign or half
        if c * c > Fraction(hysteresis) ** 2 * square:
            if side and sign != side and passed:
                found.append((i, "forward" if sign > 0 else "backward"))
            side = sign
    return found


def winding(corners: Sequence[Place], p: Place) -> int | None:
    """How often a polygon goes around a point, exactly; None on its edge."""
    number = 0
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        turn = cross(a, b, p)
        (ax, ay), (bx, by), (px, py) = exact(a), exact(b), exact(p)
        if turn == 0 and min(ax, bx) <= px <= max(ax, bx) and min(ay, by) <= py <= max(ay, by):
            return None
        if ay <= py < by and turn > 0:
            number += 1
        elif by <= py < ay and turn < 0:
            number -= 1
    return number


def square_distance(corners: Sequence[Place], p: Place) -> Fraction:
    """From a polygon's edge, exactly."""
    px, py = exact(p)
    best = None
    for a, b in zip(corners, [*corners[1:], corners[0]], strict=True):
        (ax, ay), (bx, by) = exact(a), exact(b)
        dx, dy = bx - ax, by - ay
        part = min(max(((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy), Fraction(0)), Fraction(1))
        square = (px - ax - part * dx) ** 2 + (py - ay - part * dy) ** 2
        best = square if best is None else min(best, square)
    assert best is not None
    return best
