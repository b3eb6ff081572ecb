"""A vector for every picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.tasks import EmbeddingPost
from pipeline.frames import Array, FloatArray, InputBatch, Predictions
from pipeline.postprocess.named_outputs import Need, check_outputs, only_name, take_outputs
from pipeline.stages import TensorInfo


class EmbeddingPostprocessor:
    """The output's rows, divided by their lengths if that is asked for. A row that is not finite becomes all NaN.

    Raises:
        ModelError: the model's output does not fit.
    """

    def __init__(self, config: EmbeddingPost, outputs: Sequence[TensorInfo]) -> None:
        self._normalize = config.normalize
        self.name = only_name(config.output, [info.name for info in outputs])
        self._needs = [Need("output", self.name, ("D",))]
        check_outputs(self._needs, outputs)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; raises `ModelError` if the output is not what is needed."""
        (raw,) = take_outputs(self._needs, outputs, len(batch.frames))
        with np.errstate(all="ignore"):
            vectors: FloatArray = np.array(raw, np.float32)
            if self._normalize:
                vectors = normalized(vectors)
        vectors[~np.isfinite(vectors).all(axis=1)] = np.nan
        return Predictions(embeddings=vectors)


def normalized(vectors: FloatArray) -> FloatArray:
    """(N, D) float32 -> each row divided by its Euclidean length; a row of zeros stays one."""
    doubles = vectors.astype(np.float64)  # Squares of large float32 numbers would overflow.
    lengths = np.sqrt((doubles**2).sum(axis=1, keepdims=True))
    unit: FloatArray = (doubles / np.where(lengths > 0, lengths, 1)).astype(np.float32)
    return unit
