"""Preprocessing on the GPU: the kernel as compiled for the device, real memory, a real stream, real CV-CUDA."""

from __future__ import annotations

import time
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from gpu_device import Device
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_maker import assert_same, frame, make_picture, pictures, preprocesses, rois
from swscale import ACCURATE, HEIGHT, MATRICES, SUBSAMPLINGS, WIDTH, make_planes, swscale_rgb

from pipeline.config.stages import Preprocess
from pipeline.errors import SourceError
from pipeline.frames import Colour, Picture
from pipeline.preprocess.cvcuda import CvCudaPreprocessor
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.reference import ReferencePreprocessor

LETTERBOX = Preprocess(size=(640, 640), layout="nhwc", dtype="float32")


@pytest.fixture(scope="module")
def device():
    return Device()


def test_the_usual_case(device):
    picture = make_picture(1, 1920, 1080, Colour())
    for dtype in ("float32", "float16", "uint8"):
        for layout in ("nhwc", "nchw"):
            for channels in ("rgb", "bgr", "gray"):
                preprocess = Preprocess(size=(640, 640), layout=layout, dtype=dtype, channels=channels)
                want = ReferencePreprocessor(preprocess)([frame(picture)], 1)
                got = FusedPreprocessor(preprocess, stream=device, max_rows=1)([frame(device.surface(picture))], 1)
                assert_same(device.get(got.tensor), want.tensor, preprocess, (dtype, layout, channels))
                assert got.tensor.flags.c_contiguous and got.tensor.data.ptr % 64 == 0


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_everything_together_is_as_the_reference_does_it(device, data):
    preprocess = data.draw(preprocesses())
    drawn = data.draw(st.lists(pictures(), min_size=1, max_size=3))
    regions = {f"s{i}": data.draw(rois()) for i in range(len(drawn)) if data.draw(st.booleans())}
    rows = len(drawn) + 1
    engine = FusedPreprocessor(preprocess, regions, stream=device, max_rows=rows)
    try:
        want = ReferencePreprocessor(preprocess, regions)([frame(p, f"s{i}") for i, (p, _) in enumerate(drawn)], rows)
    except SourceError:
        return
    got = engine([frame(device.surface(p, **how), f"s{i}") for i, (p, how) in enumerate(drawn)], rows)
    assert_same(device.get(got.tensor), want.tensor, preprocess, drawn)
    np.testing.assert_array_equal(got.transforms, want.transforms)


@pytest.mark.parametrize("pixel_format", SUBSAMPLINGS)
@pytest.mark.parametrize("bits", [8, 10])
def test_every_pixel_is_within_2_of_libswscale(device, pixel_format, bits):
    preprocess = Preprocess(size=(WIDTH, HEIGHT), fit="stretch", layout="nhwc", dtype="uint8")
    engine = FusedPreprocessor(preprocess, stream=device, max_rows=1)
    shift, worst = SUBSAMPLINGS[pixel_format], {}
    name = pixel_format if bits == 8 else f"{pixel_format}10le"
    for matrix in MATRICES:
        for full_range in (False, True):
            for siting in ("left", "center", "topleft") if shift != (0, 0) else ("left",):
                options = (
                    f"flags={ACCURATE}:in_color_matrix={matrix}:in_range={'full' if full_range else 'limited'}"
                    f":out_range=full:in_chroma_loc={siting}"
                )
                planes = make_planes("noise", bits, shift, full_range)
                picture = Picture(planes, shift, Colour(matrix, full_range, bits, siting), WIDTH, HEIGHT)
                surface = device.surface(picture, "semiplanar", shift_up=6 if bits == 10 else 0)
                ours = device.get(engine([frame(surface)], 1).tensor)[0]
                off = np.abs(ours.astype(int) - swscale_rgb(planes, name, options)).max()
                worst[matrix, full_range, siting] = int(off)
    assert max(worst.values()) <= 2, {key: value for key, value in worst.items() if value > 2}


def test_a_mixed_batch_and_its_padding_rows(device):
    drawn = [
        (make_picture(1, 1920, 1080, Colour()), {"form": "semiplanar"}),
        (make_picture(2, 1280, 720, Colour("bt2020", False, 10, "topleft")), {"form": "semiplanar", "shift_up": 6}),
        (make_picture(3, 720, 576, Colour("bt601"), sar=Fraction(16, 11)), {"form": "planar"}),
        (make_picture(4, 640, 360, Colour(), rotation=90, mirror=True), {"form": "semiplanar"}),
        (make_picture(5, 333, 211, Colour("rgb", True), shift=(0, 0)), {"form": "planar"}),
        (make_picture(6, 320, 240, Colour(), planes=1), {"form": "planar"}),
    ]
    for interpolation in ("nearest", "bilinear", "area"):
        preprocess = LETTERBOX.model_copy(update={"interpolation": interpolation, "dtype": "float16"})
        engine = FusedPreprocessor(preprocess, stream=device, max_rows=8)
        want = ReferencePreprocessor(preprocess)([frame(p, f"s{i}") for i, (p, _) in enumerate(drawn)], 8)
        got = engine([frame(device.surface(p, **how), f"s{i}") for i, (p, how) in enumerate(drawn)], 8)
        tensor = device.get(got.tensor)
        assert_same(tensor, want.tensor, preprocess, interpolation)
        assert not tensor[6:].any()


