"""Persons with keypoints, against a slow rendering of the rules, person by person and in Python's doubles."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from postprocess_cases import make_pose_case
from pydantic import ValidationError

from pipeline.config.sources import Roi
from pipeline.config.tasks import PosePost
from pipeline.errors import ModelError
from pipeline.poses import COCO_EDGES, COCO_KEYPOINTS
from pipeline.preprocess.geometry import place
from pipeline.preprocess.roi import region_of


def one_person(tools, points, scores, batch=None, **fields):
    """Of one frame; `points` (17, 2) y, x."""
    values = np.concatenate([points, np.asarray(scores)[:, None]], axis=1)[None, None].astype(np.float32)
    batch = batch or tools.batch(1)
    return tools.build({"o": values}, batch.model_size, family="pose", **fields)({"o": values}, batch).poses


def test_one_person_by_hand(tools):
    points = np.full((17, 2), 0.5)
    points[0], points[5], points[16] = (0.1, 0.3), (0.25, 0.8), (0.9, 0.05)
    scores = np.full(17, 0.2)
    scores[[0, 5]] = 0.9
    poses = one_person(tools, points, scores, score_threshold=0.28)
    assert (len(poses), poses.offsets.tolist()) == (1, [0, 1])
    assert poses.scores[0] == pytest.approx((2 * 0.9 + 15 * 0.2) / 17)
    assert poses.visible[0].nonzero()[0].tolist() == [0, 5]
    np.testing.assert_allclose(poses.points[0, [0, 5, 16]], [[30, 10], [80, 25], [5, 90]], rtol=1e-6)
    np.testing.assert_allclose(poses.boxes[0], [30, 10, 80, 25], rtol=1e-6)  # of the two that are visible
    assert (poses.names, poses.edges) == (COCO_KEYPOINTS, COCO_EDGES)
    assert poses.boxes.dtype == poses.scores.dtype == poses.points.dtype == poses.point_scores.dtype == np.float32
    assert not len(one_person(tools, points, scores, score_threshold=0.3))
    assert not len(one_person(tools, points, scores, keypoint_threshold=0.95, score_threshold=0))


def test_several_persons_by_hand(tools):
    values = np.zeros((1, 3, 56))
    values[0, :, 0:51:3], values[0, :, 1:51:3], values[0, :, 2:51:3] = 0.5, 0.25, 0.7
    values[0, 0, 51:] = 0.1, 0.2, 0.5, 0.4, 0.6
    values[0, 1, 51:] = 0.1, 0.2, 0.5, 0.4, 0.9
    values[0, 2, 51:] = 0.1, 0.2, 0.5, 0.4, 0.1
    poses = tools.build({"o": values}, family="pose")({"o": values}, tools.batch(1)).poses
    np.testing.assert_allclose(poses.scores, [0.9, 0.6], rtol=1e-6)
    np.testing.assert_allclose(poses.boxes[0], [20, 10, 40, 50], rtol=1e-6)
    np.testing.assert_allclose(poses.points[0], [[25, 50]] * 17, rtol=1e-6)
    best = tools.build({"o": values}, family="pose", max_persons=1)({"o": values}, tools.batch(1)).poses
    np.testing.assert_allclose(best.scores, [0.9], rtol=1e-6)


def test_keypoints_of_ones_own_in_pixels(tools):
    values = np.array([[[[10.0, 20, 0.5], [30, 60, 1]]]])
    fields = {"keypoints": ["head", "tail"], "order": "xy", "normalized": False, "edges": [[0, 1]]}
    poses = tools.build({"o": values}, family="pose", **fields)({"o": values}, tools.batch(1)).poses
    np.testing.assert_array_equal(poses.points[0], [[10, 20], [30, 60]])
    assert (poses.names, poses.edges) == (("head", "tail"), ((0, 1),))
    fields.pop("edges")
    assert tools.build({"o": values}, family="pose", **fields)({"o": values}, tools.batch(1)).poses.edges == ()


def slow(values, case):
    """(score, box, points, visible) of one frame's persons; `values` (P, numbers)."""
    config, count = case.config, len(case.config.keypoints or COCO_KEYPOINTS)
    found = []
    for number, row in enumerate(values.astype(np.float32).astype(float)):
        index, own = case.frame, row[: 3 * count].reshape(count, 3)
        scale_x, scale_y, offset_x, offset_y = case.batch.transforms[index]
        width, height = case.batch.display_sizes[index]

        def shown(a, b, scale=(scale_x, scale_y), offset=(offset_x, offset_y)):
            x, y = (b, a) if config.order == "yx" else (a, b)
            size = case.batch.model_size if config.normalized else (1, 1)
            return (x * size[0] - offset[0]) / scale[0], (y * size[1] - offset[1]) / scale[1]

        points, scores = [], []
        for a, b, score in own:
            usable = all(map(math.isfinite, (a, b, score)))
            points.append(shown(a, b) if usable else (0.0, 0.0))
            scores.append(score if usable else 0.0)
        visible = [score >= np.float32(config.keypoint_threshold) for score in scores]
        if len(row) == 3 * count:
            seen = [p for p, v in zip(points, visible, strict=True) if v]
            if not seen:
                continue
            box = [min(x for x, _ in seen), min(y for _, y in seen), max(x for x, _ in seen), max(y for _, y in seen)]
            total = math.fsum(scores) / count
        else:
            box = [*shown(*row[3 * count : 3 * count + 2]), *shown(*row[3 * count + 2 : 3 * count + 4])]
            total = row[-1]
        if not all(map(math.isfinite, [*box, total])):
            continue
        x1, x2 = (np.float32(min(max(x, 0), width)) for x in box[::2])
        y1, y2 = (np.float32(min(max(y, 0), height)) for y in box[1::2])
        if x2 > x1 and y2 > y1 and np.float32(total) >= np.float32(config.score_threshold):
            found.append((np.float32(total), number, (x1, y1, x2, y2), points, visible))
    return sorted(found, key=lambda f: (-f[0], f[1]))[: config.max_persons]


