"""The plans of many crops of pictures of one kind, as the bytes that the CUDA kernel reads, worked out all at once.

A crop's plan is used once, so what counts is how long it takes to make: array operations over all crops, whatever their
number. What stands in it is what `pipeline.preprocess.packing.pack` would write, apart from taps that weigh nothing.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.frames import SurfaceLayout
from pipeline.preprocess.colour import siting_offset
from pipeline.preprocess.crops import Placements
from pipeline.preprocess.packing import ALIGNMENT, PLAN, TAP, is_paired, variant_of
from pipeline.preprocess.render import Kind, Values, coded_axes, numbers_of
from pipeline.preprocess.resample import GRID, Axis, Interpolation

Floats = npt.NDArray[np.float64]


def pack_crops(
    kind: Kind,
    layout: SurfaceLayout,
    placements: Placements,
    chosen: npt.NDArray[np.intp],
    *,
    model_size: tuple[int, int],
    interpolation: Interpolation,
    values: Values,
) -> npt.NDArray[np.uint8]:
    """What the kernel needs to know of some crops.

    Args:
        kind: Of the pictures that they are cut from.
        layout: Where the samples of these lie.
        placements: Of all crops.
        chosen: (C,) which of them.
        model_size: (width, height) of the model's input.
        interpolation: How planes are sampled.
        values: What the model's numbers are.

    Returns:
        (C, n) a row a crop: one `PLAN` and its tables. Tables have room for all columns and rows of the input; those behind
        the ones that hold picture are not read.
    """
    count = len(chosen)
    x, y = coded_axes(kind, placements.some(chosen))
    transposed = kind.rotation in (90, 270)
    columns, rows = model_size[::-1] if transposed else model_size
    height, width = kind.plane_shapes[0]
    planes = [("luma", y, x, height, width, layout.pitch_bytes, layout.sample_bytes)]
    if len(kind.plane_shapes) > 1:
        shift_x, shift_y = kind.chroma_shift
        first_x, first_y = siting_offset(kind.colour.siting, kind.chroma_shift)
        height, width = kind.plane_shapes[1]
        chroma = y.subsampled(shift_y, first_y), x.subsampled(shift_x, first_x)
        planes.append(("chroma", *chroma, height, width, layout.chroma_pitch_bytes, layout.chroma_step_bytes))
    header = _headers(kind, layout, placements, chosen, values)
    parts: list[npt.NDArray[np.uint8]] = []
    end, most = PLAN.itemsize, 0
    for name, y_axis, x_axis, y_size, x_size, pitch, step in planes:
        tables = [
            _tables(y_axis, rows, y_size, interpolation, pitch),
            _tables(x_axis, columns, x_size, interpolation, step),
        ]
        for axis, table in zip(("columns", "rows"), tables if transposed else tables[::-1], strict=True):
            most = max(most, table.shape[2])
            header[name][axis], header[name][axis[:-1] + "_taps"] = end, table.shape[2]
            flat = table.reshape(count, -1).view(np.uint8)
            parts.append(np.pad(flat, ((0, 0), (0, -flat.shape[1] % ALIGNMENT))))
            end += parts[-1].shape[1]
    fixed = (2, 2) if len(planes) > 1 and most <= 2 else (0, 0)
    header["variant"] = variant_of(fixed) + 3 * is_paired(layout) + 6 * (layout.sample_bytes == 2)
    return np.concatenate([header.view(np.uint8).reshape(count, PLAN.itemsize), *parts], axis=1)


def _headers(
    kind: Kind, layout: SurfaceLayout, placements: Placements, chosen: npt.NDArray[np.intp], values: Values
) -> npt.NDArray[np.void]:
    header = np.zeros(len(chosen), PLAN)
    for name in ("left", "top", "width", "height"):
        header[name] = getattr(placements, name)[chosen]
    header["cb"], header["cr"], header["shift"] = layout.chroma_offset_bytes, layout.cr_offset_bytes, layout.shift
    numbers = numbers_of(kind, values)
    header["map"][:, :, : numbers.matrix.shape[1]], header["map"][:, :, 3] = numbers.matrix, numbers.offset
    header["limits"][:, :, :3] = np.stack([numbers.low, numbers.high, values.padding], axis=-1)
    return header


def _tables(axis: Axis, count: int, size: int, kind: Interpolation, step: int) -> npt.NDArray[np.void]:
    """(C, K, n) taps of K pixels on an axis of `size` samples; see `pipeline.preprocess.resample.taps`.

    At least 2, the weight of a second one may be 0.
    """
    indices, weights = _taps(axis, count, kind)
    table = np.zeros(indices.shape, TAP)
    table["offset"] = np.clip(indices, 0, size - 1).astype(np.int64) * step
    table["weight"] = weights
    return table


def _taps(axis: Axis, count: int, kind: Interpolation) -> tuple[Floats, Floats]:
    """(C, K, n) sample numbers, which may lie beyond the edges, and weights; the axis holds (C, 1) arrays."""
    position = axis.positions(count)
    scale = np.asarray(axis.scale)
    if kind == "nearest":
        index = np.floor(position) if (scale > 0).all() else np.ceil(position) - 1
        return np.stack([index, index], axis=-1), np.broadcast_to([1.0, 0.0], (*index.shape, 2))
    before = np.floor(position - 0.5)
    late = position - 0.5 - before
    indices, weights = np.stack([before, before + 1], axis=-1), np.stack([1 - late, late], axis=-1)
    span = np.abs(scale)
    if kind == "bilinear" or (span <= 1).all():
        return indices, weights
    start, stop = (position - span / 2)[..., None], (position + span / 2)[..., None]
    covering = np.floor(start) + np.arange(int(np.ceil(span.max())) + 1)
    covered = np.minimum(stop, covering + 1) - np.maximum(start, covering)
    area = np.where(covered > 1 / GRID, covered, 0)
    area /= area.sum(axis=-1, keepdims=True)
    more = [(0, 0), (0, 0), (0, covering.shape[-1] - 2)]
    enlarges = (span <= 1)[..., None]
    return np.where(enlarges, np.pad(indices, more), covering), np.where(enlarges, np.pad(weights, more), area)
