"""Pictures for the `cuda` engine of preprocessing: planes laid out as decoders and uploads lay them out, and what to draw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from hypothesis import strategies as st

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, Frame, Picture, Surface, SurfaceLayout

Format = Literal["semiplanar", "planar"]


def make_picture(
    seed, width, height, colour, shift=(1, 1), planes=3, rotation=0, mirror=False, sar=Fraction(1), smooth=False
):
    """A picture of noise over all codes, or of smooth content in the nominal range."""
    rng = np.random.default_rng(seed)
    kind = np.uint8 if colour.bit_depth == 8 else np.uint16
    sizes = [(height, width)] + [(-(-height // 2 ** shift[1]), -(-width // 2 ** shift[0]))] * (planes - 1)
    display = round(width * sar), height
    if rotation in (90, 270):
        display = display[::-1]
    if not smooth:
        samples = tuple(rng.integers(0, 2**colour.bit_depth, size, dtype=kind) for size in sizes)
        return Picture(samples, shift, colour, *display, rotation, mirror, sar)
    samples = []
    for number, (rows, columns) in enumerate(sizes):
        y, x = np.mgrid[:rows, :columns]
        x, y = x * (width / columns), y * (height / rows)
        middle, swing = (130, 60) if number == 0 else (128, 30)
        wave = middle + swing * np.sin(x / (41 + 9 * number) + seed) * np.cos(y / (53 - 7 * number))
        samples.append(np.round(wave * 2 ** (colour.bit_depth - 8)).astype(kind))
    return Picture(tuple(samples), shift, colour, *display, rotation, mirror, sar)


def lay_out(planes, form: Format, shift_up=0, slack=0):
    """The planes as one piece of memory: (bytes, layout). `slack` samples are added to every row."""
    sample = planes[0].itemsize
    height, width = planes[0].shape
    pitch = (width + slack + width % 2) * sample
    luma = np.zeros((height + height % 2, pitch // sample), planes[0].dtype)
    luma[:height, :width] = planes[0] << shift_up
    parts, cr, step, chroma_pitch = [luma], 0, 0, 0
    if len(planes) == 3:
        rows, columns = planes[1].shape
        if form == "semiplanar":
            chroma = np.zeros((rows, columns + slack + columns % 2, 2), planes[1].dtype)
            chroma[:, :columns] = np.stack(planes[1:], axis=-1) << shift_up
            parts.append(chroma)
            cr, step, chroma_pitch = sample, 2 * sample, chroma.strides[0]
        else:
            for plane in planes[1:]:
                lines = np.zeros((rows, columns + slack), plane.dtype)
                lines[:, :columns] = plane << shift_up
                parts.append(lines)
            cr, step, chroma_pitch = parts[1].nbytes, sample, parts[1].strides[0]
    data = np.concatenate([np.frombuffer(part.tobytes(), np.uint8) for part in parts])
    return data, SurfaceLayout(width, height, pitch, luma.nbytes, cr, chroma_pitch, step, sample, shift_up)


def on_device(picture: Picture, form: Format, upload: Callable[[Any], Any], shift_up=0, slack=0) -> Picture:
    """The same picture as a surface; `upload` takes bytes to device memory and returns something with `ptr`."""
    data, layout = lay_out(picture.planes, form, shift_up, slack)
    memory = upload(data)
    return replace(picture, planes=(), owner=memory, surface=Surface(memory.ptr, layout, lambda: None))


def frame(picture, source_id="clip", index=0):
    return Frame(source_id, index, 0.0, 0.0, picture)


colours = st.builds(
    Colour,
    matrix=st.sampled_from(["bt601", "bt709", "bt2020", "smpte240m", "rgb"]),
    full_range=st.booleans(),
    bit_depth=st.sampled_from([8, 8, 8, 9, 10, 12, 16]),
    siting=st.sampled_from(["left", "center", "topleft", "top", "bottomleft", "bottom"]),
)


@st.composite
def pictures(draw, largest=48):
    """(picture, how it is laid out: keyword arguments of `on_device`)."""
    colour = draw(colours)
    picture = make_picture(
        draw(st.integers(0, 2**16)),
        draw(st.integers(1, largest)),
        draw(st.integers(1, largest)),
        colour,
        (0, 0) if colour.matrix == "rgb" else draw(st.sampled_from([(1, 1), (1, 1), (1, 0), (0, 0), (2, 0)])),
        draw(st.sampled_from([3, 3, 3, 1])),
        draw(st.sampled_from([0, 90, 180, 270])),
        draw(st.booleans()),
        draw(st.sampled_from([Fraction(1), Fraction(16, 11), Fraction(8, 9)])),
    )
    return picture, {
        "form": draw(st.sampled_from(["semiplanar", "planar"])),
        "shift_up": draw(st.sampled_from([0, 16 - colour.bit_depth])) if colour.bit_depth > 8 else 0,
        "slack": draw(st.integers(0, 5)),
    }


@st.composite
def preprocesses(draw, largest=70):
    dtype = draw(st.sampled_from(["uint8", "float16", "float32"]))
    channels = draw(st.sampled_from(["rgb", "bgr", "gray"]))
    number = st.floats(-2, 2).map(lambda v: round(v, 3))
    values = {}
    if dtype != "uint8":
        one_each = st.tuples(number, number, number)
        several = number if channels == "gray" else st.one_of(number, one_each)
        spread = [1.0, 0.25] if channels == "gray" else [1.0, 0.25, (0.5, 2.0, -1.0)]
        values = {"scale": draw(several), "mean": draw(several), "std": draw(st.sampled_from(spread))}
    return Preprocess(
        size=(draw(st.integers(1, largest)), draw(st.integers(1, largest))),
        fit=draw(st.sampled_from(["letterbox", "stretch", "crop"])),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "bilinear", "area"])),
        pad=draw(st.sampled_from([0, 114, (1, 2, 250)])),
        channels=channels,
        layout=draw(st.sampled_from(["nhwc", "nchw"])),
        dtype=dtype,
        **values,
    )


@st.composite
def rois(draw):
    near, far = st.integers(0, 45).map(lambda v: v / 100), st.integers(55, 100).map(lambda v: v / 100)
    left, top, right, bottom = draw(near), draw(near), draw(far), draw(far)
    if draw(st.booleans()):
        return Roi(rect=(left, top, right, bottom), unit="fraction")
    return Roi(polygon=[(left, top), (right, top), (right, bottom), (left, (top + bottom) / 2)], unit="fraction")


def assert_same(got, want, preprocess: Preprocess, note: object = ""):
    """`got` and the reference's `want` agree up to float32 rounding.

    A pixel (0..255) may be off by 255 * 1e-6 before scale and std, so values by that times the gain, float16 by half a
    step more than once (two neighbours). uint8 may be off by 1, where 255 * 1e-6 decides between two numbers: rarely.
    """
    assert got.shape == want.shape and got.dtype == want.dtype, note
    if preprocess.dtype == "uint8":
        off = np.abs(got.astype(int) - want)
        assert off.max(initial=0) <= 1, (off.max(), note)
        assert (off > 0).mean() <= 0.002 + 2 / off.size, ((off > 0).mean(), note)
        return
    pixel = 255 * np.abs(np.divide(preprocess.scale, preprocess.std)).max()
    largest = max(float(np.abs(want.astype(np.float64)).max(initial=0)), pixel)
    tolerance = 1e-4 * pixel / 255 + 1e-6 * largest
    if preprocess.dtype == "float16":
        tolerance = tolerance + np.spacing(np.abs(want)).astype(np.float64)
    off = np.abs(got.astype(np.float64) - want.astype(np.float64))
    # NaN is no agreement either.
    assert (off <= tolerance).all(), (float(np.nanmax(off)), float(np.max(tolerance)), note)
