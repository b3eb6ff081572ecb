"""The input tensors that preprocessing on a device writes to."""

from __future__ import annotations

from typing import Any

from pipeline.preprocess.planner import Planner
from pipeline.stages import DeviceStream


class DeviceInputs:
    """Tensors that take turns: each is written to again so many batches later as there are tensors.

    All that reads one must have been enqueued on the same stream by then: reading it before is safe by order, and whoever
    wants to keep one copies it on the stream.

    Attributes:
        tensors: All of them, CuPy arrays in C order; the last one is the newest.
    """

    def __init__(self, stream: DeviceStream, planner: Planner, *, max_rows: int, number: int) -> None:
        """Args:
        stream: Where all work is put.
        planner: Knows shape and type.
        max_rows: Most rows of a batch.
        number: How many take turns, at least 1.
        """
        import cupy

        self._max_rows = max_rows
        with stream.cupy:
            self.tensors: list[Any] = [
                cupy.empty(planner.shape(max_rows), planner.dtype) for _ in range(max(number, 1))
            ]

    def check(self, pictures: int, rows: int) -> None:
        """Raises `ValueError` unless so many pictures fit into the rows, and the rows into a tensor."""
        if not pictures <= rows <= self._max_rows:
            raise ValueError(f"{pictures} pictures in {rows} rows; there is room for {self._max_rows}")

    def next(self, rows: int) -> Any:
        """The first rows of the tensor whose turn it is."""
        self.tensors.append(self.tensors.pop(0))
        return self.tensors[-1][:rows]
