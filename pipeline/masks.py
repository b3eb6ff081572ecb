"""A class for every pixel: what the `segment` family finds, and how it comes to lie on the picture.

A model's class map stays as it is, a byte a cell, and its transform with it: cell (row, column) of a map covers a
rectangle of the picture. So nothing is lost or invented until somebody asks for a mask of a size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

ByteArray = npt.NDArray[np.uint8]
DoubleArray = npt.NDArray[np.float64]

NO_CLASS = 255
"""In a class map: a cell without a class, or of which the model saw nothing."""

# Positions are rounded to this part of a cell, so that what is a border on paper is one here too.
_GRID = 2.0**20


@dataclass(frozen=True, slots=True, eq=False)
class Segmentation:
    """The class map of one picture.

    Attributes:
        classes: (h, w) uint8: class id - `class_offset` of each cell, or `NO_CLASS`.
        transform: scale_x, scale_y, offset_x, offset_y with cell = display * scale + offset.
        size: Display width and height of the picture.
        shares: (256,) float64: share of the picture that each number in `classes` covers; what no cell covers is in none.
        names: class id -> label.
        class_offset: What is added to a number in `classes` to give the class id.
    """

    classes: ByteArray
    transform: tuple[float, float, float, float]
    size: tuple[int, int]
    shares: DoubleArray
    names: Mapping[int, str] = field(default_factory=dict)
    class_offset: int = 0

    def found(self) -> list[tuple[str, int, float]]:
        """(label, class id, share of the picture) of the classes that are there, the largest first."""
        numbers = np.flatnonzero(self.shares[:NO_CLASS])
        order = numbers[np.argsort(-self.shares[numbers], kind="stable")].tolist()
        ids = [number + self.class_offset for number in order]
        return [(self.names.get(i, str(i)), i, float(self.shares[n])) for n, i in zip(order, ids, strict=True)]

    def at(self, x: DoubleArray, y: DoubleArray) -> ByteArray:
        """The class map at a grid of points.

        Args:
            x: (W,) display x.
            y: (H,) display y.

        Returns:
            (H, W) uint8 as `classes`; `NO_CLASS` outside the picture and where the model saw nothing of it.
        """
        scale_x, scale_y, offset_x, offset_y = self.transform
        rows, columns = self.classes.shape
        column, unseen_x = _cells(x, scale_x, offset_x, columns, self.size[0])
        row, unseen_y = _cells(y, scale_y, offset_y, rows, self.size[1])
        found: ByteArray = self.classes[row[:, None], column]
        found[:, unseen_x] = NO_CLASS
        found[unseen_y] = NO_CLASS
        return found

    def upright(self, size: tuple[int, int] | None = None) -> ByteArray:
        """The class map over the picture as a person sees it; each pixel takes the cell that its centre lies in.

        Args:
            size: (width, height) that the picture is scaled to; default: its own.

        Returns:
            (height, width) uint8 as `classes`.
        """
        width, height = size or self.size
        return self.at(_middles(width, self.size[0]), _middles(height, self.size[1]))

    def mask(self, class_id: int, size: tuple[int, int] | None = None) -> npt.NDArray[np.bool_]:
        """(height, width) bool: which pixels of the picture, scaled to `size`, are of a class."""
        number = class_id - self.class_offset
        shape = (size or self.size)[::-1]
        return self.upright(size) == number if 0 <= number < NO_CLASS else np.zeros(shape, np.bool_)


@dataclass(frozen=True, eq=False)
class Segmentations:
    """Class maps of N frames.

    Attributes:
        classes: (N, h, w) uint8: class id - `class_offset` of each cell, or `NO_CLASS`.
        transforms: (N, 4) float64: scale_x, scale_y, offset_x, offset_y with cell = display * scale + offset.
        sizes: (N, 2) float64: display width and height of the pictures.
        names: class id -> label.
        class_offset: What is added to a number in `classes` to give the class id.
    """

    classes: ByteArray
    transforms: DoubleArray
    sizes: DoubleArray
    names: Mapping[int, str] = field(default_factory=dict)
    class_offset: int = 0

    def __post_init__(self) -> None:
        frames = len(self.classes)
        if self.transforms.shape != (frames, 4) or self.sizes.shape != (frames, 2):
            raise ValueError(f"{frames} maps, transforms {self.transforms.shape} and sizes {self.sizes.shape}")

    def __len__(self) -> int:
        return len(self.classes)

    def __repr__(self) -> str:
        frames, rows, columns = self.classes.shape
        return f"Segmentations({frames} class maps of {columns}x{rows})"

    @cached_property
    def shares(self) -> DoubleArray:
        """(N, 256) float64: share of each picture that each number in `classes` covers.

        By area: a cell counts with the part of it that lies in the picture. Worked out when it is first asked for.
        """
        frames, rows, columns = self.classes.shape
        widths = _covered(self.transforms[:, 0], self.transforms[:, 2], columns, self.sizes[:, 0])
        heights = _covered(self.transforms[:, 1], self.transforms[:, 3], rows, self.sizes[:, 1])
        shares = np.empty((frames, 256))
        for own, classes, width, height in zip(shares, self.classes, widths, heights, strict=True):
            area = (height[:, None] * width).ravel()
            own[:] = np.bincount(classes.ravel(), weights=area, minlength=256)
        return shares

    def frame(self, index: int) -> Segmentation:
        """The class map of one frame of the batch, as a view."""
        scale_x, scale_y, offset_x, offset_y = self.transforms[index].tolist()
        width, height = (int(side) for side in self.sizes[index])
        return Segmentation(
            self.classes[index],
            (scale_x, scale_y, offset_x, offset_y),
            (width, height),
            self.shares[index],
            self.names,
            self.class_offset,
        )

    def label(self, number: int) -> str:
        """The label of a number in `classes`; the class id where it has none."""
        class_id = number + self.class_offset
        return self.names.get(class_id, str(class_id))


def _middles(count: int, size: int) -> DoubleArray:
    """(count,): where the middles of this many pixels lie that share a side of the picture."""
    return (np.arange(count, dtype=np.float64) + 0.5) * (size / count)


def _cells(
    display: DoubleArray, scale: float, offset: float, count: int, size: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """The cell of an axis that each position lies in, and which positions lie outside the cells or the picture."""
    cell = np.floor(np.round((display * scale + offset) * _GRID) / _GRID)
    outside = (cell < 0) | (cell >= count) | (display < 0) | (display >= size)
    return np.clip(cell, 0, count - 1).astype(np.intp), outside


def _covered(scale: DoubleArray, offset: DoubleArray, count: int, size: DoubleArray) -> DoubleArray:
    """(N, count): the share of each of N pictures' widths (or heights) that each cell of the axis covers."""
    edges = (np.arange(count + 1) - offset[:, None]) / scale[:, None]
    covered: DoubleArray = np.diff(np.clip(edges, 0, size[:, None]), axis=1) / size[:, None]
    return covered
