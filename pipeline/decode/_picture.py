"""A decoded AVFrame's memory as NumPy views, without a copy wherever its layout is one that `Picture` can describe."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import av
import numpy as np
import numpy.typing as npt

# What swscale does not read; PyAV 16 crashes where it should say so. Nearly all exist for filters only.
_UNREADABLE = re.compile(
    r"(?:gbrap|gray)32.e|rgb(?:96|a128|af32).e|yaf32.e|(?:rgb|bgr)4|(?:v30x|xv30|y21[026]|x2rgb10|x2bgr10)be"
)
# Slices that swscale converts in parallel are not reproducible; before PyAV 17 it has one thread and no such option.
ONE_THREAD: dict[str, int] = {"threads": 1} if int(av.__version__.split(".")[0]) >= 17 else {}

Planes = tuple[npt.NDArray[np.generic], ...]


@dataclass(frozen=True, slots=True)
class _Component:
    """Where the samples of a component lie: plane, first sample and step in samples."""

    plane: int
    offset: int
    step: int
    is_chroma: bool


@dataclass(frozen=True, slots=True)
class Layout:
    """A pixel format that `Picture` can describe.

    Attributes:
        components: (Y, Cb, Cr), (Y,) or (R, G, B).
        bit_depth: Bits of a sample, 8 to 16.
        padding_bits: Unused low bits of a sample (P010 has 6).
        chroma_shift: log2 of the horizontal and vertical subsampling.
    """

    components: tuple[_Component, ...]
    bit_depth: int
    padding_bits: int
    chroma_shift: tuple[int, int]


# What PyAV does not tell of a format, its name does: the order of packed RGB and of interleaved chroma, and that the
# samples of P010 and its kin sit in the high bits.
_PACKED_RGB = re.compile(r"(?P<order>(?=.*r)(?=.*g)(?=.*b)[rgba0]{3,4})(?:24|48le|64le)?")
_PACKED_422 = {"yuyv422": "yuyv", "uyvy422": "uyvy", "yvyu422": "yvyu"}
_SEMIPLANAR = re.compile(r"nv(?:12|21|16|24|42|20le)|p[024]1[026]le")
_HIGH_BITS = re.compile(r"p[024]1[02]le")
_SWAPPED_CHROMA = ("nv21", "nv42")
_NOT_INTEGER_OR_NOT_RIGHT_ALIGNED = re.compile(r"f(?:16|32)|msb|xyz")


def views(frame: av.VideoFrame) -> tuple[Planes, Layout, av.VideoFrame]:
    """The frame's planes as read-only views, their layout, and the frame that owns the memory.

    A frame of any other format is converted once, by swscale, to the nearest planar one that loses nothing.

    Raises:
        ValueError: its format cannot be converted.
    """
    layout = layout_of(frame.format.name)
    if layout is None:
        if _UNREADABLE.fullmatch(frame.format.name):
            raise ValueError(f"pixel format {frame.format.name} is not supported")
        frame = frame.reformat(format=planar_equivalent(frame.format.name), **ONE_THREAD)
        layout = layout_of(frame.format.name)
        assert layout is not None
    return tuple(_view(frame, layout, component) for component in layout.components), layout, frame


def _view(frame: av.VideoFrame, layout: Layout, component: _Component) -> npt.NDArray[np.generic]:
    shift_x, shift_y = layout.chroma_shift if component.is_chroma else (0, 0)
    shape = -(-frame.height >> shift_y), -(-frame.width >> shift_x)
    dtype = np.dtype(np.uint8 if layout.bit_depth == 8 else "<u2")
    plane = frame.planes[component.plane]
    line_bytes = plane.line_size
    # Pictures that are stored bottom up have a negative line size; PyAV's buffer starts at the lowest address.
    start = max(0, -line_bytes) * (shape[0] - 1) + component.offset * dtype.itemsize
    samples: npt.NDArray[np.generic] = np.ndarray(
        shape, dtype, buffer=memoryview(plane), offset=start, strides=(line_bytes, component.step * dtype.itemsize)
    )
    if layout.padding_bits:
        samples = samples >> np.uint16(layout.padding_bits)  # type: ignore[operator]
    samples.flags.writeable = False  # the decoder still predicts later frames from this memory
    return samples


@functools.lru_cache(maxsize=256)
def layout_of(pix_fmt: str) -> Layout | None:
    """The layout of a pixel format; None where `Picture` cannot describe it."""
    description = av.VideoFormat(pix_fmt)
    components = description.components
    bits = {component.bits for component in components if not component.is_alpha}
    if (
        len(bits) != 1
        or not 8 <= min(bits) <= 16
        or (min(bits) > 8 and description.is_big_endian)
        or description.is_bit_stream
        or description.has_palette
        or description.is_bayer
        or _NOT_INTEGER_OR_NOT_RIGHT_ALIGNED.search(pix_fmt)
    ):
        return None
    shared = {component.plane for component in components[1:] if component.plane == components[0].plane}
    is_grey = all(component.is_alpha for component in components[1:])
    if (shared and not is_grey) and not _PACKED_RGB.fullmatch(pix_fmt) and pix_fmt not in _PACKED_422:
        return None
    if not shared and len({c.plane for c in components}) < len(components) and not _SEMIPLANAR.fullmatch(pix_fmt):
        return None
    depth = min(bits)
    padding_bits = 16 - depth if _HIGH_BITS.fullmatch(pix_fmt) else 0
    return Layout(_components(description), depth, padding_bits, _chroma_shift(description))


def _components(description: av.VideoFormat) -> tuple[_Component, ...]:
    members: dict[int, list[int]] = {}
    for i, component in enumerate(description.components):
        members.setdefault(component.plane, []).append(i)
    packed = _PACKED_RGB.fullmatch(description.name)
    packed_422 = _PACKED_422.get(description.name)
    found = []
    for i, component in enumerate(description.components):
        if component.is_alpha:
            continue
        inside = members[component.plane]
        offset, step = inside.index(i), len(inside)
        if packed:
            offset, step = packed["order"].index("rgb"[i]), len(packed["order"])
        elif packed_422:
            offset, step = packed_422.index("yuv"[i]), 4 if i else 2
        elif description.name in _SWAPPED_CHROMA and i:
            offset = step - 1 - offset
        found.append(_Component(component.plane, offset, step, i > 0 and not description.is_rgb))
    return tuple(found)


def _chroma_shift(description: av.VideoFormat) -> tuple[int, int]:
    size = 64
    if len(description.components) < 3:
        return 0, 0
    width, height = description.chroma_width(size), description.chroma_height(size)
    return (size // width).bit_length() - 1, (size // height).bit_length() - 1


@functools.lru_cache(maxsize=256)
def planar_equivalent(pix_fmt: str) -> str:
    """The planar format nearest to one that `Picture` cannot describe: same subsampling, no fewer bits."""
    description = av.VideoFormat(pix_fmt)
    bits = max(component.bits for component in description.components)
    if description.is_rgb or description.has_palette or description.is_bayer or pix_fmt.startswith("xyz"):
        family, depths = "gbrp", (8, 10, 12, 14, 16)
    elif len(description.components) < 3:
        family, depths = "gray", (8, 10, 12, 14, 16)
    else:
        names = {(1, 1): "420", (1, 0): "422", (0, 0): "444", (0, 1): "440", (2, 0): "411", (2, 2): "410"}
        family, depths = f"yuv{names[_chroma_shift(description)]}p", (8, 10, 12, 14, 16)
    for depth in depths:
        name = family if depth == 8 else f"{family}{depth}le"
        if depth >= min(bits, 16) and _exists(name):
            return name
    return family


def _exists(pix_fmt: str) -> bool:
    try:
        av.VideoFormat(pix_fmt)
    except ValueError:
        return False
    return True
