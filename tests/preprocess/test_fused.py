"""The `cuda` engine without a GPU: its kernel compiled for the host, its launches run there, against the reference."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from fractions import Fraction

import host_kernel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_maker import assert_same, frame, make_picture, on_device, pictures, preprocesses, rois

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError, SourceError
from pipeline.frames import Colour
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.packing import MAX_ROWS
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.preprocess.upload import Uploader

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


def upload(data):
    memory = host_kernel.Memory(len(data))
    ctypes.memmove(memory.ptr, data.ctypes.data, len(data))
    return memory


def surface(picture, form="semiplanar", **how):
    return on_device(picture, form, upload, **how)


def check(cupy, stream, preprocess, drawn, regions, rows=None):
    """`drawn`: (picture, how it is laid out) of each frame; sources are called s0, s1, ..."""
    rows = rows or len(drawn)
    engine = FusedPreprocessor(preprocess, regions, stream=stream, max_rows=rows)
    want = ReferencePreprocessor(preprocess, regions)([frame(p, f"s{i}") for i, (p, _) in enumerate(drawn)], rows)
    got = engine([frame(surface(p, **how), f"s{i}") for i, (p, how) in enumerate(drawn)], rows)
    np.testing.assert_array_equal(got.transforms, want.transforms)
    for window, expected in zip(got.windows, want.windows, strict=True):
        for field in ("left", "top", "width", "height", "hidden"):
            np.testing.assert_array_equal(getattr(window, field), getattr(expected, field))
    assert got.model_size == want.model_size
    assert_same(np.asarray(got.tensor), want.tensor, preprocess, drawn)
    return got


def test_structs_are_laid_out_the_same_on_both_sides(library):
    host_kernel.check_layouts(library)


def test_the_hosts_half_precision_rounds_as_ieee_754(cupy, stream):
    """Else the comparisons below would say nothing of float16."""
    picture = make_picture(0, 64, 64, Colour(full_range=True, bit_depth=16), planes=1)
    for scale in (1.0, 1e-7, 2.3e-4, 400.0):
        preprocess = Preprocess(size=(64, 64), layout="nhwc", dtype="float32", scale=scale)
        drawn = [(picture, {"form": "planar"})]
        exact = np.asarray(check(cupy, stream, preprocess, drawn, {}).tensor)
        engine = FusedPreprocessor(preprocess.model_copy(update={"dtype": "float16"}), stream=stream, max_rows=1)
        with np.errstate(over="ignore"):
            want = exact.astype(np.float16)
        np.testing.assert_array_equal(np.asarray(engine([frame(surface(picture, "planar"))], 1).tensor), want)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_everything_together_is_as_the_reference_does_it(cupy, stream, data):
    preprocess = data.draw(preprocesses())
    drawn = data.draw(st.lists(pictures(), min_size=1, max_size=3))
    regions = {f"s{i}": data.draw(rois()) for i in range(len(drawn)) if data.draw(st.booleans())}
    rows = len(drawn) + data.draw(st.integers(0, 2))
    try:
        check(cupy, stream, preprocess, drawn, regions, rows)
    except SourceError:
        engine = FusedPreprocessor(preprocess, regions, stream=stream, max_rows=rows)
        with pytest.raises(SourceError, match="region of interest"):
            engine([frame(surface(p, **how), f"s{i}") for i, (p, how) in enumerate(drawn)], rows)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("mirror", [False, True])
@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "area"])
@pytest.mark.parametrize("form", ["semiplanar", "planar"])
def test_every_orientation(cupy, stream, rotation, mirror, interpolation, form):
    preprocess = Preprocess(size=(41, 37), interpolation=interpolation, layout="nhwc", dtype="float32")
    for seed, (bits, size) in enumerate([(8, (120, 80)), (10, (30, 22))]):
        picture = make_picture(seed, *size, Colour(bit_depth=bits), (1, 1), 3, rotation, mirror, Fraction(4, 3))
        check(cupy, stream, preprocess, [(picture, {"form": form, "shift_up": 6 if bits == 10 else 0})], {})


@pytest.mark.parametrize("size", [(640, 640), (333, 222)])
def test_full_hd(cupy, stream, size):
    """The usual case, a shrink by exactly 3, and one that is not a whole number."""
    picture = make_picture(1, 1920, 1080, Colour())
    for dtype, layout in (("float16", "nhwc"), ("uint8", "nchw")):
        preprocess = Preprocess(size=size, layout=layout, dtype=dtype)
        check(cupy, stream, preprocess, [(picture, {"form": "semiplanar"})], {})


def test_grey_is_the_weighted_sum_of_the_clipped_channels(cupy, stream):
    picture = make_picture(2, 40, 30, Colour())
    rgb = ReferencePreprocessor(PLAIN)([frame(picture)], 1).tensor.astype(np.float64)
    for layout, dtype in (("nhwc", "float32"), ("nchw", "uint8")):
        grey = Preprocess(size=PLAIN.size, layout=layout, dtype=dtype, channels="gray")
        got = check(cupy, stream, grey, [(picture, {"form": "semiplanar"})], {}).tensor
        assert got.shape == ((1, 16, 20, 1) if layout == "nhwc" else (1, 1, 16, 20))
        error = np.abs(np.asarray(got).reshape(16, 20) - rgb[0] @ [0.299, 0.587, 0.114])
        assert error.max() <= (0.501 if dtype == "uint8" else 1e-3)


def test_rows_without_frames_are_zero_and_no_element_is_left_out(cupy, stream):
    picture = make_picture(3, 40, 30, Colour())
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=8)
    for frames, rows in ((3, 8), (8, 8), (1, 4), (0, 2)):
        batch = engine([frame(surface(picture), index=i) for i in range(frames)], rows)
        tensor = np.asarray(batch.tensor)
        assert tensor.shape == (rows, 16, 20, 3) and tensor.flags.c_contiguous
        assert not np.isnan(tensor).any()
        assert not tensor[frames:].any()
        assert batch.transforms.shape == (frames, 4)
        assert len(batch.frames) == frames


def test_one_launch_for_frames_of_different_kinds(cupy, stream):
    engine = FusedPreprocessor(PLAIN, {"s1": Roi(rect=(2, 3, 20, 30))}, stream=stream, max_rows=4)
    pictures = [
        make_picture(5, 40, 30, Colour()),
        make_picture(6, 25, 31, Colour("bt2020", True, 10), shift=(1, 0)),
        make_picture(7, 8, 8, Colour("rgb", True), shift=(0, 0), rotation=90),
        make_picture(8, 17, 9, Colour("bt601"), planes=1),
    ]
    frames = [frame(surface(p, "planar"), f"s{i}") for i, p in enumerate(pictures)]
    cupy.launches.clear()
    cupy.uploads.clear()
    waits = cupy.waits
    engine(frames, 4)
    assert len(cupy.launches) == 1
    assert len(cupy.uploads) == 4
    engine(frames[::-1], 4)
    engine([replace(f, index=1) for f in frames], 4)
    assert len(cupy.launches) == 3
    assert len(cupy.uploads) == 4, "plans are uploaded once"
    assert cupy.waits == waits, "the host waits for nothing"


def test_sources_that_look_alike_share_a_plan(cupy, stream):
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=40)
    cupy.uploads.clear()
    batch = engine([frame(surface(make_picture(i, 40, 30, Colour())), f"s{i}") for i in range(40)], 40)
    assert len(cupy.uploads) == 1
    assert len({np.asarray(row).tobytes() for row in batch.tensor}) == 40


def test_a_stream_whose_pictures_change_gets_a_new_plan(cupy, stream):
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=1)
    for picture in (
        make_picture(1, 40, 30, Colour()),
        make_picture(2, 30, 40, Colour()),
        make_picture(2, 30, 40, Colour("bt601")),
        make_picture(1, 40, 30, Colour()),
    ):
        want = ReferencePreprocessor(PLAIN)([frame(picture)], 1)
        assert_same(np.asarray(engine([frame(surface(picture))], 1).tensor), want.tensor, PLAIN)


def test_many_sources_do_not_pile_up(cupy, stream, monkeypatch):
    monkeypatch.setattr("pipeline.preprocess.device_plans._KEPT", 3)
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=1)
    picture = surface(make_picture(1, 40, 30, Colour()))
    for i in range(10):
        engine([frame(picture, f"s{i}")], 1)
    assert len(engine._plans._seen) == 3


def test_very_large_batches_take_several_launches(cupy, stream):
    preprocess = Preprocess(size=(5, 4), layout="nchw", dtype="uint8")
    picture = make_picture(9, 8, 6, Colour())
    device, count = surface(picture), 2 * MAX_ROWS + 7
    engine = FusedPreprocessor(preprocess, stream=stream, max_rows=count + 1)
    cupy.launches.clear()
    tensor = np.asarray(engine([frame(device)] * count, count + 1).tensor)
    assert len(cupy.launches) == 3
    want = ReferencePreprocessor(preprocess)([frame(picture)], 1).tensor[0]
    assert (tensor[:count] == tensor[0]).all()
    assert_same(tensor[0], want, preprocess)
    assert not tensor[count:].any()


def test_tensors_take_turns(cupy, stream):
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=2, kept=2)
    device = surface(make_picture(1, 40, 30, Colour()))
    addresses = [engine([frame(device)], 2).tensor.data.ptr for _ in range(4)]
    assert addresses[0] == addresses[2] != addresses[1] == addresses[3]


def test_what_callers_get_wrong(cupy, stream):
    with pytest.raises(ConfigError, match=r"uint8.*scale"):
        scaled = Preprocess(size=(8, 8), layout="nhwc", scale=2.0).model_copy(update={"dtype": "uint8"})
        FusedPreprocessor(scaled, stream=stream, max_rows=1)
    engine = FusedPreprocessor(PLAIN, stream=stream, max_rows=2)
    picture = make_picture(1, 40, 30, Colour())
    with pytest.raises(ValueError, match="not in device memory"):
        engine([frame(picture)], 1)
    with pytest.raises(ValueError, match="room for 2"):
        engine([frame(surface(picture))] * 3, 3)


def test_uploads_wait_only_for_the_memory_they_write_to(cupy, stream):
    uploader = Uploader(stream, staging_bytes=1000)
    blocks = [np.full(300, i, np.uint8) for i in range(7)]
    waits = cupy.waits
    with stream:
        memory = [uploader.upload(block) for block in blocks[:3]]
        assert cupy.waits == waits
        memory.append(uploader.upload(blocks[3]))
        assert cupy.waits == waits + 1, "the fourth overwrites the first"
        memory += [uploader.upload(block) for block in blocks[4:]]
        memory.append(uploader.upload(np.full(5000, 99, np.uint8)))
    for pointer, block in zip(memory, blocks, strict=False):
        assert ctypes.string_at(pointer.ptr, 300) == block.tobytes()
    assert ctypes.string_at(memory[-1].ptr, 5000) == bytes([99]) * 5000
