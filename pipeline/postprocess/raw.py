"""The model's outputs as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.postprocess import RawPost
from pipeline.frames import Array, InputBatch, Predictions
from pipeline.postprocess.named_outputs import frame_rows, require_name
from pipeline.stages import TensorInfo


class RawPostprocessor:
    """Outputs by name, without padding rows.

    Raises:
        ModelError: an output that is named does not exist.
    """

    def __init__(self, config: RawPost, outputs: Sequence[TensorInfo]) -> None:
        known = [info.name for info in outputs]
        for i, name in enumerate(config.outputs or []):
            require_name(name, known, f"outputs[{i}]")
        self.names = config.outputs or known

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; the tensors are views of the outputs."""
        frames = len(batch.frames)
        return Predictions(tensors={name: frame_rows(name, np.asarray(outputs[name]), frames) for name in self.names})
