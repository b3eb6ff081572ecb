"""Classification: the best classes of the whole picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.labels import load_labels
from pipeline.config.postprocess import ClassifyPost
from pipeline.frames import Array, Classifications, FloatArray, InputBatch, Predictions
from pipeline.postprocess.activations import activate, as_probabilities
from pipeline.postprocess.named_outputs import Need, check_outputs, only_name, take_outputs
from pipeline.stages import TensorInfo


class ClassifyPostprocessor:
    """The best `top_k` classes of each frame that reach the threshold; of equal scores the lower class id comes first.

    Raises:
        ModelError: the model's output does not fit.
        ConfigError: labels cannot be read.
    """

    def __init__(self, config: ClassifyPost, outputs: Sequence[TensorInfo]) -> None:
        self._config = config
        self.names = load_labels(config.labels)
        self.needs = [Need("output", only_name(config.output, [info.name for info in outputs]), ("C",))]
        check_outputs(self.needs, outputs)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; raises `ModelError` if the output is not what is needed."""
        (raw,) = take_outputs(self.needs, outputs, len(batch.frames))
        with np.errstate(all="ignore"):
            scores = activate(raw, self._config.activation)
        scores = as_probabilities(np.where(np.isnan(scores), np.float32(-1), scores))
        columns = best_columns(scores, min(self._config.top_k, scores.shape[1]))
        best = np.take_along_axis(scores, columns, axis=1)
        counts = (best >= np.float32(self._config.score_threshold)).sum(axis=1, dtype=np.int64)
        class_ids = (columns + self._config.class_offset).astype(np.int32)
        return Predictions(classes=Classifications(class_ids, np.maximum(best, 0), counts, self.names))


def best_columns(scores: FloatArray, k: int) -> npt.NDArray[np.int64]:
    """(N, C) scores without NaN -> (N, k) the columns of the k largest, best first; equal ones in column order.

    Only the k are sorted. Which of several equal scores at the border belong to them is settled by column, as a mere
    partition does not.
    """
    border = np.partition(scores, -k, axis=1)[:, -k, None]
    above, equal = scores > border, scores == border
    room = k - above.sum(axis=1, keepdims=True)
    chosen = above | (equal & (np.cumsum(equal, axis=1) <= room))
    columns = np.nonzero(chosen)[1].reshape(len(scores), k)
    order = np.argsort(-np.take_along_axis(scores, columns, axis=1), axis=1, kind="stable")
    return np.take_along_axis(columns, order, axis=1)
