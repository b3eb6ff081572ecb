"""Finding the outputs that a family needs among those that a model has, and checking their shapes in words."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.errors import ModelError
from pipeline.frames import Array
from pipeline.stages import TensorInfo

Shape = tuple[int | None, ...]


@dataclass(frozen=True, slots=True)
class Need:
    """One output that a family needs.

    Attributes:
        field: The configuration's field under `postprocess` that names it.
        name: The output's name.
        axes: Its axes behind the batch axis: a length, or a letter; axes with the same letter have the same length.
    """

    field: str
    name: str
    axes: tuple[str | int, ...]

    def __str__(self) -> str:
        return f"[{', '.join(map(str, ('N', *self.axes)))}]"


def check_outputs(needs: Sequence[Need], outputs: Sequence[TensorInfo]) -> None:
    """Checks before the first frame that the model has the outputs and that what is known of their shapes fits.

    Raises:
        ModelError: an output does not exist, or its shape cannot be what the family needs.
    """
    known = {info.name: info.shape for info in outputs}
    for need in needs:
        require_name(need.name, known, need.field)
    _fit(needs, [known[need.name] for need in needs])


def take_outputs(needs: Sequence[Need], outputs: Mapping[str, Array], frames: int) -> list[Array]:
    """The needed outputs without padding rows and without superfluous axes of length 1.

    Args:
        needs: What to take.
        outputs: What the model gave.
        frames: N, how many rows are frames.

    Returns:
        For each need an array (N, *axes), a view where possible.

    Raises:
        ModelError: a shape is not what the family needs.
    """
    shapes = fit_outputs(needs, {name: np.shape(array) for name, array in outputs.items()}, frames)
    arrays = [np.asarray(outputs[need.name])[:frames] for need in needs]
    return [array.reshape(frames, *shape) for array, shape in zip(arrays, shapes, strict=True)]


def fit_outputs(needs: Sequence[Need], shapes: Mapping[str, tuple[int, ...]], frames: int) -> list[tuple[int, ...]]:
    """The lengths of the needed outputs' axes behind the batch axis, without superfluous ones of length 1.

    Raises:
        ModelError: an output is missing, or its shape is not what the family needs.
    """
    for need in needs:
        require_name(need.name, shapes, need.field)
        check_rows(need.name, shapes[need.name], frames)
    fitted = _fit(needs, [shapes[need.name] for need in needs])
    return [tuple(length or 0 for length in shape) for shape in fitted]


def frame_rows(name: str, array: Array, frames: int) -> Array:
    """The rows of an output that belong to frames; raises `ModelError` if there are too few."""
    check_rows(name, np.shape(array), frames)
    return array[:frames]


def check_rows(name: str, shape: Sequence[int], frames: int) -> None:
    """Raises `ModelError` if an output of this shape has fewer rows than there are frames."""
    if not shape or shape[0] < frames:
        rows = f"{shape[0]} rows" if shape else "no batch axis"
        raise ModelError(f"the model's output {name!r} has {rows} for a batch of {frames} frames")


def require_name(name: str, known: Collection[str], field: str) -> None:
    """Raises `ModelError`, naming the nearest output and all there are, if `name` is none of them."""
    if name in known:
        return
    near = difflib.get_close_matches(name, known, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise ModelError(
        f"pipeline.postprocess.{field}: the model has no output {name!r}",
        remedy=f"{guess}its outputs are: {', '.join(sorted(known)) or 'none'}",
    )


def only_name(name: str | None, known: Sequence[str], field: str = "output") -> str:
    """The output that the configuration names, or the model's only one.

    Raises:
        ModelError: it does not exist, or none is named and there are several.
    """
    if name is not None:
        require_name(name, known, field)
        return name
    if len(known) != 1:
        raise ModelError(
            f"pipeline.postprocess.{field} is not given, and the model has {len(known)} outputs: {', '.join(known)}",
            remedy=f"name one of them in pipeline.postprocess.{field}",
        )
    return known[0]


def shape_text(shape: Sequence[int | None]) -> str:
    """A shape for people: free dimensions are question marks."""
    return f"[{', '.join('?' if n is None else str(n) for n in shape)}]"


def drop_ones(shape: Shape, rank: int) -> Shape | None:
    """The shape behind the batch axis, brought to `rank` axes by leaving out axes of length 1; None if that fails."""
    rest = list(shape[1:])
    while len(rest) > rank and 1 in rest:
        rest.remove(1)
    return tuple(rest) if shape and len(rest) == rank else None


def _fit(needs: Sequence[Need], shapes: Sequence[Shape | None]) -> list[Shape]:
    """The shapes behind the batch axis, with as many axes as needed; unknown shapes fit."""
    letters: dict[str, tuple[int, str]] = {}
    fitted = []
    for need, shape in zip(needs, shapes, strict=True):
        rest = (None,) * len(need.axes) if shape is None else drop_ones(shape, len(need.axes))
        if rest is None:
            raise _misfit(need, shape)
        for axis, length in zip(need.axes, rest, strict=True):
            if length is None:
                continue
            if isinstance(axis, int):
                if axis != length:
                    raise _misfit(need, shape)
            elif letters.setdefault(axis, (length, need.name))[0] != length:
                known, other = letters[axis]
                raise _misfit(need, shape, f" with {axis} = {known} as in {other!r}")
        fitted.append(rest)
    return fitted


def _misfit(need: Need, shape: Shape | None, more: str = "") -> ModelError:
    return ModelError(
        f"pipeline.postprocess.{need.field}: the model's output {need.name!r} is {shape_text(shape or ())}, "
        f"but {need}{more} is needed"
    )
