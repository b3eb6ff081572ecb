"""A plan as the bytes that the CUDA kernel reads, and the kernel's parameters: the other side of kernels/fused.cu."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.frames import SurfaceLayout
from pipeline.preprocess.render import Plan
from pipeline.preprocess.resample import Taps

# What a block of 32 x 8 threads covers.
BLOCK = (32, 8, 1)
TILE = (32, 32)
MAX_ROWS = 240

TAP = np.dtype([("offset", "<i4"), ("weight", "<f4")])
_TABLES = np.dtype([("columns", "<i4"), ("rows", "<i4"), ("column_taps", "<i4"), ("row_taps", "<i4")])
PLAN = np.dtype(
    [
        *((name, "<i4") for name in ("left", "top", "width", "height")),
        ("luma", _TABLES),
        ("chroma", _TABLES),
        *((name, "<i4") for name in ("cb", "cr", "shift", "variant", "hidden")),
        ("unused", "<i4", (3,)),
        ("map", "<f4", (3, 4)),
        ("limits", "<f4", (3, 4)),
    ]
)
ROW = np.dtype([("surface", "<u8"), ("plan", "<u8")])
BATCH = np.dtype([("output", "<u8"), ("width", "<i4"), ("height", "<i4"), ("rows", ROW, (MAX_ROWS,))])

ALIGNMENT = 16


def pack(plan: Plan, layout: SurfaceLayout) -> npt.NDArray[np.uint8]:
    """What the kernel needs to know of pictures of a kind.

    Args:
        plan: Made for such pictures.
        layout: Where their samples lie.

    Returns:
        One `PLAN`, the tables of taps and the polygon's mask, one behind the other, each aligned to 16 bytes.
    """
    header = np.zeros(1, PLAN)
    place = plan.placement
    header["left"], header["top"], header["width"], header["height"] = place.left, place.top, place.width, place.height
    header["cb"], header["cr"] = layout.chroma_offset_bytes, layout.cr_offset_bytes
    header["shift"] = layout.shift
    planes = plan.matrix.shape[1]
    header["map"][0, :, :planes], header["map"][0, :, 3] = plan.matrix, plan.offset
    header["limits"][0, :, :3] = np.stack([plan.low, plan.high, plan.padding], axis=-1)
    fixed = _fixed_taps(plan)
    header["variant"] = variant_of(fixed) + 3 * is_paired(layout) + 6 * (layout.sample_bytes == 2)

    parts: list[npt.NDArray[np.uint8]] = [header.view(np.uint8)]
    end = PLAN.itemsize
    steps = {
        "luma": (layout.pitch_bytes, layout.sample_bytes),
        "chroma": (layout.chroma_pitch_bytes, layout.chroma_step_bytes),
    }
    for (name, (pitch, step)), (y, x), count in zip(steps.items(), plan.taps, fixed, strict=False):
        tables = [_table(y, pitch, count), _table(x, step, count)]
        rows, columns = tables[::-1] if plan.transposed else tables
        for axis, table in (("columns", columns), ("rows", rows)):
            header[name][axis], header[name][axis[:-1] + "_taps"] = end, table.shape[1]
            parts.append(_aligned(table.view(np.uint8).ravel()))
            end += len(parts[-1])
    if plan.hidden is not None:
        header["hidden"] = end
        parts.append(_aligned(np.packbits(plan.hidden)))
    return np.concatenate(parts)


def _fixed_taps(plan: Plan) -> tuple[int, int]:
    """How many taps per axis the kernel's loops over luma and chroma are unrolled for; 0: as many as there are."""
    luma, *chroma = (max(len(y.indices), len(x.indices)) for y, x in plan.taps)
    if not chroma or max(luma, *chroma) > 2:
        return 0, 0
    return luma, 2


def variant_of(fixed: tuple[int, int]) -> int:
    """The kernel's number for loops over luma and chroma that are unrolled so."""
    return {(1, 2): 0, (2, 2): 1, (0, 0): 2}[fixed]


def is_paired(layout: SurfaceLayout) -> bool:
    """Whether Cb and Cr can be read as one value: they alternate, and every pair is aligned to its size."""
    pair = 2 * layout.sample_bytes
    return (
        layout.cr_offset_bytes == layout.sample_bytes
        and layout.chroma_step_bytes == pair
        and layout.chroma_offset_bytes % pair == 0
        and layout.chroma_pitch_bytes % pair == 0
    )


def _table(taps: Taps, step: int, count: int) -> npt.NDArray[np.void]:
    """(K, n) taps, pixel by pixel: byte offsets and weights; filled up with taps that weigh nothing to `count`."""
    indices, weights = taps.indices, taps.weights
    table = np.zeros((indices.shape[1], max(count, len(indices))), TAP)
    table["offset"] = indices[0][:, None] * step
    table["offset"][:, : len(indices)] = indices.T * step
    table["weight"][:, : len(indices)] = weights.T
    return table


def _aligned(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return np.pad(data, (0, -len(data) % ALIGNMENT))
