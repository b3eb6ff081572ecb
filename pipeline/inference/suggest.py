"""A first configuration for a model, guessed from the names and shapes of its inputs and outputs."""

from __future__ import annotations

import json
from collections.abc import Sequence

from pipeline.errors import ModelError
from pipeline.inference.families import guess_family
from pipeline.inference.signature import ModelDescription, guess_layout, pixel_type, show_shape
from pipeline.stages import TensorInfo

_OPEN_SIZE = (640, 640)


def suggest_yaml(description: ModelDescription) -> str:
    """A configuration that runs the model on a video, with a comment at everything that is a guess.

    Args:
        description: Of any model.

    Returns:
        YAML that `pipeline.config` accepts.
    """
    image = _image(description)
    size = _size(image)
    family, fields = guess_family(description.outputs, size)
    sink = "{type: tensors, path: results.npz}" if family == "raw" else "{type: jsonl, path: results.jsonl}"
    return "\n".join(
        [
            "version: 1",
            "sources: [video.mp4]  # your video, folder, glob or URL",
            "pipeline:",
            *_section("preprocess", _preprocess(image, size, family)),
            *_section("model", _model(description, image)),
            *_section("postprocess", [f"family: {family}", *fields]),
            "sinks:",
            f"  - {sink}",
            "",
        ]
    )


def _section(name: str, fields: Sequence[str]) -> list[str]:
    return [f"  {name}:", *(f"    {field}" for field in fields)]


def _image(description: ModelDescription) -> TensorInfo:
    try:
        return description.image(None, model=description.path.name)
    except ModelError:
        images = [i for i in description.inputs if i.shape is not None and len(i.shape) == 4]
        return next(iter(images or description.inputs), TensorInfo("", "float32", None))


def _size(image: TensorInfo) -> tuple[int, int]:
    """(width, height) of the input; where it is open, a guess."""
    if image.shape is None or len(image.shape) != 4:
        return _OPEN_SIZE
    height, width = image.shape[2:4] if guess_layout(image.shape) == "nchw" else image.shape[1:3]
    return width or _OPEN_SIZE[0], height or _OPEN_SIZE[1]


def _preprocess(image: TensorInfo, size: tuple[int, int], family: str) -> list[str]:
    shape = image.shape if image.shape is not None and len(image.shape) == 4 else (None,) * 4
    layout = guess_layout(shape)
    lines = [f"# the model's input is {image.name} {image.dtype} {show_shape(image.shape)}"]
    height, width = shape[2:4] if layout == "nchw" else shape[1:3]
    if height is None or width is None:
        lines.append(f"size: [{size[0]}, {size[1]}]  # a guess: the model leaves it open")
    if layout is None:
        lines.append("layout: nhwc  # a guess: nhwc has the channels last, nchw first")
    channels = shape[1] if layout == "nchw" else shape[3]
    if channels == 1:
        lines.append("channels: gray")
    else:
        lines.append("channels: rgb  # a guess: rgb or bgr, as it was trained")
    fit = "letterbox" if family in ("yolo", "gfl", "boxes") else "stretch"
    lines.append(f"fit: {fit}  # a guess: letterbox, stretch or crop, as it was trained")
    try:
        floats = pixel_type(image, model="") != "uint8"
    except ModelError:
        floats = False
    if floats:
        lines.append("scale: 0.00392156862745098  # a guess: pixels / 255; value = (pixel * scale - mean) / std")
    return lines


def _model(description: ModelDescription, image: TensorInfo) -> list[str]:
    lines = [f"path: {_quoted(str(description.path))}"]
    if description.signature not in (None, "serving_default"):
        lines.append(f"signature: {_quoted(str(description.signature))}")
    if len(description.inputs) > 1:
        lines.append(f"input: {_quoted(image.name)}  # a guess, of {', '.join(i.name for i in description.inputs)}")
    if description.format == "graphdef":
        names = ", ".join(_quoted(o.name) for o in description.outputs)
        lines.append(f"outputs: [{names}]  # what nothing else in the graph consumes, unless you named them")
    return lines


def _quoted(text: str) -> str:
    """A YAML string: JSON's are."""
    return json.dumps(text, ensure_ascii=False)
