"""A small pipeline to be measured: a clip of a moving box and the detector that finds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from bright_detector import save_bright_detector
from media_maker import make_clip

SIZE = (64, 48)
Settings = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_bright_detector(tmp_path_factory.mktemp("models") / "bright", *SIZE)


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clips") / "box.mp4"
    return make_clip(path, width=64, height=48, frames=20, content="moving box", numbered=False)


@pytest.fixture
def settings(detector: Path, clip: Path) -> Settings:
    """settings(**more): a configuration as a mapping."""

    def make(**more: Any) -> dict[str, Any]:
        return {
            "device": "cpu",
            "sources": [str(clip)],
            "pipeline": {
                "model": {"path": str(detector)},
                "preprocess": {"scale": 1 / 255},
                "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
            },
            "runtime": {"batch_size": 4},
            **more,
        }

    return make
