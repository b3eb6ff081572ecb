"""A postprocess plug-in: boxes from a model whose outputs no built-in family understands.

The model gives `boxes` [N, K, 4] (x1, y1, x2, y2 in pixels of its input) and `scores` [N, K, 1].

pipeline:
  model: {path: my_model}
  postprocess:
    family: plugin
    use: custom_head:CustomHead
    options: {threshold: 0.5, label: box}
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np

from pipeline.plugins import Array, InputBatch, Predictions, detections_of


class CustomHead:
    """Every box whose score reaches the threshold is one detection.

    Args:
        threshold: Least score, 0..1.
        label: What the one class is called.
    """

    # On a GPU the outputs are copied to the host for this; "device" would give CuPy arrays.
    arrays: ClassVar[Literal["numpy", "device"]] = "numpy"

    def __init__(self, threshold: float = 0.5, label: str = "object") -> None:
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold is 0 to 1, not {threshold}")
        self._threshold = threshold
        self._names = {0: label}

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """Called with every batch: arrays of as many rows as there are frames."""
        found = []
        for boxes, scores in zip(outputs["boxes"], outputs["scores"][..., 0], strict=True):
            keep = scores >= self._threshold
            found.append((boxes[keep], scores[keep], np.zeros(int(keep.sum()), np.int32)))
        # From pixels of the model's input to those of the picture, clipped, the best first.
        return Predictions(detections=detections_of(batch, found, self._names))
