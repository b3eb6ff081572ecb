"""What the tests of the configuration share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config import cards
from pipeline.config.load import parse_config
from pipeline.errors import ConfigError

CARD = """\
card: 1
name: tiny
title: A tiny detector
task: detection
licence: MIT
source:
  registry: npm
  package: tiny
  version: 1.0.0
  file: model.json
  sha256: {{model.json: {sha}}}
convert: {{format: tfjs}}
preprocess: {{size: [320, 200], fit: stretch, scale: 2e-3}}
postprocess:
  family: ssd
  score_threshold: 0.25
  labels: [person, bicycle]
{more}
"""


@pytest.fixture
def told() -> Callable[..., list[str]]:
    """A function: YAML text and overrides -> the messages of all issues."""

    def told(text: str, *overrides: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            parse_config(text, file="a.yaml", overrides=overrides)
        assert caught.value.issues
        return [str(issue) for issue in caught.value.issues]

    return told


@pytest.fixture
def card_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """A function that makes the only model card, `tiny`, with more lines under `postprocess`; returns its file."""

    def make(more: str = "") -> Path:
        path = tmp_path / "models" / "tiny.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(CARD.format(sha="a" * 64, more=more), encoding="utf-8")
        monkeypatch.setattr(cards, "data_dir", lambda name: tmp_path / name)
        return path

    return make
