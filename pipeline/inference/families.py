"""Which postprocess family fits a model's outputs: a guess from their names and shapes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence

from pipeline.inference.signature import show_shape
from pipeline.masks import NO_CLASS
from pipeline.stages import TensorInfo

# The family and the other fields of `pipeline.postprocess`, as lines of YAML.
Guess = tuple[str, list[str]]

_COCO_CLASSES = 80
_COCO_NUMBERS = 90  # COCO's class numbers run to 90, ten of them unused.
_SIDES = 4
_BINS = (8, 11, 17)  # reg_max + 1 of the published GFL and NanoDet models.
_STRIDES = (8, 16, 32, 64)
_POSE_ROW = 3 * 17 + 5
_MOST_PERSONS = 50
_COARSEST = 16  # Input pixels per cell of a class map; what is coarser is some feature map.


def guess_family(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess:
    """The family that fits best, `raw` if none does.

    Args:
        outputs: Of the model.
        size: (width, height) of its input in pixels; GFL heads are told by the number of their cells.
    """
    known = [o for o in outputs if o.shape is not None]
    for guess in _GUESSES:
        if found := guess(known, size):
            return found
    shown = ", ".join(f"{o.name} {show_shape(o.shape)}" for o in outputs)
    return "raw", [f"# no family fits these outputs, which are written as they are: {shown}"]


def _od_api(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    names = {o.name.removesuffix(":0"): o.name for o in outputs}
    if not {"detection_boxes", "detection_scores", "detection_classes"} <= names.keys():
        return None
    fields = {"boxes": "detection_boxes", "scores": "detection_scores", "class_ids": "detection_classes"}
    lines = [f"{field}: {_quoted(names[name])}" for field, name in fields.items()]
    lines.append(f"count: {_quoted(names['num_detections'])}" if "num_detections" in names else "count: null")
    return "od_api", [*lines, "labels: coco90  # a guess"]


def _gfl(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    """Scores and distributions for each stride, or everything in one tensor."""
    heads = {o.shape: o for o in outputs if o.shape is not None and len(o.shape) == 3}
    cells = [-(-size[0] // stride) * -(-size[1] // stride) for stride in _STRIDES]
    if len(outputs) == len(heads) == 1:
        (shape,) = heads
        _, anchors, channels = shape
        strides = {sum(cells[:n]): _STRIDES[:n] for n in (3, 4)}.get(anchors or 0)
        if strides is None or channels is None or (len(strides) == 3 and channels != _COCO_CLASSES + _SIDES * _BINS[0]):
            return None
        return "gfl", _gfl_fields(list(strides), _BINS[0], channels - _SIDES * _BINS[0])
    strides_found = [s for s, n in zip(_STRIDES, cells, strict=True) if sum(shape[1] == n for shape in heads) == 2]
    if not strides_found or 2 * len(strides_found) != len(outputs):
        return None
    widths = {shape[2] for shape in heads}
    bins = next((b for b in _BINS if _SIDES * b in widths), None)
    if bins is None or len(widths) != 2:
        return None
    (classes,) = widths - {_SIDES * bins}
    return "gfl", _gfl_fields(strides_found, bins, classes)


def _gfl_fields(strides: list[int], bins: int, classes: int | None) -> list[str]:
    return [
        f"strides: {strides}",
        f"reg_max: {bins - 1}",
        "activation: none  # a guess: sigmoid if the scores are not yet in 0..1",
        *_labels(classes),
    ]


def _yolo(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    (only,) = outputs if len(outputs) == 1 else (None,)
    if only is None or only.shape is None or len(only.shape) != 3:
        return None
    first, second = only.shape[1], only.shape[2]
    if first is None or second is None or first == second or min(first, second) <= _SIDES:
        return None
    objectness = second < first
    classes = second - _SIDES - 1 if objectness else first - _SIDES
    return "yolo", [
        f"output: {_quoted(only.name)}",
        f"objectness: {str(objectness).lower()}  # a guess: v5 has the column, v8 and v11 have not",
        "normalized: false  # a guess: boxes in pixels of the model's input",
        *_labels(classes),
    ]


def _ssd(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    boxes = _boxes(outputs)
    others = [o for o in outputs if o is not boxes]
    if boxes is None or boxes.shape is None or len(others) != 1:
        return None
    scores = others[0]
    if scores.shape is None or len(scores.shape) != 3 or scores.shape[1] != boxes.shape[1]:
        return None
    return "ssd", [
        f"boxes: {_quoted(boxes.name)}",
        f"scores: {_quoted(scores.name)}",
        "box_format: yxyx  # a guess: xyxy, yxyx, xywh or cxcywh",
        "normalized: true  # a guess: boxes in 0..1",
        "activation: none  # a guess: sigmoid or softmax if the scores are not yet in 0..1",
        *_labels(scores.shape[2]),
    ]


def _boxes_scores_classes(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    boxes = _boxes(outputs)
    rows = [o for o in outputs if o is not boxes and o.shape is not None and len(o.shape) == 2]
    if boxes is None or len(boxes.shape or ()) != 3:
        return None
    classes = [o for o in rows if "class" in o.name.lower() or "label" in o.name.lower() or o.dtype.startswith("int")]
    scores = [o for o in rows if o not in classes]
    if len(classes) != 1 or len(scores) != 1:
        return None
    return "boxes", [
        f"boxes: {_quoted(boxes.name)}",
        f"scores: {_quoted(scores[0].name)}",
        f"class_ids: {_quoted(classes[0].name)}",
        "box_format: xyxy  # a guess: xyxy, yxyx, xywh or cxcywh",
        "normalized: false  # a guess: boxes in pixels of the model's input",
    ]


def _classify(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    (only,) = outputs if len(outputs) == 1 else (None,)
    if only is None or only.shape is None or len(only.shape) != 2 or (only.shape[1] or 0) < 2:
        return None
    return "classify", [
        f"output: {_quoted(only.name)}",
        "activation: none  # a guess: softmax or sigmoid if the outputs are not yet in 0..1",
        f"# labels: labels.txt  # one line for each of the {only.shape[1]} classes",
    ]


def _pose(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    """MoveNet's outputs: 17 keypoints y, x, score of one person, or several persons in rows of 56 numbers."""
    (only,) = outputs if len(outputs) == 1 else (None,)
    if only is None or only.shape is None:
        return None
    one = len(only.shape) == 4 and only.shape[2:] == (17, 3)
    several = len(only.shape) == 3 and only.shape[2] == _POSE_ROW and (only.shape[1] or 0) <= _MOST_PERSONS
    return ("pose", [f"output: {_quoted(only.name)}"]) if one or several else None


