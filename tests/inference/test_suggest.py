from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config.models import Config
from pipeline.inference.signature import Format, ModelDescription
from pipeline.inference.suggest import suggest_yaml
from pipeline.stages import TensorInfo

N = None


def suggest(
    outputs: dict[str, tuple[int | None, ...]], *inputs: TensorInfo, format: Format = "saved_model", **fields: Any
) -> Config:
    """The suggestion as a `Config`: it must be valid YAML that the models accept."""
    found = tuple(TensorInfo(name, "float32", shape) for name, shape in outputs.items())
    inputs = inputs or (TensorInfo("image", "float32", (N, 640, 640, 3)),)
    description = ModelDescription(format, Path('odd "name": #1'), inputs, found, **fields)
    return Config.model_validate(yaml.safe_load(suggest_yaml(description)))


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        (
            {"detection_boxes": (N, 100, 4), "detection_scores": (N, 100), "detection_classes": (N, 100), "x": (N,)},
            {"family": "od_api", "count": None, "labels": "coco90"},
        ),
        (
            {
                "detection_boxes:0": (N, N, 4),
                "detection_scores:0": (N, N),
                "detection_classes:0": (N, N),
                "num_detections:0": (N,),
            },
            {"family": "od_api", "boxes": "detection_boxes:0", "count": "num_detections:0"},
        ),
        ({"o": (N, 84, 8400)}, {"family": "yolo", "objectness": False, "labels": "coco80"}),
        ({"o": (N, 8400, 85)}, {"family": "yolo", "objectness": True, "labels": "coco80"}),
        ({"o": (1, 25200, 85)}, {"family": "yolo", "objectness": True}),
        ({"o": (N, 8400, 112)}, {"family": "gfl", "strides": [8, 16, 32], "reg_max": 7}),
        ({"o": (N, 8500, 34)}, {"family": "gfl", "strides": [8, 16, 32, 64], "reg_max": 7, "labels": None}),
        (
            {"a": (N, 6400, 80), "b": (N, 6400, 44), "c": (N, 1600, 80), "d": (N, 1600, 44)},
            {"family": "gfl", "strides": [8, 16], "reg_max": 10, "labels": "coco80"},
        ),
        (
            {"boxes": (N, 1917, 4), "scores": (N, 1917, 90)},
            {"family": "ssd", "boxes": "boxes", "scores": "scores", "class_offset": 1, "background": False},
        ),
        ({"b": (N, 100, 1, 4), "s": (N, 100, 91)}, {"family": "ssd", "boxes": "b", "background": True}),
        (
            {"b": (N, 100, 4), "confidence": (N, 100), "labels": (N, 100)},
            {"family": "boxes", "scores": "confidence", "class_ids": "labels"},
        ),
        ({"probabilities": (N, 1000)}, {"family": "classify", "output": "probabilities"}),
        ({"mask": (N, 256, 256, 1)}, {"family": "segment", "activation": "none", "background": False}),
        ({"logits": (N, 160, 160, 21)}, {"family": "segment", "background": True}),
        ({"features": (N, 20, 20, 64)}, {"family": "raw"}),
        ({"features": (N, 320, 320, 512)}, {"family": "raw"}),
        ({"o": (1, 1, 17, 3)}, {"family": "pose", "output": "o"}),
        ({"o": (1, 6, 56)}, {"family": "pose"}),
        ({"o": (N, 8400, 56)}, {"family": "yolo"}),
        ({"a": (N, 3), "b": (N, 4)}, {"family": "raw"}),
        ({"flag": (N, 1)}, {"family": "raw"}),
        ({"boxes": (N, 10, 4), "scores": (N, 11, 3)}, {"family": "raw"}),
    ],
)
def test_guesses_the_family(outputs: dict[str, Any], expected: dict[str, Any]) -> None:
    post = suggest(outputs).pipeline.postprocess.model_dump()
    assert {key: post[key] for key in expected} == expected


def test_marks_every_guess_of_the_input() -> None:
    info = TensorInfo("x", "uint8", (N, N, N, N))
    text = suggest_yaml(ModelDescription("keras", Path("m.keras"), (info,), ()))
    preprocess = [line for line in text.splitlines() if line.startswith(("    size", "    layout", "    channels"))]
    assert len(preprocess) == 3
    assert all("a guess" in line for line in preprocess)
    assert "scale" not in text


def test_knows_grey_and_channels_first() -> None:
    grey = suggest({"o": (N, 7)}, TensorInfo("x", "float32", (N, 1, 64, 48)))
    assert grey.pipeline.preprocess.channels == "gray"
    assert grey.pipeline.preprocess.size is None


def test_names_what_the_model_section_needs() -> None:
    two = (TensorInfo("rate", "float32", ()), TensorInfo("picture", "string", (N, 8, 8, 3)))
    config = suggest({"a:1": (N, 7)}, *two, format="graphdef")
    assert config.pipeline.model.path == 'odd "name": #1'
    assert (config.pipeline.model.input, config.pipeline.model.outputs) == ("picture", ["a:1"])
    other = suggest({"o": (N, 7)}, TensorInfo("x", "float32", None), signature="predict", signatures=("predict",))
    assert other.pipeline.model.signature == "predict"
