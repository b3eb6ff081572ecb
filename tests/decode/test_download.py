"""What comes back from device memory, on the host: the views alone, since the copy needs a GPU."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.decode.download import plane_views, surface_bytes
from pipeline.frames import SurfaceLayout

sizes = st.integers(1, 40)


@given(width=sizes, height=sizes, sample=st.sampled_from([1, 2]), shift=st.sampled_from([(1, 1), (1, 0), (0, 0)]))
def test_planar_and_semi_planar_surfaces_give_back_their_planes(width, height, sample, shift):
    kind = f"u{sample}"
    rng = np.random.default_rng(0)
    columns, rows = -(-width // 2 ** shift[0]), -(-height // 2 ** shift[1])
    luma = rng.integers(0, 255, (height, width)).astype(kind)
    chroma = rng.integers(0, 255, (2, rows, columns)).astype(kind)
    first = luma.nbytes
    planar = SurfaceLayout(
        width, height, width * sample, first, rows * columns * sample, columns * sample, sample, sample
    )
    semi = SurfaceLayout(width, height, width * sample, first, sample, 2 * columns * sample, 2 * sample, sample)
    pairs = np.moveaxis(chroma, 0, -1)
    for layout, after in ((planar, chroma), (semi, pairs)):
        memory = np.frombuffer(luma.tobytes() + np.ascontiguousarray(after).tobytes(), np.uint8)
        assert surface_bytes(layout, shift) == memory.size
        found = plane_views(memory, layout, shift)
        for plane, expected in zip(found, (luma, *chroma), strict=True):
            np.testing.assert_array_equal(plane, expected)


def test_a_grey_surface_has_one_plane():
    luma = np.arange(12, dtype=np.uint8).reshape(3, 4)
    layout = SurfaceLayout(4, 3, 4, 12, 0, 0, 0, 1)
    assert surface_bytes(layout, (0, 0)) == 12
    (plane,) = plane_views(luma.ravel(), layout, (0, 0))
    np.testing.assert_array_equal(plane, luma)


def test_rows_may_be_padded():
    memory = np.arange(40, dtype=np.uint8)
    layout = SurfaceLayout(4, 3, 10, 30, 0, 0, 0, 1)
    (plane,) = plane_views(memory, layout, (0, 0))
    assert plane.tolist() == [[0, 1, 2, 3], [10, 11, 12, 13], [20, 21, 22, 23]]
    with pytest.raises((ValueError, TypeError)):
        plane_views(memory[:20], layout, (0, 0))
