"""Planes of every pixel format, against the samples that PyAV and swscale read from the same frames."""

from __future__ import annotations

import re

import av
import numpy as np
import pytest
from av.video.format import names
from av.video.reformatter import Interpolation
from media_maker import picture

from pipeline.decode._picture import ONE_THREAD, layout_of, planar_equivalent, views

WIDTH, HEIGHT = 38, 26  # lines that FFmpeg pads; not odd, for which swscale forgets a column of P010
RGB = picture("gradient", 3, WIDTH, HEIGHT)
# What swscale cannot write, or what is no picture in memory.
_HARDWARE = "amf cuda d3d11 d3d11va_vld d3d12 drm_prime dxva2_vld mediacodec mmal ohcodec opencl qsv vaapi vdpau videotoolbox_vld vulkan"
# What decoders do not make need not be read, nor can swscale write it.
_UNTESTED = re.compile(r"bayer|yaf|(rgb|bgr)4|gray32|gbrap32|rgb96|rgba128|rgbaf32|(v30x|xv30|y21.|x2rgb10|x2bgr10)be")
FORMATS = sorted(n for n in set(names) - set(_HARDWARE.split()) if not _UNTESTED.match(n))


def frame_of(pix_fmt: str) -> av.VideoFrame:
    try:
        return av.VideoFrame.from_ndarray(RGB, "rgb24").reformat(format=pix_fmt, **ONE_THREAD)
    except (OSError, ValueError) as e:
        pytest.skip(f"swscale does not write {pix_fmt}: {type(e).__name__}")


def read_by_swscale(frame: av.VideoFrame, planar: str) -> list[np.ndarray]:
    """The samples, converted by swscale to a planar format without subsampling changes, and read line by line."""
    frame = frame.reformat(format=planar, **ONE_THREAD) if frame.format.name != planar else frame
    found = []
    for component, plane in zip(
        frame.format.components, (frame.planes[c.plane] for c in frame.format.components), strict=True
    ):
        kind = np.dtype("u1" if component.bits == 8 else "<u2")
        lines = np.frombuffer(bytes(plane), np.uint8).reshape(-1, plane.line_size)
        found.append(lines[: component.height, : component.width * kind.itemsize].copy().view(kind))
    return found


@pytest.mark.skipif(not ONE_THREAD, reason="swscale crashes where it should say that it cannot write a format")
@pytest.mark.parametrize("pix_fmt", FORMATS)
def test_planes_hold_the_samples_of(pix_fmt: str) -> None:
    frame = frame_of(pix_fmt)
    try:
        planes, layout, owner = views(frame)
        is_planar = layout_of(pix_fmt) and len(frame.planes) == len(frame.format.components)
        expected = read_by_swscale(frame, pix_fmt if is_planar else planar_equivalent(pix_fmt))
    except (OSError, ValueError) as e:
        pytest.skip(f"swscale does not read {pix_fmt}: {type(e).__name__}")
    shift_x, shift_y = layout.chroma_shift
    chroma = (-(-HEIGHT >> shift_y), -(-WIDTH >> shift_x))
    assert [p.shape for p in planes] == [(HEIGHT, WIDTH), chroma, chroma][: len(planes)]
    assert len(planes) in (1, 3)
    assert {p.dtype for p in planes} == {np.dtype("u1" if layout.bit_depth == 8 else "<u2")}
    assert max(int(p.max()) for p in planes) < 1 << layout.bit_depth
    assert all(not p.flags.writeable for p in planes)
    assert (owner is frame) == (layout_of(pix_fmt) is not None)
    expected_bits = layout if is_planar else layout_of(planar_equivalent(pix_fmt))
    assert expected_bits is not None
    for ours, theirs in zip(planes, expected, strict=False):
        scale = 1 << (expected_bits.bit_depth - layout.bit_depth)
        np.testing.assert_allclose(ours.astype(int) * scale, theirs.astype(int), atol=scale)


@pytest.mark.parametrize(
    "pix_fmt", ["yuv420p", "yuv422p10le", "nv12", "nv21", "gbrp", "bgra", "rgb48le", "gray16le", "yuvj444p"]
)
def test_planes_are_views(pix_fmt: str) -> None:
    frame = frame_of(pix_fmt)
    planes, _, _ = views(frame)
    memory = [np.frombuffer(memoryview(plane), np.uint8) for plane in frame.planes]
    assert all(any(np.shares_memory(ours, theirs) for theirs in memory) for ours in planes)


def test_high_aligned_samples_are_moved_down() -> None:
    """P010 has its 10 bits on top; the samples must be those of yuv420p10."""
    frame = av.VideoFrame.from_ndarray(RGB, "rgb24").reformat(format="yuv420p10le", interpolation=Interpolation.POINT)
    expected, _, _ = views(frame)
    found, layout, _ = views(frame.reformat(format="p010le", interpolation=Interpolation.POINT))
    assert (layout.bit_depth, layout.chroma_shift) == (10, (1, 1))
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("pix_fmt", ["rgba128le", "gray32be", "bgr4", "y210be"])
def test_formats_that_nothing_reads_are_refused(pix_fmt: str) -> None:
    with pytest.raises(ValueError, match=f"{pix_fmt} is not supported"):
        views(av.VideoFrame(WIDTH, HEIGHT, pix_fmt))


@pytest.mark.parametrize("name", ["yuyv422", "uyvy422", "yvyu422"])
def test_packed_422_of_odd_width(name: str) -> None:
    """Against the bytes as the format's name spells them."""
    frame = av.VideoFrame(7, 3, name)
    plane = frame.planes[0]
    content = np.random.default_rng(0).integers(0, 256, plane.buffer_size, np.uint8)
    plane.update(content.tobytes())
    lines = content.reshape(3, plane.line_size)[:, :16].reshape(3, 4, 4)
    order = name[:4]
    (y, cb, cr), layout, owner = views(frame)
    assert (layout.chroma_shift, owner is frame) == ((1, 0), True)
    first, second = (i for i, letter in enumerate(order) if letter == "y")
    np.testing.assert_array_equal(y, lines[:, :, [first, second]].reshape(3, 8)[:, :7])
    np.testing.assert_array_equal(cb, lines[:, :, order.index("u")])
    np.testing.assert_array_equal(cr, lines[:, :, order.index("v")])
