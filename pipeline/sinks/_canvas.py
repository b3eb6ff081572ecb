"""Drawing on the planes of a 4:2:0 picture: only the samples that are drawn on change."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from pipeline.frames import Colour
from pipeline.sinks._colour import Rgb, text_rgb, to_sample
from pipeline.sinks._text import text_mask

Plane = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, eq=False)
class Canvas:
    """Writable planes of 8-bit 4:2:0 with even width and height.

    Attributes:
        y: (height, width) uint8.
        cb: (height / 2, width / 2) uint8.
        cr: The same.
        colour: Matrix and range of the samples.
    """

    y: Plane
    cb: Plane
    cr: Plane
    colour: Colour

    @property
    def width(self) -> int:
        """In pixels."""
        return int(self.y.shape[1])

    @property
    def height(self) -> int:
        """In pixels."""
        return int(self.y.shape[0])

    @property
    def line_width(self) -> int:
        """Thickness of outlines in pixels, by the picture's size."""
        return max(1, round(min(self.width, self.height) / 360))

    @property
    def font_size(self) -> int:
        """Size of texts in pixels, by the picture's size."""
        return min(64, max(10, round(min(self.width, self.height) / 40)))

    def fill(self, x1: int, y1: int, x2: int, y2: int, rgb: Rgb) -> None:
        """Paints the pixels x1..x2 - 1 of the rows y1..y2 - 1; what lies outside the picture is left out.

        A chroma sample that belongs to 2x2 pixels takes the colour by the share of them that is painted.
        """
        x1, x2 = max(0, x1), min(self.width, x2)
        y1, y2 = max(0, y1), min(self.height, y2)
        if x2 <= x1 or y2 <= y1:
            return
        luma, *chroma = to_sample(rgb, self.colour)
        self.y[y1:y2, x1:x2] = luma
        whole = not (x1 | y1 | x2 | y2) & 1
        share = 1.0 if whole else np.outer(_share(y1, y2), _share(x1, x2))
        for plane, sample in zip((self.cb, self.cr), chroma, strict=True):
            part = plane[y1 // 2 : (y2 + 1) // 2, x1 // 2 : (x2 + 1) // 2]
            part[...] = sample if whole else np.rint(part + share * (sample - part.astype(np.float32)))

    def paint(self, mask: npt.NDArray[np.bool_], left: int, top: int, rgb: Rgb, opacity: float) -> None:
        """Lays a colour over the pixels of a mask, which lies inside the picture.

        A chroma sample that belongs to 2x2 pixels takes the colour by the share of them that is in the mask.

        Args:
            mask: (h, w) bool.
            left: Column of the picture that the mask's first one lies on.
            top: The same for rows.
            rgb: The colour.
            opacity: 0: nothing changes, 1: what was there is hidden.
        """
        rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
        if not rows.size or opacity == 0:
            return
        mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        top, left = top + int(rows[0]), left + int(columns[0])
        height, width = mask.shape
        luma, *chroma = to_sample(rgb, self.colour)
        part = self.y[top : top + height, left : left + width]
        tinted = np.rint((1 - np.float32(opacity)) * np.arange(256, dtype=np.float32) + np.float32(opacity * luma))
        np.copyto(part, tinted.astype(np.uint8)[part], where=mask)
        odd_top, odd_left = top % 2, left % 2
        padding = ((odd_top, (odd_top + height) % 2), (odd_left, (odd_left + width) % 2))
        pairs = np.pad(mask, padding).astype(np.uint8)
        fours = pairs[::2, ::2] + pairs[1::2, ::2] + pairs[::2, 1::2] + pairs[1::2, 1::2]
        share = fours * np.float32(opacity / 4)
        for plane, sample in zip((self.cb, self.cr), chroma, strict=True):
            part = plane[top // 2 : (top + height + 1) // 2, left // 2 : (left + width + 1) // 2]
            part[...] = np.rint(part + share * (np.float32(sample) - part))

    def outline(self, box: tuple[int, int, int, int], rgb: Rgb) -> None:
        """Draws the edge of a box, inside of it: x1, y1, x2, y2 cover the pixels x1..x2 - 1 of the rows y1..y2 - 1."""
        x1, y1, x2, y2 = box
        t = min(self.line_width, max(1, (x2 - x1) // 2), max(1, (y2 - y1) // 2))
        self.fill(x1, y1, x2, y1 + t, rgb)
        self.fill(x1, y2 - t, x2, y2, rgb)
        self.fill(x1, y1 + t, x1 + t, y2 - t, rgb)
        self.fill(x2 - t, y1 + t, x2, y2 - t, rgb)

    def text(self, text: str, x: int, y: int, background: Rgb, *, above: bool = False) -> int:
        """Writes a line on a filled background, moved so that it lies inside the picture.

        Args:
            text: What is written; cut where the picture is too narrow for it.
            x: Its left edge.
            y: Its top edge, or with `above` its bottom edge where there is room above, else its top edge.
            background: Colour behind the text, which is black or white.
            above: See `y`.

        Returns:
            The height of the line in pixels; 0 if there was no room.
        """
        planes = _label(text, self.font_size, self.width, background, self.colour)
        height, width = planes[0].shape
        if not planes[0].size or height > self.height:
            return 0
        if above and y >= height:
            y -= height
        # On even positions and in even sizes no chroma sample is shared with the picture around.
        x, y = (min(max(0, x), self.width - width) & ~1, min(max(0, y), self.height - height) & ~1)
        for target, plane, shift in zip((self.y, self.cb, self.cr), planes, (0, 1, 1), strict=True):
            target[y >> shift : (y + height) >> shift, x >> shift : (x + width) >> shift] = plane
        return int(height)


@lru_cache(maxsize=1024)
def _label(text: str, size: int, max_width: int, background: Rgb, colour: Colour) -> tuple[Plane, Plane, Plane]:
    """Text on its background as 4:2:0 planes."""
    mask = text_mask(text, size, max_width)
    height, width = mask.shape
    back, front = to_sample(background, colour), to_sample(text_rgb(background), colour)
    luma = mask.astype(np.float32) / 255
    chroma = luma.reshape(height // 2, 2, width // 2, 2).mean((1, 3))
    y, cb, cr = (
        np.rint(b + share * (f - b)).astype(np.uint8)
        for b, f, share in zip(back, front, (luma, chroma, chroma), strict=True)
    )
    return y, cb, cr


def _share(start: int, end: int) -> npt.NDArray[np.float32]:
    """Of each chroma sample that start..end - 1 touches: the share of its two pixels that is in there."""
    share = np.ones((end + 1) // 2 - start // 2, np.float32)
    if start % 2:
        share[0] -= 0.5
    if end % 2:
        share[-1] -= 0.5
    return share
