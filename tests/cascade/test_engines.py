"""The cascade with crops as the `cuda` engine cuts them, its kernel compiled for the host: results are the `cpu` engine's."""

from __future__ import annotations

import ctypes

import host_kernel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_maker import frame, make_picture, on_device

from pipeline.cascade.second import SecondModel
from pipeline.cascade.stage import Cascade, Entry
from pipeline.config.cascade import CropRules
from pipeline.config.stages import Preprocess
from pipeline.frames import Classifications, Colour, Detections, Predictions, ResultBatch
from pipeline.observe.status import RunStatus, StageTimes
from pipeline.preprocess.crops import ReferenceCropper
from pipeline.preprocess.fused_crops import FusedCropper

INPUT = Preprocess(size=(24, 16), layout="nhwc", dtype="float32", fit="letterbox")


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return host_kernel.build(tmp_path_factory.mktemp("kernel"))


@pytest.fixture(scope="module")
def stream():
    return host_kernel.Stream()


@pytest.fixture(scope="module")
def cupy(library, stream):
    with host_kernel.installed(library, stream) as fake:
        yield fake


class MeanModel:
    """Gives each picture's mean in a few places."""

    name, batch_size = "mean@0", 4

    def rows(self, frames):
        return {1: 1, 2: 2}.get(frames, 4)

    def __call__(self, tensor):
        assert len(tensor) in (1, 2, 4)
        tensor = np.asarray(tensor)
        return {"y": np.stack([tensor[:, :8].mean((1, 2, 3)), tensor[:, :, :12].mean((1, 2, 3))], 1)}


def means(outputs, batch):
    scores = outputs["y"][: len(batch.frames)].astype(np.float32)
    ids = np.tile(np.arange(2, dtype=np.int32), (len(scores), 1))
    return Predictions(classes=Classifications(ids, scores, np.full(len(scores), 2)))


def cascade(cropper, **rules):
    status = RunStatus(stages={"cascade.mean": StageTimes()})
    second = SecondModel("mean", "pipeline.cascade[0]", MeanModel(), means)
    return Cascade([Entry(second, cropper, CropRules(min_size_px=2, **rules), keeps=True)], status)


def surface(picture):
    def upload(data):
        memory = host_kernel.Memory(len(data))
        ctypes.memmove(memory.ptr, data.ctypes.data, len(data))
        return memory

    return on_device(picture, "semiplanar", upload)


@st.composite
def scenes(draw):
    """Frames of several sources, rotated or not, with boxes and track ids."""
    frames, boxes, tracks = [], [], []
    for number in range(draw(st.integers(1, 4))):
        rotation = draw(st.sampled_from([0, 90, 180, 270]))
        picture = make_picture(
            number, draw(st.integers(24, 64)), draw(st.integers(24, 64)), Colour(), rotation=rotation
        )
        own = []
        for _ in range(draw(st.integers(0, 4))):
            x, y = draw(st.floats(0, 0.8)) * picture.width, draw(st.floats(0, 0.8)) * picture.height
            own.append(
                (
                    x,
                    y,
                    x + draw(st.floats(0.05, 1)) * (picture.width - x),
                    y + draw(st.floats(0.05, 1)) * (picture.height - y),
                )
            )
        frames.append((picture, f"s{draw(st.integers(0, 1))}", number))
        boxes.append(own)
        tracks.append(draw(st.permutations(range(5)))[: len(own)])
    return frames, boxes, tracks


@settings(max_examples=100, deadline=None)
@given(st.lists(scenes(), min_size=1, max_size=3), st.integers(1, 3), st.floats(0, 0.5), st.none() | st.floats(0.5, 2))
def test_both_engines_see_the_same(cupy, stream, batches, every, margin, aspect):
    rules = {"every": every, "margin": margin, "aspect": aspect}
    on_cpu = cascade(ReferenceCropper(INPUT), **rules)
    on_gpu = cascade(FusedCropper(INPUT, stream=stream, max_rows=4), **rules)
    for pictures, boxes, tracks in batches:
        flat = np.array([box for own in boxes for box in own], np.float32).reshape(-1, 4)
        detections = Detections(
            flat,
            np.ones(len(flat), np.float32),
            np.zeros(len(flat), np.int32),
            np.cumsum([0, *map(len, boxes)]).astype(np.int64),
            {0: "thing"},
            np.array([t for own in tracks for t in own], np.int64),
        )
        host = [frame(picture, source, index) for picture, source, index in pictures]
        device = [frame(surface(picture), source, index) for picture, source, index in pictures]
        batch = ResultBatch(host, Predictions(detections), "m@0")
        want = on_cpu.finish(on_cpu.start(batch, host))["mean"]
        got = on_gpu.finish(on_gpu.start(batch, device))["mean"]
        for name in ("parents", "parent_offsets", "regions", "frame_numbers"):
            np.testing.assert_array_equal(getattr(got, name), getattr(want, name))
        assert (got.predictions.classes is None) == (want.predictions.classes is None)
        if want.predictions.classes is not None:
            np.testing.assert_allclose(got.predictions.classes.scores, want.predictions.classes.scores, atol=1e-3)
    assert on_cpu._counts == on_gpu._counts
