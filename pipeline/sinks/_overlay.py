"""Class maps and skeletons on the annotated video."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from pipeline.masks import NO_CLASS, Segmentation
from pipeline.poses import PERSON, Poses
from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import Rgb, class_rgb
from pipeline.sinks._upright import Placement

# By the side of the body, as keypoints are named; and of what is in the middle.
_LEFT_RGB: Rgb = (1.0, 0.6, 0.1)
_RIGHT_RGB: Rgb = (0.2, 0.65, 1.0)
_MIDDLE_RGB: Rgb = (0.35, 0.9, 0.4)
_MOST_IN_LEGEND = 12


def draw_classes(canvas: Canvas, placement: Placement, segmentation: Segmentation, opacity: float) -> None:
    """Lays each class's colour over its pixels; others do not change."""
    x = (np.arange(canvas.width, dtype=np.float64) + 0.5 - placement.offset_x) / placement.scale_x
    y = (np.arange(canvas.height, dtype=np.float64) + 0.5 - placement.offset_y) / placement.scale_y
    shown = segmentation.at(x, y)
    for number in np.flatnonzero(segmentation.shares[:NO_CLASS]).tolist():
        canvas.paint(shown == number, 0, 0, class_rgb(number + segmentation.class_offset), opacity)


def draw_legend(canvas: Canvas, segmentation: Segmentation, y: int) -> int:
    """Lists the classes that are there, with their share of the picture, in the corner from line `y` down; the line behind."""
    for label, class_id, share in segmentation.found()[:_MOST_IN_LEGEND]:
        y += canvas.text(f"{label} {100 * share:.1f} %", 0, y, class_rgb(class_id))
    return y


def draw_skeletons(canvas: Canvas, placement: Placement, poses: Poses, *, labels: bool) -> None:
    """Joins the visible keypoints, marks them, and, with `labels`, writes each person's score above."""
    sides = [_side(name) for name in poses.names]
    points = poses.points * (placement.scale_x, placement.scale_y) + (placement.offset_x, placement.offset_y)
    # A point far outside would take Pillow long to get to.
    size = np.array([canvas.width, canvas.height])
    clipped = np.clip(points, -size, 2 * size).astype(np.float64)
    clipped[~poses.visible] = np.nan
    for side, rgb in ((0, _MIDDLE_RGB), (-1, _LEFT_RGB), (1, _RIGHT_RGB)):
        edges = [edge for edge in poses.edges if _common(sides[edge[0]], sides[edge[1]]) == side]
        dots = [i for i, own in enumerate(sides) if own == side]
        _draw(canvas, clipped, edges, dots, rgb)
    if labels:
        for box, score in reversed(list(zip(poses.boxes.tolist(), poses.scores.tolist(), strict=True))):
            left, top, _, _ = placement.box(*box)
            canvas.text(f"{PERSON} {score:.2f}", left, top, _MIDDLE_RGB, above=True)


def _draw(
    canvas: Canvas, points: npt.NDArray[np.float64], edges: list[tuple[int, int]], dots: list[int], rgb: Rgb
) -> None:
    """Lines and dots of one colour, of all persons; `points` is (P, K, 2) in the canvas's pixels, NaN: not visible."""
    width = canvas.line_width + 1
    lines = points[:, np.array(edges, np.intp).reshape(-1, 2)].reshape(-1, 4)
    lines = lines[np.isfinite(lines).all(axis=1)]
    marks = points[:, dots].reshape(-1, 2)
    marks = marks[np.isfinite(marks).all(axis=1)]
    ends = np.concatenate([lines.reshape(-1, 2), marks])
    if not len(ends):
        return
    # Only the part of the canvas that holds something.
    limits = [canvas.width, canvas.height]
    left, top = (int(v) for v in np.clip(np.floor(ends.min(axis=0)) - 2 * width, 0, limits))
    right, bottom = (int(v) for v in np.clip(np.ceil(ends.max(axis=0)) + 2 * width, 0, limits))
    if right <= left or bottom <= top:
        return
    image = Image.new("1", (right - left, bottom - top))
    draw = ImageDraw.Draw(image)
    for x1, y1, x2, y2 in lines.tolist():
        draw.line((x1 - left, y1 - top, x2 - left, y2 - top), fill=1, width=width)
    for x, y in marks.tolist():
        draw.ellipse((x - left - width, y - top - width, x - left + width, y - top + width), fill=1)
    canvas.paint(np.asarray(image), left, top, rgb, 1.0)


def _side(name: str) -> int:
    return -1 if name.startswith("left_") else 1 if name.startswith("right_") else 0


def _common(a: int, b: int) -> int:
    """The side that two keypoints share; an edge between a side and the middle belongs to the side."""
    return a if b == 0 else b if a in (0, b) else 0
