"""What a model says of its input's padding is said of nothing in the picture."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.frames import InputBatch, Window
from pipeline.masks import NO_CLASS, ByteArray


def hide_unseen(classes: ByteArray, batch: InputBatch) -> None:
    """Takes the class from cells whose middle lies in the padding of the model's input.

    Padding beyond the picture's edges does not lie on the picture anyway, but around a region of interest it does.

    Args:
        classes: (N, h, w) class maps; written to.
        batch: Where the frames' pictures lie in the model's input.
    """
    width, height = batch.model_size
    rows, columns = classes.shape[1:]
    x = _middles(columns, width)
    y = _middles(rows, height)
    for own, window in zip(classes, batch.windows or (), strict=False):
        if window.hidden is None and (window.width, window.height) == batch.model_size:
            continue
        seen_x = (window.left <= x) & (x < window.left + window.width)
        seen_y = (window.top <= y) & (y < window.top + window.height)
        own[:, ~seen_x] = NO_CLASS
        own[~seen_y] = NO_CLASS
        if window.hidden is not None:
            _hide_outside_polygon(own, window, window.hidden, x, y)


def _hide_outside_polygon(
    classes: ByteArray, window: Window, hidden: npt.NDArray[np.bool_], x: npt.NDArray[np.intp], y: npt.NDArray[np.intp]
) -> None:
    column = np.clip(x - window.left, 0, window.width - 1)
    row = np.clip(y - window.top, 0, window.height - 1)
    classes[hidden[row[:, None], column]] = NO_CLASS


def _middles(cells: int, pixels: int) -> npt.NDArray[np.intp]:
    """(cells,): the pixel of the model's input that the middle of each cell of an axis lies in."""
    return ((np.arange(cells) + 0.5) * pixels / cells).astype(np.intp)
