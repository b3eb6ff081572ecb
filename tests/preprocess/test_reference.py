"""The reference engine against a slow double-precision loop written from the definition."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError, SourceError
from pipeline.frames import Colour, Frame, Picture
from pipeline.preprocess.reference import ReferencePreprocessor, to_rgb

LUMA = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722), "bt2020": (0.2627, 0.0593), "smpte240m": (0.212, 0.087)}
SITING = {
    "left": (0, 0.5),
    "center": (0.5, 0.5),
    "topleft": (0, 0),
    "top": (0.5, 0),
    "bottomleft": (0, 1),
    "bottom": (0.5, 1),
}


def make_picture(seed, width, height, colour, shift=(1, 1), planes=3, rotation=0, mirror=False, sar=Fraction(1)):
    rng = np.random.default_rng(seed)
    kind = np.uint8 if colour.bit_depth == 8 else np.uint16
    sizes = [(height, width)] + [(-(-height // 2 ** shift[1]), -(-width // 2 ** shift[0]))] * (planes - 1)
    display = round(width * sar), height
    if rotation in (90, 270):
        display = display[::-1]
    samples = tuple(rng.integers(0, 2**colour.bit_depth, size, dtype=kind) for size in sizes)
    return Picture(samples, shift, colour, *display, rotation, mirror, sar)


def frame(picture, source_id="clip", index=0):
    return Frame(source_id, index, 0.0, 0.0, picture)


def sample_axis(plane_size, centre, width, kind, forward):
    """(index, weight) pairs of the taps around `centre`, all in samples of the plane; sample j covers j..j+1."""
    if kind == "nearest":
        near = round(centre)
        tie = abs(centre - near) < 1e-6
        pairs = [((near if forward else near - 1) if tie else math.floor(centre), 1.0)]
    elif kind == "area" and width > 1:
        pairs = [
            (j, max(0.0, min(centre + width / 2, j + 1) - max(centre - width / 2, j)) / width)
            for j in range(math.floor(centre - width / 2) - 1, math.ceil(centre + width / 2) + 1)
        ]
    else:
        j = math.floor(centre - 0.5)
        late = centre - 0.5 - j
        pairs = [(j, 1 - late), (j + 1, late)]
    return [(min(max(j, 0), plane_size - 1), weight) for j, weight in pairs]


def sample(plane, x, y, size_x, size_y, kind, forward_x, forward_y):
    height, width = plane.shape
    return sum(
        float(plane[j, i]) * wx * wy
        for j, wy in sample_axis(height, y, size_y, kind, forward_y)
        for i, wx in sample_axis(width, x, size_x, kind, forward_x)
    )


def rgb_of(samples, colour):
    """One pixel's 0..255 R'G'B', clipped, by the Recommendations' equations."""
    n = colour.bit_depth
    top, step = 2**n - 1, 2.0 ** (n - 8)
    luma = samples[0] / top if colour.full_range else (samples[0] - 16 * step) / (219 * step)
    if colour.matrix == "rgb":
        rgb = [v / top if colour.full_range else (v - 16 * step) / (219 * step) for v in samples] * (4 - len(samples))
    elif len(samples) == 1:
        rgb = [luma] * 3
    else:
        cb, cr = ((v - 2 ** (n - 1)) / (top if colour.full_range else 224 * step) for v in samples[1:])
        kr, kb = LUMA[colour.matrix]
        red, blue = luma + 2 * (1 - kr) * cr, luma + 2 * (1 - kb) * cb
        rgb = [red, (luma - kr * red - kb * blue) / (1 - kr - kb), blue]
    return [min(max(255 * v, 0.0), 255.0) for v in rgb[:3]]


def coded_position(picture, x, y):
    """Display position -> position in the first plane."""
    width, height = picture.width, picture.height
    x, y, width, height = {
        0: (x, y, width, height),
        90: (y, width - x, height, width),
        180: (width - x, height - y, width, height),
        270: (height - y, x, height, width),
    }[picture.rotation]
    coded_width, coded_height = picture.coded_size
    x, y = x * coded_width / width, y * coded_height / height
    return (coded_width - x if picture.mirror else x), y


