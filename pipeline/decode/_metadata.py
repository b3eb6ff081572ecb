"""How a frame is to be shown: orientation, sample aspect ratio and colour, from what the stream says of itself."""

from __future__ import annotations

import functools
import logging
import math
import struct
from fractions import Fraction
from typing import TYPE_CHECKING

from av.sidedata.sidedata import SideDataContainer, Type

from pipeline.config.sources import ColourOverride
from pipeline.frames import Colour, Matrix, Siting

if TYPE_CHECKING:
    import av

log = logging.getLogger(__name__)

# Aspect ratios of samples beyond this are damage or nonsense in a header.
_MOST_SAR = 10

# ITU-T H.273 matrix coefficients, as in FFmpeg's AVColorSpace. FCC's differ from BT.601's in the third decimal; BT.2020
# with constant luminance is shown with the matrix for non-constant luminance, as players do.
_MATRICES: dict[int, Matrix] = {
    1: "bt709",
    4: "bt601",
    5: "bt601",
    6: "bt601",
    7: "smpte240m",
    9: "bt2020",
    10: "bt2020",
}
_UNSPECIFIED = (2, 3)
_LIMITED, _FULL = 1, 2  # AVColorRange
_JPEG_CODECS = ("mjpeg", "mjpegb")
_CENTRE_CODECS = (*_JPEG_CODECS, "mpeg1video")


def orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """(degrees clockwise, mirror): flip left-right if `mirror`, then turn; from the frame's display matrix."""
    try:
        # Not `frame.side_data`: the frame would keep that, that the frame, and only the garbage collector free both.
        matrix = SideDataContainer(frame).get(Type.DISPLAYMATRIX)  # type: ignore[call-arg]
    except ValueError:  # side data of a kind that PyAV has no name for
        return _nearest_quarter(-frame.rotation), False
    if matrix is None:
        return 0, False
    # Row vectors: (x, y) -> (a x + c y, b x + d y), y down; 16.16 fixed point.
    a, b, _, c, d, *_ = struct.unpack("=9i", bytes(matrix)[:36])
    return _nearest_quarter(math.degrees(math.atan2(-c, d))), a * d - b * c < 0


def _nearest_quarter(degrees: float) -> int:
    return round(degrees / 90) * 90 % 360


def sane_sar(*candidates: Fraction | None) -> Fraction:
    """The first sample aspect ratio that is stated and plausible; else 1."""
    for sar in candidates:
        if sar is not None and Fraction(1, _MOST_SAR) <= sar <= _MOST_SAR:
            return Fraction(sar)
    return Fraction(1)


def display_size(coded: tuple[int, int], sar: Fraction, rotation: int) -> tuple[int, int]:
    """(width, height) in square pixels: lines are kept, columns are scaled by the aspect ratio, then it is turned."""
    width, height = max(1, round(coded[0] * sar)), coded[1]
    return (width, height) if rotation % 180 == 0 else (height, width)


def colour(frame: av.VideoFrame, *, codec: str, bit_depth: int, override: ColourOverride) -> Colour:
    """How the frame's samples become RGB: what `override` says, else what the frame says, else the documented rules."""
    return _colour(
        space=int(frame.colorspace),
        colour_range=int(frame.color_range),
        pix_fmt=frame.format.name,
        is_rgb=frame.format.is_rgb,
        is_hd=frame.height >= 720 or frame.width >= 1280,
        codec=codec,
        bit_depth=bit_depth,
        override=override,
    )


@functools.lru_cache(maxsize=256)
def _colour(
    *,
    space: int,
    colour_range: int,
    pix_fmt: str,
    is_rgb: bool,
    is_hd: bool,
    codec: str,
    bit_depth: int,
    override: ColourOverride,
) -> Colour:
    if is_rgb:
        return Colour("rgb", True, bit_depth, "center")
    by_size: Matrix = "bt709" if is_hd else "bt601"
    if space not in _MATRICES and space not in _UNSPECIFIED and override.matrix is None:
        log.warning("colour matrix %d of H.273 is not supported; %s is used, colours will be off", space, by_size)
    matrix = override.matrix or _MATRICES.get(space, by_size)
    if override.range is not None:
        full_range = override.range == "full"
    elif colour_range in (_LIMITED, _FULL):
        full_range = colour_range == _FULL
    else:
        full_range = pix_fmt.startswith("yuvj") or codec in _JPEG_CODECS
    siting: Siting = "center" if codec in _CENTRE_CODECS else "topleft" if matrix == "bt2020" else "left"
    return Colour(matrix, full_range, bit_depth, override.siting or siting)