@settings(max_examples=120, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([None, 1, 6, 9]),
    st.integers(0, 3),
    st.fixed_dictionaries(
        {},
        optional={
            "order": st.sampled_from(["xy", "yx"]),
            "normalized": st.booleans(),
            "score_threshold": st.sampled_from([0.0, 0.35, 0.505]),
            "keypoint_threshold": st.sampled_from([0.0, 0.305, 0.995]),
            "max_persons": st.sampled_from([1, 2, 50]),
            "keypoints": st.sampled_from([["a"], ["a", "b", "c"]]),
        },
    ),
)
def test_equals_a_slow_rendering(seed, persons, frames, options):
    case = make_pose_case(seed, persons=persons, frames=frames, options=options)
    poses = case.reference().poses
    values = case.outputs["o"].reshape(frames + 1, persons or 1, -1)
    assert len(poses.offsets) == frames + 1
    for i in range(frames):
        case.frame = i
        own, expected = poses.frame(i), slow(values[i], case)
        assert len(own) == len(expected)
        for row, (score, _, box, points, visible) in enumerate(expected):
            assert own.scores[row] == pytest.approx(score, abs=1e-6)
            np.testing.assert_allclose(own.boxes[row], box, rtol=1e-5, atol=1e-3)
            assert own.visible[row].tolist() == visible
            np.testing.assert_allclose(own.points[row], points, rtol=1e-5, atol=1e-3)


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["letterbox", "stretch", "crop"]),
    st.integers(17, 2000),
    st.integers(17, 2000),
    st.tuples(*[st.floats(0.0, 0.4), st.floats(0.0, 0.4), st.floats(0.6, 1.0), st.floats(0.6, 1.0)]) | st.none(),
    st.integers(0, 2**32 - 1),
)
def test_keypoints_come_back_to_where_they_were_in_the_picture(tools, fit, width, height, rect, seed):
    """Whatever the fit and the region of interest: what is put into the model's pixels comes back to the picture's."""
    roi = None if rect is None else Roi(rect=rect, unit="fraction")
    placement = place(region_of(roi, (width, height), "cam"), (192, 160), fit)
    rng = np.random.default_rng(seed)
    truth = rng.uniform(0, (width, height), (17, 2))
    scale_x, scale_y, offset_x, offset_y = placement.transform
    model = truth * (scale_x, scale_y) + (offset_x, offset_y)
    batch = tools.batch(1, (192, 160), [(width, height)], [placement.transform])
    poses = one_person(tools, (model / (192, 160))[:, ::-1], np.full(17, 0.9), batch)
    tolerance = 1e-6 * (1 + np.abs(model).max()) / min(scale_x, scale_y) + 1e-3
    np.testing.assert_allclose(poses.points[0], truth, rtol=1e-6, atol=tolerance)
    box = np.concatenate([truth.min(axis=0), truth.max(axis=0)])
    np.testing.assert_allclose(poses.boxes[0], box, rtol=1e-6, atol=tolerance)


