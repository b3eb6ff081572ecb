"""Arrays that many sources and tracks share: a row for each, of which some are free."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
_LEAST_ROWS = 16


class Block:
    """Named arrays (rows,) or (rows, columns) that grow together; new rows and columns hold the array's fill value.

    Args:
        has_columns: Whether the arrays have two dimensions.
        fills: Name -> fill value; its type is the array's.
    """

    def __init__(self, *, has_columns: bool, **fills: np.generic) -> None:
        self._fills = fills
        self._has_columns = has_columns
        self.rows = 0
        self.columns = 0
        self._arrays = {name: np.zeros((0, 0) if has_columns else 0, fill.dtype) for name, fill in fills.items()}

    def __getitem__(self, name: str) -> Array:
        return self._arrays[name]

    def of(self, name: str, rows: Indices) -> Array:
        """What an array holds for these rows. (`take` is ten times as fast as indexing.)"""
        result: Array = self._arrays[name].take(rows, axis=0)
        return result

    def grow(self, rows: int, columns: int = 0) -> None:
        """Makes sure that there are so many rows and columns; rows at least double, so that growing is rare."""
        columns = max(columns, self.columns)
        rows = self.rows if rows <= self.rows else max(rows, 2 * self.rows, _LEAST_ROWS)
        if (rows, columns) == (self.rows, self.columns):
            return
        shape = (rows, columns) if self._has_columns else (rows,)
        for name, old in self._arrays.items():
            new = np.full(shape, self._fills[name])
            new[tuple(slice(length) for length in old.shape)] = old
            self._arrays[name] = new
        self.rows, self.columns = rows, columns

    def clear(self, rows: int | Indices) -> None:
        """Gives rows their fill values back."""
        for name, array in self._arrays.items():
            array[rows] = self._fills[name]


def where(mask: npt.NDArray[np.bool_]) -> tuple[Indices, Indices]:
    """(rows, columns) at which a mask is set; quick where it is nowhere."""
    places = np.flatnonzero(mask)
    return np.divmod(places, mask.shape[1]) if len(places) else (places, places)


def spread(counts: Indices) -> tuple[Indices, Indices]:
    """For owners that have so many items each: (owner of each item, number of the item with its owner)."""
    owners = np.repeat(np.arange(len(counts)), counts)
    before = np.cumsum(counts) - counts
    return owners, np.arange(len(owners)) - before.take(owners)
