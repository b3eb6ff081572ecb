"""One picture into one row of the model's input: what is worked out once for a kind of picture, and the pixel work."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt

from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, FloatArray, Picture, SurfaceLayout
from pipeline.preprocess.colour import rgb_from_planes, siting_offset
from pipeline.preprocess.geometry import Placement
from pipeline.preprocess.resample import Axis, Interpolation, Taps, resample, taps
from pipeline.preprocess.roi import Point, inside

# A strip's intermediate rows stay in a core's cache: at most this many float32 values, 512 KiB.
_STRIP_VALUES = 131072
# What red, green and blue contribute to grey (BT.601's luma, as image libraries have it).
_GREY = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, slots=True)
class Kind:
    """What pictures have in common that only differ in their samples; the fields are `Picture`'s."""

    plane_shapes: tuple[tuple[int, int], ...]
    chroma_shift: tuple[int, int]
    colour: Colour
    display_size: tuple[int, int]
    rotation: int
    mirror: bool

    @classmethod
    def of(cls, picture: Picture) -> Kind:
        """The kind of a picture."""
        surface = picture.surface
        return cls(
            tuple(plane.shape for plane in picture.planes)
            if surface is None
            else _surface_shapes(surface.layout, picture.chroma_shift),
            picture.chroma_shift,
            picture.colour,
            (picture.width, picture.height),
            picture.rotation,
            picture.mirror,
        )


class Placed(Protocol):
    """Where the columns and rows that hold picture come from: of one picture, or of many crops at once."""

    @property
    def columns(self) -> Axis:
        """Display x of the k-th column that holds picture."""

    @property
    def rows(self) -> Axis:
        """Display y of the k-th row that holds picture."""