def test_no_frames_and_no_persons(tools):
    values = np.zeros((1, 0, 56), np.float32)
    build = tools.build({"o": (None, None, 56)}, family="pose")
    assert build({"o": values}, tools.batch(1)).poses.offsets.tolist() == [0, 0]
    values = np.zeros((2, 6, 56), np.float32)
    assert build({"o": values}, tools.batch(0)).poses.offsets.tolist() == [0]


@pytest.mark.parametrize("shape", [(1, 1, 17, 3), (1, 17, 3), (1, 1, 1, 17, 3)])
def test_axes_of_one(tools, shape):
    values = np.random.default_rng(0).random((17, 3)).astype(np.float32)
    outputs = {"o": values.reshape(shape)}
    poses = tools.build(outputs, family="pose", score_threshold=0)(outputs, tools.batch(1)).poses
    np.testing.assert_allclose(poses.points[0], values[:, [1, 0]] * 100, rtol=1e-6)


@pytest.mark.parametrize("shape", [(None, 16, 3), (None, 6, 51), (None, 17, 4), (None, 2), (None,)])
def test_shapes_that_do_not_fit(tools, shape):
    with pytest.raises(ModelError, match=r"is needed for 17 keypoints \(set pipeline.postprocess.keypoints"):
        tools.build({"o": shape}, family="pose")


def test_other_errors(tools):
    with pytest.raises(ModelError, match="has 2 outputs: a, b"):
        tools.build({"a": (None, 17, 3), "b": (None, 17, 3)}, family="pose")
    with pytest.raises(ModelError, match="the model has no output 'c'"):
        tools.build({"a": (None, 17, 3)}, family="pose", output="c")
    with pytest.raises(ModelError, match="has 1 rows for a batch of 2 frames"):
        tools.build({"o": (None, 17, 3)}, family="pose")({"o": np.zeros((1, 17, 3))}, tools.batch(2))
    with pytest.raises(ModelError, match="a score of 7"):
        one_person(tools, np.zeros((17, 2)), np.full(17, 7.0))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"keypoints": ["a", "a"]}, "differ in their names"),
        ({"keypoints": ["a", "b"], "edges": [[0, 2]]}, "edges join keypoints 0 to 1"),
        ({"edges": [[0, 17]]}, "edges join keypoints 0 to 16"),
        ({"edges": [[-1, 3]]}, "edges join keypoints 0 to 16"),
        ({"keypoints": []}, "keypoints"),
        ({"max_persons": 0}, "max_persons"),
        ({"keypoint_threshold": 1.5}, "keypoint_threshold"),
    ],
)
def test_wrong_settings(fields, words):
    with pytest.raises(ValidationError, match=words):
        PosePost(**fields)
