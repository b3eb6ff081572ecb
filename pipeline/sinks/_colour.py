"""The colours of boxes and labels, in a picture's own Y'CbCr."""

from __future__ import annotations

import colorsys
from functools import lru_cache

from pipeline.frames import Colour, Matrix

Rgb = tuple[float, float, float]
Sample = tuple[int, int, int]
WHITE: Rgb = (1.0, 1.0, 1.0)
BLACK: Rgb = (0.0, 0.0, 0.0)

# K_R and K_B of ITU-R BT.601, BT.709, BT.2020 and SMPTE 240M.
_WEIGHTS: dict[Matrix, tuple[float, float]] = {
    "bt601": (0.299, 0.114),
    "bt709": (0.2126, 0.0722),
    "bt2020": (0.2627, 0.0593),
    "smpte240m": (0.212, 0.087),
}
_GOLDEN_RATIO = 0.6180339887498949


@lru_cache(maxsize=4096)
def class_rgb(class_id: int) -> Rgb:
    """The colour of a class: always the same; hues a golden angle apart, so that neighbours in number differ most."""
    return colorsys.hsv_to_rgb((0.03 + class_id * _GOLDEN_RATIO) % 1.0, 0.65 + 0.3 * (class_id // 3 % 2), 0.95)


def text_rgb(background: Rgb) -> Rgb:
    """Black or white, whichever contrasts more with the background (WCAG 2's contrast ratio)."""
    return BLACK if (luminance(background) + 0.05) ** 2 > 1.05 * 0.05 else WHITE


def luminance(rgb: Rgb) -> float:
    """WCAG 2's relative luminance of an sRGB colour, 0..1."""
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


@lru_cache(maxsize=4096)
def to_sample(rgb: Rgb, colour: Colour) -> Sample:
    """R'G'B' in 0..1 -> 8-bit Y', Cb, Cr by the matrix and range of `colour` (ITU-R BT.709, 4.)."""
    kr, kb = _WEIGHTS[colour.matrix]
    r, g, b = rgb
    y = kr * r + (1 - kr - kb) * g + kb * b
    cb, cr = (b - y) / (2 * (1 - kb)), (r - y) / (2 * (1 - kr))
    if colour.full_range:
        return round(255 * y), min(255, round(128 + 255 * cb)), min(255, round(128 + 255 * cr))
    return round(16 + 219 * y), round(128 + 224 * cb), round(128 + 224 * cr)
