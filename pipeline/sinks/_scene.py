"""Lines and zones on the annotated video, with what they have counted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import Rgb, to_sample
from pipeline.sinks._upright import Placement

if TYPE_CHECKING:
    from pipeline.analytics.events import Layout, LineShape, Scene, ZoneShape

LINE_RGB: Rgb = (1.0, 0.85, 0.1)
ZONE_RGB: Rgb = (0.1, 0.8, 0.9)
CROWDED_RGB: Rgb = (0.95, 0.15, 0.1)
# Of the picture's smaller side: the arrow that shows a line's first direction.
_ARROW = 0.03

Indices = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]


@dataclass(frozen=True, slots=True, eq=False)
class _Stroke:
    """The samples that something covers, worked out once.

    Attributes:
        luma: Rows and columns.
        chroma: Rows and columns.
        share: How much of each chroma sample is covered.
        label: Where its text goes: x and y in output pixels.
    """

    luma: Indices
    chroma: Indices
    share: npt.NDArray[np.float32]
    label: tuple[int, int]


def draw_scene(canvas: Canvas, placement: Placement, scene: Scene) -> None:
    """Draws lines with their counts, and zones with the number of objects in them."""
    size = canvas.width, canvas.height
    lines, zones = _strokes(scene.layout, placement, size, canvas.line_width)
    for stroke, zone, occupancy, is_crowded in zip(
        zones, scene.layout.zones, scene.occupancy, scene.crowded, strict=True
    ):
        rgb = CROWDED_RGB if is_crowded else ZONE_RGB
        _paint(canvas, stroke, rgb)
        canvas.text(f"{zone.name}: {occupancy}", *stroke.label, rgb)
    for stroke, line, crossed in zip(lines, scene.layout.lines, scene.crossed, strict=True):
        _paint(canvas, stroke, LINE_RGB)
        counts = ", ".join(f"{name} {count}" for name, count in zip(line.directions, crossed, strict=True))
        canvas.text(f"{line.name}: {counts}", *stroke.label, LINE_RGB)


@lru_cache(maxsize=256)
def _strokes(
    layout: Layout, placement: Placement, size: tuple[int, int], width: int
) -> tuple[list[_Stroke], list[_Stroke]]:
    lines = [
        _stroke(size, lambda pen, line=line: draw_line(pen, line, placement, width), _middle(line, placement))  # type: ignore[misc]
        for line in layout.lines
    ]
    zones = [
        _stroke(size, lambda pen, zone=zone: draw_zone(pen, zone, placement, width), _top(zone, placement))  # type: ignore[misc]
        for zone in layout.zones
    ]
    return lines, zones


def draw_line(pen: ImageDraw.ImageDraw, line: LineShape, placement: Placement, width: int, fill: object = 255) -> None:
    """A line with an arrow at its middle that points to where its first direction goes."""
    start, end = _place(line.start, placement), _place(line.end, placement)
    pen.line([start, end], fill=fill, width=width)  # type: ignore[arg-type]
    step = np.subtract(end, start)
    length = float(np.hypot(*step))
    if length == 0:
        return
    along = step / length
    right = np.array([-along[1], along[0]])
    reach = _ARROW * min(pen.im.size)
    middle = np.add(start, end) / 2
    tip = middle + reach * right
    barbs = (tip - 0.4 * reach * right + side * 0.3 * reach * along for side in (-1, 1))
    for a, b in ((middle, tip), *((barb, tip) for barb in barbs)):
        pen.line([tuple(a), tuple(b)], fill=fill, width=width)  # type: ignore[arg-type]


def draw_zone(pen: ImageDraw.ImageDraw, zone: ZoneShape, placement: Placement, width: int, fill: object = 255) -> None:
    """The outline of a zone, and the arrow that objects are to follow in it."""
    if zone.circle is not None:
        x, y, radius = zone.circle
        corners = _place((x - radius, y - radius), placement), _place((x + radius, y + radius), placement)
        pen.ellipse([*corners[0], *corners[1]], outline=fill, width=width)  # type: ignore[arg-type]
    else:
        points = [_place(point, placement) for point in zone.polygon]
        pen.line([*points, points[0]], fill=fill, width=width)  # type: ignore[arg-type]
    if zone.direction is not None:
        start, end = (np.array(_place(point, placement)) for point in zone.direction)
        pen.line([tuple(start), tuple(end)], fill=fill, width=width)  # type: ignore[arg-type]
        step = end - start
        across = np.array([-step[1], step[0]])
        for side in (-1, 1):
            pen.line([tuple(end - 0.2 * step + side * 0.1 * across), tuple(end)], fill=fill, width=width)  # type: ignore[arg-type]


def _place(point: tuple[float, float], placement: Placement) -> tuple[float, float]:
    return (
        point[0] * placement.scale_x + placement.offset_x,
        point[1] * placement.scale_y + placement.offset_y,
    )


def _middle(line: LineShape, placement: Placement) -> tuple[int, int]:
    (x1, y1), (x2, y2) = _place(line.start, placement), _place(line.end, placement)
    return round((x1 + x2) / 2), round((y1 + y2) / 2)


def _top(zone: ZoneShape, placement: Placement) -> tuple[int, int]:
    if zone.circle is not None:
        x, y, radius = zone.circle
        top = x, y - radius
    else:
        top = min(zone.polygon, key=lambda point: (point[1], point[0]))
    x, y = _place(top, placement)
    return round(x), round(y)


def _stroke(size: tuple[int, int], draw: Callable[[ImageDraw.ImageDraw], None], label: tuple[int, int]) -> _Stroke:
    image = Image.new("L", size)
    draw(ImageDraw.Draw(image))
    mask = np.asarray(image) > 0
    height, width = mask.shape
    share = mask.reshape(height // 2, 2, width // 2, 2).mean((1, 3), dtype=np.float32)
    luma_rows, luma_columns = np.nonzero(mask)
    rows, columns = np.nonzero(share)
    return _Stroke((luma_rows, luma_columns), (rows, columns), share[rows, columns], label)


def _paint(canvas: Canvas, stroke: _Stroke, rgb: Rgb) -> None:
    luma, *chroma = to_sample(rgb, canvas.colour)
    canvas.y[stroke.luma] = luma
    for plane, sample in zip((canvas.cb, canvas.cr), chroma, strict=True):
        part = plane[stroke.chroma].astype(np.float32)
        plane[stroke.chroma] = np.rint(part + stroke.share * (sample - part))
