"""The `cuda` engine's kernels, compiled for the host, against the `cpu` engine; and the life of what is on its way."""

from __future__ import annotations

import ctypes
import logging

import numpy as np
import postprocess_on_host as on_host
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from postprocess_cases import DETECTORS, Case, assert_same, head_case, make_batch, make_case, nearly_tied, outcome

from pipeline.errors import ConfigError, ModelError
from pipeline.postprocess.cuda import detection


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return on_host.build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def device(library):
    return on_host.Device(library)


def check(library: ctypes.CDLL, case: Case) -> None:
    assert_same(outcome(lambda: on_host.Device(library).run(case)), outcome(case.reference))


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
        "thresholds": st.sampled_from([{"0": 0.895}, {"1": 0.105, "2": 0.505}, {"8": 0.455}]),
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

    @settings(max_examples=40, deadline=None)
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
        assume(not nearly_tied(case))
        check(library, case)

    compare()


@pytest.mark.parametrize("capacity", [16384, 1500])
@pytest.mark.parametrize("fields", [{}, {"nms_iou": None, "max_detections": 5000}, {"max_detections": 40}])
def test_more_candidates_than_are_treated_at_a_time(library, monkeypatch, capacity, fields):
    """Several rounds, in which weaker boxes must still lose against boxes that were kept in earlier ones."""
    monkeypatch.setattr(detection, "CAPACITY", capacity)
    for seed in range(3):
        check(library, make_case("boxes", seed, anchors=2500, classes=2, odd=False, options=fields))


def test_many_equal_scores(device):
    """Nothing but the index tells candidates apart, down to the last bits of their keys."""
    case = make_case("boxes", 3, frames=1, anchors=3000, classes=1, odd=False)
    case.outputs["s"][:] = 0.5
    assert_same(device.run(case), case.reference())


def test_more_frames_than_fit_into_a_launch(device):
    case = make_case("ssd", 5, frames=70, anchors=20, padding=2)
    assert_same(device.run(case), case.reference())
    assert device.cupy.launches["finish"] == 2


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint8, np.int8, np.int16, np.uint16, np.uint32, np.uint64])
def test_integers_where_they_make_sense(library, dtype, kind):
    case = make_case("od_api", 4, dtype=dtype, odd=False)
    for name in ("detection_classes", "num_detections"):
        case.outputs[name] = np.maximum(case.outputs[name], 0).astype(kind)
    check(library, case)


def test_outputs_in_another_order_in_memory(device):
    case = make_case("boxes", 6)
    outputs = on_host.on_device(case.outputs)
    outputs["b"] = np.asfortranarray(outputs["b"])
    assert_same(device.build(case)(outputs, case.batch).result(), case.reference())


@pytest.mark.parametrize("activation", ["none", "sigmoid", "softmax"])
def test_classification_equals_the_reference(library, activation):
    @settings(max_examples=40, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.integers(0, 3),
        st.sampled_from([1, 2, 9, 40, 1500]),
        st.sampled_from([1, 3, 5, 1000]),
        st.sampled_from(["float32", "float16", "float64"]),
        st.booleans(),
    )
    def compare(seed, frames, classes, top_k, dtype, odd):
        rng = np.random.default_rng(seed)
        values = (
            rng.integers(-10, 11, (frames + 1, classes)) / 10
            if activation == "none"
            else rng.normal(0, 3, (frames + 1, classes)).round(1)
        )
        if odd:
            where = rng.random(values.shape) < 0.02
            values[where] = rng.choice([np.nan, np.inf, -np.inf, -0.0], int(where.sum()))
        fields = {"family": "classify", "activation": activation, "top_k": top_k, "class_offset": 1}
        case = Case(
            fields | {"score_threshold": 0.0015}, {"o": values.astype(dtype)}, make_batch(rng, frames, frames + 1)
        )
        check(library, case)

    compare()