def pixel_by_definition(picture, x, y, step_x, step_y, kind):
    """0..255 R'G'B' at a display position; a model pixel is step_x by step_y display pixels."""
    cx, cy = coded_position(picture, x, y)
    ahead_x, ahead_y = coded_position(picture, x + step_x, y + step_y)
    dx, dy = (ahead_x - cx, ahead_y - cy)
    sx, sy = (0, 0) if picture.colour.matrix == "rgb" else picture.chroma_shift
    ox, oy = SITING[picture.colour.siting]
    samples = [sample(picture.planes[0], cx, cy, abs(dx), abs(dy), kind, dx > 0, dy > 0)]
    px = (cx - 0.5 - (ox if sx else 0)) / 2**sx + 0.5
    py = (cy - 0.5 - (oy if sy else 0)) / 2**sy + 0.5
    for plane in picture.planes[1:]:
        samples.append(sample(plane, px, py, abs(dx) / 2**sx, abs(dy) / 2**sy, kind, dx > 0, dy > 0))
    return rgb_of(samples, picture.colour)


def in_polygon(corners, x, y):
    odd = False
    for (x1, y1), (x2, y2) in zip(corners, corners[1:] + corners[:1], strict=True):
        if (y1 <= y) != (y2 <= y) and x < x1 + (y - y1) * (x2 - x1) / (y2 - y1):
            odd = not odd
    return odd


def by_definition(picture, preprocess, roi):
    """(H, W, 3) float64: what the model gets, before the layout and the dtype."""
    width, height = preprocess.size
    left, top, right, bottom = 0.0, 0.0, float(picture.width), float(picture.height)
    corners = None
    if roi is not None:
        by_x, by_y = (picture.width, picture.height) if roi.unit == "fraction" else (1, 1)
        points = roi.polygon or [roi.rect[:2], roi.rect[2:]]
        points = [(x * by_x, y * by_y) for x, y in points]
        corners = points if roi.polygon else None
        left, right = min(p[0] for p in points), min(right, max(p[0] for p in points))
        top, bottom = min(p[1] for p in points), min(bottom, max(p[1] for p in points))
    wide, high = right - left, bottom - top
    scale_x, scale_y, first_x, first_y, content = width / wide, height / high, 0, 0, (width, height)
    if preprocess.fit == "crop":
        scale_x = scale_y = max(scale_x, scale_y)
    elif preprocess.fit == "letterbox":
        ratio = min(scale_x, scale_y)
        content = min(width, max(1, round(wide * ratio))), min(height, max(1, round(high * ratio)))
        first_x, first_y = (width - content[0]) // 2, (height - content[1]) // 2
        scale_x, scale_y = content[0] / wide, content[1] / high
    pad = preprocess.pad if isinstance(preprocess.pad, tuple) else (preprocess.pad,) * 3
    out = np.zeros((height, width, 3))
    for row in range(height):
        for column in range(width):
            # From the middle of the content, which is the middle of the region for every fit.
            x = (left + right) / 2 + (column + 0.5 - first_x - content[0] / 2) / scale_x
            y = (top + bottom) / 2 + (row + 0.5 - first_y - content[1] / 2) / scale_y
            seen = first_x <= column < first_x + content[0] and first_y <= row < first_y + content[1]
            if seen and (corners is None or in_polygon(corners, x, y)):
                rgb = pixel_by_definition(picture, x, y, 1 / scale_x, 1 / scale_y, preprocess.interpolation)
            else:
                rgb = pad
            out[row, column] = rgb if preprocess.channels == "rgb" else rgb[::-1]
    return (out * preprocess.scale - preprocess.mean) / preprocess.std


