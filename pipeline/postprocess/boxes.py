"""Generic boxes and scores by output name, with class ids or a score column per class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.config.postprocess import BoxesPost
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import Array, FloatArray
from pipeline.postprocess.activations import activate
from pipeline.postprocess.candidates import Anchors, IntArray
from pipeline.postprocess.geometry import to_model_pixels, to_xyxy
from pipeline.postprocess.named_outputs import Need, check_outputs, take_outputs
from pipeline.stages import TensorInfo


class BoxesDecoder:
    """Boxes [N, K, 4] and scores [N, K] with class ids [N, K], or scores [N, K, C].

    Raises:
        ModelError: the model's outputs do not fit.
        ConfigError: the activation does not fit the scores.
    """

    def __init__(self, config: BoxesPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        if config.class_ids is not None and config.activation == "softmax":
            message = "softmax needs a score column per class, but class_ids says that there is one score a box"
            raise ConfigError([ConfigIssue(message, "pipeline.postprocess.activation", hint="use none or sigmoid")])
        self._config = config
        self._model_size = model_size
        self.needs = [Need("boxes", config.boxes, ("K", 4))]
        if config.class_ids is None:
            self.needs.append(Need("scores", config.scores, ("K", "C")))
        else:
            self.needs.append(Need("scores", config.scores, ("K",)))
            self.needs.append(Need("class_ids", config.class_ids, ("K",)))
        check_outputs(self.needs, outputs)

    def __call__(self, outputs: Mapping[str, Array], frames: int) -> Anchors:
        """See `Anchors`."""
        boxes, scores, *rest = take_outputs(self.needs, outputs, frames)
        class_ids = rest[0] if rest else None
        if self._config.activation == "softmax":
            scores = activate(scores, "softmax")

        def decode(frame: IntArray, anchor: IntArray) -> FloatArray:
            found = to_xyxy(boxes[frame, anchor], self._config.box_format)
            return to_model_pixels(found, self._config.normalized, self._model_size)

        return Anchors(scores, decode, class_ids, logits=self._config.activation == "sigmoid")
