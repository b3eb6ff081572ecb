"""Poses, class maps and embeddings of the `cuda` engine, its kernel compiled for the host, against the `cpu` engine."""

from __future__ import annotations

import ctypes

import numpy as np
import postprocess_on_host as on_host
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_cases import (
    SEGMENT_OPTIONS,
    Case,
    assert_same,
    make_batch,
    make_pose_case,
    make_segment_case,
    outcome,
    segment_options_for,
)

from pipeline.errors import ModelError


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    return on_host.build(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def device(library):
    return on_host.Device(library)


def check(library: ctypes.CDLL, case: Case) -> None:
    assert_same(outcome(lambda: on_host.Device(library).run(case)), outcome(case.reference))


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", "int32", "int64", "int8", "uint8", "uint16"])
def test_class_maps_equal_the_reference(library, dtype):
    @settings(max_examples=60, deadline=None)
    @given(
        st.integers(0, 2**32 - 1),
        st.sampled_from([1, 2, 3, 21]),
        st.tuples(st.integers(1, 40), st.integers(1, 70)),
        st.integers(0, 3),
        SEGMENT_OPTIONS,
    )
    def compare(seed, channels, size, frames, options):
        options = segment_options_for(options, channels, dtype)
        check(
            library, make_segment_case(seed, channels=channels, size=size, frames=frames, dtype=dtype, options=options)
        )

    compare()


@pytest.mark.parametrize(("channels", "dtype"), [(1, "float32"), (21, "float16")])
def test_class_maps_of_full_size(library, channels, dtype):
    check(library, make_segment_case(3, channels=channels, size=(256, 256), frames=3, dtype=dtype))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 1, 6]),
    st.integers(0, 3),
    st.sampled_from(["float32", "float16", "float64"]),
)
def test_poses_equal_the_reference(library, seed, persons, frames, dtype):
    check(library, make_pose_case(seed, persons=persons, frames=frames, dtype=dtype))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(0, 3), st.integers(1, 300), st.booleans())
def test_embeddings_equal_the_reference(library, seed, frames, length, normalize):
    rng = np.random.default_rng(seed)
    values = rng.normal(0, 3, (frames + 1, length)).astype(np.float32)
    values[rng.random(values.shape) < 0.001] = np.nan
    fields = {"family": "embedding", "normalize": normalize}
    check(library, Case(fields, {"o": values}, make_batch(rng, frames, frames + 1)))


def test_a_byte_a_pixel_crosses_in_one_copy(device):
    case = make_segment_case(5, channels=21, size=(64, 64), frames=3)
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    pending = post(outputs, case.batch)
    assert device.stream.waits == 0
    assert device.cupy.launches["segment"] == 1
    assert device.cupy.copies == [3 * (64 * 64 + 4 * 4)], "the maps, and a number for each of four blocks"
    first = pending.result()
    assert_same(first, case.reference())
    assert post(outputs, case.batch).result() is not first
    assert pending.result() is first
    before = first.segmentations.classes.copy()
    outputs["o"][:] = 0
    post(outputs, case.batch).result()
    np.testing.assert_array_equal(first.segmentations.classes, before)


def test_maps_that_grow(device):
    """A model may leave the size open; what was enqueued with the smaller buffer is not disturbed."""
    small, large = (make_segment_case(seed, channels=3, size=(seed, 7), frames=2) for seed in (5, 50))
    small.shapes_known = large.shapes_known = False
    post = device.build(small)
    cases = [small, large, small]
    outputs = [on_host.on_device(case.outputs) for case in cases]
    pending = [post(own, case.batch) for own, case in zip(outputs, cases, strict=True)]
    for case, one in zip(cases, pending, strict=True):
        assert_same(one.result(), case.reference())


@pytest.mark.parametrize("family", ["pose", "embedding"])
def test_outputs_cross_in_one_copy_and_late(device, family):
    rng = np.random.default_rng(0)
    case = make_pose_case(4, persons=6, frames=3)
    if family == "embedding":
        case = Case({"family": "embedding"}, {"o": rng.random((4, 9), np.float32)}, make_batch(rng, 3, 4))
    post, outputs = device.build(case), on_host.on_device(case.outputs)
    pinned = len(device.cupy.pinned)
    pending = [post(outputs, case.batch) for _ in range(3)]
    assert device.stream.waits == 0
    assert device.cupy.copies == [case.outputs["o"][:3].nbytes] * 3
    outcomes = [one.result() for one in reversed(pending)]
    for found in outcomes:
        assert_same(found, case.reference())
    for _ in range(10):
        post(outputs, case.batch).result()
    assert len(device.cupy.pinned) <= pinned + 4, "slots are used again"
    outputs["o"][:] = 0
    post(outputs, case.batch).result()
    assert_same(outcomes[0], case.reference())


@pytest.mark.parametrize("family", ["pose", "segment"])
def test_logits_taken_for_probabilities_are_an_error_when_results_are_asked_for(device, family):
    rng = np.random.default_rng(0)
    values = rng.random((2, 1, 17, 3)) if family == "pose" else rng.random((2, 40, 40, 1))
    values.reshape(2, -1)[0, -1] = 5.25
    case = Case({"family": family}, {"o": values}, make_batch(rng, 1, 2))
    pending = device.build(case)(on_host.on_device(case.outputs), case.batch)
    for _ in range(2):
        with pytest.raises(ModelError, match=r"a score of 5\.25"):
            pending.result()
    assert outcome(case.reference) == outcome(pending.result)
    values.reshape(2, -1)[1, -1], values.reshape(2, -1)[0, -1] = 5.25, 0.5  # of a padding row
    assert_same(device.run(case), case.reference())


@pytest.mark.parametrize("family", ["pose", "segment", "embedding"])
def test_outputs_that_do_not_fit(device, family):
    rng = np.random.default_rng(0)
    shape = {"pose": (2, 1, 17, 3), "segment": (2, 4, 4, 2), "embedding": (2, 8)}[family]
    case = Case({"family": family}, {"o": rng.random(shape)}, make_batch(rng, 2, 2))
    post = device.build(case)
    with pytest.raises(ModelError, match="the model has no output 'o'"):
        post(on_host.on_device({"other": np.zeros(shape)}), case.batch)
    with pytest.raises(ModelError, match="has 1 rows for a batch of 2 frames"):
        post(on_host.on_device({"o": np.zeros((1, *shape[1:]))}), case.batch)
    with pytest.raises(ModelError):
        case.outputs = {"o": np.zeros((2, 5, 3, 4, 7))}
        device.run(case)
