"""What a model declares of its inputs and outputs, and whether `pipeline.preprocess` fits it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pipeline.config.stages import Preprocess
from pipeline.errors import ModelError
from pipeline.stages import TensorInfo

Format = Literal["saved_model", "keras", "keras_h5", "graphdef"]
Layout = Literal["nhwc", "nchw"]
PixelType = Literal["uint8", "float16", "float32"]
Shape = tuple[int | None, ...]

_FORMAT_NAMES: dict[Format, str] = {
    "saved_model": "SavedModel",
    "keras": "Keras",
    "keras_h5": "Keras (HDF5)",
    "graphdef": "frozen GraphDef",
}

# What preprocessing makes for each type that a model may take; where the two differ, the model's wrapper casts.
_PIXEL_TYPES: dict[str, PixelType] = {
    "uint8": "uint8",
    "int16": "uint8",
    "int32": "uint8",
    "int64": "uint8",
    "float16": "float16",
    "bfloat16": "float32",
    "float32": "float32",
    "float64": "float32",
}


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """What a model file says of itself.

    Attributes:
        format: Of the file or folder.
        path: Where it lies.
        inputs: All inputs, in the model's order; of a GraphDef its placeholders.
        outputs: All outputs, in the model's order; of a GraphDef the tensors asked for, else those that nothing consumes.
        signature: Name of the SavedModel signature that `inputs` and `outputs` describe; None for other formats.
        signatures: Names of all signatures of a SavedModel.
    """

    format: Format
    path: Path
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    signature: str | None = None
    signatures: tuple[str, ...] = ()

    def __str__(self) -> str:
        """For people, several lines."""
        of = f", signature {self.signature} (there are: {', '.join(self.signatures)})" if self.signature else ""
        lines = [f"{self.path}: {_FORMAT_NAMES[self.format]}{of}"]
        for kind, tensors in (("inputs", self.inputs), ("outputs", self.outputs)):
            lines += [f"{kind}:", *(f"  {show_tensor(t)}" for t in tensors)]
        return "\n".join(lines)

    def image(self, wanted: str | None, *, model: str) -> TensorInfo:
        """The image input: the one called `wanted`, else the only one of four dimensions.

        Raises:
            ModelError: there is none, it cannot be told which, or the model needs further inputs.
        """
        names = [i.name for i in self.inputs]
        rank4 = [i for i in self.inputs if i.shape is None or len(i.shape) == 4]
        if wanted is not None:
            image = self.inputs[names.index(pick_name(wanted, names, what="input", model=model))]
        elif len(self.inputs) == 1:
            image = self.inputs[0]
        elif len(rank4) == 1:
            image = rank4[0]
        else:
            raise ModelError(
                f"model {model}: cannot tell which input takes the image, of {_list(self.inputs) or 'none'}",
                remedy="name it in pipeline.model.input",
            )
        others = [i for i in self.inputs if i is not image]
        if others:
            raise ModelError(
                f"model {model}: needs further inputs besides the image {image.name!r}, which nothing here can feed: {_list(others)}",
                remedy="export a signature that takes the image alone",
            )
        return image


def pick_name(wanted: str, names: Sequence[str], *, what: str, model: str) -> str:
    """`wanted`, as one of `names` spells it (`image` finds the tensor `image:0`); else a ModelError with the nearest."""
    for name in (wanted, f"{wanted}:0", wanted.removesuffix(":0")):
        if name in names:
            return name
    near = difflib.get_close_matches(wanted, names, n=1)
    raise ModelError(
        f"model {model}: has no {what} {wanted!r}, only {', '.join(map(repr, names)) or 'none'}",
        remedy=f"did you mean {near[0]!r}?" if near else None,
    )


def pixel_type(image: TensorInfo, *, model: str) -> PixelType:
    """The type of the pixels that preprocessing makes for this input; ModelError if it takes no numbers."""
    if image.dtype not in _PIXEL_TYPES:
        raise ModelError(
            f"model {model}: input {image.name!r} takes {image.dtype}, not pixels",
            remedy="export the model so that it takes decoded pictures as uint8 or float32",
        )
    return _PIXEL_TYPES[image.dtype]


def resolve_input(image: TensorInfo, preprocess: Preprocess, *, model: str) -> Preprocess:
    """Fills in what the configuration leaves to the model, and checks what it says against the model.

    Args:
        image: The model's image input.
        preprocess: From the configuration or the card.
        model: The model's name, for messages.

    Returns:
        `preprocess` with `size`, `layout`, `dtype` and `channels` set.

    Raises:
        ModelError: the two do not fit, or neither says what is needed; in words.
    """
    shape: Shape = (None,) * 4 if image.shape is None else image.shape
    start = f"model {model}: input {image.name!r}"
    if len(shape) != 4:
        raise ModelError(
            f"{start} has {len(shape)} dimensions {show_shape(shape)}; a batch of images has 4",
            remedy="name the image input in pipeline.model.input, or export the model with one",
        )
    layout = _layout(shape, preprocess, start)
    channel, height, width = (shape[1], shape[2], shape[3]) if layout == "nchw" else (shape[3], shape[1], shape[2])
    update: dict[str, Any] = {
        "layout": layout,
        "size": _size(width, height, preprocess, start),
        "dtype": _dtype(image, preprocess, model),
        "channels": _channels(channel, preprocess, start),
    }
    return preprocess.model_copy(update=update)


def show_shape(shape: Shape | None) -> str:
    """For people: `[N, 300, 300, 3]`, with `?` for other free dimensions."""
    if shape is None:
        return "of any shape"
    return "[" + ", ".join(str(d) if d is not None else "?" if i else "N" for i, d in enumerate(shape)) + "]"


def show_tensor(tensor: TensorInfo) -> str:
    """For people: `image float32 [N, 300, 300, 3]`."""
    return f"{tensor.name} {tensor.dtype} {show_shape(tensor.shape)}"


def guess_layout(shape: Shape) -> Layout | None:
    """Where the 3 (or 1) is: the layout of a shape of four dimensions, None if it could be either."""
    last, first = shape[3] in (1, 3), shape[1] in (1, 3)
    if last == first:
        return None
    return "nhwc" if last else "nchw"


def _list(tensors: Sequence[TensorInfo]) -> str:
    return ", ".join(map(show_tensor, tensors))


def _layout(shape: Shape, preprocess: Preprocess, start: str) -> Layout:
    found = guess_layout(shape)
    if preprocess.layout is None:
        if found is None:
            raise ModelError(
                f"{start} is {show_shape(shape)}, which does not say whether the colour channels come first or last",
                remedy="set pipeline.preprocess.layout to nhwc (last) or nchw (first)",
            )
        return found
    if found is not None and found != preprocess.layout:
        raise ModelError(
            f"{start} is {show_shape(shape)}, that is {found}, but pipeline.preprocess.layout says {preprocess.layout}",
            remedy="leave layout out",
        )
    return preprocess.layout


def _size(width: int | None, height: int | None, preprocess: Preprocess, start: str) -> tuple[int, int]:
    shown = f"{width or 'any'}x{height or 'any'} (width x height)"
    if preprocess.size is None:
        if width is None or height is None:
            raise ModelError(
                f"{start} leaves its size open: {shown}",
                remedy="set pipeline.preprocess.size to [width, height], usually the size it was trained with",
            )
        return width, height
    if any(has not in (None, says) for has, says in zip((width, height), preprocess.size, strict=True)):
        raise ModelError(
            f"{start} is {shown}, but pipeline.preprocess.size says {preprocess.size[0]}x{preprocess.size[1]}",
            remedy=f"leave size out, or export the model with {preprocess.size[0]}x{preprocess.size[1]}",
        )
    return preprocess.size


def _dtype(image: TensorInfo, preprocess: Preprocess, model: str) -> PixelType:
    dtype = pixel_type(image, model=model)
    start = f"model {model}: input {image.name!r} takes {image.dtype}"
    if preprocess.dtype not in (None, dtype):
        given = "" if image.dtype == dtype else f" and is given {dtype}"
        raise ModelError(
            f"{start}{given}, but pipeline.preprocess.dtype says {preprocess.dtype}", remedy="leave dtype out"
        )
    changed = [n for n, plain in (("scale", 1.0), ("mean", 0.0), ("std", 1.0)) if getattr(preprocess, n) != plain]
    if dtype == "uint8" and changed:
        fields = " and ".join(f"pipeline.preprocess.{name}" for name in changed)
        raise ModelError(
            f"{start}: pixels as they are, 0 to 255; {fields} would change them",
            remedy=f"leave out {', '.join(changed)}",
        )
    return dtype


def _channels(count: int | None, preprocess: Preprocess, start: str) -> Literal["rgb", "bgr", "gray"]:
    channels = preprocess.channels
    if count not in (None, 1, 3):
        raise ModelError(f"{start} takes {count} channels; pictures have 3 (colour) or 1 (grey)")
    if count == 1 and channels != "gray":
        if "channels" in preprocess.model_fields_set:
            raise ModelError(
                f"{start} takes 1 channel, but pipeline.preprocess.channels says {channels}",
                remedy="set channels to gray, or leave it out",
            )
        if any(isinstance(v, tuple) for v in (preprocess.scale, preprocess.mean, preprocess.std)):
            raise ModelError(f"{start} takes 1 channel", remedy="give scale, mean and std as one number each")
        return "gray"
    if count == 3 and channels == "gray":
        raise ModelError(
            f"{start} takes 3 channels, but pipeline.preprocess.channels says gray",
            remedy="set channels to rgb or bgr, as the model was trained",
        )
    return channels
