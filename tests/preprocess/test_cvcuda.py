"""The CV-CUDA engine's order of work, with a stand-in for CV-CUDA that works on the host's memory."""

from __future__ import annotations

import ctypes
import sys
from fractions import Fraction
from types import SimpleNamespace

import host_kernel
import numpy as np
import pytest
from surface_maker import frame, make_picture, on_device

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError
from pipeline.frames import Colour
from pipeline.preprocess import kernels
from pipeline.preprocess.cvcuda import CvCudaPreprocessor
from pipeline.preprocess.engines import device_preprocessor
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.preprocess.resample import Axis, resample, taps

STREAM = object()


def as_tensor(memory, layout):
    """The memory behind CV-CUDA's wrapper, as a NumPy array."""
    described = memory.__cuda_array_interface__
    assert described["stream"] == -1, "CV-CUDA would synchronise"
    assert len(layout) == len(described["shape"])
    kind = np.dtype(described["typestr"])
    assert kind != np.float16, "CV-CUDA's operators know no float16"
    size = int(np.prod(described["shape"])) * kind.itemsize
    raw = (ctypes.c_uint8 * size).from_address(described["data"][0])
    return np.frombuffer(raw, kind).reshape(described["shape"])


def resize_into(to, source, kind, *, stream):
    assert stream is STREAM
    (height, width), (rows, columns) = source.shape[1:3], to.shape[1:3]
    y = taps(Axis(height / rows, 0), rows, height, kind)
    x = taps(Axis(width / columns, 0), columns, width, kind)
    for one, other in zip(to, source, strict=True):
        for channel in range(to.shape[3]):
            one[..., channel] = np.floor(resample(other[..., channel], y, x) + 0.5)


def copymakeborder_into(to, source, border, value, *, top, left, stream):
    assert (stream, border) == (STREAM, "constant")
    to[...] = value
    to[:, top : top + source.shape[1], left : left + source.shape[2]] = source


def convertto_into(to, source, scale, offset, *, stream):
    assert stream is STREAM
    to[...] = source * np.float32(scale) + np.float32(offset)


def normalize_into(to, source, base, scale, *, stream):
    assert stream is STREAM
    to[...] = (source - np.float32(base)) * np.float32(scale)


def reformat_into(to, source, *, stream):
    assert stream is STREAM
    to[...] = source.transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def stream(tmp_path_factory):
    stream = host_kernel.Stream()
    fake = host_kernel.Cupy(host_kernel.build(tmp_path_factory.mktemp("kernel")), stream)
    operators = (resize_into, copymakeborder_into, convertto_into, normalize_into, reformat_into, as_tensor)
    cvcuda = SimpleNamespace(
        Interp=SimpleNamespace(LINEAR="bilinear", NEAREST="nearest", AREA="area"),
        Border=SimpleNamespace(CONSTANT="constant"),
        as_stream=lambda handle: STREAM if handle == stream.handle else None,
        **{operator.__name__: operator for operator in operators},
    )
    kernels.fused_kernel.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake)
        patch.setitem(sys.modules, "cvcuda", cvcuda)
        yield stream
    kernels.fused_kernel.cache_clear()


def surface(picture):
    def upload(data):
        memory = host_kernel.Memory(len(data))
        ctypes.memmove(memory.ptr, data.ctypes.data, len(data))
        return memory

    return on_device(picture, "semiplanar", upload)


PICTURES = [
    make_picture(1, 160, 90, Colour(), smooth=True),
    make_picture(2, 160, 90, Colour(), smooth=True),
    make_picture(3, 90, 120, Colour("bt601", True), rotation=90, smooth=True),
    make_picture(4, 120, 90, Colour(), mirror=True, sar=Fraction(4, 3), smooth=True),
    make_picture(5, 160, 90, Colour(), smooth=True),
]


@pytest.mark.parametrize("interpolation", ["bilinear", "area"])
@pytest.mark.parametrize("channels", ["rgb", "bgr", "gray"])
@pytest.mark.parametrize(
    ("dtype", "layout"), [("uint8", "nhwc"), ("uint8", "nchw"), ("float32", "nhwc"), ("float16", "nchw")]
)
def test_within_2_of_the_reference(stream, interpolation, channels, dtype, layout):
    scaled = {} if dtype == "uint8" else {"scale": 1 / 255, "mean": 0.5, "std": 0.25}
    if scaled and channels == "bgr":
        scaled["mean"], scaled["std"] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    preprocess = Preprocess(
        size=(64, 48),
        interpolation=interpolation,
        channels=channels,
        dtype=dtype,
        layout=layout,
        pad=(9, 200, 30),
        **scaled,
    )
    engine = CvCudaPreprocessor(preprocess, stream=stream, max_rows=7)
    want = ReferencePreprocessor(preprocess)([frame(p, f"s{i}") for i, p in enumerate(PICTURES)], 7)
    got = engine([frame(surface(p), f"s{i}") for i, p in enumerate(PICTURES)], 7)
    np.testing.assert_array_equal(got.transforms, want.transforms)
    for window, expected in zip(got.windows, want.windows, strict=True):
        for field in ("left", "top", "width", "height", "hidden"):
            assert getattr(window, field) == getattr(expected, field)
    assert got.tensor.dtype == dtype
    assert got.tensor.shape == want.tensor.shape
    gain = np.max(np.divide(preprocess.scale, preprocess.std))
    off = np.abs(np.asarray(got.tensor).astype(np.float64) - want.tensor) / gain
    assert off.max() <= 2 + (0.5 if dtype == "float16" else 0), off.max()
    assert not np.asarray(got.tensor)[5:].any()


def test_a_picture_that_fills_the_input_is_not_padded(stream):
    preprocess = Preprocess(size=(80, 45), dtype="uint8", layout="nhwc", interpolation="nearest")
    got = CvCudaPreprocessor(preprocess, stream=stream, max_rows=1)([frame(surface(PICTURES[0]))], 1)
    want = ReferencePreprocessor(preprocess)([frame(PICTURES[0])], 1)
    assert np.abs(np.asarray(got.tensor).astype(int) - want.tensor).max() <= 6


@pytest.mark.parametrize(
    ("change", "rois", "message"),
    [
        ({"fit": "crop"}, {}, "crop"),
        ({}, {"a": Roi(rect=(0, 0, 9, 9))}, "region"),
        ({"scale": 0.0}, {}, "scale: 0"),
    ],
)
def test_what_it_cannot_do_is_said_with_the_remedy(stream, change, rois, message):
    preprocess = Preprocess(size=(8, 8), dtype="float32", layout="nhwc", engine="cvcuda", **change)
    with pytest.raises(ConfigError, match=rf"engine: cvcuda cannot do.*{message}.*use engine: fused"):
        device_preprocessor(preprocess, rois, stream=stream, max_rows=1)


def test_the_configuration_names_the_engine(stream):
    for name, engine in (("auto", FusedPreprocessor), ("fused", FusedPreprocessor), ("cvcuda", CvCudaPreprocessor)):
        preprocess = Preprocess(size=(8, 8), dtype="float32", layout="nhwc", engine=name)
        assert type(device_preprocessor(preprocess, {}, stream=stream, max_rows=1)) is engine
    engine = device_preprocessor(preprocess, {}, stream=stream, max_rows=2)
    with pytest.raises(ValueError, match="room for 2"):
        engine([frame(surface(PICTURES[0]))] * 3, 3)
