"""Boxes: the orders in which models give four numbers, and the way back to the picture that a person sees."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.config.postprocess import BoxFormat
from pipeline.frames import Array, FloatArray


def to_xyxy(boxes: Array, box_format: BoxFormat) -> FloatArray:
    """(M, 4) boxes of any format -> (M, 4) float32 x1, y1, x2, y2."""
    floats: FloatArray = np.asarray(boxes, np.float32)
    if box_format == "xyxy":
        return floats
    if box_format == "yxyx":
        swapped: FloatArray = floats[:, [1, 0, 3, 2]]
        return swapped
    position, size = floats[:, :2], floats[:, 2:]
    before, behind = (0, 1) if box_format == "xywh" else (0.5, 0.5)
    return np.concatenate([position - before * size, position + behind * size], axis=1)


def to_model_pixels(boxes: FloatArray, normalized: bool, model_size: tuple[int, int]) -> FloatArray:
    """(M, 4) x1, y1, x2, y2 in 0..1 of the model's input, if `normalized`, -> in its pixels."""
    return boxes * np.array(model_size * 2, np.float32) if normalized else boxes


def to_display(boxes: FloatArray, transforms: npt.NDArray[np.float64], sizes: npt.NDArray[np.float64]) -> FloatArray:
    """Model pixels -> display pixels, clipped to the picture.

    Args:
        boxes: (M, 4) x1, y1, x2, y2 in model pixels.
        transforms: (M, 4) scale_x, scale_y, offset_x, offset_y with model = display * scale + offset.
        sizes: (M, 2) width and height of the picture.

    Returns:
        (M, 4) float32; a box that lies outside the picture has no area.
    """
    corners = (boxes.reshape(-1, 2, 2) - transforms[:, None, 2:]) / transforms[:, None, :2]
    return np.clip(corners, 0, sizes[:, None, :]).astype(np.float32).reshape(-1, 4)


def has_area(boxes: FloatArray) -> npt.NDArray[np.bool_]:
    """(M,) whether x2 > x1 and y2 > y1, and all four are finite."""
    ordered = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return np.isfinite(boxes).all(axis=1) & ordered