def test_raw_outputs_cross_as_they_are(device):
    rng = np.random.default_rng(0)
    outputs = {"a": rng.random((3, 2, 4), np.float32), "b": rng.integers(0, 9, (3,)), "c": np.ones((3, 1), np.float16)}
    case = Case({"family": "raw", "outputs": ["c", "a", "b"]}, outputs, make_batch(rng, 2, 3))
    post = device.build(case)
    given_outputs = on_host.on_device(outputs)
    pending = post(given_outputs, case.batch)
    assert device.stream.waits == 0
    tensors = pending.result().tensors
    assert list(tensors) == ["c", "a", "b"]
    for name, tensor in tensors.items():
        np.testing.assert_array_equal(tensor, outputs[name][:2])
        assert tensor.dtype == outputs[name].dtype
    assert post.downloads.copied_bytes == sum(a[:2].nbytes for a in outputs.values())


@pytest.mark.parametrize("family", ["boxes", "ssd", "yolo", "classify"])
def test_logits_taken_for_probabilities_are_an_error_when_results_are_asked_for(device, family):
    if family == "classify":
        case = Case(
            {"family": "classify", "activation": "none"},
            {"o": np.array([[5.25, 0]])},
            make_batch(np.random.default_rng(), 1, 1),
        )
    else:
        case = make_case(family, 1, frames=1, odd=False)
        case.outputs = {
            n: np.where(np.arange(a.size).reshape(a.shape) == a.size - 1, 5.25, a) for n, a in case.outputs.items()
        }
        case.batch = make_batch(np.random.default_rng(), len(next(iter(case.outputs.values()))), 2)
    outputs = on_host.on_device(case.outputs)
    pending = device.build(case)(outputs, case.batch)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"scores are probabilities in 0\.\.1"):
            pending.result()
    assert outcome(case.reference) == outcome(pending.result)


def test_a_crowded_frame_is_told_once_and_counted(device, monkeypatch, caplog):
    monkeypatch.setattr(detection, "CAPACITY", 10)
    case = make_case("boxes", 0, frames=3, odd=False)
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert_same(post(outputs, case.batch).result(), case.reference())
    (record,) = caplog.records
    assert "more than 10 boxes" in record.message
    assert "raise pipeline.postprocess.score_threshold (0.305)" in record.message
    assert post.crowded_frames == 9
    assert post.cut_frames == 0


def test_boxes_outside_the_picture_beyond_what_is_kept_are_told_once(device, monkeypatch, caplog):
    monkeypatch.setattr(detection, "_OUTSIDE", 10)
    case = make_case("boxes", 0, frames=1, anchors=40, odd=False, options={"max_detections": 3})
    case.outputs["b"][:] = -1000 - 20 * np.arange(40)[:, None] + np.array([0, 0, 10, 10])
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    with caplog.at_level(logging.WARNING):
        found = [post(outputs, case.batch).result().detections for _ in range(2)]
    assert [len(d) for d in found] == [0, 0]
    (record,) = caplog.records
    assert "more than 13 boxes that survive suppression" in record.message
    assert post.cut_frames == 2


def test_a_call_enqueues_and_returns(device):
    case = make_case("yolo", 2, frames=4)
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    pending = post(outputs, case.batch)
    assert device.stream.waits == 0
    assert device.cupy.launches == {"collect": 1, "finish": 1, "classify": 0, "segment": 0}
    assert device.cupy.copies == [4 * (16 + 100 * 24)], "of the frames that are there, and below 4 KiB each"
    assert len(device.stream.queue) == 4, "nothing is done yet"
    first = pending.result()
    assert device.stream.waits == 1
    assert pending.result() is first
    assert device.stream.waits == 1