def _segment(outputs: Sequence[TensorInfo], size: tuple[int, int]) -> Guess | None:
    """A map that is not much coarser than the input, with no more channels than there are classes in a class map."""
    (only,) = outputs if len(outputs) == 1 else (None,)
    if only is None or only.shape is None or len(only.shape) != 4:
        return None
    _, rows, columns, channels = only.shape
    if rows is None or columns is None or channels is None or not 1 <= channels <= NO_CLASS:
        return None
    if min(rows * _COARSEST / size[1], columns * _COARSEST / size[0]) < 1:
        return None
    if channels == 1:
        return "segment", [
            f"output: {_quoted(only.name)}",
            "activation: none  # a guess: sigmoid if the outputs are not yet in 0..1",
        ]
    return "segment", [
        f"output: {_quoted(only.name)}",
        "background: true  # a guess: channel 0 is the background, and no class",
        f"# labels: labels.txt  # one line for each of the {channels - 1} other classes",
    ]


_GUESSES: tuple[Callable[[Sequence[TensorInfo], tuple[int, int]], Guess | None], ...] = (
    _od_api,
    _gfl,
    _ssd,
    _boxes_scores_classes,
    _pose,
    _yolo,
    _classify,
    _segment,
)


def _boxes(outputs: Sequence[TensorInfo]) -> TensorInfo | None:
    """The one output with four numbers for each box: [N, A, 4] or [N, A, 1, 4]."""
    found = [o for o in outputs if o.shape is not None and len(o.shape) in (3, 4) and o.shape[-1] == _SIDES]
    return found[0] if len(found) == 1 else None


def _labels(classes: int | None) -> list[str]:
    if classes == _COCO_CLASSES:
        return ["labels: coco80  # a guess from the 80 classes"]
    if classes == _COCO_NUMBERS:
        return ["class_offset: 1  # a guess: the columns are COCO's class numbers 1 to 90", "labels: coco90"]
    if classes == _COCO_NUMBERS + 1:
        return ["background: true  # a guess: column 0 is the background", "class_offset: 1", "labels: coco90"]
    return [f"# labels: labels.txt  # one line for each of the {classes} classes"]


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
