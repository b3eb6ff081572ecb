"""Pictures become upright 4:2:0, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from pipeline.errors import SinkError
from pipeline.frames import Colour, Picture
from pipeline.sinks._upright import Upright

MakePicture = Callable[..., Picture]


@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("size", [(64, 48), (63, 48), (64, 47), (63, 47)])
def test_420_is_copied_sample_by_sample_and_boxes_stay_on_their_pixels(
    make_picture: MakePicture, size: tuple[int, int], rotation: int, mirror: bool
) -> None:
    width, height = size
    picture = make_picture(width, height, rotation=rotation, mirror=mirror)
    y, cb, cr = picture.planes
    _, canvas, placement = Upright(picture, None)(picture)

    def shown(plane: np.ndarray) -> np.ndarray:
        return np.rot90(np.fliplr(plane) if mirror else plane, -rotation // 90)

    np.testing.assert_array_equal(canvas.y, shown(y[: height & ~1, : width & ~1]))
    np.testing.assert_array_equal(canvas.cb, shown(cb[: height // 2, : width // 2]))
    np.testing.assert_array_equal(canvas.cr, shown(cr[: height // 2, : width // 2]))
    # A box around display pixels 8..19 x 6..15 must be around the same samples on the canvas.
    left, top, right, bottom = placement.box(8, 6, 20, 16)
    np.testing.assert_array_equal(canvas.y[top:bottom, left:right], shown(y)[6:16, 8:20])


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize(
    ("shift", "depth"),
    [((1, 0), 8), ((0, 0), 8), ((0, 1), 8), ((2, 0), 8), ((1, 1), 10), ((1, 0), 10), ((0, 0), 12), ((1, 1), 16)],
)
def test_other_formats_keep_their_colours(
    make_picture: MakePicture, shift: tuple[int, int], depth: int, full_range: bool
) -> None:
    picture = make_picture(64, 48, shift=shift, seed=None, colour=Colour("bt709", full_range, depth))
    upright = Upright(picture, None)
    _, canvas, _ = upright(picture)
    assert upright.colour == Colour("bt709", full_range)
    assert upright.size == (64, 48)
    y, cb, cr = (p.astype(np.float64) / (1 << (depth - 8)) for p in picture.planes)
    # Full range counts to 2^n - 1, limited range to 219 * 2^(n - 8): scale by the former's ratio.
    scale = 255 / ((1 << depth) - 1) * (1 << (depth - 8)) if full_range else 1.0
    np.testing.assert_allclose(canvas.y, y * scale, atol=1.1 if depth == 8 else 1.6)  # libswscale dithers
    for plane, source in ((canvas.cb, cb), (canvas.cr, cr)):
        expected = np.array(
            [
                [source[round(r), round(c)] for c in np.linspace(0, source.shape[1] - 1, 32)]
                for r in np.linspace(0, source.shape[0] - 1, 24)
            ]
        )
        np.testing.assert_allclose(plane, expected, atol=3)


@pytest.mark.parametrize(("depth", "full_range"), [(8, False), (8, True), (10, False), (16, True)])
def test_grey(make_picture: MakePicture, depth: int, full_range: bool) -> None:
    colour = make_picture(64, 48, seed=None, colour=Colour("bt601", full_range, depth))
    picture = replace(colour, planes=colour.planes[:1], chroma_shift=(0, 0))
    _, canvas, _ = Upright(picture, None)(picture)
    np.testing.assert_allclose(canvas.y, colour.planes[0] / (1 << (depth - 8)), atol=1.6)
    np.testing.assert_allclose(canvas.cb, 128, atol=1)
    np.testing.assert_allclose(canvas.cr, 128, atol=1)


@pytest.mark.parametrize(("height", "weights"), [(48, (0.299, 0.587, 0.114)), (720, (0.2126, 0.7152, 0.0722))])
@pytest.mark.parametrize("depth", [8, 10])
def test_rgb_becomes_limited_range(
    make_picture: MakePicture, height: int, weights: tuple[float, float, float], depth: int
) -> None:
    picture = make_picture(64, height, shift=(0, 0), seed=None, colour=Colour("rgb", True, depth))
    upright = Upright(picture, None)
    _, canvas, _ = upright(picture)
    assert upright.colour == Colour("bt709" if height == 720 else "bt601")
    r, g, b = (p / ((1 << depth) - 1) for p in picture.planes)
    kr, kg, kb = weights
    luma = kr * r + kg * g + kb * b
    np.testing.assert_allclose(canvas.y, 16 + 219 * luma, atol=2)
    cr = 128 + 224 * (r - luma) / (2 * (1 - kr))
    np.testing.assert_allclose(canvas.cr, cr.reshape(height // 2, 2, 32, 2).mean((1, 3)), atol=2)
    cb = 128 + 224 * (b - luma) / (2 * (1 - kb))
    np.testing.assert_allclose(canvas.cb, cb.reshape(height // 2, 2, 32, 2).mean((1, 3)), atol=2)


def test_wide_samples_and_max_width(make_picture: MakePicture) -> None:
    picture = make_picture(72, 58, seed=None, sar=Fraction(16, 11), shown=(105, 58))
    upright = Upright(picture, None)
    _, canvas, placement = upright(picture)
    assert upright.size == (104, 58) == (canvas.width, canvas.height)
    assert placement.box(0, 0, 105, 58) == (0, 0, 104, 58)
    expected = np.interp(np.linspace(0, 71, 104), np.arange(72), picture.planes[0][29].astype(float))
    np.testing.assert_allclose(canvas.y[29], expected, atol=1.5)

    small = Upright(picture, 51)
    _, canvas, placement = small(picture)
    assert small.size == (50, 28)
    assert placement.box(0, 0, 105, 58) == (0, 0, 50, 28)
    assert Upright(picture, 2000).size == (104, 58)


def test_a_turned_picture_with_wide_samples(make_picture: MakePicture) -> None:
    picture = make_picture(64, 48, seed=None, rotation=90, sar=Fraction(2), shown=(48, 128))
    upright = Upright(picture, None)
    _, canvas, _ = upright(picture)
    assert upright.size == (48, 128)
    expected = np.interp(np.linspace(0, 63, 128), np.arange(64), picture.planes[0][40].astype(float))
    np.testing.assert_allclose(canvas.y[:, 47 - 40], expected, atol=1.5)


def test_later_pictures_of_another_size_are_letterboxed(make_picture: MakePicture) -> None:
    upright = Upright(make_picture(64, 48), None)
    tall = make_picture(100, 200, seed=None)
    frame, canvas, placement = upright(tall)
    assert (frame.width, frame.height) == (64, 48)
    assert placement.box(0, 0, 100, 200) == (20, 0, 44, 48)
    assert (canvas.y[:, :20] == 16).all()
    assert (canvas.y[:, 44:] == 16).all()
    assert (canvas.cb[:, :10] == 128).all()
    assert canvas.y[0, 20] == pytest.approx(float(tall.planes[0][0, 0]), abs=2)
    assert canvas.y[47, 43] == pytest.approx(float(tall.planes[0][-1, -1]), abs=2)
    full = Upright(make_picture(64, 48, colour=Colour("bt601", True)), None)
    assert (full(tall)[1].y[:, :20] == 0).all()


def test_later_pictures_of_another_matrix_are_converted(make_picture: MakePicture) -> None:
    flat = [np.full(size, value, np.uint8) for size, value in (((48, 64), 81), ((24, 32), 90), ((24, 32), 240))]
    red = Picture(tuple(flat), (1, 1), Colour("bt601"), 64, 48)  # pure red in BT.601
    upright = Upright(make_picture(64, 48, colour=Colour("bt709")), None)
    _, canvas, _ = upright(red)
    assert (canvas.y[0, 0], canvas.cb[0, 0], canvas.cr[0, 0]) == pytest.approx((63, 102, 240), abs=2)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 1), (1, 16)])
def test_tiny_pictures(make_picture: MakePicture, size: tuple[int, int]) -> None:
    picture = make_picture(*size)
    _, canvas, _ = Upright(picture, None)(picture)
    assert canvas.width >= 2
    assert canvas.height >= 2


def test_an_unknown_format_is_named(make_picture: MakePicture) -> None:
    picture = make_picture(64, 48, shift=(3, 1))
    with pytest.raises(SinkError, match="cannot be converted"):
        Upright(picture, None)(picture)
