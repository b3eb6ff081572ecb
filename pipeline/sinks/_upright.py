"""Decoded pictures -> upright 8-bit 4:2:0 with square pixels, of one size, in the source's own colours.

An 8-bit 4:2:0 picture of the right size is only copied (turned, if need be): its samples stay what they are. All
others are converted once by libswscale, with their matrix and range kept.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import av
import numpy as np
import numpy.typing as npt

from pipeline.errors import SinkError
from pipeline.frames import Colour, Picture, Siting
from pipeline.sinks._canvas import Canvas, Plane

Size = tuple[int, int]
Planes = tuple[npt.NDArray[np.generic], ...]

# FFmpeg's SWS_CS_* by our matrix names.
_SWS_COLOUR = {"bt601": 5, "bt709": 1, "bt2020": 9, "smpte240m": 7}
_SUBSAMPLING = {(1, 1): "420", (1, 0): "422", (0, 0): "444", (0, 1): "440", (2, 0): "411", (2, 2): "410"}
_MPEG_RANGE, _JPEG_RANGE = 1, 2
# Of the 2x2 pixels that share a chroma sample: right is x = 1, down is y = 1, the middle is 0.
_SITINGS: dict[Siting, tuple[int, int]] = {
    "left": (-1, 0),
    "center": (0, 0),
    "topleft": (-1, -1),
    "top": (0, -1),
    "bottomleft": (-1, 1),
    "bottom": (0, 1),
}
_BLACK = {False: 16, True: 0}


@dataclass(frozen=True, slots=True)
class Placement:
    """Where display coordinates lie in the output: output = display * scale + offset."""

    scale_x: float
    scale_y: float
    offset_x: float
    offset_y: float

    def box(self, x1: float, y1: float, x2: float, y2: float) -> tuple[int, int, int, int]:
        """A box in whole output pixels, at least one pixel wide and high."""
        left, right = (round(x * self.scale_x + self.offset_x) for x in (x1, x2))
        top, bottom = (round(y * self.scale_y + self.offset_y) for y in (y1, y2))
        return left, top, max(right, left + 1), max(bottom, top + 1)


def output_colour(picture: Picture) -> Colour:
    """The colours of the annotated video: the picture's own in 8 bit; RGB becomes limited-range Y'CbCr."""
    colour = picture.colour
    siting = _turned_siting(picture)
    if colour.matrix != "rgb":
        return replace(colour, bit_depth=8, siting=siting)
    large = picture.height >= 720 or picture.width >= 1280
    return Colour("bt709" if large else "bt601", siting=siting)


def output_size(picture: Picture, max_width: int | None) -> Size:
    """Width and height of the annotated video: the display size, not wider than `max_width`, odd sizes cut by one."""
    width, height = picture.width, picture.height
    if max_width is not None and width > max_width:
        width, height = max_width, round(height * max_width / width)
    return _even(width), _even(height)


class Upright:
    """Makes the frames of one annotated video; the first picture decides its size and colours.

    Attributes:
        size: Width and height of the video in pixels.
        colour: How its samples become R'G'B'.
    """

    def __init__(self, first: Picture, max_width: int | None) -> None:
        self.size = output_size(first, max_width)
        self.colour = output_colour(first)
        self._max_width = max_width
        self._scaler = av.video.reformatter.VideoReformatter()

    def __call__(self, picture: Picture) -> tuple[av.VideoFrame, Canvas, Placement]:
        """A new frame that shows the picture, its planes to draw on, and where the picture lies in it.

        A picture of another size than the first one's is fitted into the middle, with black bars.

        Raises:
            SinkError: libswscale does not know the picture's format.
        """
        width, height = output_size(picture, self._max_width)
        out_width, out_height = self.size
        if (width, height) != self.size:
            scale = min(out_width / width, out_height / height)
            width, height = _even(min(round(width * scale), out_width)), _even(min(round(height * scale), out_height))
        left, top = _even((out_width - width) // 2, 0), _even((out_height - height) // 2, 0)
        planes, placement = self._planes(picture, (width, height))

        frame = av.VideoFrame(out_width, out_height, "yuv420p")
        canvas = Canvas(*_plane_views(frame, np.uint8), colour=self.colour)
        if (width, height) != self.size:
            canvas.y[...] = _BLACK[self.colour.full_range]
            canvas.cb[...] = canvas.cr[...] = 128
        for target, plane, shift in zip((canvas.y, canvas.cb, canvas.cr), planes, (0, 1, 1), strict=True):
            rows, columns = plane.shape
            target[top >> shift : (top >> shift) + rows, left >> shift : (left >> shift) + columns] = plane
        return frame, canvas, replace(placement, offset_x=placement.offset_x + left, offset_y=placement.offset_y + top)

    def _planes(self, picture: Picture, size: Size) -> tuple[Planes, Placement]:
        """Upright planes of this size."""
        picture = _with_chroma(picture)
        turned = picture.rotation in (90, 270)
        coded = size[::-1] if turned else size
        planes: Planes
        if self._fits(picture, coded):
            width, height = coded
            planes = tuple(p[: height >> s, : width >> s] for p, s in zip(picture.planes, (0, 1, 1), strict=True))
            lost_x, lost_y = (a - b for a, b in zip(picture.coded_size, coded, strict=True))
            placement = Placement(1.0, 1.0, *_lost_before(picture, lost_x, lost_y))
        else:
            planes = self._converted(picture, coded)
            placement = Placement(size[0] / picture.width, size[1] / picture.height, 0.0, 0.0)
        return tuple(_turn(plane, picture) for plane in planes), placement

    def _fits(self, picture: Picture, coded: Size) -> bool:
        colour = picture.colour
        return (
            picture.chroma_shift == (1, 1)
            and colour.bit_depth == 8
            and (colour.matrix, colour.full_range) == (self.colour.matrix, self.colour.full_range)
            and picture.sar == 1
            and tuple(_even(side) for side in picture.coded_size) == coded
            and min(picture.coded_size) >= 2
        )

    def _converted(self, picture: Picture, size: Size) -> Planes:
        colour = picture.colour
        is_rgb = colour.matrix == "rgb"
        try:
            source = _to_frame(picture)
            result = self._scaler.reformat(
                source,
                *size,
                "yuv420p",
                src_colorspace=_SWS_COLOUR[self.colour.matrix if is_rgb else colour.matrix],
                dst_colorspace=_SWS_COLOUR[self.colour.matrix],
                interpolation="BICUBIC",
                src_color_range=_JPEG_RANGE if colour.full_range else _MPEG_RANGE,
                dst_color_range=_JPEG_RANGE if self.colour.full_range else _MPEG_RANGE,
            )
        except (av.error.FFmpegError, ValueError) as e:
            raise SinkError(f"the picture's format cannot be converted for the annotated video: {e}") from e
        return _plane_views(result, np.uint8)


def _even(value: int, least: int = 2) -> int:
    return max(least, value - value % 2)


def _with_chroma(picture: Picture) -> Picture:
    """Grey with neutral chroma: libswscale would take grey as full range, whatever it is."""
    if len(picture.planes) > 1:
        return picture
    luma = picture.planes[0]
    height, width = luma.shape
    neutral = np.full(((height + 1) // 2, (width + 1) // 2), 1 << (picture.colour.bit_depth - 1), luma.dtype)
    return replace(picture, planes=(luma, neutral, neutral), chroma_shift=(1, 1))


def _turn(plane: npt.NDArray[np.generic], picture: Picture) -> npt.NDArray[np.generic]:
    return np.rot90(plane[:, ::-1] if picture.mirror else plane, -picture.rotation // 90)


def _turned_siting(picture: Picture) -> Siting:
    """Where chroma samples lie after turning; the right-hand positions, which no name exists for, count as the middle."""
    siting = picture.colour.siting if picture.chroma_shift == (1, 1) else "left"  # libswscale's own when it subsamples
    x, y = _SITINGS[siting]
    x = -x if picture.mirror else x
    for _ in range(picture.rotation // 90):
        x, y = -y, x
    return next(name for name, place in _SITINGS.items() if place == (min(x, 0), y))


def _lost_before(picture: Picture, lost_x: int, lost_y: int) -> tuple[float, float]:
    """How far display coordinates move because the last coded column or row was cut off, when that is shown first."""
    left_to_right = {0: False, 90: True, 180: True, 270: False}[picture.rotation]
    top_to_bottom = {0: False, 90: False, 180: True, 270: True}[picture.rotation]
    if picture.rotation in (0, 180):
        return -lost_x * (left_to_right != picture.mirror), -lost_y * top_to_bottom
    # Turned by a quarter, coded rows are display columns and coded columns are display rows.
    return -lost_y * left_to_right, -lost_x * (top_to_bottom != picture.mirror)


def _to_frame(picture: Picture) -> av.VideoFrame:
    depth = picture.colour.bit_depth
    if picture.colour.matrix == "rgb":
        name, planes = "gbrp", (picture.planes[1], picture.planes[2], picture.planes[0])
    else:
        name, planes = f"yuv{_SUBSAMPLING.get(picture.chroma_shift, '?')}p", picture.planes
    width, height = picture.coded_size
    frame = av.VideoFrame(width, height, name if depth == 8 else f"{name}{depth}le")
    for target, plane in zip(_plane_views(frame, np.uint8 if depth == 8 else np.uint16), planes, strict=True):
        target[...] = plane
    return frame


def _plane_views(frame: av.VideoFrame, dtype: type[np.generic]) -> tuple[Plane, Plane, Plane]:
    views = []
    for plane in frame.planes:
        rows = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // np.dtype(dtype).itemsize)
        views.append(rows[: plane.height, : plane.width])
    return views[0], views[1], views[2]
