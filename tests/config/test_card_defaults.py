from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import parse_config
from pipeline.config.postprocess import ClassifyPost, SsdPost

Told = Callable[..., list[str]]
MakeCard = Callable[..., Path]


def test_card_fills_in_what_is_not_given(card_folder: MakeCard) -> None:
    card_folder()
    stages = parse_config("sources: [a]\npipeline: {model: tiny}").pipeline
    assert stages.model.card == "tiny"
    assert (stages.preprocess.size, stages.preprocess.fit, stages.preprocess.scale) == ((320, 200), "stretch", 0.002)
    assert isinstance(stages.postprocess, SsdPost)
    assert (stages.postprocess.score_threshold, stages.postprocess.labels) == (0.25, ["person", "bicycle"])


def test_own_keys_win_and_the_others_stay(card_folder: MakeCard) -> None:
    card_folder()
    text = "sources: [a]\npipeline: {model: {card: tiny}, preprocess: {fit: crop}, postprocess: {score_threshold: 0.5}}"
    stages = parse_config(text, overrides=["pipeline.postprocess.nms_iou=0.7"]).pipeline
    assert (stages.preprocess.size, stages.preprocess.fit) == ((320, 200), "crop")
    assert isinstance(stages.postprocess, SsdPost)
    assert (stages.postprocess.score_threshold, stages.postprocess.nms_iou) == (0.5, 0.7)
    assert stages.postprocess.labels == ["person", "bicycle"]


def test_another_family_leaves_the_cards_postprocess_aside(card_folder: MakeCard) -> None:
    card_folder()
    text = "sources: [a]\npipeline: {model: tiny, postprocess: {family: classify}}"
    assert parse_config(text).pipeline.postprocess == ClassifyPost()
    same = parse_config(text.replace("classify", "ssd")).pipeline.postprocess
    assert isinstance(same, SsdPost)
    assert same.score_threshold == 0.25


def test_card_can_be_chosen_by_an_override(card_folder: MakeCard) -> None:
    card_folder()
    text = "sources: [a]\npipeline: {model: m/x, postprocess: {score_threshold: 0.5}}"
    assert isinstance(parse_config(text, overrides=["pipeline.model=tiny"]).pipeline.postprocess, SsdPost)


def test_unknown_card(told: Told, card_folder: MakeCard) -> None:
    card_folder()
    expected = "no model card is named 'tinny' (did you mean 'tiny'?)"
    assert told("sources: [a]\npipeline:\n  model: tinny") == [f"a.yaml:3:10: pipeline.model: {expected}"]
    text = "sources: [a]\npipeline:\n  model: {card: tinny}\n  postprocess: {score_threshold: 0.5}"
    assert told(text) == [f"a.yaml:3:17: pipeline.model: {expected}"]
    # What does not depend on the card is still told.
    assert len(told(text + "\n  preprocess: {fit: x}\n")) == 2
    assert "there are: tiny" in told("sources: [a]\npipeline: {model: qqqqq}")[0]


def test_card_name_from_a_variable_is_not_shown(
    told: Told, card_folder: MakeCard, monkeypatch: pytest.MonkeyPatch
) -> None:
    card_folder()
    monkeypatch.setenv("V_CARD", "hunter2")
    assert told("sources: [a]\npipeline:\n  model: ${V_CARD}") == [
        "a.yaml:3:10: pipeline.model: no model card is named '${V_CARD}' (there are: tiny)"
    ]
    monkeypatch.setenv("V_CARD", "tiny")
    assert parse_config("sources: [a]\npipeline:\n  model: ${V_CARD}").pipeline.model.card == "tiny"


def test_error_in_a_cards_values_names_the_card_file(told: Told, card_folder: MakeCard) -> None:
    path = card_folder("  class_agnostic: 3\n  bakground: true")
    line = path.read_text().splitlines().index("  class_agnostic: 3") + 1
    assert told("sources: [a]\npipeline: {model: tiny}") == [
        f"{path}:{line}:19: pipeline.postprocess.class_agnostic: found 3, allowed is true or false",
        f"{path}:{line + 1}:3: pipeline.postprocess.bakground: unknown key (did you mean 'background'?)",
    ]


@pytest.mark.parametrize("more", ["  family: yolo", "}", "  x: !!python/name:os.system ''"])
def test_card_that_is_no_card(told: Told, card_folder: MakeCard, more: str) -> None:
    path = card_folder(more)
    (message,) = told("sources: [a]\npipeline: {model: tiny}")
    assert message.startswith("a.yaml:2:19: pipeline.model: ")
    assert str(path) in message
    assert "\n" not in message


def test_user_labels_against_the_cards(told: Told, card_folder: MakeCard) -> None:
    card_folder()
    assert told("sources: [a]\npipeline: {model: tiny, postprocess: {classes: [persn]}}") == [
        "a.yaml:2:49: pipeline.postprocess.classes[0]: found 'persn', which is not among the 2 labels"
        " (did you mean 'person'?)"
    ]
