"""Y'CbCr -> R'G'B' as one affine map, and where chroma samples lie.

Sources: Recommendations ITU-R BT.601-7, BT.709-6 and BT.2020-2 (luma coefficients, quantisation), SMPTE ST 240, and
ITU-T H.273 (the equations for any bit depth, full range, chroma sample location).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.frames import Colour, Siting

Float64Array = npt.NDArray[np.float64]

# (Kr, Kb): what red and blue contribute to luma; green contributes the rest.
_LUMA: dict[Literal["bt601", "bt709", "bt2020", "smpte240m"], tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
}


def rgb_from_ycbcr(colour: Colour) -> tuple[Float64Array, Float64Array]:
    """The map from samples to 8-bit RGB: `rgb = matrix @ samples + offset`, not clipped.

    Args:
        colour: How the samples are coded. BT.2020 is taken as non-constant luminance.

    Returns:
        matrix (3, 3) and offset (3,), so that black is 0 and white is 255. With `colour.matrix == "rgb"` the samples are
        R, G and B and the matrix is diagonal.
    """
    luma_gain, luma_zero, chroma_gain, chroma_zero = _quantisation(colour)
    if colour.matrix == "rgb":
        return np.eye(3) * (255 * luma_gain), np.full(3, -255 * luma_gain * luma_zero)
    kr, kb = _LUMA[colour.matrix]
    kg = 1 - kr - kb
    red, blue = 2 * (1 - kr), 2 * (1 - kb)
    analogue = np.array([[1, 0, red], [1, -blue * kb / kg, -red * kr / kg], [1, blue, 0]])
    matrix = 255 * analogue * np.array([luma_gain, chroma_gain, chroma_gain])
    return matrix, -matrix @ np.array([luma_zero, chroma_zero, chroma_zero])


def rgb_from_planes(colour: Colour, planes: int) -> tuple[Float64Array, Float64Array]:
    """As `rgb_from_ycbcr`, for a picture with 3 planes or, if it is grey, 1: matrix (3, planes) and offset (3,)."""
    matrix, offset = rgb_from_ycbcr(colour)
    if planes == 3:
        return matrix, offset
    if colour.matrix == "rgb":
        return matrix.sum(axis=1, keepdims=True), offset
    neutral = _quantisation(colour)[3]
    return matrix[:, :1], offset + matrix[:, 1:].sum(axis=1) * neutral


def siting_offset(siting: Siting, shift: tuple[int, int]) -> tuple[float, float]:
    """Where the first chroma sample lies: (x, y) in luma samples from the centre of the first luma sample.

    Args:
        siting: As in `pipeline.frames.Colour`.
        shift: log2 of the horizontal and vertical subsampling. An axis that is not subsampled has no offset.
    """
    last_x, last_y = 2 ** shift[0] - 1, 2 ** shift[1] - 1
    x = 0.0 if "left" in siting else last_x / 2
    y = 0.0 if "top" in siting else float(last_y) if "bottom" in siting else last_y / 2
    return x, y


def _quantisation(colour: Colour) -> tuple[float, float, float, float]:
    """Luma gain and zero, chroma gain and zero: (sample - zero) * gain is 0..1 for luma, -0.5..0.5 for chroma."""
    middle = 2.0 ** (colour.bit_depth - 1)
    if colour.full_range:
        gain = 1 / (2**colour.bit_depth - 1)
        return gain, 0.0, gain, middle
    step = 2.0 ** (colour.bit_depth - 8)
    return 1 / (219 * step), 16 * step, 1 / (224 * step), middle
