"""Where a picture comes to lie in the model's input, and how coordinates travel between the two.

All maps are per axis, model = display * scale + offset, with pixel k covering k..k + 1. The functions that map
coordinates use operators only, so that they take NumPy's and CuPy's arrays alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, FloatArray
from pipeline.preprocess.resample import Axis, resample, taps
from pipeline.preprocess.roi import Region

Fit = Literal["letterbox", "stretch", "crop"]


@dataclass(frozen=True, slots=True)
class Placement:
    """How display pixels and the model's pixels relate, and which of the latter hold picture.

    Attributes:
        scale_x: Model pixels per display pixel.
        scale_y: The same downwards.
        offset_x: Model x of display x = 0.
        offset_y: The same downwards.
        left: First column of the model's input that holds picture.
        top: First row that does.
        width: How many columns do; the others are padding.
        height: How many rows do.
    """

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float
    left: int
    top: int
    width: int
    height: int

    @property
    def transform(self) -> tuple[float, float, float, float]:
        """A row of `InputBatch.transforms`."""
        return self.scale_x, self.scale_y, self.offset_x, self.offset_y

    @property
    def columns(self) -> Axis:
        """Display x of the k-th column that holds picture."""
        return Axis(1 / self.scale_x, (self.left - self.offset_x) / self.scale_x)

    @property
    def rows(self) -> Axis:
        """Display y of the k-th row that holds picture."""
        return Axis(1 / self.scale_y, (self.top - self.offset_y) / self.scale_y)


def place(region: Region, model_size: tuple[int, int], fit: Fit) -> Placement:
    """Fits a region of the picture into the model's input.

    Args:
        region: What is to be seen, in display pixels.
        model_size: (width, height) of the model's input.
        fit: `letterbox` keeps the aspect ratio up to rounding the picture to whole pixels, and centres it (an odd pixel of
            padding goes to the right or bottom); the scales are those of the rounded size, so that the transform says exactly
            what is sampled. `stretch` fills the input. `crop` fills it with the aspect ratio kept and cuts both sides alike.
    """
    model_width, model_height = model_size
    ratio_x, ratio_y = model_width / region.width, model_height / region.height
    if fit == "crop":
        ratio = max(ratio_x, ratio_y)
        offset_x = model_width / 2 - (region.x + region.width / 2) * ratio
        offset_y = model_height / 2 - (region.y + region.height / 2) * ratio
        return Placement(ratio, ratio, offset_x, offset_y, 0, 0, model_width, model_height)
    width, height = model_width, model_height
    if fit == "letterbox":
        ratio = min(ratio_x, ratio_y)
        width = min(width, max(1, round(region.width * ratio)))
        height = min(height, max(1, round(region.height * ratio)))
    left, top = (model_width - width) // 2, (model_height - height) // 2
    scale_x, scale_y = width / region.width, height / region.height
    return Placement(scale_x, scale_y, left - region.x * scale_x, top - region.y * scale_y, left, top, width, height)


def rows_of(offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Offsets as in `Detections.offsets`, (N + 1,) -> the frame of each of the D items, (D,)."""
    return np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))


def to_display(coordinates: Array, transforms: Array, rows: Array) -> Array:
    """Model pixels -> display pixels.

    Args:
        coordinates: (D, ..., 2) points x, y or (D, ..., 4) boxes x1, y1, x2, y2; any float dtype.
        transforms: (N, 4) as `InputBatch.transforms`.
        rows: (D,) integers: which of the N frames each item belongs to (see `rows_of`).

    Returns:
        An array like `coordinates`, not clipped to the picture.
    """
    scale, offset = _per_item(coordinates, transforms, rows)
    return ((coordinates - offset) / scale).astype(coordinates.dtype)


def to_model(coordinates: Array, transforms: Array, rows: Array) -> Array:
    """Display pixels -> model pixels; arguments as in `to_display`."""
    scale, offset = _per_item(coordinates, transforms, rows)
    return (coordinates * scale + offset).astype(coordinates.dtype)


def mask_to_display(
    mask: npt.NDArray[np.floating],
    transform: npt.NDArray[np.float64] | tuple[float, float, float, float],
    display_size: tuple[int, int],
    model_size: tuple[int, int] | None = None,
) -> FloatArray:
    """A mask over the model's input -> the mask over the picture, bilinear.

    Args:
        mask: (h, w) values such as probabilities.
        transform: One row of `InputBatch.transforms`.
        display_size: (width, height) of the picture.
        model_size: (width, height) of the model's input where the mask is coarser or finer than that; default: the mask's.

    Returns:
        (height, width) float32; 0 where the model saw nothing of the picture.
    """
    height, width = mask.shape
    model_width, model_height = model_size or (width, height)
    scale_x, scale_y, offset_x, offset_y = (float(v) for v in transform)
    columns = Axis(scale_x, offset_x).times(width / model_width)
    rows = Axis(scale_y, offset_y).times(height / model_height)
    display_width, display_height = display_size
    shown = resample(
        mask, taps(rows, display_height, height, "bilinear"), taps(columns, display_width, width, "bilinear")
    )
    shown[:, _unseen(columns, display_width, width)] = 0
    shown[_unseen(rows, display_height, height)] = 0
    return shown


def _unseen(axis: Axis, count: int, size: int) -> npt.NDArray[np.bool_]:
    position = axis.positions(count)
    unseen: npt.NDArray[np.bool_] = (position < 0) | (position > size)
    return unseen


def _per_item(coordinates: Array, transforms: Array, rows: Array) -> tuple[Array, Array]:
    """Scale and offset of every coordinate, shaped to broadcast against `coordinates`."""
    ndim, pairs = coordinates.ndim, coordinates.shape[-1] // 2
    per_item = transforms[rows].reshape((len(rows),) + (1,) * (ndim - 2) + (4,))
    order = [0, 1] * pairs
    return per_item[..., order], per_item[..., [i + 2 for i in order]]
