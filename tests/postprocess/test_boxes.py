"""Generic boxes by output name."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ConfigError, ModelError

BOXES = np.array([[[10, 20, 50, 80], [60, 20, 90, 40]]], np.float32)
FIELDS = {"family": "boxes", "boxes": "b", "scores": "s"}


def test_class_ids_as_an_output(tools):
    given = {"b": BOXES, "s": np.array([[0.6, 0.9]], np.float32), "c": np.array([[7, 3]], np.int64)}
    d = tools.detect(given, tools.batch(1), **FIELDS, class_ids="c", class_offset=1)
    assert d.class_ids.tolist() == [4, 8]
    assert d.boxes.tolist() == [[60, 20, 90, 40], [10, 20, 50, 80]]


def test_class_ids_with_sigmoid_and_thresholds(tools):
    given = {"b": BOXES, "s": np.array([[0.5, -0.5]], np.float32), "c": np.array([[0, 1]], np.int64)}
    fields = FIELDS | {"class_ids": "c", "activation": "sigmoid", "labels": ["a", "b"]}
    assert tools.detect(given, tools.batch(1), **fields).class_ids.tolist() == [0]
    d = tools.detect(given, tools.batch(1), **fields, thresholds={"b": 0.3}, classes=["b"])
    np.testing.assert_allclose(d.scores, [1 / (1 + np.exp(0.5))], rtol=1e-6)


def test_softmax_over_class_columns(tools):
    given = {"b": BOXES, "s": np.log(np.array([[[0.7, 0.1, 0.2], [0.1, 0.1, 0.8]]], np.float32))}
    d = tools.detect(given, tools.batch(1), **FIELDS, activation="softmax")
    np.testing.assert_allclose(d.scores, [0.8, 0.7], rtol=1e-5)


def test_softmax_over_boxes_makes_no_sense(tools):
    with pytest.raises(ConfigError, match=r"postprocess\.activation: softmax needs a score column per class"):
        tools.build({"b": (None, 2, 4), "s": (None, 2), "c": (None, 2)}, **FIELDS, class_ids="c", activation="softmax")


def test_normalised_centre_boxes(tools):
    given = {"b": np.array([[[0.5, 0.5, 0.2, 0.4]]], np.float32), "s": np.full((1, 1, 1), 0.9, np.float32)}
    d = tools.detect(given, tools.batch(1, (200, 100)), **FIELDS, box_format="cxcywh", normalized=True)
    np.testing.assert_allclose(d.boxes, [[80, 30, 120, 70]], rtol=1e-6)


def test_a_missing_output_names_the_nearest_and_all(tools):
    with pytest.raises(ModelError) as e:
        tools.build({"bboxes": (None, 2, 4), "s": (None, 2, 3)}, **FIELDS | {"boxes": "boxes"})
    assert e.value.message == "pipeline.postprocess.boxes: the model has no output 'boxes'"
    assert e.value.remedy == "did you mean 'bboxes'? its outputs are: bboxes, s"


def test_an_output_without_a_batch_axis(tools):
    post = tools.build({"b": None, "s": None} | {"b": (None, 2, 4), "s": (None, 2, 3)}, **FIELDS)
    with pytest.raises(ModelError, match="'s' has no batch axis"):
        post({"b": BOXES, "s": np.float32(1)}, tools.batch(1))


def test_an_output_that_does_not_come(tools):
    post = tools.build({"b": (None, 2, 4), "s": (None, 2, 3)}, **FIELDS)
    with pytest.raises(ModelError, match="no output 's'"):
        post({"b": BOXES}, tools.batch(1))
