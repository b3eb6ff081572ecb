"""The model's outputs as they are, copied to the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.postprocess import RawPost
from pipeline.frames import Array, InputBatch, Predictions
from pipeline.postprocess.cuda.downloads import Bytes, Downloads, Pending
from pipeline.postprocess.named_outputs import frame_rows
from pipeline.postprocess.raw import RawPostprocessor
from pipeline.stages import DeviceStream, TensorInfo


class CudaRawPostprocessor:
    """Outputs by name, without padding rows, as NumPy arrays.

    Attributes:
        downloads: Counts the bytes that cross: all of them, every time.

    Raises:
        ModelError: an output that is named does not exist.
    """

    def __init__(self, config: RawPost, outputs: Sequence[TensorInfo], *, stream: DeviceStream) -> None:
        import cupy

        self._cupy = cupy
        self._names = RawPostprocessor(config, outputs).names
        self._stream = stream
        self.downloads = Downloads(stream, 0, slots=0)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Pending:
        """Enqueues the copies; see `pipeline.stages.Postprocessor`."""
        frames = len(batch.frames)
        with self._stream.cupy:
            arrays = [self._cupy.ascontiguousarray(frame_rows(name, outputs[name], frames)) for name in self._names]
            layout = [(name, a.shape, np.dtype(a.dtype), a.nbytes) for name, a in zip(self._names, arrays, strict=True)]

            def unpack(data: Bytes) -> Predictions:
                tensors, start = {}, 0
                for name, shape, dtype, size in layout:
                    tensors[name] = data[start : start + size].copy().view(dtype).reshape(shape)
                    start += size
                return Predictions(tensors=tensors)

            return self.downloads.start([(a.data.ptr, a.nbytes) for a in arrays], unpack)
