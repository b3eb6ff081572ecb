"""TensorFlow's share of the GPU's memory; what TensorFlow itself does with it only a GPU shows (tests/gpu)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.inference.shared_stream import share


class FakeConfig:
    """As much of `tf.config` as is used; `started` is what TensorFlow says once it runs."""

    def __init__(self, started: bool = False) -> None:
        self.started = started
        self.limits: list[int] = []
        self.visible: list[Any] = []
        self.experimental = SimpleNamespace(get_memory_info=lambda device: {"current": 5, "peak": 7})

    def set_visible_devices(self, gpus: list[Any], kind: str) -> None:
        if self.started:
            raise RuntimeError("Visible devices cannot be modified after being initialized")
        self.visible = list(gpus)

    def LogicalDeviceConfiguration(self, memory_limit: int) -> int:
        return memory_limit

    def set_logical_device_configuration(self, gpu: Any, configurations: list[int]) -> None:
        self.limits += configurations


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(share, "_limit_bytes", None)
    monkeypatch.setattr(share, "_tf", None)
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    yield
    os.environ.pop("TF_FORCE_GPU_ALLOW_GROWTH", None)


def test_the_share_is_a_limit_and_is_not_taken_at_once() -> None:
    config = FakeConfig()
    assert (share.fixed_bytes(), share.used_bytes()) == (None, 0)
    share.request(SimpleNamespace(config=config), ["gpu 0", "gpu 1"], 3000 << 20)
    assert config.limits == [3000]
    assert config.visible == ["gpu 0"]
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    assert (share.fixed_bytes(), share.used_bytes()) == (3000 << 20, 7)


def test_what_a_user_says_of_growth_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    share.request(SimpleNamespace(config=FakeConfig()), ["gpu 0"], 1 << 30)
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"


def test_the_first_share_of_a_process_stays() -> None:
    config = FakeConfig()
    tf = SimpleNamespace(config=config)
    share.request(tf, ["gpu 0"], 3 << 30)
    config.started = True
    share.request(tf, ["gpu 0"], 5 << 30)
    assert config.limits == [3072]
    assert share.fixed_bytes() == 3 << 30


def test_the_real_tensorflow_takes_the_setting(tf: Any) -> None:
    """Its C++ side still knows the variable: otherwise it would take its whole share at once."""
    from pathlib import Path

    library = next(Path(tf.__file__).parent.glob("libtensorflow_framework.so*"))
    assert b"TF_FORCE_GPU_ALLOW_GROWTH" in library.read_bytes()
