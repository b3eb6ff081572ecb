"""The cards that come with the package: complete, valid, and fit to what the configuration knows."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from pipeline.config.cards import PackageFile, card_names, load_media_card, load_model_card
from pipeline.config.labels import load_labels
from pipeline.config.postprocess import Postprocess
from pipeline.config.stages import Preprocess

MODELS = ["coco-ssd", "emotion", "movenet", "nanodet", "selfie"]


def test_the_cards_are_there() -> None:
    assert card_names() == MODELS
    assert card_names("media") == ["bikes"]
    assert load_media_card("bikes").licence == "BSD-3-Clause"


@pytest.mark.parametrize("name", MODELS)
def test_a_card_says_all_that_a_pipeline_needs(name: str) -> None:
    card = load_model_card(name)

    preprocess = Preprocess.model_validate(card.preprocess)
    post: Any = TypeAdapter(Postprocess).validate_python(card.postprocess)

    assert preprocess.size is not None
    families = {"detection": ("ssd", "gfl"), "classification": ("classify",), "pose": ("pose",)}
    assert post.family in families.get(card.task, ("segment",))
    assert card.licence in ("Apache-2.0", "MIT")
    assert card.homepage is not None
    if post.family != "pose":
        classes = {"coco-ssd": 90, "nanodet": 80, "emotion": 7, "selfie": 1}[name]
        ids = range(post.class_offset, post.class_offset + classes)
        assert set(load_labels(post.labels)) <= set(ids)


def test_normalisation_gives_what_the_networks_were_trained_on() -> None:
    for name, black, white in [("coco-ssd", -1, 1), ("emotion", -1, 1), ("selfie", 0, 1)]:
        p = Preprocess.model_validate(load_model_card(name).preprocess)
        assert isinstance(p.scale, float)
        assert isinstance(p.mean, float)
        assert 0 * p.scale - p.mean == pytest.approx(black)
        assert 255 * p.scale - p.mean == pytest.approx(white)


GOOD = {"registry": "npm", "package": "@a/b", "version": "1.0.0", "file": "m/x.json", "sha256": {"m/x.json": "0" * 64}}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"package": "--registry=http://evil"}, "package"),
        ({"package": "../../somewhere"}, "package"),
        ({"package": "a b"}, "package"),
        ({"version": "--script"}, "version"),
        ({"version": "latest"}, "version"),
        ({"sha256": {"m/other.json": "0" * 64}}, "lacks the file itself"),
        ({"sha256": {"m/x.json": "0" * 64, "m/../../x": "0" * 64}}, "inside the package"),
        ({"sha256": {"m/x.json": "0" * 64, "/etc/x": "0" * 64}}, "sha256"),
        ({"sha256": {"m/x.json": "abc"}}, "sha256"),
        ({"registry": "ftp"}, "registry"),
    ],
)
def test_a_card_cannot_name_what_leads_astray(change: dict[str, Any], words: str) -> None:
    assert PackageFile.model_validate(GOOD).package == "@a/b"
    with pytest.raises(ValidationError, match=words):
        PackageFile.model_validate({**GOOD, **change})
