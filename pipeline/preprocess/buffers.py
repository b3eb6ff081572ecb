"""Tensors that are used again once nobody has them any more.

Fresh memory costs the kernel's zeroing and page faults: measured 0.4 to 1.1 ms for a float32 input of 640x640, where all
other work on such a frame takes some 3 ms.
"""

from __future__ import annotations

import sys
import threading

import numpy as np
import numpy.typing as npt

from pipeline.stages import empty_tensor

# References to a tensor's memory while nobody has it: the kept tensor's, and the argument of getrefcount.
_IDLE = 2


class TensorPool:
    """Hands out aligned tensors (see `pipeline.stages.empty_tensor`), the contents of which are whatever was there.

    A tensor is free again when it, every view of it and everything else that refers to its memory is gone; so a caller
    may keep it for as long as it likes. At most `kept` tensors are remembered; more are made where more are in use.
    """

    def __init__(self, kept: int = 8) -> None:
        self._tensors: list[npt.NDArray[np.generic]] = []
        self._kept = kept
        self._lock = threading.Lock()

    def take(self, shape: tuple[int, ...], dtype: str) -> npt.NDArray[np.generic]:
        """A C-order tensor of this shape that nobody else has."""
        with self._lock:
            for tensor in self._tensors:
                # A view's base is the array that owns the memory, however many views lie between.
                if tensor.shape == shape and tensor.dtype == dtype and sys.getrefcount(tensor.base) == _IDLE:
                    return tensor[:]
            tensor = empty_tensor(shape, dtype)
            self._tensors = [*self._tensors[1 - self._kept :], tensor]
            return tensor[:]
