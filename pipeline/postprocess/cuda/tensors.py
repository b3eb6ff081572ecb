"""The model's outputs as kernel parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from pipeline.errors import ModelError
from pipeline.frames import Array
from pipeline.postprocess.cuda.heads import Part
from pipeline.postprocess.cuda.layout import TYPES

# What the parameters depend on: name, shape and type of every output.
Signature = tuple[tuple[str, tuple[int, ...], str], ...]


def signature_of(outputs: Mapping[str, Array]) -> Signature:
    """What stays the same from batch to batch as long as the model does."""
    return tuple((name, array.shape, array.dtype.str) for name, array in outputs.items())


def shapes_of(signature: Signature) -> dict[str, tuple[int, ...]]:
    """The shapes by name."""
    return {name: shape for name, shape, _ in signature}


def fill(tensor: Any, part: Part, signature: Signature) -> None:
    """Sets a record of `layout.TENSOR`; `data` becomes the offset in bytes that the output's address is to be added to.

    Raises:
        ModelError: the kernels cannot read numbers of this type.
    """
    shape, dtype = next((shape, np.dtype(code)) for name, shape, code in signature if name == part.name)
    if dtype.name not in TYPES:
        raise ModelError(f"the model's output {part.name!r} holds {dtype.name}, but numbers are needed")
    tensor["data"] = part.first * dtype.itemsize
    tensor["frame_stride"] = int(np.prod(shape[1:], dtype=np.int64))
    tensor["row_stride"] = part.row_stride
    tensor["column_stride"] = part.column_stride
    tensor["type"] = TYPES.index(dtype.name)


def contiguous(cupy: Any, outputs: Mapping[str, Array], names: Iterable[str]) -> dict[str, Array]:
    """Outputs by name in C order; as a rule they are."""
    arrays = {name: outputs[name] for name in names}
    return {name: a if a.flags.c_contiguous else cupy.ascontiguousarray(a) for name, a in arrays.items()}
