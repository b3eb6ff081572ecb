"""Masks as COCO's run-length encoding, as `pycocotools.mask` reads and writes it.

Pixels are taken column by column, from the top left down. The counts are the lengths of the runs, in turn of pixels
outside and inside the mask, the first one outside (0 where the top left pixel is inside). As text each count, from the
fourth on its difference to the count two before, becomes groups of five bits, the lowest first: a character of the code
48 + group, plus 32 where another group follows; the highest bit of the last group is the sign (`rleToString` and
`rleFrString` in cocoapi's common/maskApi.c).
"""

from __future__ import annotations

from typing import TypedDict

import numpy as np
import numpy.typing as npt

# Enough for a difference of counts below 2^34.
_MOST_GROUPS = 7


class Rle(TypedDict):
    """An encoded mask: `size` is height, width; `counts` is ASCII text."""

    size: list[int]
    counts: str


def encode(mask: npt.NDArray[np.bool_]) -> Rle:
    """A mask of (height, width) bool as RLE with compressed counts."""
    height, width = mask.shape
    return {"size": [height, width], "counts": _to_text(run_lengths(mask))}


def run_lengths(mask: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """The uncompressed counts of a mask of (height, width) bool."""
    flat = np.ascontiguousarray(mask.T, np.bool_).ravel()
    if not flat.size:
        return np.zeros(0, np.int64)
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    start = [0, 0] if flat[0] else [0]  # The first run is one of pixels outside the mask, be it empty.
    return np.diff(np.concatenate([start, changes, [flat.size]])).astype(np.int64)


def decode(rle: Rle) -> npt.NDArray[np.bool_]:
    """(height, width) bool of a mask that was encoded.

    Raises:
        ValueError: the counts do not add up to the size.
    """
    height, width = rle["size"]
    counts = _from_text(rle["counts"])
    if sum(counts) != height * width or min(counts, default=0) < 0:
        raise ValueError(f"counts of {sum(counts)} pixels for a mask of {width}x{height}")
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _to_text(counts: npt.NDArray[np.int64]) -> str:
    left = counts.copy()
    left[3:] -= counts[1:-2]
    codes = np.zeros((len(left), _MOST_GROUPS), np.uint8)
    used = np.zeros(codes.shape, np.bool_)
    going_on = np.ones(len(left), np.bool_)
    for group in range(_MOST_GROUPS):
        bits, left = left & 31, left >> 5
        used[:, group] = going_on
        more = np.where(bits & 16, left != -1, left != 0)
        codes[:, group] = bits + 32 * more + 48
        going_on = going_on & more
        if not going_on.any():
            break
    return codes[used].tobytes().decode("ascii")


def _from_text(text: str) -> list[int]:
    counts: list[int] = []
    value = shift = 0
    for code in text.encode("ascii"):
        group = code - 48
        value |= (group & 31) << shift
        shift += 5
        if group & 32:
            continue
        if group & 16:
            value -= 1 << shift
        counts.append(value + (counts[-2] if len(counts) > 2 else 0))
        value = shift = 0
    return counts
