"""The Object Detection API's outputs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ModelError

BOXES = [[0.1, 0.2, 0.5, 0.6], [0.0, 0.0, 0.25, 1.0], [0.5, 0.5, 1.0, 1.0]]  # y1, x1, y2, x2


def outputs(count=3.0, class_ids=(1, 18, 3), rows=1):
    return {
        "detection_boxes": np.array([BOXES] * rows, np.float32),
        "detection_scores": np.array([[0.9, 0.8, 0.7]] * rows, np.float32),
        "detection_classes": np.array([class_ids] * rows, np.float32),
        "num_detections": np.array([count] * rows, np.float32),
    }


def test_by_hand(tools):
    """Normalised y, x boxes of a 300x200 input come out as x, y in a picture of twice that size."""
    batch = tools.batch(1, (300, 200), sizes=[(600, 400)], transforms=[[0.5, 0.5, 0, 0]])
    d = tools.detect(outputs(), batch, family="od_api", labels="coco90")
    assert [d.label(int(c)) for c in d.class_ids] == ["person", "dog", "car"]
    np.testing.assert_allclose(d.boxes, [[120, 40, 360, 200], [0, 0, 600, 100], [300, 200, 600, 400]], rtol=1e-6)
    np.testing.assert_allclose(d.scores, [0.9, 0.8, 0.7])


def test_class_numbers_without_a_sign(tools):
    given = outputs(2.0) | {"detection_classes": np.array([[1, 18, 3]], np.uint8)}
    assert tools.detect(given, tools.batch(1), family="od_api").class_ids.tolist() == [1, 18]


@pytest.mark.parametrize("shape", [(2,), (2, 1)])
@pytest.mark.parametrize("kind", [np.float32, np.int32])
def test_boxes_behind_the_count_are_left_out(tools, shape, kind):
    given = outputs(rows=2) | {"num_detections": np.array([2, 0], kind).reshape(shape)}
    d = tools.detect(given, tools.batch(2), family="od_api")
    assert d.offsets.tolist() == [0, 2, 2]


def test_without_a_count_all_are_valid(tools):
    given = outputs()
    del given["num_detections"]
    assert len(tools.detect(given, tools.batch(1), family="od_api", count=None)) == 3
    with pytest.raises(ModelError, match=r"postprocess\.count: the model has no output 'num_detections'"):
        tools.detect(given, tools.batch(1), family="od_api")


def test_the_model_has_suppressed_unless_nms_is_asked_for(tools):
    given = outputs(class_ids=(1, 1, 1)) | {"detection_boxes": np.array([BOXES[:1] * 3], np.float32)}
    assert len(tools.detect(given, tools.batch(1), family="od_api")) == 3
    assert len(tools.detect(given, tools.batch(1), family="od_api", nms_iou=0.5)) == 1


def test_scores_need_not_come_sorted(tools):
    given = outputs() | {"detection_scores": np.array([[0.6, 0.9, 0.7]], np.float32)}
    assert tools.detect(given, tools.batch(1), family="od_api").class_ids.tolist() == [18, 3, 1]


@pytest.mark.parametrize("filler", [-1, np.nan, np.inf])
def test_boxes_without_a_class_are_left_out(tools, filler):
    d = tools.detect(outputs(class_ids=(1, filler, 3)), tools.batch(1), family="od_api")
    assert d.class_ids.tolist() == [1, 3]


def test_options_apply_to_the_models_own_class_numbers(tools):
    d = tools.detect(
        outputs(),
        tools.batch(1),
        family="od_api",
        labels={2: "a", 19: "b", 4: "c"},
        class_offset=1,
        thresholds={"a": 0.95},
        classes=["a", "b"],
    )
    assert d.class_ids.tolist() == [19]


def test_other_names(tools):
    given = dict(zip(("StatefulCall:1", "s", "c", "n"), outputs().values(), strict=True))
    names = {"boxes": "StatefulCall:1", "scores": "s", "class_ids": "c", "count": "n"}
    assert len(tools.detect(given, tools.batch(1), family="od_api", **names)) == 3


@pytest.mark.assets
def test_a_real_model_of_this_kind_finds_the_people(tools, assets):
    """The model that does NMS inside, on a frame of which it is known where people are."""
    tf = pytest.importorskip("tensorflow")
    av = pytest.importorskip("av")
    with av.open(str(assets / "media" / "vtest_h264.mp4")) as clip:
        image = next(clip.decode(video=0)).to_ndarray(format="rgb24")
    model = tf.saved_model.load(str(assets / "models" / "coco_ssd_od")).signatures["serving_default"]
    given = {name: value.numpy() for name, value in model(input_tensor=tf.constant(image[None])).items()}
    batch = tools.batch(1, (300, 300), sizes=[(768, 576)], transforms=[[300 / 768, 300 / 576, 0, 0]])
    d = tools.detect(given, batch, family="od_api", labels="coco90", classes=["person"])
    truth = np.loadtxt(assets / "ground_truth" / "PETS09-S2L1" / "gt.txt", delimiter=",")
    for _, _, x, y, width, height, *_ in truth[truth[:, 0] == 1]:
        assert max(tools.iou((x, y, x + width, y + height), box) for box in d.boxes.tolist()) > 0.5
