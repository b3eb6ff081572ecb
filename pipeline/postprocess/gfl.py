"""NanoDet and other heads of generalized focal loss, which give a distribution for the distance of each side of a box.

The distance of a side from the anchor point is the expectation of a softmax over reg_max + 1 bins, in strides: sum over i
of P(i) * i (Li et al., "Generalized Focal Loss: Learning Qualified and Distributed Bounding Boxes for Dense Object
Detection", 2020, equation 5). Sides come in the order left, top, right, bottom; anchors row by row, x fastest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from pipeline.config.postprocess import GflPost
from pipeline.errors import ModelError
from pipeline.frames import Array, FloatArray
from pipeline.postprocess.activations import softmax
from pipeline.postprocess.candidates import Anchors, IntArray
from pipeline.postprocess.named_outputs import (
    Need,
    Shape,
    check_outputs,
    drop_ones,
    require_name,
    shape_text,
    take_outputs,
)
from pipeline.stages import TensorInfo


class Grid(NamedTuple):
    """The anchor points of all strides: `centres` (A, 2) x, y and `strides` (A,), float32, in model pixels."""

    centres: FloatArray
    strides: FloatArray
    lengths: list[int]


def make_grid(model_size: tuple[int, int], strides: Sequence[int], shift: float) -> Grid:
    """Anchor points ((x + shift) * stride, (y + shift) * stride) for every cell of every stride's feature map."""
    centres = []
    for stride in strides:
        columns, rows = (-(-pixels // stride) for pixels in model_size)
        y, x = np.divmod(np.arange(columns * rows), columns)
        centres.append((np.stack([x, y], axis=1) + shift) * stride)
    lengths = [len(points) for points in centres]
    return Grid(np.concatenate(centres).astype(np.float32), np.repeat(strides, lengths).astype(np.float32), lengths)


class GflDecoder:
    """One output [N, A, C + 4 * (reg_max + 1)] with scores first, or for each stride scores [N, A, C] and distributions.

    Of several outputs those with 4 * (reg_max + 1) columns are distributions. Outputs that the configuration names are
    in stride order; those found by shape are sorted by their number of anchors, which falls as the stride grows. Only
    if C happens to be 4 * (reg_max + 1) too must they be named: score, distribution, score, distribution, ...

    Raises:
        ModelError: the model's outputs do not fit.
    """

    def __init__(self, config: GflPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._config = config
        self._bins = config.reg_max + 1
        self.grid = make_grid(model_size, config.strides, 0.5 if config.cell_centre == "centre" else 0.0)
        for i, name in enumerate(config.outputs or []):
            require_name(name, [info.name for info in outputs], f"outputs[{i}]")
        shapes = {info.name: info.shape for info in outputs}
        known = {name: shape for name, shape in shapes.items() if shape is not None and None not in shape[1:]}
        if set(self._config.outputs or shapes) <= set(known):
            check_outputs(self.needs(known), outputs)

    def __call__(self, outputs: Mapping[str, Array], frames: int) -> Anchors:
        """See `Anchors`."""
        arrays = take_outputs(self.needs({name: np.shape(array) for name, array in outputs.items()}), outputs, frames)
        if len(arrays) == 1:
            (both,) = arrays
            scores, distances = both[..., : -4 * self._bins], both[..., -4 * self._bins :]
        else:
            scores, distances = np.concatenate(arrays[::2], axis=1), np.concatenate(arrays[1::2], axis=1)

        def decode(frame: IntArray, anchor: IntArray) -> FloatArray:
            return self._boxes(distances[frame, anchor], anchor)

        return Anchors(scores, decode, logits=self._config.activation == "sigmoid")

    def _boxes(self, logits: Array, anchors: IntArray) -> FloatArray:
        """(M, 4 * bins) distributions of (M,) anchors -> (M, 4) x1, y1, x2, y2."""
        expected = softmax(logits.reshape(-1, 4, self._bins)) @ np.arange(self._bins, dtype=np.float32)
        sides = expected * self.grid.strides[anchors, None]
        centres = self.grid.centres[anchors]
        return np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], axis=1)

    def needs(self, shapes: Mapping[str, Shape]) -> list[Need]:
        """What to take of outputs with these (known) shapes: one tensor, or score and distribution for each stride."""
        names = self._config.outputs or list(shapes)
        axes = {name: drop_ones(shapes[name], 2) for name in names if name in shapes}
        columns = 4 * self._bins
        levels = len(self._config.strides)
        if len(names) == 1:
            width = (axes.get(names[0]) or (0, 0))[1]
            if width is not None and width <= columns:
                raise self._misfit(names, shapes)
            return [Need("outputs", names[0], (sum(self.grid.lengths), "C"))]
        distances = [name for name in names if (axes.get(name) or (0, 0))[1] == columns]
        scores = [name for name in names if name not in distances]
        if self._config.outputs and len(distances) == len(names):
            scores, distances = names[::2], names[1::2]
        if not len(scores) == len(distances) == levels:
            raise self._misfit(names, shapes)
        if not self._config.outputs:
            order = {name: -((axes[name] or (0, 0))[0] or 0) for name in names}
            ascending = np.argsort(self._config.strides, kind="stable").argsort()
            scores, distances = (
                [sorted(part, key=order.__getitem__)[i] for i in ascending] for part in (scores, distances)
            )
        needs = []
        for score, distance, length in zip(scores, distances, self.grid.lengths, strict=True):
            needs.append(Need("outputs", score, (length, "C")))
            needs.append(Need("outputs", distance, (length, columns)))
        return needs

    def _misfit(self, names: Sequence[str], shapes: Mapping[str, Shape]) -> ModelError:
        found = ", ".join(f"{name} {shape_text(shapes[name])}" for name in names if name in shapes)
        config = self._config
        return ModelError(
            f"pipeline.postprocess.outputs: strides {config.strides} and reg_max {config.reg_max} need one output "
            f"[N, {sum(self.grid.lengths)}, C + {4 * self._bins}], or for each stride scores [N, A, C] and distributions "
            f"[N, A, {4 * self._bins}]; found {found or 'none'}",
            remedy="set reg_max and strides to the model's, or name the outputs: score, distribution for each stride",
        )
