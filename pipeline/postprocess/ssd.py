"""SSD: decoded boxes and a score column per class for every anchor, possibly with a background column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.config.postprocess import SsdPost
from pipeline.frames import Array, FloatArray
from pipeline.postprocess.activations import activate
from pipeline.postprocess.candidates import Anchors, IntArray
from pipeline.postprocess.geometry import to_model_pixels, to_xyxy
from pipeline.postprocess.named_outputs import Need, check_outputs, take_outputs
from pipeline.stages import TensorInfo


class SsdDecoder:
    """Boxes [N, A, 4] or [N, A, 1, 4] and scores [N, A, C]. An anchor may be a candidate for several classes.

    Raises:
        ModelError: the model's outputs do not fit.
    """

    def __init__(self, config: SsdPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._config = config
        self._model_size = model_size
        self.needs = [Need("boxes", config.boxes, ("A", 4)), Need("scores", config.scores, ("A", "C"))]
        check_outputs(self.needs, outputs)

    def __call__(self, outputs: Mapping[str, Array], frames: int) -> Anchors:
        """See `Anchors`."""
        boxes, scores = take_outputs(self.needs, outputs, frames)
        if self._config.activation == "softmax":
            scores = activate(scores, "softmax")  # The background takes its share before it is left out.
        if self._config.background:
            scores = scores[..., 1:]

        def decode(frame: IntArray, anchor: IntArray) -> FloatArray:
            found = to_xyxy(boxes[frame, anchor], self._config.box_format)
            return to_model_pixels(found, self._config.normalized, self._model_size)

        return Anchors(scores, decode, logits=self._config.activation == "sigmoid")
