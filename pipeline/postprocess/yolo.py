"""YOLO heads as v5, v8 and v11 export them: one tensor of centre, size and scores for every anchor.

An anchor is a candidate for its best class only, as in these models' own decoders (SSD and GFL heads differ in that).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.config.labels import load_labels
from pipeline.config.postprocess import YoloPost
from pipeline.errors import ModelError
from pipeline.frames import Array, FloatArray
from pipeline.postprocess.candidates import Anchors, IntArray
from pipeline.postprocess.geometry import to_model_pixels, to_xyxy
from pipeline.postprocess.named_outputs import Shape, drop_ones, frame_rows, only_name, require_name, shape_text
from pipeline.stages import TensorInfo


class YoloDecoder:
    """One output [N, 4+C, A], [N, 5+C, A], [N, A, 4+C] or [N, A, 5+C].

    Which axis counts anchors: the configuration's `anchor_axis`, else the longer one. Whether there is an objectness
    column: the configuration's `objectness`; else, where labels are given, what fits their number; else [N, A, 5+C] has
    one and [N, 4+C, A] has none.

    Raises:
        ModelError: the model's output does not fit.
        ConfigError: labels cannot be read.
    """

    def __init__(self, config: YoloPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._config = config
        self._model_size = model_size
        self._label_count = len(load_labels(config.labels))
        self.name = only_name(config.output, [info.name for info in outputs])
        shape = next(info.shape for info in outputs if info.name == self.name)
        if shape is not None and None not in shape[1:]:
            self.layout(shape)

    def __call__(self, outputs: Mapping[str, Array], frames: int) -> Anchors:
        """See `Anchors`."""
        require_name(self.name, outputs, "output")
        raw = frame_rows(self.name, np.asarray(outputs[self.name]), frames)
        axes, anchor_axis, objectness = self.layout(raw.shape)
        rows = raw.reshape(frames, *axes)
        if anchor_axis == 2:
            rows = rows.transpose(0, 2, 1)
        columns = rows[..., 5 if objectness else 4 :]
        class_ids = columns.argmax(axis=2)
        scores = np.take_along_axis(columns, class_ids[..., None], axis=2)[..., 0].astype(np.float32)
        if objectness:
            scores = scores * rows[..., 4].astype(np.float32)

        def decode(frame: IntArray, anchor: IntArray) -> FloatArray:
            found = to_xyxy(rows[frame, anchor, :4], "cxcywh")
            return to_model_pixels(found, self._config.normalized, self._model_size)

        return Anchors(scores, decode, class_ids)

    def layout(self, shape: Shape) -> tuple[tuple[int, int], int, bool]:
        """The two axes behind the batch, which of them (1 or 2) counts anchors, and whether there is objectness."""
        text = f"the model's output {self.name!r} is {shape_text(shape)}"
        axes = drop_ones(shape, 2)
        if axes is None:
            raise ModelError(f"pipeline.postprocess.output: {text}, but [N, 4+C, A] or [N, A, 5+C] is needed")
        first, second = (int(length or 0) for length in axes)
        anchor_axis = self._config.anchor_axis
        if anchor_axis is None:
            if first == second:
                raise ModelError(
                    f"{text}: which axis counts anchors cannot be seen from it",
                    remedy="set pipeline.postprocess.anchor_axis to 1 or 2",
                )
            anchor_axis = 1 if first > second else 2
        columns = second if anchor_axis == 1 else first
        objectness = self._config.objectness
        if objectness is None:
            by_labels = {4 + self._label_count: False, 5 + self._label_count: True} if self._label_count else {}
            objectness = by_labels.get(columns, anchor_axis == 1)
        least = 6 if objectness else 5
        if columns < least:
            raise ModelError(
                f"{text}: {columns} numbers an anchor, but a box{', objectness' if objectness else ''} and at least one "
                f"class are {least}",
                remedy="see that pipeline.postprocess.output, anchor_axis and objectness are right",
            )
        return (first, second), anchor_axis, objectness
