"""Sampling a plane at evenly spaced positions, one axis after the other.

Along each axis every output pixel is a weighted sum of a few samples, its taps. They are worked out once in double
precision and then used for many frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.frames import FloatArray

Interpolation = Literal["nearest", "bilinear", "area"]
IndexArray = npt.NDArray[np.intp]

# Positions are rounded to this part of a sample, so that what is a whole number or a tie on paper is one here too.
GRID = 2.0**20


@dataclass(frozen=True, slots=True)
class Axis:
    """Positions along an axis: pixel k's centre maps to (k + 0.5) * scale + offset; sample j covers j..j + 1."""

    scale: float
    offset: float

    def times(self, factor: float) -> Axis:
        """In other units."""
        return Axis(self.scale * factor, self.offset * factor)

    def flipped(self, size: float) -> Axis:
        """Counted from the other end of an axis of this length."""
        return Axis(-self.scale, size - self.offset)

    def subsampled(self, shift: int, first: float) -> Axis:
        """In samples of a plane subsampled by 2**shift, whose first sample lies `first` full samples off the full plane's first."""
        return Axis(self.scale / 2**shift, (self.offset - 0.5 - first) / 2**shift + 0.5)

    def positions(self, count: int) -> npt.NDArray[np.float64]:
        """Of the first `count` pixels."""
        exact = (np.arange(count) + 0.5) * self.scale + self.offset
        rounded: npt.NDArray[np.float64] = np.round(exact * GRID) / GRID
        return rounded


@dataclass(frozen=True, slots=True, eq=False)
class Taps:
    """What each of K output pixels of an axis is made of: its n samples' indices and weights.

    Attributes:
        indices: (n, K) sample numbers, C order; tap by tap, since that is how they are used.
        weights: (n, K) float32; they add up to 1 for each pixel.
        span: From the first to the last sample that is used.
        run: The samples as a slice where each pixel is one sample and they are evenly spaced; else None.
    """

    indices: IndexArray
    weights: FloatArray
    span: slice
    run: slice | None

    def __len__(self) -> int:
        return int(self.indices.shape[1])

    def part(self, start: int, stop: int) -> Taps:
        """The taps of pixels start..stop - 1, as views."""
        indices, weights = self.indices[:, start:stop], self.weights[:, start:stop]
        return Taps(indices, weights, self.span, None if self.run is None else _as_slice(indices[0]))


def taps(axis: Axis, count: int, size: int, kind: Interpolation) -> Taps:
    """The taps of `count` pixels on an axis of `size` samples. Taps beyond an edge take the edge's sample.

    Args:
        axis: Where the pixels' centres lie, in samples.
        count: How many pixels.
        size: How many samples.
        kind: `nearest`: the sample that the position falls in; on the border of two, the one that comes later in the
            direction in which the pixels run. `bilinear`: the two samples around it. `area`: all samples that the pixel
            covers, weighted by how much it covers of them, when it covers more than one; else as `bilinear`.
    """
    position = axis.positions(count)
    span = abs(axis.scale)
    if kind == "nearest":
        index = np.floor(position) if axis.scale > 0 else np.ceil(position) - 1
        indices, weights = index[None], np.ones((1, count))
    elif kind == "bilinear" or span <= 1:
        before = np.floor(position - 0.5)
        late = position - 0.5 - before
        indices, weights = np.stack([before, before + 1]), np.stack([1 - late, late])
    else:
        start, stop = position - span / 2, position + span / 2
        indices = np.floor(start) + np.arange(int(np.ceil(span)) + 1)[:, None]
        covered = np.minimum(stop, indices + 1) - np.maximum(start, indices)
        weights = np.where(covered > 1 / GRID, covered, 0)
        weights /= weights.sum(axis=0)
    return _compact(np.clip(indices, 0, size - 1).astype(np.intp), weights.astype(np.float32))


def resample(plane: npt.NDArray[np.generic], y: Taps, x: Taps) -> FloatArray:
    """Samples a plane.

    Args:
        plane: (h, w) of any real dtype and strides.
        y: Taps of the rows.
        x: Taps of the columns.

    Returns:
        (len(y), len(x)) float32.
    """
    if x.run is not None:
        return _weigh_rows(plane[:, x.run], y, None)
    count, indices = len(x), x.indices - x.span.start
    # Where few of the columns are used it is quicker to pick them first; tap by tap, side by side.
    picked = len(indices) == 1 or 2 * indices.size <= x.span.stop - x.span.start
    rows = _weigh_rows(plane[:, x.span], y, indices.ravel() if picked else None)
    if len(indices) == 1:
        return rows
    total, one = np.empty((2, len(y), count), np.float32)
    for tap, (index, weight) in enumerate(zip(indices, x.weights, strict=True)):
        if picked:
            samples = rows[:, tap * count : (tap + 1) * count]
        else:
            # mode="clip" writes straight into `out`; the indices are in range anyway.
            samples = rows.take(index, axis=1, out=one, mode="clip")
        np.multiply(samples, weight, out=one if tap else total)
        if tap:
            total += one
    return total


def _weigh_rows(plane: npt.NDArray[np.generic], y: Taps, columns: IndexArray | None) -> FloatArray:
    """The vertical pass, over all columns or the given ones: (len(y), columns) float32."""

    def rows(tap: int) -> npt.NDArray[np.generic]:
        found = plane[y.indices[tap]] if y.run is None else plane[y.run]
        return found if columns is None else found.take(columns, axis=1, mode="clip")

    total = rows(0).astype(np.float32)
    if len(y.indices) == 1:
        return total
    total *= y.weights[0][:, None]
    one = np.empty_like(total)
    for tap in range(1, len(y.indices)):
        np.multiply(rows(tap), y.weights[tap][:, None], out=one)
        total += one
    return total


def _compact(indices: IndexArray, weights: FloatArray) -> Taps:
    """Leaves out taps that weigh nothing, and weighing where one sample is all of each pixel."""
    single = bool((weights.max(axis=0) == 1).all())
    if single:
        indices = np.take_along_axis(indices, weights.argmax(axis=0)[None], axis=0)
        weights = np.ones(indices.shape, np.float32)
    else:
        used = weights.any(axis=1)
        indices, weights = np.ascontiguousarray(indices[used]), np.ascontiguousarray(weights[used])
    span = slice(int(indices.min()), int(indices.max()) + 1)
    return Taps(indices, weights, span, _as_slice(indices[0]) if single else None)


def _as_slice(index: IndexArray) -> slice | None:
    first, last = int(index[0]), int(index[-1])
    step = int(index[1]) - first if len(index) > 1 else 1
    if step == 0 or (np.diff(index) != step).any():
        return None
    stop = last + (1 if step > 0 else -1)
    return slice(first, None if stop < 0 else stop, step)
