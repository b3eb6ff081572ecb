"""The `cuda` engine's kernels, compiled for the host, against the `cpu` engine; and the life of what is on its way."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

import numpy as np
import postprocess_on_host as on_host
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_cases import DETECTORS, Case, assert_same, make_case, outcome

from pipeline.postprocess.cuda import build_cuda_postprocessor, detection, layout


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return on_host.build(tmp_path_factory.mktemp("kernels"))


class Device:
    """A device that lives on the host."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.stream = on_host.Stream()
        self.cupy = on_host.Cupy(library, self.stream)

    def build(self, case: Case, max_frames: int = 80) -> Any:
        sys.modules["cupy"] = self.cupy  # type: ignore[assignment]
        layout.kernel.cache_clear()
        layout._module.cache_clear()
        try:
            return build_cuda_postprocessor(
                case.config, case.infos, model_size=case.batch.model_size, stream=self.stream, max_frames=max_frames
            )
        finally:
            del sys.modules["cupy"]

    def run(self, case: Case) -> Any:
        outputs = on_host.on_device(
            case.outputs
        )  # Memory that is let go of stays what it is for what is enqueued already.
        return self.build(case)(outputs, case.batch).result()


@pytest.fixture
def device(library):
    return Device(library)


def check(library: ctypes.CDLL, case: Case) -> None:
    assert_same(outcome(lambda: Device(library).run(case)), outcome(case.reference))


def test_structs_are_laid_out_alike(library):
    on_host.check_layouts(library)


def test_every_half_is_converted(library):
    bits = np.arange(65536, dtype=np.uint16)
    found = np.array([library.convert_half(ctypes.c_ushort(b)) for b in bits.tolist()], np.float32)
    np.testing.assert_array_equal(found, bits.view(np.float16).astype(np.float32))


options = st.fixed_dictionaries(
    {
        "nms_iou": st.sampled_from([None, 0.0, 0.3, 0.5, 0.9]),
        "class_agnostic": st.booleans(),
        "max_detections": st.sampled_from([1, 3, 100, 1000]),
        "score_threshold": st.sampled_from([0.0, 0.055, 0.305, 0.695]),
        "class_offset": st.sampled_from([0, 0, 1, 7]),
    },
    optional={
        "classes": st.sampled_from([[0], [1, 2], [], [8]]),
        "thresholds": st.sampled_from([{"0": 0.9}, {"1": 0.1, "2": 0.5}, {"8": 0.455}]),
    },
)
OWN = {
    "ssd": {
        "box_format": st.sampled_from(["yxyx", "xyxy", "xywh", "cxcywh"]),
        "normalized": st.booleans(),
        "activation": st.sampled_from(["none", "sigmoid", "softmax"]),
        "background": st.booleans(),
    },
    "yolo": {"normalized": st.booleans(), "objectness": st.booleans(), "anchor_axis": st.sampled_from([1, 2])},
    "gfl": {
        "activation": st.sampled_from(["none", "sigmoid"]),
        "cell_centre": st.sampled_from(["corner", "centre"]),
        "reg_max": st.integers(1, 10),
        "strides": st.sampled_from([[8, 16], [16], [32, 16, 48]]),
    },
    "boxes": {
        "box_format": st.sampled_from(["yxyx", "xyxy", "xywh", "cxcywh"]),
        "normalized": st.booleans(),
        "activation": st.sampled_from(["none", "sigmoid", "softmax"]),
    },
    "boxes_with_classes": {"activation": st.sampled_from(["none", "sigmoid"])},
    "od_api": {},
}


@pytest.mark.parametrize("family", DETECTORS)
@pytest.mark.parametrize("capacity", [16384, 7])
def test_equals_the_reference(library, monkeypatch, family, capacity):
    """With room for all candidates, and, by looking at the scores again, without."""
    monkeypatch.setattr(detection, "CAPACITY", capacity)

    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 3),
        st.integers(0, 60),
        st.integers(2, 5),
        st.integers(0, 2),
        st.sampled_from(["float32", "float16", "float64"]),
        options,
        st.fixed_dictionaries(OWN[family]),
    )
    def compare(seed, frames, anchors, classes, padding, dtype, common, own):
        chosen = common | own
        if family == "yolo":
            anchors += 1
        case = make_case(
            family, seed, frames=frames, anchors=anchors, classes=classes, padding=padding, dtype=dtype, options=chosen
        )
        check(library, case)

    compare()
