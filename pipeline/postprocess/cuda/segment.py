"""A class for every pixel, found on the device: a byte a pixel crosses, whatever the number of channels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pipeline.config.tasks import SegmentPost
from pipeline.frames import Array, InputBatch, Predictions
from pipeline.postprocess.activations import check_largest
from pipeline.postprocess.cuda.downloads import Bytes, Downloads, Pending
from pipeline.postprocess.cuda.heads import Part
from pipeline.postprocess.cuda.launches import Parameters
from pipeline.postprocess.cuda.layout import ACTIVATIONS, COLLECT_THREADS, MAPS, kernel
from pipeline.postprocess.cuda.tensors import Signature, contiguous, fill, shapes_of, signature_of
from pipeline.postprocess.named_outputs import require_name
from pipeline.postprocess.segment import SegmentPostprocessor
from pipeline.stages import DeviceStream, TensorInfo

_PIXELS_PER_THREAD = 4
_MOST_BLOCKS = 64


@dataclass(frozen=True, slots=True, eq=False)
class _Launch:
    """What batches of the same shape have in common.

    Attributes:
        parameters: (1,) `layout.MAPS`, complete apart from the addresses.
        blocks: Per frame.
        size: h, w of the class maps.
        frame_bytes: Of a frame's result: a number a block, a byte a pixel, rounded up to whole words.
    """

    parameters: Parameters
    blocks: int
    size: tuple[int, int]
    frame_bytes: int


class CudaSegmentPostprocessor:
    """The `cuda` twin of `pipeline.postprocess.segment.SegmentPostprocessor`: the same class maps.

    Attributes:
        downloads: Counts the bytes that cross.

    Raises:
        ModelError: the model's output does not fit.
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """

    def __init__(
        self,
        config: SegmentPost,
        outputs: Sequence[TensorInfo],
        *,
        model_size: tuple[int, int],
        stream: DeviceStream,
        max_frames: int,
    ) -> None:
        import cupy

        self._config = config
        self._reference = SegmentPostprocessor(config, outputs, model_size)
        self._cupy, self._stream, self._max_frames = cupy, stream, max_frames
        with stream.cupy:
            self._kernel = kernel(stream.ordinal, "segment")
            # Grows with the first batch: models may leave the size of their maps open. What is enqueued already keeps
            # what it writes to, as memory that is let go of is used again on the same stream only.
            self._results: Any = cupy.empty(0, "uint8")
        self.downloads = Downloads(stream, 0)
        self._launch = lru_cache(maxsize=256)(self._prepare)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Pending:
        """Enqueues the batch; see `pipeline.stages.Postprocessor`.

        Raises:
            ModelError: the shape or type is not what is needed. Scores that are no probabilities show in `result()`.
        """
        frames, name = len(batch.frames), self._reference.name
        if frames > self._max_frames:
            raise ValueError(f"{frames} frames; there is room for {self._max_frames}")
        launch = self._launch(signature_of(outputs), frames)
        with self._stream.cupy:
            if self._results.size < self._max_frames * launch.frame_bytes:
                self._results = self._cupy.empty(self._max_frames * launch.frame_bytes, "uint8")
            parameters = launch.parameters.copy()
            parameters["scores"]["data"] = contiguous(self._cupy, outputs, [name])[name].data.ptr
            parameters["results"] = self._results.data.ptr
            if frames:
                self._kernel((launch.blocks, frames), (COLLECT_THREADS,), (parameters,))
            part = (self._results.data.ptr, frames * launch.frame_bytes)
            return self.downloads.start([part], partial(self._unpack, launch, batch))

    def _unpack(self, launch: _Launch, batch: InputBatch, data: Bytes) -> Predictions:
        frames, (rows, columns) = len(batch.frames), launch.size
        found = data[: frames * launch.frame_bytes].reshape(frames, launch.frame_bytes)
        largest = np.ascontiguousarray(found[:, : 4 * launch.blocks]).view(np.float32)
        check_largest(float(largest.max(initial=0)))
        classes = found[:, 4 * launch.blocks :][:, : rows * columns].reshape(frames, rows, columns)
        return self._reference.predictions(classes.copy(), batch)

    def _prepare(self, signature: Signature, frames: int) -> _Launch:
        """The parameters apart from the addresses; raises `ModelError` if the output does not fit."""
        name, shapes = self._reference.name, shapes_of(signature)
        require_name(name, shapes, "output")
        dtype = next(np.dtype(code).name for known, _, code in signature if known == name)
        maps = self._reference.maps(shapes[name], dtype, frames)
        pixels = maps.rows * maps.columns
        blocks = min(max(-(-pixels // (COLLECT_THREADS * _PIXELS_PER_THREAD)), 1), _MOST_BLOCKS)
        by_channel = self._config.layout == "nchw" and maps.channels > 1
        parameters = np.zeros(1, MAPS)
        record = parameters[0]
        fill(record["scores"], Part(name, *((1, pixels) if by_channel else (maps.channels, 1))), signature)
        record["pixels"], record["channels"], record["whole"] = pixels, maps.channels, maps.whole
        record["activation"] = ACTIVATIONS.index(self._config.activation)
        record["least"] = -1 if maps.least is None else maps.least
        record["numbers"] = self._reference.numbers
        record["result_bytes"] = frame_bytes = 4 * blocks + -(-pixels // 4) * 4
        return _Launch(parameters, blocks, (maps.rows, maps.columns), frame_bytes)
