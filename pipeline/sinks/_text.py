"""Text as coverage masks, by Pillow's built-in scalable font."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import cast

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from pipeline.sinks._names import encodable

Mask = npt.NDArray[np.uint8]


def text_mask(text: str, size: int, max_width: int) -> Mask:
    """How much of each pixel the text covers, with a margin around it.

    The font knows ASCII: letters lose their accents, other characters show as the font's placeholder, and line breaks
    and other control characters as spaces.

    Args:
        text: One line.
        size: Of the font, in pixels.
        max_width: Of the mask, in pixels; a text that is wider is cut and ends in "...".

    Returns:
        (height, width) uint8, both even; (0, 0) if not one character has room.
    """
    font = _font(size)
    margin = max(1, size // 6)
    plain = unicodedata.normalize("NFKD", encodable(text))
    line = "".join(c if c.isprintable() else " " for c in plain if not unicodedata.combining(c))
    fitting = _shorten(line, font, max_width - 2 * margin - 1)
    if not fitting:
        return np.zeros((0, 0), np.uint8)
    ascent, descent = font.getmetrics()
    width = _even_up(int(np.ceil(font.getlength(fitting))) + 2 * margin)
    height = _even_up(ascent + descent + margin)
    image = Image.new("L", (min(width, max_width & ~1), height))
    ImageDraw.Draw(image).text((margin, height - margin // 2 - descent), fitting, fill=255, font=font, anchor="ls")
    return np.asarray(image)


@lru_cache(maxsize=64)
def _font(size: int) -> ImageFont.FreeTypeFont:
    return cast(ImageFont.FreeTypeFont, ImageFont.load_default(size))


def _shorten(text: str, font: ImageFont.FreeTypeFont, room: int) -> str:
    text = text[:500]  # no picture is wider, and a label may be a novel
    if font.getlength(text) <= room:
        return text
    low, high = 0, len(text)
    while low < high:  # the longest beginning that fits with the dots
        middle = (low + high + 1) // 2
        if font.getlength(text[:middle] + "...") <= room:
            low = middle
        else:
            high = middle - 1
    return text[:low] + "..." if low else ""


def _even_up(value: int) -> int:
    return value + value % 2
