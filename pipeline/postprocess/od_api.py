"""The TensorFlow Object Detection API's outputs: the model has suppressed already, boxes are y1, x1, y2, x2 in 0..1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.postprocess import OdApiPost
from pipeline.frames import Array, FloatArray
from pipeline.postprocess.candidates import Anchors, IntArray
from pipeline.postprocess.geometry import to_model_pixels, to_xyxy
from pipeline.postprocess.named_outputs import Need, check_outputs, take_outputs
from pipeline.stages import TensorInfo


class OdApiDecoder:
    """Boxes [N, K, 4], scores and classes [N, K], and how many of the K are valid [N].

    Raises:
        ModelError: the model's outputs do not fit.
    """

    def __init__(self, config: OdApiPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._model_size = model_size
        self.needs = [
            Need("boxes", config.boxes, ("K", 4)),
            Need("scores", config.scores, ("K",)),
            Need("class_ids", config.class_ids, ("K",)),
        ]
        if config.count is not None:
            self.needs.append(Need("count", config.count, ()))
        check_outputs(self.needs, outputs)

    def __call__(self, outputs: Mapping[str, Array], frames: int) -> Anchors:
        """See `Anchors`; boxes behind the count are left out."""
        boxes, scores, class_ids, *counts = take_outputs(self.needs, outputs, frames)

        def decode(frame: IntArray, anchor: IntArray) -> FloatArray:
            return to_model_pixels(to_xyxy(boxes[frame, anchor], "yxyx"), True, self._model_size)

        for count in counts:
            # In doubles, as unsigned class numbers cannot hold -1.
            class_ids = np.where(np.arange(scores.shape[1]) < count[:, None], class_ids.astype(np.float64), -1)
        return Anchors(scores, decode, class_ids)
