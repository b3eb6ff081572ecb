"""What all detection families share, through the `boxes` family, which adds nothing of its own."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import ConfigError, ModelError
from pipeline.postprocess.detection import _FIRST_LOOK

NAMES = ["cat", "dog", "person"]


def outputs_of(frames, classes=3):
    """[[(box, scores of the classes), ...], ...] -> outputs, filled up with boxes without a score."""
    most = max(map(len, frames), default=0)
    boxes = np.zeros((len(frames), most, 4), np.float32)
    scores = np.zeros((len(frames), most, classes), np.float32)
    for i, frame in enumerate(frames):
        for k, (box, values) in enumerate(frame):
            boxes[i, k], scores[i, k] = box, values
    return {"b": boxes, "s": scores}


FIELDS = {"family": "boxes", "boxes": "b", "scores": "s", "labels": NAMES}
APART = [((0, 0, 10, 10), (0.9, 0.6, 0.1)), ((20, 0, 30, 10), (0.2, 0.7, 0.4)), ((40, 0, 50, 10), (0.3, 0.45, 0.8))]


def found(detections):
    return [
        (detections.label(int(c)), round(float(s), 4))
        for c, s in zip(detections.class_ids, detections.scores, strict=True)
    ]


def test_by_hand(tools):
    """An anchor counts for every class that reaches the threshold; the best comes first."""
    d = tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS)
    assert found(d) == [("cat", 0.9), ("person", 0.8), ("dog", 0.7), ("dog", 0.6)]
    assert d.boxes.tolist() == [[0, 0, 10, 10], [40, 0, 50, 10], [20, 0, 30, 10], [0, 0, 10, 10]]
    assert d.boxes.dtype == d.scores.dtype == np.float32
    assert d.class_ids.dtype == np.int32
    assert d.offsets.tolist() == [0, 4]


def test_a_score_of_exactly_the_threshold_counts(tools):
    d = tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS, score_threshold=0.7)
    assert found(d) == [("cat", 0.9), ("person", 0.8), ("dog", 0.7)]


def test_thresholds_by_label_and_by_id(tools):
    by_label = {"cat": 0.95, "person": 0.3}
    for thresholds in (by_label, {"0": 0.95, "2": 0.3}):
        d = tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS, thresholds=thresholds)
        assert found(d) == [("person", 0.8), ("dog", 0.7), ("dog", 0.6), ("person", 0.4)]


@pytest.mark.parametrize("classes", [["dog"], [1], ["1"], ["dog", 17]])
def test_class_filter(tools, classes):
    d = tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS, classes=classes)
    assert found(d) == [("dog", 0.7), ("dog", 0.6)]


def test_an_empty_class_filter_lets_nothing_pass(tools):
    assert len(tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS, classes=[])) == 0


def test_class_offset_shifts_ids_filters_and_labels(tools):
    fields = FIELDS | {"labels": {1: "cat", 2: "dog", 3: "person"}}
    d = tools.detect(outputs_of([APART]), tools.batch(1), **fields, class_offset=1, classes=["person", 2])
    assert found(d) == [("person", 0.8), ("dog", 0.7), ("dog", 0.6)]
    assert d.class_ids.tolist() == [3, 2, 2]


def test_classes_without_labels_are_numbers(tools):
    fields = {k: v for k, v in FIELDS.items() if k != "labels"}
    assert found(tools.detect(outputs_of([APART]), tools.batch(1), **fields, classes=[0])) == [("0", 0.9)]
    with pytest.raises(ConfigError, match="'cat', as there are no labels"):
        tools.detect(outputs_of([APART]), tools.batch(1), **fields, classes=["cat"])


def test_unknown_labels_are_all_told_with_the_nearest(tools):
    with pytest.raises(ConfigError) as e:
        tools.detect(outputs_of([APART]), tools.batch(1), **FIELDS, classes=["cat", "persn"], thresholds={"zebra": 0.1})
    assert [issue.field for issue in e.value.issues] == [
        "pipeline.postprocess.thresholds.zebra",
        "pipeline.postprocess.classes[1]",
    ]
    assert e.value.issues[0].hint == "labels are: cat, dog, person"
    assert e.value.issues[1].hint == "did you mean 'person'?"


def test_long_label_lists_are_cut_in_messages(tools):
    fields = FIELDS | {"labels": [f"thing {i:03}" for i in range(50)], "classes": ["?"]}
    with pytest.raises(ConfigError, match="thing 019 and 30 more"):
        tools.detect(outputs_of([APART]), tools.batch(1), **fields)


OVERLAPPING = [((0, 0, 10, 10), (0.9, 0, 0)), ((0, 1, 10, 11), (0, 0.8, 0)), ((0, 2, 10, 12), (0.7, 0, 0))]


def test_nms_minds_classes_unless_told_otherwise(tools):
    batch, outputs = tools.batch(1), outputs_of([OVERLAPPING])
    assert found(tools.detect(outputs, batch, **FIELDS)) == [("cat", 0.9), ("dog", 0.8)]
    assert found(tools.detect(outputs, batch, **FIELDS, class_agnostic=True)) == [("cat", 0.9)]
    assert len(tools.detect(outputs, batch, **FIELDS, nms_iou=None)) == 3
    assert len(tools.detect(outputs, batch, **FIELDS, nms_iou=0.7)) == 3  # 80 / 120 is not more than that.


def test_frames_do_not_suppress_each_other(tools):
    d = tools.detect(outputs_of([OVERLAPPING[:1], [], OVERLAPPING[2:]]), tools.batch(3), **FIELDS, class_agnostic=True)
    assert d.offsets.tolist() == [0, 1, 1, 2]
    assert found(d.frame(2)) == [("cat", 0.7)]


def test_max_detections_counts_per_frame_what_is_left_at_the_end(tools):
    """A suppressed box and one outside the picture take no place."""
    outside = ((-30, 0, -20, 10), (1.0, 0, 0))
    d = tools.detect(outputs_of([[outside, *OVERLAPPING], APART]), tools.batch(2), **FIELDS, max_detections=2)
    assert found(d.frame(0)) == [("cat", 0.9), ("dog", 0.8)]
    assert found(d.frame(1)) == [("cat", 0.9), ("person", 0.8)]


def test_equal_scores_are_ordered_by_anchor_then_class(tools):
    boxes = [((20 * i, 0, 20 * i + 10, 10), (0.75, 0.75, 0)) for i in (3, 1, 2, 0)]
    d = tools.detect(outputs_of([boxes]), tools.batch(1), **FIELDS)
    assert d.boxes[:, 0].tolist() == [60, 60, 20, 20, 40, 40, 0, 0]
    assert d.class_ids.tolist() == [0, 1] * 4


def test_letterboxed_boxes_come_back_to_display_pixels(tools):
    """A 200x100 picture in a 100x100 input: scaled by 1/2, 25 lines of padding above. The second frame is stretched."""
    boxes = [((10, 30, 50, 70), (0.9, 0, 0)), ((-5, 0, 50, 90), (0, 0.8, 0)), ((10, 0, 50, 25), (0, 0, 0.7))]
    batch = tools.batch(2, sizes=[(200, 100), (200, 400)], transforms=[[0.5, 0.5, 0, 25], [0.5, 0.25, 0, 0]])
    d = tools.detect(outputs_of([boxes, boxes]), batch, **FIELDS)
    # The third box lies in the padding of the first frame alone.
    assert d.frame(0).boxes.tolist() == [[20, 10, 100, 90], [0, 0, 100, 100]]
    assert d.frame(1).boxes.tolist() == [[20, 120, 100, 280], [0, 0, 100, 360], [20, 0, 100, 100]]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_no_result_and_suppresses_nothing(tools, value):
    box, good = (0, 0, 10, 10), ((0, 0, 10, 10), (0.6, 0, 0))
    bad_boxes = [(tuple(value if i == k else v for i, v in enumerate(box)), (0.9, 0, 0)) for k in range(4)]
    d = tools.detect(outputs_of([[*bad_boxes, (box, (value, 0.7, 0)), good]]), tools.batch(1), **FIELDS)
    assert found(d) == [("dog", 0.7), ("cat", 0.6)]


def test_boxes_without_area_are_no_result_and_suppress_nothing(tools):
    boxes = [((5, 5, 5, 9), (0.9, 0, 0)), ((9, 5, 5, 9), (0.9, 0, 0)), ((5, 9, 9, 5), (0.9, 0, 0)), APART[0]]
    assert found(tools.detect(outputs_of([boxes]), tools.batch(1), **FIELDS)) == [("cat", 0.9), ("dog", 0.6)]


def test_padding_rows_are_ignored(tools):
    outputs = outputs_of([APART, [], APART, APART])
    d = tools.detect(outputs, tools.batch(2, rows=4), **FIELDS)
    assert d.offsets.tolist() == [0, 4, 4]


def test_too_few_rows_are_an_error(tools):
    with pytest.raises(ModelError, match="'b' has 1 rows for a batch of 2 frames"):
        tools.detect(outputs_of([APART]), tools.batch(2), **FIELDS)


def test_a_little_above_1_is_rounding_and_more_is_an_error(tools):
    d = tools.detect(outputs_of([[((0, 0, 9, 9), (1.004, 0, 0))]]), tools.batch(1), **FIELDS)
    assert d.scores.tolist() == [1.0]
    with pytest.raises(ModelError, match=r"a score of 5\.3, but .* logits, set .*activation"):
        tools.detect(outputs_of([[((0, 0, 9, 9), (5.3, 0, 0))]]), tools.batch(1), **FIELDS)


def test_half_precision_gives_the_same(tools):
    outputs = outputs_of([APART, OVERLAPPING])
    halves = {name: array.astype(np.float16) for name, array in outputs.items()}
    singles = {name: array.astype(np.float32) for name, array in halves.items()}
    tools.assert_equal(tools.detect(halves, tools.batch(2), **FIELDS), tools.detect(singles, tools.batch(2), **FIELDS))


def test_no_frames_and_no_anchors(tools):
    assert tools.detect(outputs_of([]), tools.batch(0), **FIELDS).offsets.tolist() == [0]
    assert tools.detect(outputs_of([[], []]), tools.batch(2), **FIELDS).offsets.tolist() == [0, 0, 0]


def test_many_candidates_do_not_change_what_is_found(tools):
    """Far more candidates than are looked at first, nearly all of which the best box suppresses."""
    many = 5 * _FIRST_LOOK
    boxes = np.tile(np.array([10, 10, 60, 60], np.float32), (2, many, 1))
    boxes[:, -3:] = [[70, 70, 80, 80], [82, 70, 92, 80], [70, 82, 80, 92]]
    scores = np.linspace(0.99, 0.6, many, dtype=np.float32)[None, :, None].repeat(2, axis=0)
    scores[1, 5:] = 0  # The second frame has few.
    d = tools.detect({"b": boxes, "s": scores}, tools.batch(2), **FIELDS, max_detections=3)
    assert d.frame(0).boxes.tolist() == [[10, 10, 60, 60], [70, 70, 80, 80], [82, 70, 92, 80]]
    assert len(d.frame(1)) == 1


@st.composite
def cases(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    frames, anchors, classes = draw(st.integers(1, 4)), draw(st.integers(0, 25)), draw(st.integers(1, 4))
    # Eighths of pixels and hundredths of scores are coarse enough for ties, and the former exact in both precisions.
    corner = rng.integers(-160, 800, (frames, anchors, 2)) / 8
    size = rng.integers(-16, 400, (frames, anchors, 2)) / 8
    boxes = np.concatenate([corner, corner + size], axis=2).astype(np.float32)
    scores = (rng.integers(0, 100, (frames, anchors, classes)) / 100).astype(np.float32)
    scores[rng.random(scores.shape) < 0.05] = np.nan
    boxes[rng.random(boxes.shape) < 0.02] = np.inf
    sizes = [tuple(int(v) for v in rng.integers(20, 300, 2)) for _ in range(frames)]
    transforms = [[*rng.uniform(0.2, 3, 2), *rng.uniform(-20, 20, 2)] for _ in range(frames)]
    options = {
        "score_threshold": draw(st.sampled_from([0.005, 0.305, 0.695])),
        "nms_iou": draw(st.sampled_from([None, 0.3, 0.5, 0.7])),
        "class_agnostic": draw(st.booleans()),
        "max_detections": draw(st.sampled_from([1, 5, 100])),
    }
    return boxes, scores, sizes, transforms, options, draw(st.integers(0, 3))


@settings(max_examples=120, deadline=None)
@given(cases())
def test_equals_the_slow_way_and_frame_by_frame(tools, case):
    boxes, scores, sizes, transforms, options, padding = case
    frames, anchors, classes = scores.shape
    fields = {"family": "boxes", "boxes": "b", "scores": "s"} | options
    padded = {
        "b": np.concatenate([boxes, np.ones((padding, anchors, 4), np.float32)]),
        "s": np.concatenate([scores, np.ones((padding, anchors, classes), np.float32)]),
    }
    together = tools.detect(padded, tools.batch(frames, (100, 100), sizes, transforms, frames + padding), **fields)

    tail = tools.Tail(
        threshold=options["score_threshold"],
        nms_iou=options["nms_iou"],
        class_agnostic=options["class_agnostic"],
        max_detections=options["max_detections"],
    )
    expected = []
    for i in range(frames):
        candidates = [
            tools.Candidate(a, c, float(scores[i, a, c]), tuple(map(float, boxes[i, a])))
            for a in range(anchors)
            for c in range(classes)
        ]
        expected.append(tools.slow_tail(candidates, tail, transforms[i], sizes[i]))
    tools.assert_same(together, expected)

    for i in range(frames):
        batch = tools.batch(1, (100, 100), sizes[i : i + 1], transforms[i : i + 1])
        alone = tools.detect({"b": boxes[i : i + 1], "s": scores[i : i + 1]}, batch, **fields)
        tools.assert_equal(alone, together.frame(i))