def test_results_may_be_asked_for_late_and_in_any_order(device):
    """More batches in flight than there are slots, while buffers are used again and again."""
    cases = [make_case("ssd", 0, frames=1 + i % 3, anchors=50, padding=0) for i in range(12)]
    for i, case in enumerate(cases):
        case.outputs = make_case("ssd", i, frames=len(case.batch.frames), anchors=50, padding=0).outputs
    post = device.build(cases[0])
    outputs = [on_host.on_device(case.outputs) for case in cases]
    pinned = len(device.cupy.pinned)
    pending = [post(o, case.batch) for o, case in zip(outputs, cases, strict=True)]
    assert len(device.cupy.pinned) == 12 > pinned
    for i in (7, 0, 11, 3, 1, 2, 4, 10, 9, 8, 6, 5):
        assert_same(pending[i].result(), cases[i].reference())
    results = [p.result().detections.boxes.copy() for p in pending]
    again = [post(o, case.batch) for o, case in zip(outputs, cases, strict=True)]
    assert len(device.cupy.pinned) == 12, "slots are used again"
    for p in again:
        p.result()
    for before, p in zip(results, pending, strict=True):
        np.testing.assert_array_equal(p.result().detections.boxes, before)


def test_one_batch_after_another_needs_no_new_memory(device):
    case = make_case("gfl", 2)
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    pinned = len(device.cupy.pinned)
    for _ in range(20):
        assert_same(post(outputs, case.batch).result(), case.reference())
    assert len(device.cupy.pinned) == pinned


def test_results_that_nobody_asks_for_give_their_memory_back(device):
    case = make_case("boxes", 2)
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    pinned = len(device.cupy.pinned)
    for _ in range(3 * pinned):
        post(outputs, case.batch)
    assert len(device.cupy.pinned) == pinned
    assert_same(post(outputs, case.batch).result(), case.reference())


def test_a_batch_that_is_refused_leaves_the_next_one_alone(device):
    case = make_case("boxes", 2)
    post, outputs = device.build(case, max_frames=2), on_host.on_device(case.outputs)
    with pytest.raises(ValueError, match="5 frames; there is room for 2"):
        post(outputs, make_batch(np.random.default_rng(), 5, 5))
    with pytest.raises(ModelError, match=r"'b' has 1 rows for a batch of 2 frames"):
        post({name: a[:1] for name, a in outputs.items()}, case.batch)
    with pytest.raises(ModelError, match="'s' holds complex64, but numbers"):
        post(outputs | {"s": outputs["s"].astype(np.complex64)}, case.batch)
    assert_same(post(outputs, case.batch).result(), case.reference())


def test_outputs_are_refused_as_by_the_reference(device):
    case = make_case("yolo", 2)
    case.outputs = {"out": case.outputs["out"][..., :3, :3]}
    with pytest.raises(ModelError) as expected:
        case.reference()
    with pytest.raises(ModelError) as found:
        device.build(case)
    assert str(found.value) == str(expected.value)
    post = device.build(make_case("yolo", 2))
    with pytest.raises(ModelError, match="the model has no output 'out'"):
        post({"other": np.zeros((2, 3))}, case.batch)


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("gfl", {"strides": [8, 16] * 5}, "10 strides, but the cuda engine takes at most 8"),
        ("boxes", {"classes": [1 << 20]}, "class 1048576 is named, but the cuda engine knows classes up to 1048575"),
        ("boxes", {"classes": ["cat"]}, "no class is called 'cat'"),
    ],
)
def test_options_that_cannot_be_met(device, family, options, message):
    case = make_case(family, 1)
    case.fields |= options
    case.shapes_known = False
    with pytest.raises(ConfigError, match=message):
        device.build(case)


def test_unknown_shapes_are_found_out_in_the_first_call(device):
    case = make_case("gfl", 2)
    case.shapes_known = False
    assert_same(device.run(case), case.reference())


@pytest.mark.parametrize("family", ["ssd", "yolo", "gfl"])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_heads_of_full_size(library, family, dtype):
    check(library, head_case(family, seed=7, frames=2, dtype=dtype, threshold=0.05))