@dataclass(frozen=True, slots=True)
class Values:
    """How an RGB pixel in 0..255 becomes the model's numbers: pixel * gain + bias, per channel in the model's order.

    A grey input is the sum of three channels that are weighted for it.

    Attributes:
        order: Which of R, G, B each of the model's channels is.
        gain: scale / std.
        bias: -mean / std, and 0.5 more for integers, so that cutting off the fraction rounds half up.
        pad: The padding's pixel, in the model's order.
    """

    order: tuple[int, int, int] = (0, 1, 2)
    gain: tuple[float, float, float] = (1.0, 1.0, 1.0)
    bias: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pad: tuple[float, float, float] = (0.0, 0.0, 0.0)

    @classmethod
    def of(cls, preprocess: Preprocess) -> Values:
        """As the configuration says; `dtype` must be set."""
        order = (2, 1, 0) if preprocess.channels == "bgr" else (0, 1, 2)
        scale, mean, std = (np.broadcast_to(v, 3) for v in (preprocess.scale, preprocess.mean, preprocess.std))
        gain = scale / std
        bias = (0.5 if preprocess.dtype == "uint8" else 0.0) - mean / std
        if preprocess.channels == "gray":
            gain, bias = gain * _GREY, bias * [1, 0, 0]
        return cls(
            order,
            _triple(gain),
            _triple(bias),
            _triple(np.broadcast_to(np.asarray(preprocess.pad, np.float64), 3)[list(order)]),
        )

    @property
    def padding(self) -> FloatArray:
        """(3,): the padding as the model's numbers."""
        return (np.array(self.pad) * self.gain + self.bias).astype(np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Plan:
    """All that does not depend on the samples.

    Attributes:
        placement: Where the picture comes to lie.
        transposed: Whether rows of the planes are columns of the picture (rotation by 90 or 270 degrees).
        taps: Per plane, of its rows and columns.
        matrix: (3, planes) float32: samples -> the model's numbers, with `offset`.
        offset: (3,) float32.
        low: (3,) float32: what the model's numbers are clipped to: pixel 0 or 255.
        high: (3,) float32.
        padding: (3,) float32.
        hidden: (height, width) bool: pixels outside the polygon; None where there is none.
    """

    placement: Placement
    transposed: bool
    taps: tuple[tuple[Taps, Taps], ...]
    matrix: FloatArray
    offset: FloatArray
    low: FloatArray
    high: FloatArray
    padding: FloatArray
    hidden: npt.NDArray[np.bool_] | None


def plan_once(
    kind: Kind,
    placement: Placement,
    interpolation: Interpolation,
    values: Values,
    polygon: tuple[Point, ...] | None = None,
) -> Plan:
    """Works out the plan for a kind of picture.

    Args:
        kind: Of the picture.
        placement: Where it comes to lie.
        interpolation: How planes are sampled.
        values: What the model's numbers are.
        polygon: In display pixels: what lies outside becomes padding.
    """
    transposed = kind.rotation in (90, 270)
    columns, rows = placement.width, placement.height
    if transposed:
        columns, rows = rows, columns
    (height, width), chroma_shapes = kind.plane_shapes[0], kind.plane_shapes[1:]
    x, y = coded_axes(kind, placement)
    plane_taps = [(taps(y, rows, height, interpolation), taps(x, columns, width, interpolation))]
    if chroma_shapes:
        shift_x, shift_y = kind.chroma_shift
        first_x, first_y = siting_offset(kind.colour.siting, kind.chroma_shift)
        height, width = chroma_shapes[0]
        chroma_y = taps(y.subsampled(shift_y, first_y), rows, height, interpolation)
        chroma_x = taps(x.subsampled(shift_x, first_x), columns, width, interpolation)
        plane_taps += [(chroma_y, chroma_x)] * len(chroma_shapes)
    numbers = numbers_of(kind, values)
    return Plan(
        placement,
        transposed,
        tuple(plane_taps),
        numbers.matrix,
        numbers.offset,
        numbers.low,
        numbers.high,
        values.padding,
        None if polygon is None else _hidden(placement, polygon),
    )


# Sources of one run hardly come in more kinds than this; a plan is some 100 KiB.
plan = lru_cache(maxsize=128)(plan_once)


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """From samples to the model's numbers; the fields are `Plan`'s."""

    matrix: FloatArray
    offset: FloatArray
    low: FloatArray
    high: FloatArray


def numbers_of(kind: Kind, values: Values) -> Numbers:
    """How samples of a kind of picture become the model's numbers."""
    matrix, offset = rgb_from_planes(kind.colour, len(kind.plane_shapes))
    gain, bias, order = np.array(values.gain), np.array(values.bias), list(values.order)
    ends = np.stack([bias, 255 * gain + bias]).astype(np.float32)
    return Numbers(
        (matrix[order] * gain[:, None]).astype(np.float32),
        (offset[order] * gain + bias).astype(np.float32),
        ends.min(axis=0),
        ends.max(axis=0),
    )


def render(plan: Plan, planes: tuple[npt.NDArray[np.generic], ...], out: npt.NDArray[np.generic]) -> None:
    """Fills one row of the model's input.

    Args:
        plan: Made for a picture like this one.
        planes: The picture's.
        out: (H, W, 3), or (H, W, 1) for grey, any strides; every element is written.
    """
    if out.shape[-1] == 1:
        channels = np.empty((*out.shape[:2], 3), np.float32)
        render(plan, planes, channels)
        np.copyto(out[..., 0], channels[..., 0] + channels[..., 1] + channels[..., 2], casting="unsafe")
        return
    place = plan.placement
    rows, columns = slice(place.top, place.top + place.height), slice(place.left, place.left + place.width)
    content = out[rows, columns]
    for channel, value in enumerate(plan.padding):
        for border in (out[: rows.start], out[rows.stop :], out[rows, : columns.start], out[rows, columns.stop :]):
            border[..., channel] = value
    _convert(plan, planes, content.swapaxes(0, 1) if plan.transposed else content)
    if plan.hidden is not None:
        for channel, value in enumerate(plan.padding):
            np.copyto(content[..., channel], value, where=plan.hidden, casting="unsafe")


def _convert(plan: Plan, planes: tuple[npt.NDArray[np.generic], ...], out: npt.NDArray[np.generic]) -> None:
    """Samples strip by strip, converts and clips; `out` is (rows, columns, 3) as the planes lie."""
    height, width = out.shape[:2]
    strip = max(8, _STRIP_VALUES // max(width, planes[0].shape[1]))
    for start in range(0, height, strip):
        stop = min(start + strip, height)
        samples = [resample(plane, y.part(start, stop), x) for plane, (y, x) in zip(planes, plan.taps, strict=True)]
        total, one = np.empty((2, stop - start, width), np.float32)
        for channel in range(3):
            np.multiply(samples[0], plan.matrix[channel, 0], out=total)
            total += plan.offset[channel]
            for plane, weight in zip(samples[1:], plan.matrix[channel, 1:], strict=True):
                if weight:
                    total += np.multiply(plane, weight, out=one)
            target = out[start:stop, :, channel]
            np.clip(total, plan.low[channel], plan.high[channel], out=target, casting="unsafe")


def _surface_shapes(layout: SurfaceLayout, shift: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    luma = layout.height, layout.width
    if not layout.chroma_step_bytes:
        return (luma,)
    chroma = -(-layout.height // 2 ** shift[1]), -(-layout.width // 2 ** shift[0])
    return luma, chroma, chroma


def coded_axes(kind: Kind, placement: Placed) -> tuple[Axis, Axis]:
    """Positions in the first plane, of its columns and rows: rotation, sample aspect ratio and mirror undone."""
    x, y = placement.columns, placement.rows
    width, height = kind.display_size
    if kind.rotation in (90, 180):
        x = x.flipped(width)
    if kind.rotation in (180, 270):
        y = y.flipped(height)
    if kind.rotation in (90, 270):
        x, y, width, height = y, x, height, width
    coded_height, coded_width = kind.plane_shapes[0]
    x, y = x.times(coded_width / width), y.times(coded_height / height)
    return (x.flipped(coded_width) if kind.mirror else x), y


def _hidden(placement: Placement, polygon: tuple[Point, ...]) -> npt.NDArray[np.bool_]:
    x, y = placement.columns.positions(placement.width), placement.rows.positions(placement.height)
    return ~inside(polygon, x, y)


def _triple(values: npt.NDArray[np.float64]) -> tuple[float, float, float]:
    first, second, third = values.tolist()
    return first, second, third
