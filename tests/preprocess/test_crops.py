"""Crops of frames: the reference against a manual cut, and the `cuda` engine, compiled for the host, against the reference."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from fractions import Fraction

import host_kernel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_maker import assert_same, frame, make_picture, on_device, pictures, preprocesses

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError
from pipeline.frames import Colour
from pipeline.preprocess.crops import ReferenceCropper, place_all
from pipeline.preprocess.fused_crops import FusedCropper
from pipeline.preprocess.geometry import place
from pipeline.preprocess.packing import MAX_ROWS
from pipeline.preprocess.reference import ReferencePreprocessor, to_rgb
from pipeline.preprocess.roi import Region

PLAIN = Preprocess(size=(20, 16), layout="nhwc", dtype="float32")


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return host_kernel.build(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def stream():
    return host_kernel.Stream()


@pytest.fixture(scope="module")
def cupy(library, stream):
    with host_kernel.installed(library, stream) as fake:
        yield fake


def surface(picture, form="semiplanar", **how):
    def upload(data):
        memory = host_kernel.Memory(len(data))
        ctypes.memmove(memory.ptr, data.ctypes.data, len(data))
        return memory

    return on_device(picture, form, upload, **how)


@st.composite
def regions_of(draw, picture, most=3):
    """(C, 4) regions inside a picture, of any size from a part of a pixel to all of it."""
    found = []
    for _ in range(draw(st.integers(1, most))):
        x = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
        y = sorted(draw(st.lists(st.floats(0, 1), min_size=2, max_size=2, unique=True)))
        corners = np.array([x[0] * picture.width, y[0] * picture.height, x[1] * picture.width, y[1] * picture.height])
        corners[2:] = np.maximum(corners[2:], corners[:2] + 0.3)
        found.append(corners)
    return np.array(found)


@given(st.data())
@settings(deadline=None)
def test_a_crop_is_what_a_region_of_interest_of_the_frame_gives(data):
    picture, _ = data.draw(pictures())
    preprocess = data.draw(preprocesses())
    regions = data.draw(regions_of(picture))
    regions[:, 2:] = np.minimum(regions[:, 2:], [picture.width, picture.height])
    regions[:, :2] = np.minimum(regions[:, :2], regions[:, 2:] - 0.01)
    regions = np.maximum(regions, 0)
    got = ReferenceCropper(preprocess)([frame(picture)] * len(regions), regions, len(regions) + 1)
    assert not got.tensor[-1].any()
    for i, corners in enumerate(regions):
        roi = {"clip": Roi(rect=tuple(corners.tolist()))}
        want = ReferencePreprocessor(preprocess, roi)([frame(picture)], 1)
        np.testing.assert_array_equal(got.tensor[i], want.tensor[0])
        np.testing.assert_array_equal(got.transforms[i], want.transforms[0])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_a_crop_is_that_part_of_the_picture_a_person_sees(rotation):
    """At whole pixels and their own size, nothing is left to sampling: the crop is a slice of the upright picture."""
    picture = make_picture(4, 64, 48, Colour("bt709"), rotation=rotation)
    upright = to_rgb(picture)
    cropper = ReferenceCropper(Preprocess(size=(20, 16), layout="nhwc", dtype="uint8", fit="stretch"))
    corners = np.array([[3.0, 5.0, 23.0, 21.0], [0.0, 0.0, 20.0, 16.0], [28.0, 32.0, 48.0, 48.0]])
    got = cropper([frame(picture)] * 3, corners, 3)
    for row, (x1, y1, x2, y2) in zip(got.tensor, corners.astype(int).tolist(), strict=True):
        np.testing.assert_array_equal(row, upright[y1:y2, x1:x2])


@given(
    st.lists(st.tuples(*[st.floats(0, 500)] * 2, *[st.floats(0.01, 500)] * 2), min_size=1, max_size=5),
    st.tuples(st.integers(1, 300), st.integers(1, 300)),
    st.sampled_from(["letterbox", "stretch", "crop"]),
)
def test_many_placements_are_those_of_each(sides, size, fit):
    regions = np.array([(x, y, x + width, y + height) for x, y, width, height in sides])
    found = place_all(regions, size, fit)
    for i, (x1, y1, x2, y2) in enumerate(regions.tolist()):
        want = place(Region(x1, y1, x2 - x1, y2 - y1), size, fit)
        assert tuple(found.transforms[i].tolist()) == want.transform
        assert (found.left[i], found.top[i], found.width[i], found.height[i]) == (
            *(want.left, want.top),
            *(want.width, want.height),
        )


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_the_cuda_engine_cuts_what_the_reference_cuts(cupy, stream, data):
    preprocess = data.draw(preprocesses())
    drawn = data.draw(st.lists(pictures(), min_size=1, max_size=3))
    regions = [data.draw(regions_of(picture)) for picture, _ in drawn]
    counts = [len(own) for own in regions]
    regions = np.concatenate(regions)
    sizes = np.repeat([(p.width, p.height) for p, _ in drawn], counts, axis=0)
    regions[:, 2:] = np.minimum(regions[:, 2:], sizes)
    regions[:, :2] = np.clip(regions[:, :2], 0, np.maximum(regions[:, 2:] - 0.3, 0))
    on_host = [f for i, (p, _) in enumerate(drawn) for f in [frame(p, f"s{i}")] * counts[i]]
    devices = [frame(surface(p, **how), f"s{i}") for i, (p, how) in enumerate(drawn)]
    on_gpu = [f for f, count in zip(devices, counts, strict=True) for _ in range(count)]
    rows = len(regions) + data.draw(st.integers(0, 2))
    cupy.launches.clear()
    got = FusedCropper(preprocess, stream=stream, max_rows=rows)(on_gpu, regions, rows)
    assert len(cupy.launches) == 1
    want = ReferenceCropper(preprocess)(on_host, regions, rows)
    np.testing.assert_array_equal(got.transforms, want.transforms)
    for window, expected in zip(got.windows, want.windows, strict=True):
        for field in ("left", "top", "width", "height", "hidden"):
            assert getattr(window, field) == getattr(expected, field)
    assert_same(np.asarray(got.tensor), want.tensor, preprocess, (regions.tolist(), drawn))


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
def test_full_hd_crops_that_shrink_and_grow(cupy, stream, rotation, interpolation):
    preprocess = Preprocess(size=(64, 48), layout="nhwc", dtype="float32", interpolation=interpolation)
    picture = make_picture(1, 1920, 1080, Colour(), rotation=rotation, sar=Fraction(4, 3))
    width, height = picture.width, picture.height
    regions = np.array(
        [(0, 0, width, height), (10.5, 7.25, 40.5, 47.75), (width - 400, 3, width, 703.3), (3, height - 9, 30, height)],
        np.float64,
    )
    device = frame(surface(picture))
    got = FusedCropper(preprocess, stream=stream, max_rows=4)([device] * 4, regions, 4)
    want = ReferenceCropper(preprocess)([frame(picture)] * 4, regions, 4)
    assert_same(np.asarray(got.tensor), want.tensor, preprocess)


def test_one_launch_and_one_upload_for_all_crops_of_a_kind(cupy, stream):
    devices = [frame(surface(make_picture(seed, 40, 30, Colour())), f"s{seed}") for seed in range(4)]
    other = frame(surface(make_picture(9, 32, 64, Colour("bt601"))), "other")
    frames = [f for f in [*devices, other] for _ in range(5)]
    corners = np.tile([2.0, 3.0, 22.0, 19.0], (25, 1))
    cropper = FusedCropper(PLAIN, stream=stream, max_rows=32)
    cupy.launches.clear()
    cupy.uploads.clear()
    waits = cupy.waits
    cropper(frames, corners, 32)
    assert (len(cupy.launches), len(cupy.uploads), cupy.waits) == (1, 2, waits)


def test_more_crops_than_a_launch_takes(cupy, stream):
    count = MAX_ROWS + 30
    picture = make_picture(3, 40, 30, Colour())
    corners = np.array([(i % 20, i % 10, i % 20 + 15, i % 10 + 12) for i in range(count)], np.float64)
    got = FusedCropper(PLAIN, stream=stream, max_rows=count)([frame(surface(picture))] * count, corners, count)
    want = ReferenceCropper(PLAIN)([frame(picture)] * count, corners, count)
    assert_same(np.asarray(got.tensor), want.tensor, PLAIN)


def test_rows_without_crops_are_zero(cupy, stream):
    cropper = FusedCropper(PLAIN, stream=stream, max_rows=4)
    device = frame(surface(make_picture(3, 40, 30, Colour())))
    batch = cropper([device], np.array([[1.0, 1.0, 9.0, 9.0]]), 4)
    assert np.asarray(batch.tensor)[0].any()
    assert not np.asarray(batch.tensor)[1:].any()
    assert not np.asarray(cropper([], np.zeros((0, 4)), 2).tensor).any()


def test_what_callers_get_wrong(cupy, stream):
    cropper = FusedCropper(PLAIN, stream=stream, max_rows=2)
    picture = make_picture(3, 40, 30, Colour())
    with pytest.raises(ValueError, match="room for 2"):
        cropper([frame(surface(picture))] * 3, np.tile([1.0, 1.0, 9.0, 9.0], (3, 1)), 3)
    with pytest.raises(ValueError, match="not in device memory"):
        cropper([frame(picture)], np.array([[1.0, 1.0, 9.0, 9.0]]), 1)
    with pytest.raises(ConfigError, match=r"uint8.*scale"):
        scaled = PLAIN.model_copy(update={"dtype": "uint8", "scale": 2.0})
        FusedCropper(scaled, stream=stream, max_rows=1)


def test_frames_of_one_source_with_pictures_of_two_kinds(cupy, stream):
    """As a live stream that changes its size."""
    pictures = [make_picture(1, 40, 30, Colour()), make_picture(2, 30, 40, Colour("bt601"))]
    corners = np.array([[2.0, 3.0, 22.0, 19.0]] * 2)
    got = FusedCropper(PLAIN, stream=stream, max_rows=2)([frame(surface(p)) for p in pictures], corners, 2)
    want = ReferenceCropper(PLAIN)([frame(replace(p)) for p in pictures], corners, 2)
    assert_same(np.asarray(got.tensor), want.tensor, PLAIN)
