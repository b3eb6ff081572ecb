"""Where in a model's outputs the scores and boxes of a family lie, in words that the kernels understand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from pipeline.config.postprocess import BoxesPost, GflPost, OdApiPost, SsdPost, YoloPost
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.postprocess.boxes import BoxesDecoder
from pipeline.postprocess.cuda.layout import MAX_LEVELS
from pipeline.postprocess.gfl import GflDecoder
from pipeline.postprocess.named_outputs import check_rows, fit_outputs, require_name
from pipeline.postprocess.od_api import OdApiDecoder
from pipeline.postprocess.ssd import SsdDecoder
from pipeline.postprocess.yolo import YoloDecoder
from pipeline.stages import TensorInfo

DetectionConfig = OdApiPost | SsdPost | YoloPost | GflPost | BoxesPost
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Part:
    """Part of an output: [frame, row, column].

    Attributes:
        name: The output.
        row_stride: Elements from one row to the next.
        column_stride: Elements from one column to the next.
        first: Element of a frame where the part begins.
    """

    name: str
    row_stride: int
    column_stride: int = 1
    first: int = 0


@dataclass(frozen=True, slots=True)
class Level:
    """The anchors of one stride; heads without strides have one level.

    Attributes:
        scores: A row per anchor.
        boxes: A row per anchor.
        rows: How many anchors.
        grid_columns: Cells in a row of the feature map.
        stride: In model pixels.
    """

    scores: Part
    boxes: Part
    rows: int
    grid_columns: int = 1
    stride: int = 0


@dataclass(frozen=True, slots=True)
class Head:
    """Scores and boxes of a batch.

    Attributes:
        levels: In the order of the anchors.
        columns: Score columns; 1 if classes are given.
        walk: How scores become candidates, one of `layout.WALKS`.
        logits: Whether the sigmoid of the scores is meant.
        box_format: One of `layout.BOX_FORMATS`.
        normalized: Whether boxes are in 0..1.
        hidden_columns: Columns before the first one that take part in the softmax only.
        objectness: Whether the column before the first one is a factor of the scores.
        bins: Of the distribution of a side.
        cell_shift: Of anchor points in their cells.
        class_ids: The class of each anchor.
        counts: How many anchors of a frame count.
    """

    levels: tuple[Level, ...]
    columns: int
    walk: str
    box_format: str
    normalized: bool
    logits: bool = False
    hidden_columns: int = 0
    objectness: bool = False
    bins: int = 0
    cell_shift: float = 0.0
    class_ids: Part | None = None
    counts: Part | None = None


Describe = Callable[[Shapes, int], Head]


def describe_head(config: DetectionConfig, outputs: Sequence[TensorInfo], model_size: tuple[int, int]) -> Describe:
    """What finds a family's head: (shapes of the outputs by name, N frames) -> `Head`.

    The families' reference decoders check the outputs: the same is refused in the same words, here and in every call.

    Raises:
        ModelError: the model's outputs do not fit.
        ConfigError: an option does not fit, or labels cannot be read.
    """
    match config:
        case SsdPost():
            return _ssd(config, SsdDecoder(config, outputs, model_size))
        case YoloPost():
            return _yolo(config, YoloDecoder(config, outputs, model_size))
        case GflPost():
            return _gfl(config, GflDecoder(config, outputs, model_size), model_size)
        case BoxesPost():
            return _boxes(config, BoxesDecoder(config, outputs, model_size))
        case OdApiPost():
            return _od_api(OdApiDecoder(config, outputs, model_size))


def _ssd(config: SsdPost, decoder: SsdDecoder) -> Describe:
    def describe(shapes: Shapes, frames: int) -> Head:
        _, (anchors, columns) = fit_outputs(decoder.needs, shapes, frames)
        hidden = min(int(config.background), columns)
        level = Level(Part(config.scores, columns, first=hidden), Part(config.boxes, 4), anchors)
        return Head(
            (level,),
            columns - hidden,
            "softmax_columns" if config.activation == "softmax" else "each_column",
            config.box_format,
            config.normalized,
            config.activation == "sigmoid",
            hidden,
        )

    return describe


def _boxes(config: BoxesPost, decoder: BoxesDecoder) -> Describe:
    def describe(shapes: Shapes, frames: int) -> Head:
        _, scores, *_ = fit_outputs(decoder.needs, shapes, frames)
        columns = 1 if config.class_ids else scores[1]
        level = Level(Part(config.scores, columns), Part(config.boxes, 4), scores[0])
        walk = "softmax_columns" if config.activation == "softmax" else "each_column"
        return Head(
            (level,),
            columns,
            "given_class" if config.class_ids else walk,
            config.box_format,
            config.normalized,
            config.activation == "sigmoid",
            class_ids=Part(config.class_ids, 1) if config.class_ids else None,
        )

    return describe


def _od_api(decoder: OdApiDecoder) -> Describe:
    boxes, scores, class_ids, *counts = (need.name for need in decoder.needs)

    def describe(shapes: Shapes, frames: int) -> Head:
        _, (anchors,), *_ = fit_outputs(decoder.needs, shapes, frames)
        level = Level(Part(scores, 1), Part(boxes, 4), anchors)
        count = Part(counts[0], 0) if counts else None
        return Head((level,), 1, "given_class", "yxyx", True, class_ids=Part(class_ids, 1), counts=count)

    return describe


def _yolo(config: YoloPost, decoder: YoloDecoder) -> Describe:
    name = decoder.name

    def describe(shapes: Shapes, frames: int) -> Head:
        require_name(name, shapes, "output")
        check_rows(name, shapes[name], frames)
        axes, anchor_axis, objectness = decoder.layout(shapes[name])
        anchors, columns = axes if anchor_axis == 1 else axes[::-1]
        strides = (columns, 1) if anchor_axis == 1 else (1, anchors)
        before = 5 if objectness else 4
        level = Level(Part(name, *strides, first=before * strides[1]), Part(name, *strides), anchors)
        return Head((level,), columns - before, "best_column", "cxcywh", config.normalized, objectness=objectness)

    return describe


def _gfl(config: GflPost, decoder: GflDecoder, model_size: tuple[int, int]) -> Describe:
    if len(config.strides) > MAX_LEVELS:
        message = f"{len(config.strides)} strides, but the cuda engine takes at most {MAX_LEVELS}"
        raise ConfigError([ConfigIssue(message, "pipeline.postprocess.strides", hint="use the cpu engine")])
    bins, lengths = config.reg_max + 1, decoder.grid.lengths
    widths = [-(-model_size[0] // stride) for stride in config.strides]

    def describe(shapes: Shapes, frames: int) -> Head:
        needs = decoder.needs(shapes)
        fitted = fit_outputs(needs, shapes, frames)
        if len(needs) == 1:
            (name,), width = [need.name for need in needs], fitted[0][1]
            columns = width - 4 * bins
            starts = [width * anchors for anchors in accumulate([0, *lengths[:-1]])]
            parts = [(Part(name, width, first=start), Part(name, width, first=start + columns)) for start in starts]
        else:
            columns = fitted[0][1]
            parts = [
                (Part(scores.name, columns), Part(boxes.name, 4 * bins))
                for scores, boxes in zip(needs[::2], needs[1::2], strict=True)
            ]
        levels = [Level(*pair, *rest) for pair, *rest in zip(parts, lengths, widths, config.strides, strict=True)]
        return Head(
            tuple(levels),
            columns,
            "each_column",
            "distribution",
            False,
            config.activation == "sigmoid",
            bins=bins,
            cell_shift=0.5 if config.cell_centre == "centre" else 0.0,
        )

    return describe
