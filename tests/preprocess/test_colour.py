"""Colours whose RGB is known, and agreement with libswscale's accurate path."""

from __future__ import annotations

import numpy as np
import pytest
from swscale import ACCURATE, HEIGHT, MATRICES, SUBSAMPLINGS, WIDTH, make_planes, swscale_rgb

from pipeline.frames import Colour, Picture
from pipeline.preprocess.colour import rgb_from_planes, rgb_from_ycbcr, siting_offset
from pipeline.preprocess.reference import to_rgb


def test_bt709_limited_is_the_recommendations_matrix():
    matrix, offset = rgb_from_ycbcr(Colour())
    np.testing.assert_allclose(
        matrix * 219 / 255, [[1, 0, 1.53965], [1, -0.183143, -0.457675], [1, 1.81418, 0]], atol=2e-5
    )
    np.testing.assert_allclose(matrix @ [16, 128, 128] + offset, 0, atol=1e-12)


@pytest.mark.parametrize("matrix", [*MATRICES, "rgb"])
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", range(8, 17))
@pytest.mark.parametrize("planes", [1, 3])
def test_black_is_0_and_white_is_255(matrix, full_range, bits, planes):
    step, top, middle = 2 ** (bits - 8), 2**bits - 1, 2 ** (bits - 1)
    black, white = (0, top) if full_range else (16 * step, 235 * step)
    dtype = np.uint8 if bits == 8 else np.uint16
    luma = np.array([[black, white]], dtype)
    others = (luma, luma) if matrix == "rgb" else (np.full((1, 2), middle, dtype),) * 2
    colour = Colour(matrix, full_range, bits)
    picture = Picture((luma, *others)[:planes], (0, 0), colour, 2, 1)
    assert to_rgb(picture).tolist() == [[[0] * 3, [255] * 3]]
    weights, offset = rgb_from_planes(colour, planes)
    np.testing.assert_allclose(weights @ np.array([white, *(int(p[0, 1]) for p in others)][:planes]) + offset, 255)


# 75 % colour bars, 8-bit limited range, as SMPTE RP 219-1 (BT.709) and EBU/ITU-R BT.471 (BT.601) tabulate Y, Cb, Cr.
BARS = {
    "bt709": [
        (180, 128, 128),
        (168, 44, 136),
        (145, 147, 44),
        (133, 63, 52),
        (63, 193, 204),
        (51, 109, 212),
        (28, 212, 120),
    ],
    "bt601": [
        (180, 128, 128),
        (162, 44, 142),
        (131, 156, 44),
        (112, 72, 58),
        (84, 184, 198),
        (65, 100, 212),
        (35, 212, 114),
    ],
}
BARS_RGB = [(1, 1, 1), (1, 1, 0), (0, 1, 1), (0, 1, 0), (1, 0, 1), (1, 0, 0), (0, 0, 1)]


@pytest.mark.parametrize("matrix", BARS)
def test_colour_bars(matrix):
    planes = tuple(np.array(BARS[matrix], np.uint8).T.reshape(3, 1, 7))
    rgb = to_rgb(Picture(planes, (0, 0), Colour(matrix), 7, 1))
    # The bars' samples are rounded themselves: half a step is up to 1.2 of 255.
    assert np.abs(rgb[0] - np.array(BARS_RGB) * 191.25).max() <= 1.75


@pytest.mark.parametrize("bits", [8, 10, 16])
def test_primaries_come_back_exactly(bits):
    """RGB -> Y'CbCr by the definition, rounded to samples -> RGB: within what the rounding takes away."""
    step, middle = 2 ** (bits - 8), 2 ** (bits - 1)
    rgb = np.array(BARS_RGB, np.float64)
    for matrix, (kr, kb) in {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593)}.items():
        luma = rgb @ [kr, 1 - kr - kb, kb]
        chroma = [(rgb[:, 2] - luma) / (2 - 2 * kb), (rgb[:, 0] - luma) / (2 - 2 * kr)]
        samples = [np.round((16 + 219 * luma) * step), *(np.round(middle + 224 * step * c) for c in chroma)]
        planes = tuple(s.reshape(1, 7).astype(np.uint8 if bits == 8 else np.uint16) for s in samples)
        got = to_rgb(Picture(planes, (0, 0), Colour(matrix, False, bits), 7, 1))
        assert np.abs(got[0] - 255 * rgb).max() <= (2 if bits == 8 else 0)


def test_siting():
    assert siting_offset("left", (1, 1)) == (0, 0.5)
    assert siting_offset("center", (1, 1)) == (0.5, 0.5)
    assert siting_offset("topleft", (1, 1)) == (0, 0)
    assert siting_offset("top", (1, 1)) == (0.5, 0)
    assert siting_offset("bottomleft", (1, 1)) == (0, 1)
    assert siting_offset("bottom", (1, 1)) == (0.5, 1)
    assert siting_offset("center", (2, 0)) == (1.5, 0)
    assert siting_offset("bottom", (0, 0)) == (0, 0)


# ------------------------------------------------------------------------------------------------- against libswscale


@pytest.mark.parametrize("pixel_format", SUBSAMPLINGS)
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("bits", [8, 10])
def test_every_pixel_is_within_2_of_libswscale(pixel_format, matrix, full_range, bits):
    """swscale's bilinear chroma filter at an explicit siting is the definition's: noise and hard edges agree as well."""
    shift = SUBSAMPLINGS[pixel_format]
    name = pixel_format if bits == 8 else f"{pixel_format}10le"
    for siting in ("left", "center", "topleft") if shift != (0, 0) else ("left",):
        options = (
            f"flags={ACCURATE}:in_color_matrix={matrix}:in_range={'full' if full_range else 'limited'}"
            f":out_range=full:in_chroma_loc={siting}"
        )
        for content in ("smooth", "noise", "edges"):
            planes = make_planes(content, bits, shift, full_range)
            ours = to_rgb(Picture(planes, shift, Colour(matrix, full_range, bits, siting), WIDTH, HEIGHT))
            theirs = swscale_rgb(planes, name, options)
            assert np.abs(ours.astype(int) - theirs).max() <= 2, (siting, content)


def test_another_siting_is_not_within_2():
    """The comparison above can tell sitings apart."""
    planes = make_planes("noise", 8, (1, 1), False)
    options = f"flags={ACCURATE}:in_color_matrix=bt709:in_range=limited:out_range=full:in_chroma_loc=left"
    theirs = swscale_rgb(planes, "yuv420p", options)
    ours = to_rgb(Picture(planes, (1, 1), Colour(siting="center"), WIDTH, HEIGHT))
    assert np.abs(ours.astype(int) - theirs).max() > 20
