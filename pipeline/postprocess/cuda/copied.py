"""Families whose results are as large as what the model gives: the output crosses, and the reference does the rest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np

from pipeline.frames import Array, InputBatch, Predictions
from pipeline.postprocess.cuda.downloads import Bytes, Downloads, Pending
from pipeline.postprocess.named_outputs import frame_rows, require_name
from pipeline.stages import DeviceStream


class OneOutput(Protocol):
    """A postprocessor of the `cpu` engine that reads one output."""

    name: str

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`."""


class CopiedOutputPostprocessor:
    """The `cuda` twin of the families `pose` and `embedding`: the same results, as the same code makes them.

    MoveNet's six persons are 1,344 bytes a frame and its one person 204, an embedding of 1,024 numbers 4 KiB: what a
    kernel would leave to be copied is no less, and some arithmetic on so little takes the results thread microseconds a
    frame.

    Attributes:
        downloads: Counts the bytes that cross.
    """

    def __init__(self, reference: OneOutput, *, stream: DeviceStream) -> None:
        import cupy

        self._cupy = cupy
        self._reference = reference
        self._stream = stream
        self.downloads = Downloads(stream, 0)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Pending:
        """Enqueues the copy; see `pipeline.stages.Postprocessor`.

        Raises:
            ModelError: the output is missing or has too few rows. Any other misfit shows in `result()`.
        """
        name = self._reference.name
        require_name(name, outputs, "output")
        with self._stream.cupy:
            array = self._cupy.ascontiguousarray(frame_rows(name, outputs[name], len(batch.frames)))
            shape, dtype, size = array.shape, np.dtype(array.dtype), array.nbytes

            def unpack(data: Bytes) -> Predictions:
                # A copy: the slot's memory is used again, and what the reference makes may be a view of it.
                return self._reference({name: data[:size].copy().view(dtype).reshape(shape)}, batch)

            return self.downloads.start([(array.data.ptr, size)], unpack)
