"""The best classes of the whole picture, found on the device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import numpy as np

from pipeline.config.postprocess import ClassifyPost
from pipeline.frames import Array, Classifications, InputBatch, Predictions
from pipeline.postprocess.activations import check_largest
from pipeline.postprocess.classify import ClassifyPostprocessor
from pipeline.postprocess.cuda.downloads import Bytes, Downloads, Pending
from pipeline.postprocess.cuda.heads import Part
from pipeline.postprocess.cuda.layout import (
    ACTIVATIONS,
    BATCH,
    CLASS_ROW,
    FINISH_THREADS,
    kernel,
    result_dtype,
)
from pipeline.postprocess.cuda.tensors import Signature, contiguous, fill, shapes_of, signature_of
from pipeline.postprocess.named_outputs import fit_outputs
from pipeline.stages import DeviceStream, TensorInfo


class CudaClassifyPostprocessor:
    """The `cuda` twin of `pipeline.postprocess.classify.ClassifyPostprocessor`.

    Attributes:
        downloads: Counts the bytes that cross.

    Raises:
        ModelError: the model's output does not fit.
        ConfigError: labels cannot be read.
    """

    def __init__(
        self, config: ClassifyPost, outputs: Sequence[TensorInfo], *, stream: DeviceStream, max_frames: int
    ) -> None:
        import cupy

        reference = ClassifyPostprocessor(config, outputs)
        self._config = config
        self._needs, self._names = reference.needs, reference.names
        self._cupy, self._stream, self._max_frames = cupy, stream, max_frames
        most = result_dtype(CLASS_ROW, config.top_k).itemsize
        with stream.cupy:
            self._kernel = kernel(stream.ordinal, "classify")
            self._results = cupy.empty(max_frames * most, "uint8")
        self.downloads = Downloads(stream, max_frames * most)
        self._launch = lru_cache(maxsize=256)(self._prepare)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Pending:
        """Enqueues the batch; see `pipeline.stages.Postprocessor`.

        Raises:
            ModelError: the shape or type is not what is needed. Scores that are no probabilities show in `result()`.
        """
        frames = len(batch.frames)
        if frames > self._max_frames:
            raise ValueError(f"{frames} frames; there is room for {self._max_frames}")
        template = self._launch(signature_of(outputs), frames)
        name = self._needs[0].name
        with self._stream.cupy:
            parameters = template.copy()
            address = contiguous(self._cupy, outputs, [name])[name].data.ptr
            parameters["levels"]["scores"]["data"][0, 0] = address
            if frames:
                self._kernel((frames,), (FINISH_THREADS,), (parameters,))
            top_k, row_bytes = int(parameters["most"][0]), int(parameters["result_bytes"][0])
            part = (self._results.data.ptr, frames * row_bytes)
            return self.downloads.start([part], partial(self._unpack, frames, top_k))

    def _unpack(self, frames: int, top_k: int, data: Bytes) -> Predictions:
        kind = result_dtype(CLASS_ROW, top_k)
        results = data[: frames * kind.itemsize].view(kind)
        check_largest(float(results["header"]["largest"].max(initial=0)))
        rows = results["rows"]
        classes = Classifications(
            rows["class_id"].copy(), rows["score"].copy(), results["header"]["count"].astype(np.int64), self._names
        )
        return Predictions(classes=classes)

    def _prepare(self, signature: Signature, frames: int) -> np.ndarray[tuple[int], np.dtype[np.void]]:
        """The parameters apart from the address of the output; raises `ModelError` if outputs do not fit."""
        ((columns,),) = fit_outputs(self._needs, shapes_of(signature), frames)
        batch = np.zeros(1, BATCH)
        record = batch[0]
        record["results"] = self._results.data.ptr
        record["columns"] = columns
        record["most"] = most = min(self._config.top_k, columns)
        record["result_bytes"] = result_dtype(CLASS_ROW, most).itemsize
        record["class_offset"] = self._config.class_offset
        record["activation"] = ACTIVATIONS.index(self._config.activation)
        record["least"] = self._config.score_threshold
        fill(record["levels"][0]["scores"], Part(self._needs[0].name, 1), signature)
        return batch
