"""COCO's run-length encoding: against what pycocotools wrote, and a decoder that was written apart from the encoder."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline import rle

masks = hnp.arrays(np.bool_, st.tuples(st.integers(0, 40), st.integers(0, 40)))


def brute_force(height: int, width: int, text: str) -> np.ndarray:
    """Character by character and pixel by pixel, as `rleFrString` and `rleDecode` in cocoapi's maskApi.c go about it."""
    counts: list[int] = []
    position = 0
    while position < len(text):
        value, group, more = 0, 0, True
        while more:
            code = ord(text[position]) - 48
            value |= (code & 0x1F) << 5 * group
            more = bool(code & 0x20)
            position += 1
            group += 1
            if not more and code & 0x10:
                value |= -1 << 5 * group
        if len(counts) > 2:
            value += counts[-2]
        counts.append(value)
    mask = np.zeros((height, width), bool)
    pixel, inside = 0, False
    for count in counts:
        for _ in range(count):
            mask[pixel % height, pixel // height] = inside
            pixel += 1
        inside = not inside
    assert pixel == height * width
    return mask


@settings(max_examples=300, deadline=None)
@given(masks)
def test_what_is_encoded_comes_back(mask):
    encoded = rle.encode(mask)
    assert encoded["size"] == list(mask.shape)
    assert encoded["counts"].isascii()
    np.testing.assert_array_equal(rle.decode(encoded), mask)
    np.testing.assert_array_equal(brute_force(*mask.shape, encoded["counts"]), mask)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 15, 16, 31, 32, 511, 512, 1023, 1024, 20_000]), min_size=1, max_size=9))
def test_runs_of_any_length(runs):
    """Differences of all signs and sizes, at the borders of the five-bit groups."""
    flat = np.repeat(np.arange(len(runs)) % 2 == 1, runs)
    mask = flat.reshape(1, -1)
    encoded = rle.encode(mask)
    np.testing.assert_array_equal(brute_force(*mask.shape, encoded["counts"]), mask)
    np.testing.assert_array_equal(rle.decode(encoded), mask)


def circle(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return (x - size * 0.4) ** 2 + (y - size * 0.6) ** 2 < (size / 4) ** 2


@pytest.mark.parametrize(
    ("mask", "counts"),
    [
        (np.zeros((3, 4), bool), "<"),
        (np.ones((3, 4), bool), "0<"),
        (np.eye(5, dtype=bool), "0150000000"),
        (circle(40), "\\99n02M4N0O2N2O0000000000000001N2N102L3Nm`0"),
        (np.ones((1080, 1920), bool), "0PPYo1"),
        (np.indices((4, 4)).sum(0) % 2 == 0, "011010O10O10O0"),
    ],
)
def test_is_what_pycocotools_writes(mask, counts):
    assert rle.encode(mask)["counts"] == counts


def test_run_lengths_by_hand():
    mask = np.array([[0, 1, 1], [0, 1, 0]], bool)
    assert rle.run_lengths(mask).tolist() == [2, 3, 1]
    assert rle.run_lengths(~mask).tolist() == [0, 2, 3, 1]


def test_counts_that_do_not_fit_the_size():
    with pytest.raises(ValueError, match="counts of 6 pixels for a mask of 3x3"):
        rle.decode({"size": [3, 3], "counts": rle.encode(np.ones((2, 3), bool))["counts"]})
