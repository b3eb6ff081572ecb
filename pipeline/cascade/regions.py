"""From boxes to what is cut out of the picture around them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]


def crop_regions(boxes: Floats, sizes: Floats, margin: float = 0.0, aspect: float | None = None) -> Floats:
    """What is cut for each box.

    Args:
        boxes: (C, 4) x1, y1, x2, y2 in display pixels, with an area inside the picture.
        sizes: (C, 2) width and height of the pictures.
        margin: What is added on each side, as a part of the box's width and height.
        aspect: Width : height that the result is widened to, never narrowed. At the border it moves inwards to keep it; only where
            the picture itself is too small it is cut off.

    Returns:
        (C, 4) x1, y1, x2, y2 inside the picture.
    """
    low, high = boxes[:, :2], boxes[:, 2:]
    around = margin * (high - low)
    low, high = low - around, high + around
    if aspect is not None:
        width, height = (high - low).T
        wanted = np.stack([np.maximum(width, height * aspect), np.maximum(height, width / aspect)], axis=1)
        low = (low + high - wanted) / 2
        low = np.maximum(np.minimum(low, sizes - wanted), 0.0)
        high = low + wanted
    return np.concatenate([np.maximum(low, 0.0), np.minimum(high, sizes)], axis=1)


def is_usable(boxes: Floats, sizes: Floats) -> npt.NDArray[np.bool_]:
    """(C,) whether a box is finite and has an area inside its picture."""
    with np.errstate(invalid="ignore"):
        low, high = np.maximum(boxes[:, :2], 0.0), np.minimum(boxes[:, 2:], sizes)
        has_sides = np.isfinite(boxes) & np.tile(high > low, 2)
    usable: npt.NDArray[np.bool_] = np.logical_and.reduce(has_sides, axis=1)
    return usable
