"""`pipeline.models` and `pipeline.cascade`: cards, shorthands, and what cannot be."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import parse_config
from pipeline.config.postprocess import ClassifyPost, SsdPost
from pipeline.config.tasks import PosePost
from pipeline.errors import ConfigError

Told = Callable[..., list[str]]

MAIN = "sources: [a]\npipeline:\n  model: m/x\n  postprocess: {family: ssd, labels: [car, person]}\n"
FACE = "{name: face, model: m/f, postprocess: {family: ssd, labels: [face]}"
MOOD = "{name: mood, model: m/e, postprocess: {family: classify}"


def cascade(*entries: str, more: str = "") -> str:
    return MAIN + more + "  cascade:\n" + "".join(f"  - {entry}\n" for entry in entries)


def test_cards_complete_every_model_of_a_file() -> None:
    text = "sources: [a]\npipeline: {model: coco-ssd, models: [{name: pose, model: movenet}], cascade: [{name: e, model: emotion, postprocess: {top_k: 1}}]}"
    stages = parse_config(text).pipeline
    assert isinstance(stages.postprocess, SsdPost)
    (pose,), (emotion,) = stages.models, stages.cascade
    assert (pose.model.card, pose.preprocess.size, type(pose.postprocess)) == ("movenet", (192, 192), PosePost)
    assert isinstance(emotion.postprocess, ClassifyPost)
    assert (emotion.postprocess.top_k, emotion.postprocess.activation) == (1, "none")
    assert emotion.preprocess.channels == "gray"


def test_overrides_reach_into_the_lists() -> None:
    text = cascade(MOOD + "}")
    stages = parse_config(
        text, overrides=["pipeline.cascade[0].margin=0.25", "pipeline.cascade[0].model=emotion"]
    ).pipeline
    assert stages.cascade[0].margin == 0.25
    assert stages.cascade[0].model.card == "emotion"
    added = parse_config(MAIN, overrides=["pipeline.models[0].name=p", "pipeline.models[0].model=movenet"]).pipeline
    assert added.models[0].preprocess.size == (192, 192)


def test_any_depth_and_any_order() -> None:
    stages = parse_config(cascade(MOOD + ", of: face, classes: [face]}", FACE + ", classes: [person]}")).pipeline
    assert [entry.of for entry in stages.cascade] == ["face", None]


def test_detections_of_a_model_beside() -> None:
    text = cascade(MOOD + ", of: face}", more="  models:\n  - " + FACE + "}\n")
    assert parse_config(text).pipeline.cascade[0].of == "face"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            cascade(FACE + "}", MOOD + ", of: fase}"),
            ["a.yaml:7:67: pipeline.cascade[1].of: found 'fase', which is the name of no other model (did you mean 'face'?)"],
        ),
        (
            cascade(MOOD + ", of: x}"),
            ["a.yaml:6:67: pipeline.cascade[0].of: found 'x', which is the name of no other model (there are: none)"],
        ),
        (
            cascade(MOOD + ", of: mood}"),
            ["a.yaml:6:67: pipeline.cascade[0].of: looks at its own detections, by a circle of entries"],
        ),
        (
            cascade(FACE + ", of: eye}", "{name: eye, model: m/y, of: face, postprocess: {family: ssd}}", MOOD + ", of: eye}"),
            [
                "a.yaml:6:78: pipeline.cascade[0].of: looks at its own detections, by a circle of entries",
                "a.yaml:7:33: pipeline.cascade[1].of: looks at its own detections, by a circle of entries",
            ],
        ),
        (
            cascade(MOOD + "}", "{name: b, of: mood, model: m/b, postprocess: {family: classify}}"),
            [
                "a.yaml:7:19: pipeline.cascade[1].of: 'mood' has postprocess family 'classify', which gives no detections to look at"
                " (let `of` name a detector)"
            ],
        ),
        (
            cascade(MOOD + "}").replace("family: ssd, labels: [car, person]", "family: pose"),
            [
                "a.yaml:6:5: pipeline.cascade[0].of: the pipeline's own model has postprocess family 'pose', which gives no"
                " detections to look at (let `of` name a detector)"
            ],
        ),
        (
            cascade(MOOD + "}", MOOD + "}"),
            [
                "a.yaml:7:12: pipeline.cascade[1].name: found 'mood' a second time; every model needs its own name; the first is in line 6"
            ],
        ),
        (
            cascade(MOOD + "}", more="  models:\n  - {name: mood, model: movenet}\n"),
            [
                "a.yaml:8:12: pipeline.cascade[0].name: found 'mood' a second time; every model needs its own name; the first is in line 6"
            ],
        ),
        (
            cascade(MOOD + ", classes: [persn]}"),
            [
                "a.yaml:6:73: pipeline.cascade[0].classes[0]: found 'persn', which is not among the 2 labels (did you mean 'person'?)"
            ],
        ),
        (
            cascade(MOOD + ", of: face, classes: [person]}", FACE + "}"),
            ["a.yaml:6:83: pipeline.cascade[0].classes[0]: found 'person', which is not among the 1 labels"],
        ),
        (
            cascade(MOOD + ", every: 5}"),
            [
                "a.yaml:6:63: pipeline.cascade[0].every: needs to know which object is which, but there is no pipeline.tracker"
                " (add tracker: bytetrack to pipeline)"
            ],
        ),
        (
            cascade(FACE + "}", MOOD + ", of: face, every: 5}", more="  tracker: iou\n"),
            [
                "a.yaml:8:73: pipeline.cascade[1].every: counts the frames of tracks, which only the pipeline's own model's detections"
                " have (leave every out)"
            ],
        ),
        (
            cascade(MOOD + ", preprocess: {engine: cvcuda}}"),
            ["a.yaml:6:84: pipeline.cascade[0].preprocess.engine: cvcuda cannot cut crops (use engine: fused)"],
        ),
        (
            cascade("{name: e, model: emotoin}"),
            ["a.yaml:6:22: pipeline.cascade[0].model: no model card is named 'emotoin' (did you mean 'emotion'?)"],
        ),
        (
            cascade(MOOD + ", min_size: 4}"),
            ["a.yaml:6:63: pipeline.cascade[0].min_size: unknown key (did you mean 'min_size_px'?)"],
        ),
        (
            cascade("{name: e, model: m/x}"),
            [
                "a.yaml:6:5: pipeline.cascade[0].postprocess: missing; needed is a mapping with the key family: one of 'od_api', 'ssd',"
                " 'yolo', 'gfl', 'boxes', 'classify', 'pose', 'segment', 'embedding', 'raw', 'plugin' (a model card would bring its own)"
            ],
        ),
    ],
)  # fmt: skip
def test_what_cannot_be(told: Told, text: str, expected: list[str]) -> None:
    assert told(text) == expected


@pytest.mark.parametrize("name", ["", "a b", "7up", "x.y", "a" * 65])
def test_names_are_words(told: Told, name: str) -> None:
    (message,) = told(MAIN + f"  models: [{{name: '{name}', model: movenet}}]\n")
    assert "pipeline.models[0].name: found" in message


def test_labels_from_a_file_are_checked_when_the_run_begins(tmp_path: Path) -> None:
    from pipeline.cascade.second import SecondModel
    from pipeline.runtime.second import _entry

    labels = tmp_path / "labels.txt"
    labels.write_text("car\nperson\n")
    text = cascade(MOOD + ", classes: [persn]}").replace("[car, person]", str(labels))
    stages = parse_config(text).pipeline
    second = SecondModel("mood", "pipeline.cascade[0]", None, None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"pipeline.cascade\[0\].classes\[0\]: no class is called 'persn'.*'person'"):
        _entry(stages.cascade[0], "pipeline.cascade[0]", second, None, {None: stages.postprocess})  # type: ignore[arg-type]


def test_a_variable_as_name_of_a_model(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V_OF", "hunter2")
    text = cascade(MOOD + ", of: '${V_OF}'}")
    (message,) = told(text)
    assert "hunter2" not in message
    monkeypatch.setenv("V_OF", "face")
    assert parse_config(cascade(FACE + "}", MOOD + ", of: '${V_OF}'}")).pipeline.cascade[1].of == "face"
