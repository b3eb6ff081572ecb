"""Which file a CONFIG argument means, and what the options change in it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.errors import ConfigError, ConfigIssue

if TYPE_CHECKING:
    from pipeline.config.models import Config

ConfigArgument = Annotated[
    str, typer.Argument(metavar="CONFIG", help="A YAML file, or the name of a ready one such as quickstart.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change a field, such as runtime.batch_size=16 or sinks[0].path=out.jsonl. May be repeated.",
    ),
]


def find_config(name: str) -> Path:
    """The file of this name, or else the ready configuration: `quickstart` and `configs/quickstart.yaml` both name it.

    Raises:
        ConfigError: there is neither.
    """
    path = Path(name)
    if path.is_dir():
        raise ConfigError([ConfigIssue("this is a folder, not a configuration file", file=name)])
    if path.exists():
        return path
    from pipeline.config.cards import data_dir

    ready = data_dir("configs")
    asked = path.with_suffix("") if path.suffix in (".yaml", ".yml") else path
    if asked.parent in (Path(), Path("configs")) and (ready / f"{asked.name}.yaml").is_file():
        return ready / f"{asked.name}.yaml"
    raise ConfigError([ConfigIssue("no such file", file=name, hint=_hint(asked.name, ready))])


def _hint(name: str, ready: Path) -> str | None:
    names = sorted(path.stem for path in ready.glob("*.yaml"))
    near = difflib.get_close_matches(name, names, n=1)
    if near:
        return f"did you mean {near[0]!r}?"
    return f"ready ones are: {', '.join(names)}" if names else None


def load(
    name: str, settings: Sequence[str] | None, *, device: str | None = None, max_frames: int | None = None
) -> Config:
    """The configuration with the options applied to it.

    Raises:
        ConfigError: it cannot be used; the error holds everything that is wrong.
    """
    from pipeline.config.load import load_config

    overrides = [*(settings or ()), *([f"device={device}"] if device else ())]
    config = load_config(find_config(name), overrides)
    return config if max_frames is None else with_frame_limit(config, max_frames)


def with_frame_limit(config: Config, max_frames: int) -> Config:
    """The configuration with at most this many frames of every video; a smaller limit of its own stays."""
    sources = [
        source.model_copy(update={"max_frames": min(max_frames, source.max_frames or max_frames)})
        for source in config.sources
    ]
    return config.model_copy(update={"sources": sources})