def check(picture, preprocess, roi=None):
    batch = ReferencePreprocessor(preprocess, {} if roi is None else {"clip": roi})([frame(picture)], 1)
    got = batch.tensor[0] if preprocess.layout == "nhwc" else batch.tensor[0].transpose(1, 2, 0)
    want = by_definition(picture, preprocess, roi)
    assert batch.tensor.dtype == preprocess.dtype
    if preprocess.dtype == "uint8":
        # Half up; where the double-precision value is a hair off the half, either neighbour is right.
        assert np.abs(got - want).max() <= 0.5 + 1e-3
    else:
        largest = np.abs(want).max() + 1
        tolerance = (2e-6 if preprocess.dtype == "float32" else 6e-4) * largest
        gain = np.abs(np.divide(preprocess.scale, preprocess.std)).max()
        assert np.abs(got - want).max() <= tolerance + 1e-3 * gain
    return batch


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
def test_every_orientation_is_sampled_as_defined(interpolation, rotation, mirror):
    picture = make_picture(1, 22, 14, Colour(), rotation=rotation, mirror=mirror, sar=Fraction(4, 3))
    check(
        picture, Preprocess(size=(9, 11), fit="letterbox", interpolation=interpolation, layout="nhwc", dtype="float32")
    )


@pytest.mark.parametrize("siting", sorted(SITING))
@pytest.mark.parametrize("shift", [(1, 1), (1, 0), (0, 0)])
def test_chroma_is_sampled_at_its_siting(siting, shift):
    picture = make_picture(2, 13, 9, Colour(siting=siting), shift=shift)
    check(picture, Preprocess(size=(13, 9), fit="stretch", layout="nhwc", dtype="float32"))
    check(picture, Preprocess(size=(5, 4), fit="stretch", interpolation="area", layout="nhwc", dtype="float32"))


colours = st.builds(
    Colour,
    matrix=st.sampled_from([*LUMA, "rgb"]),
    full_range=st.booleans(),
    bit_depth=st.sampled_from([8, 9, 10, 12, 16]),
    siting=st.sampled_from(sorted(SITING)),
)
channel_values = st.one_of(
    st.floats(-2, 2).map(lambda v: round(v, 3)), st.tuples(*[st.floats(-2, 2).map(lambda v: round(v, 3))] * 3)
)
fractions = st.floats(0, 1).map(lambda v: round(v, 3))


@st.composite
def pictures(draw):
    colour = draw(colours)
    return make_picture(
        draw(st.integers(0, 2**16)),
        draw(st.integers(1, 24)),
        draw(st.integers(1, 24)),
        colour,
        (0, 0) if colour.matrix == "rgb" else draw(st.sampled_from([(0, 0), (1, 0), (1, 1)])),
        draw(st.sampled_from([1, 3])),
        draw(st.sampled_from([0, 90, 180, 270])),
        draw(st.booleans()),
        draw(st.sampled_from([Fraction(1), Fraction(16, 11), Fraction(8, 9)])),
    )


@st.composite
def preprocesses(draw):
    dtype = draw(st.sampled_from(["uint8", "float16", "float32"]))
    values = {}
    if dtype != "uint8":
        values = {
            "scale": draw(channel_values),
            "mean": draw(channel_values),
            "std": draw(st.sampled_from([1.0, 0.25, (0.5, 2.0, -1.0)])),
        }
    return Preprocess(
        size=(draw(st.integers(1, 14)), draw(st.integers(1, 14))),
        fit=draw(st.sampled_from(["letterbox", "stretch", "crop"])),
        interpolation=draw(st.sampled_from(["nearest", "bilinear", "area"])),
        pad=draw(st.sampled_from([0, 114, (1, 2, 250)])),
        channels=draw(st.sampled_from(["rgb", "bgr"])),
        layout=draw(st.sampled_from(["nhwc", "nchw"])),
        dtype=dtype,
        **values,
    )


@st.composite
def rects(draw):
    x1, x2 = sorted((draw(fractions), draw(fractions)))
    y1, y2 = sorted((draw(fractions), draw(fractions)))
    return Roi(
        rect=(min(x1, 0.9), min(y1, 0.9), max(x2, min(x1, 0.9) + 0.1), max(y2, min(y1, 0.9) + 0.1)), unit="fraction"
    )


