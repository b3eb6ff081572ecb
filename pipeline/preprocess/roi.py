"""Regions of interest: from the configuration's rectangle or polygon to a part of one picture."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.sources import Roi
from pipeline.errors import SourceError, SourceErrorCode

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Region:
    """A part of a picture, in display pixels (not rounded).

    Attributes:
        x: Left edge.
        y: Top edge.
        width: Width, more than 0.
        height: Height, more than 0.
        polygon: Corners of the part of the rectangle that is shown; None: all of it.
    """

    x: float
    y: float
    width: float
    height: float
    polygon: tuple[Point, ...] | None = None


def region_of(roi: Roi | None, display_size: tuple[int, int], source_id: str) -> Region:
    """The region of a picture that reaches the model, clipped to the picture.

    Args:
        roi: The source's region of interest; None: the whole picture.
        display_size: (width, height) of the picture in display pixels.
        source_id: For the error.

    Raises:
        SourceError: nothing of the region lies in the picture.
    """
    width, height = display_size
    if roi is None:
        return Region(0.0, 0.0, float(width), float(height))
    if roi.rect is not None:
        left, top, right, bottom = roi.rect
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
    else:
        corners = list(roi.polygon or [])
    if roi.unit == "fraction":
        corners = [(x * width, y * height) for x, y in corners]
    corners = _clip(corners, float(width), float(height))
    xs, ys = [x for x, _ in corners] or [0.0], [y for _, y in corners] or [0.0]
    region = Region(
        min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys), None if roi.polygon is None else tuple(corners)
    )
    if region.width <= 0 or region.height <= 0:
        raise empty_region(display_size, source_id)
    return region


def empty_region(display_size: tuple[int, int], source_id: str) -> SourceError:
    """The error for a region of interest of which nothing is seen."""
    return SourceError(
        f"{source_id}: the region of interest holds no pixel of the picture, which is {display_size[0]}x{display_size[1]}",
        source_id=source_id,
        code=SourceErrorCode.UNSUPPORTED,
        remedy="change the source's roi; it is in display pixels unless it says unit: fraction",
    )


def inside(polygon: tuple[Point, ...], x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Which points of the grid `x` by `y` lie in the polygon, by the even-odd rule.

    Args:
        polygon: Corners.
        x: (W,) positions.
        y: (H,) positions.

    Returns:
        (H, W) bool.
    """
    odd = np.zeros((len(y), len(x)), np.bool_)
    for (x1, y1), (x2, y2) in zip(polygon, polygon[1:] + polygon[:1], strict=True):
        if y1 == y2:
            continue
        rows = np.flatnonzero((y1 <= y) != (y2 <= y))
        crossing = x1 + (y[rows] - y1) * (x2 - x1) / (y2 - y1)
        odd[rows] ^= x[None, :] < crossing[:, None]
    return odd


def _clip(corners: list[Point], width: float, height: float) -> list[Point]:
    """The polygon's part in 0..width x 0..height; Sutherland and Hodgman, "Reentrant polygon clipping", CACM 1974."""
    for axis, limit, keep_below in ((0, 0.0, False), (0, width, True), (1, 0.0, False), (1, height, True)):
        corners = _clip_at(corners, axis, limit, (lambda v, m: v <= m) if keep_below else (lambda v, m: v >= m))
    return corners


def _clip_at(corners: list[Point], axis: int, limit: float, keeps: Callable[[float, float], bool]) -> list[Point]:
    kept: list[Point] = []
    for before, corner in zip(corners[-1:] + corners[:-1], corners, strict=True):
        if keeps(before[axis], limit) != keeps(corner[axis], limit):
            part = (limit - before[axis]) / (corner[axis] - before[axis])
            other = before[1 - axis] + part * (corner[1 - axis] - before[1 - axis])
            kept.append((limit, other) if axis == 0 else (other, limit))
        if keeps(corner[axis], limit):
            kept.append(corner)
    return kept
