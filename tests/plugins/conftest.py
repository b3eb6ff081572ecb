"""A detector whose answer is known, a clip for it, and the plug-ins of these tests and of the documentation."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from media_maker import make_clip

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
SIZE = (64, 48)  # of the model's input and of the clip, in pixels
BOX = (8.0, 12.0, 40.0, 36.0)
FRAMES = 10


@pytest.fixture(autouse=True)
def modules(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What PYTHONPATH would do."""
    before = set(sys.modules)
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    yield
    for name in set(sys.modules) - before:
        if name in ("own_plugins", "webhook_sink", "class_counter", "custom_head"):
            del sys.modules[name]


@pytest.fixture(scope="session")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel: image float32 [N, 48, 64, 3] -> `BOX` with score 0.9 and another with 0.1, whatever it is shown."""
    import tensorflow as tf

    class Fixed(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, SIZE[1], SIZE[0], 3), tf.float32, name="image")])
        def find(self, image):
            n = tf.shape(image)[0]
            boxes = tf.constant([[BOX, (0.0, 0.0, 5.0, 5.0)]], tf.float32)
            scores = tf.constant([[[0.9], [0.1]]], tf.float32)
            return {"boxes": tf.tile(boxes, [n, 1, 1]), "scores": tf.tile(scores, [n, 1, 1])}

    path = tmp_path_factory.mktemp("models") / "fixed"
    module = Fixed()
    tf.saved_model.save(module, str(path), signatures=module.find)
    return path


@pytest.fixture(scope="session")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_clip(tmp_path_factory.mktemp("media") / "clip.mp4", width=SIZE[0], height=SIZE[1], frames=FRAMES)


@pytest.fixture
def settings(detector: Path, clip: Path) -> Callable[..., dict[str, Any]]:
    """settings(sinks=..., **pipeline): a configuration of one clip, in batches of 4."""

    def build(sinks: list[dict[str, Any]] | None = None, **pipeline: Any) -> dict[str, Any]:
        boxes = {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]}
        return {
            "device": "cpu",
            "sources": [{"path": str(clip), "id": "clip"}],
            "pipeline": {"model": {"path": str(detector)}, "postprocess": boxes, **pipeline},
            "sinks": sinks or [],
            "runtime": {"batch_size": 4},
        }

    return build