@settings(max_examples=150, deadline=None)
@given(pictures(), preprocesses(), st.one_of(st.none(), rects()))
def test_everything_together_is_as_defined(picture, preprocess, roi):
    # A nearest sample whose position is a rounding error away from the next one is no fault of either side.
    if preprocess.interpolation == "nearest" and (roi is not None or preprocess.fit == "crop"):
        preprocess = preprocess.model_copy(update={"interpolation": "bilinear"})
    check(picture, preprocess, roi)


def test_a_polygon_hides_what_lies_outside():
    picture = make_picture(3, 40, 30, Colour())
    roi = Roi(polygon=[(5.5, 3), (38, 9.25), (20, 28), (22, 15)])
    preprocess = Preprocess(size=(20, 16), pad=(7, 8, 9), layout="nchw", dtype="float32", channels="bgr")
    batch = check(picture, preprocess, roi)
    hidden = (batch.tensor[0].transpose(1, 2, 0) == [9, 8, 7]).all(axis=2)
    assert 0.3 < hidden.mean() < 0.9


@pytest.mark.parametrize(
    "roi",
    [
        Roi(rect=(700, 10, 900, 20)),
        Roi(polygon=[(700, 0), (900, 0), (800, 300)]),
        # Its bounding box meets the picture, the polygon does not.
        Roi(polygon=[(700, 0), (700, 500), (0, 500), (680, 490)]),
        # So thin that no pixel of the model's input falls into it.
        Roi(polygon=[(10, 10), (300, 200), (300, 200.001)]),
    ],
)
def test_a_region_without_a_pixel_is_an_error_that_names_the_source(roi):
    picture = make_picture(4, 640, 480, Colour())
    preprocessor = ReferencePreprocessor(Preprocess(size=(32, 32), layout="nhwc", dtype="float32"), {"door": roi})
    with pytest.raises(SourceError, match=r"^door: .*640x480.*roi") as caught:
        preprocessor([frame(picture, "door")], 1)
    assert caught.value.source_id == "door"


def test_a_batch_mixes_sizes_colours_and_sources():
    preprocess = Preprocess(size=(16, 12), layout="nhwc", dtype="float32", scale=1 / 255)
    pictures = [
        make_picture(5, 40, 30, Colour()),
        make_picture(6, 25, 31, Colour("bt2020", True, 10), shift=(1, 0)),
        make_picture(7, 8, 8, Colour("rgb", True), shift=(0, 0), rotation=90),
        make_picture(8, 17, 9, Colour("bt601"), planes=1),
    ]
    rois = {"s1": Roi(rect=(2, 3, 20, 30))}
    batch = ReferencePreprocessor(preprocess, rois)([frame(p, f"s{i}") for i, p in enumerate(pictures)], 6)
    assert batch.tensor.shape == (6, 12, 16, 3)
    assert batch.transforms.shape == (4, 4)
    assert batch.model_size == (16, 12)
    assert batch.tensor.ctypes.data % 64 == 0
    assert batch.tensor.flags.c_contiguous
    for i, picture in enumerate(pictures):
        assert np.abs(batch.tensor[i] - by_definition(picture, preprocess, rois.get(f"s{i}"))).max() < 1e-5
    assert not batch.tensor[4:].any()


def test_planes_may_have_any_strides():
    picture = make_picture(9, 24, 18, Colour())
    luma, cb, cr = picture.planes
    wide = np.zeros((18, 64), np.uint8)
    wide[:, :24] = luma
    nv12_chroma = np.stack([cb, cr], axis=-1)
    strided = Picture(
        (wide[:, :24], nv12_chroma[..., 0], nv12_chroma[..., 1]), (1, 1), picture.colour, picture.width, picture.height
    )
    for size, interpolation in [((24, 18), "bilinear"), ((5, 5), "area"), ((31, 40), "bilinear"), ((8, 6), "nearest")]:
        preprocess = Preprocess(size=size, interpolation=interpolation, layout="nhwc", dtype="float32")
        two = ReferencePreprocessor(preprocess)([frame(picture), frame(strided)], 2).tensor
        np.testing.assert_array_equal(two[0], two[1])


