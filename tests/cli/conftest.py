"""A pipeline that runs without video, model or threads, in place of the real one; configurations for it."""

from __future__ import annotations

import logging
import signal
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# The test modules here share `cli_fakes`.
sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the process's logging and signals as they were."""
    root, ours, term = logging.getLogger(), logging.getLogger("pipeline"), signal.getsignal(signal.SIGTERM)
    handlers, levels = list(root.handlers), (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
    signal.signal(signal.SIGTERM, term)


@pytest.fixture
def write_config(tmp_path: Path) -> Callable[..., Path]:
    """Writes a valid configuration with this text added to it; returns its path."""

    def write(extra: str = "", sources: str = "[a.mp4]", name: str = "pipeline.yaml") -> Path:
        path = tmp_path / name
        path.write_text(
            f"sources: {sources}\n"
            "pipeline:\n"
            "  model: models/mine\n"
            "  postprocess: {family: od_api}\n"
            "sinks:\n"
            "  - {type: jsonl, path: out.jsonl}\n" + textwrap.dedent(extra)
        )
        return path

    return write


@pytest.fixture
def use_pipeline(monkeypatch: pytest.MonkeyPatch) -> Callable[[type], None]:
    """Puts a class in the place of `pipeline.runtime.pipeline.Pipeline`."""

    def use(kind: type) -> None:
        module = types.ModuleType("pipeline.runtime.pipeline")
        module.Pipeline = kind  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, module.__name__, module)

    return use
