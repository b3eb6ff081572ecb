"""A class for every pixel, from a channel per class, from one channel, or from class numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.config.labels import load_labels
from pipeline.config.tasks import SegmentPost
from pipeline.errors import ConfigError, ConfigIssue, ModelError
from pipeline.frames import Array, FloatArray, InputBatch, Predictions
from pipeline.masks import NO_CLASS, ByteArray, Segmentations
from pipeline.postprocess.activations import check_largest, sigmoid
from pipeline.postprocess.class_rules import class_ids_of
from pipeline.postprocess.named_outputs import Shape, check_rows, drop_ones, only_name, require_name, shape_text
from pipeline.postprocess.unseen import hide_unseen
from pipeline.stages import TensorInfo

_USUAL_THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class ClassMaps:
    """How the output's numbers are to be read.

    Attributes:
        rows: h.
        columns: w.
        channels: C; 1 for class numbers.
        whole: Whether the numbers are class numbers.
        least: The least probability; None: none is too small.
    """

    rows: int
    columns: int
    channels: int
    whole: bool
    least: float | None


class SegmentPostprocessor:
    """The class whose number is largest (of equal ones the first), where its probability reaches the threshold.

    A pixel has no class too where one of its numbers is not a number, or is plus infinity, which means overflow.

    Attributes:
        name: The output.
        numbers: (256,) uint8: channel, or class number -> number in the class map, or `NO_CLASS`.

    Raises:
        ModelError: the model's output does not fit.
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """

    def __init__(self, config: SegmentPost, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> None:
        self._config = config
        self._model_size = model_size
        self.names = load_labels(config.labels)
        self.numbers = _numbers(config, self.names)
        self.name = only_name(config.output, [info.name for info in outputs])
        info = next(info for info in outputs if info.name == self.name)
        if info.shape is not None:
            self._layout(info.shape, info.dtype)

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions:
        """See `pipeline.stages.Postprocessor`; raises `ModelError` if the output is not what is needed."""
        require_name(self.name, outputs, "output")
        output = np.asarray(outputs[self.name])
        frames = len(batch.frames)
        maps = self.maps(output.shape, str(output.dtype), frames)
        axes = (frames, maps.rows, maps.columns, maps.channels)
        if self._config.layout == "nchw" and maps.channels > 1:
            numbers = output[:frames].reshape(frames, maps.channels, maps.rows, maps.columns)
            numbers = np.moveaxis(numbers, 1, -1)
        else:
            numbers = output[:frames].reshape(axes)
        with np.errstate(all="ignore"):
            classes = self._of_numbers(numbers[..., 0]) if maps.whole else self._of_channels(numbers, maps)
        return self.predictions(classes, batch)

    def maps(self, shape: tuple[int, ...], dtype: str, frames: int) -> ClassMaps:
        """How to read an output of this shape and type; raises `ModelError` if it is not what is needed."""
        check_rows(self.name, shape, frames)
        (rows, columns, channels), whole = self._layout(shape, dtype)
        least = self._config.score_threshold
        if channels == 1 and not whole and least is None:
            least = _USUAL_THRESHOLD
        return ClassMaps(rows or 0, columns or 0, channels or 0, whole, None if whole else least)

    def predictions(self, classes: ByteArray, batch: InputBatch) -> Predictions:
        """What is made of (N, h, w) class maps, which are written to."""
        hide_unseen(classes, batch)
        rows, columns = classes.shape[1:]
        width, height = self._model_size
        to_cells = np.tile([columns / width, rows / height], 2)
        found = Segmentations(
            classes, batch.transforms * to_cells, batch.display_sizes, self.names, self._config.class_offset
        )
        return Predictions(segmentations=found)

    def _layout(self, shape: Shape, dtype: str) -> tuple[tuple[int | None, int | None, int | None], bool]:
        """The output's (h, w, C), and whether it holds class numbers."""
        whole = dtype.startswith(("int", "uint"))
        axes, plane = None if whole else drop_ones(shape, 3), drop_ones(shape, 2)
        if axes is not None and self._config.layout == "nchw":
            axes = (*axes[1:], axes[0])
        if axes is None and plane is not None:
            axes = (*plane, 1)
        if axes is None or 0 in axes:
            wanted = "[N, H, W, C] or [N, H, W]" if self._config.layout == "nhwc" else "[N, C, H, W] or [N, H, W]"
            raise self._misfit(shape, f"{wanted} is needed", "")
        rows, columns, channels = axes
        if channels is not None and channels > NO_CLASS:
            raise self._misfit(
                shape, f"at most {NO_CLASS} classes fit", "set pipeline.postprocess.layout to the model's"
            )
        if channels == 1 and not whole and (self._config.background or self._config.activation == "softmax"):
            key = "background" if self._config.background else "activation: softmax"
            raise self._misfit(shape, f"{key} needs a channel per class", f"leave out pipeline.postprocess.{key}")
        return (rows, columns, channels), whole

    def _misfit(self, shape: Shape, what: str, remedy: str) -> ModelError:
        text = f"pipeline.postprocess.output: the model's output {self.name!r} is {shape_text(shape)}, but {what}"
        return ModelError(text, remedy=remedy) if remedy else ModelError(text)

    def _of_numbers(self, numbers: Array) -> ByteArray:
        usable = (numbers >= 0) & (numbers < NO_CLASS)
        return self.numbers[np.where(usable, numbers, NO_CLASS).astype(np.uint8)]

    def _of_channels(self, numbers: Array, maps: ClassMaps) -> ByteArray:
        floats: FloatArray = np.asarray(numbers, np.float32)
        channel = floats.argmax(axis=-1)  # Of the first NaN, if there is one.
        best = np.take_along_axis(floats, channel[..., None], axis=-1)[..., 0]
        usable = np.isfinite(best)
        if maps.least is not None:
            probability = _probability(floats, best, self._config.activation)
            check_largest(float(probability[usable].max(initial=0)))
            usable &= probability >= np.float32(maps.least)
        classes: ByteArray = np.where(usable, self.numbers[channel], np.uint8(NO_CLASS))
        return classes


def _probability(numbers: FloatArray, best: FloatArray, activation: str) -> FloatArray:
    """(N, h, w) the probability of the best class."""
    if activation == "softmax":
        share: FloatArray = np.float32(1) / np.exp(numbers - best[..., None]).sum(axis=-1)
        return share
    return sigmoid(best) if activation == "sigmoid" else best


def _numbers(config: SegmentPost, names: Mapping[int, str]) -> ByteArray:
    """See `SegmentPostprocessor.numbers`."""
    numbers = np.full(256, NO_CLASS, np.uint8)
    first = int(config.background)
    numbers[first:NO_CLASS] = np.arange(NO_CLASS - first)
    if config.classes is None:
        return numbers
    issues: list[ConfigIssue] = []
    fields = ((f"pipeline.postprocess.classes[{i}]", value) for i, value in enumerate(config.classes))
    ids = [class_id for field, value in fields for class_id in class_ids_of(value, names, field, issues)]
    if issues:
        raise ConfigError(issues)
    kept: npt.NDArray[np.bool_] = np.isin(numbers + np.int64(config.class_offset), ids)
    numbers[~kept] = NO_CLASS
    return numbers