def test_a_tensor_is_used_again_only_when_nobody_has_it():
    preprocessor = ReferencePreprocessor(Preprocess(size=(8, 8), layout="nhwc", dtype="float32"))
    frames = [frame(make_picture(seed, 8, 8, Colour())) for seed in range(3)]
    first = preprocessor(frames, 4)
    kept, copy = first.tensor[0, 2:], first.tensor[0, 2:].copy()
    address = first.tensor.ctypes.data
    del first
    second = preprocessor(frames[1:], 4)
    assert second.tensor.ctypes.data != address
    np.testing.assert_array_equal(kept, copy)
    del kept
    third = preprocessor(frames[2:], 4)
    assert third.tensor.ctypes.data == address
    assert not third.tensor[1:].any()


def test_uint8_takes_pixels_as_they_are():
    # Once the model's dtype fills in what the configuration left open, its own check no longer runs.
    scaled = Preprocess(size=(8, 8), layout="nhwc", scale=2.0).model_copy(update={"dtype": "uint8"})
    with pytest.raises(ConfigError, match=r"uint8.*scale"):
        ReferencePreprocessor(scaled)
    with pytest.raises(ValueError, match="dtype"):
        ReferencePreprocessor(Preprocess(size=(8, 8), layout="nhwc"))


def test_uint8_rounds_half_up():
    luma = np.array([[0, 1, 2, 3, 4, 5]], np.uint8)
    picture = Picture((luma,), (0, 0), Colour("bt709", True), 6, 1)
    preprocess = Preprocess(size=(3, 1), interpolation="area", layout="nhwc", dtype="uint8")
    batch = ReferencePreprocessor(preprocess.model_copy(update={"fit": "stretch"}))([frame(picture)], 1)
    assert batch.tensor[0, 0, :, 0].tolist() == [1, 3, 5]


def test_area_is_the_integral_over_what_a_pixel_covers():
    picture = make_picture(10, 37, 23, Colour(full_range=True), planes=1)
    preprocess = Preprocess(size=(10, 7), fit="stretch", interpolation="area", layout="nhwc", dtype="float32")
    got = ReferencePreprocessor(preprocess)([frame(picture)], 1).tensor[0, ..., 0]
    # The integral of a piecewise constant function: repeat every sample until pixels are whole numbers of them.
    fine = picture.planes[0].astype(np.float64).repeat(7, axis=0).repeat(10, axis=1)
    want = fine.reshape(7, 23, 10, 37).mean(axis=(1, 3))
    assert np.abs(got - want).max() < 1e-3


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("shift", [(0, 0), (1, 0), (1, 1)])
def test_turning_the_planes_is_turning_the_picture(rotation, mirror, shift):
    plain = make_picture(11, 19, 12, Colour(), shift=shift)
    turned = make_picture(11, 19, 12, Colour(), shift=shift, rotation=rotation, mirror=mirror)
    rgb = to_rgb(plain)
    want = np.rot90(rgb[:, ::-1] if mirror else rgb, -rotation // 90)
    np.testing.assert_array_equal(to_rgb(turned), want)


def test_sample_aspect_ratio_widens_the_picture():
    picture = make_picture(12, 18, 10, Colour("bt709", True), planes=1, sar=Fraction(2))
    rgb = to_rgb(picture)
    assert rgb.shape == (10, 36, 3)
    x = np.clip((np.arange(36) + 0.5) / 2 - 0.5, 0, 17)
    want = np.stack([np.interp(x, np.arange(18), row) for row in picture.planes[0].astype(float)])
    assert np.abs(rgb[..., 1] - want).max() <= 0.5 + 1e-3