def test_every_element_is_written_and_memory_may_go_once_the_call_returns(device):
    """Tensors are poisoned before the call; surfaces right behind it, while a spin holds the kernel back."""
    picture = make_picture(1, 1920, 1080, Colour())
    want = ReferencePreprocessor(LETTERBOX)([frame(picture)], 1).tensor[0]
    engine = FusedPreprocessor(LETTERBOX, stream=device, max_rows=8, kept=2)
    with device.cupy:
        for tensor in engine._inputs.tensors:
            tensor[...] = np.nan
    for _ in range(4):
        surfaces = [device.surface(picture) for _ in range(6)]
        device.spin(20)
        batch = engine([frame(s, f"s{i}") for i, s in enumerate(surfaces)], 8)
        with device.cupy:
            copy = batch.tensor.copy()
            for surface in surfaces:
                surface.owner.array[...] = 255
            batch.tensor[...] = np.nan
        tensor = device.get(copy)
        assert not np.isnan(tensor).any(), f"{np.isnan(tensor).sum()} elements were not written"
        assert not tensor[6:].any()
        for row in tensor[:6]:
            assert_same(row, want, LETTERBOX)


@pytest.mark.parametrize("engine", [FusedPreprocessor, CvCudaPreprocessor])
def test_the_host_does_not_wait(device, engine):
    """Behind 80 ms of other work: kinds that are known, and kinds that have to be uploaded."""
    known = [frame(device.surface(make_picture(i, 1920, 1080, Colour())), f"s{i}") for i in range(8)]
    new = [
        frame(device.surface(make_picture(i, 1280, 700 + 4 * i, Colour("bt601"), smooth=True)), f"n{i}")
        for i in range(8)
    ]
    preprocessor = engine(LETTERBOX.model_copy(update={"dtype": "float16"}), stream=device, max_rows=8)
    for _ in range(3):
        preprocessor(known, 8)
        device.cupy.synchronize()
    host_ms = {}
    # New sizes are new memory for CV-CUDA's steps, and what the pool does not have has to be allocated.
    order = [("known", known), ("new", new), ("known again", known)]
    for name, frames in order if engine is FusedPreprocessor else order[:1]:
        device.spin(80)
        start = time.perf_counter()
        preprocessor(frames, 8)
        host_ms[name] = round((time.perf_counter() - start) * 1e3, 2)
        assert not device.cupy.done, f"the spin was over before the call returned: {host_ms}"
        device.cupy.synchronize()
    # A plan is some 1 ms of NumPy: eight new ones at once are not counted, only that nobody waits for the spin.
    assert all(ms < (60 if name == "new" else 10) for name, ms in host_ms.items()), host_ms


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8"])
@pytest.mark.parametrize("layout", ["nhwc", "nchw"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
def test_cvcuda_is_within_2_of_the_reference_and_1_of_fused(device, dtype, layout, channels):
    change = {} if dtype == "uint8" else {"scale": 1 / 255}
    if change and channels == "rgb":
        change |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    preprocess = Preprocess(size=(640, 640), layout=layout, dtype=dtype, channels=channels, **change)
    drawn = [
        make_picture(1, 1920, 1080, Colour(), smooth=True),
        make_picture(2, 1920, 1080, Colour(), smooth=True),
        make_picture(3, 720, 1280, Colour("bt601", True), rotation=90, smooth=True),
        make_picture(4, 720, 576, Colour("bt601"), mirror=True, sar=Fraction(16, 11), smooth=True),
    ]
    frames = [frame(device.surface(p), f"s{i}") for i, p in enumerate(drawn)]
    reference = ReferencePreprocessor(preprocess)([frame(p, f"s{i}") for i, p in enumerate(drawn)], 5).tensor
    fused = device.get(FusedPreprocessor(preprocess, stream=device, max_rows=5)(frames, 5).tensor)
    got = device.get(CvCudaPreprocessor(preprocess, stream=device, max_rows=5)(frames, 5).tensor).astype(np.float64)
    gain = float(np.max(np.divide(preprocess.scale, preprocess.std)))
    # Two roundings to 8 bits are up to 1 together. Chroma is interpolated twice, which is up to 0.15 on this content, and
    # float16 rounds pixels of up to 255 by up to 1/16 on either side.
    slack = 0.3 if dtype == "float16" else 0.15
    off = [
        float(np.abs(got - other).max()) / gain for other in (reference.astype(np.float64), fused.astype(np.float64))
    ]
    assert off[0] <= 2 and off[1] <= 1 + slack, f"off by {off[0]:.3f} (reference) and {off[1]:.3f} (fused)"
    assert not got[4:].any()


@pytest.mark.parametrize("interpolation", ["nearest", "area"])
def test_cvcudas_other_interpolations_are_within_2_of_the_reference(device, interpolation):
    """On content so smooth that a sample's neighbour differs from it by less than a step."""
    preprocess = Preprocess(size=(320, 320), layout="nhwc", dtype="uint8", interpolation=interpolation)
    picture = make_picture(1, 1920, 1080, Colour(), smooth=True)
    planes = tuple((128 + (p.astype(int) - 128) // 8).astype(np.uint8) for p in picture.planes)
    picture = replace(picture, planes=planes)
    want = ReferencePreprocessor(preprocess)([frame(picture)], 1).tensor.astype(int)
    engine = CvCudaPreprocessor(preprocess, stream=device, max_rows=1)
    off = np.abs(device.get(engine([frame(device.surface(picture))], 1).tensor).astype(int) - want)
    assert off.max() <= 2, f"off by {off.max()}, by more than 2 in {(off > 2).mean():.3%} of the values"
