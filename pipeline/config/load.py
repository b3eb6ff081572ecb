"""From YAML to a `Config`: read, overridden, substituted, completed by the card, checked. All issues come at once."""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.config._defaults import expand_shorthand, expand_shorthands, merge_cards
from pipeline.config._environment import substitute
from pipeline.config._issues import config_error, issue_at
from pipeline.config._nodes import Node, Place, from_data, plain_data, scalars
from pipeline.config._overrides import apply_override, parse_override
from pipeline.config._rules import check_rules
from pipeline.config._translate import translate
from pipeline.config._words import Schema
from pipeline.config._yaml import MAX_BYTES, decode, parse
from pipeline.config.models import Config
from pipeline.errors import ConfigError, ConfigIssue


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a file.

    Args:
        path: A YAML file.
        overrides: `key=value` texts that replace single values, as `--set` takes them: `sinks[0].path=out.jsonl`.

    Raises:
        ConfigError: it cannot be used; holds all issues, in the order of the file.
    """
    file = str(path)
    return _load(file, lambda issues: parse(decode(_read(file), file), file, issues), overrides)


def parse_config(text: str, *, file: str = "<text>", overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML text; `file` is what messages call it. Otherwise as `load_config`."""
    return _load(file, lambda issues: parse(text.removeprefix("\ufeff"), file, issues), overrides)


def config_from_mapping(data: Mapping[str, Any], *, overrides: Sequence[str] = ()) -> Config:
    """The configuration that a mapping stands for: what the YAML would hold, as dicts, lists and scalars.

    Model cards, shorthands, `${NAME}` and overrides work as in a file. Otherwise as `load_config`.
    """

    def read(_: list[ConfigIssue]) -> Node:
        try:
            return from_data(data, Place(None))
        except ValueError as e:
            raise ConfigError([ConfigIssue(str(e))]) from None

    return _load(None, read, overrides)


def _load(file: str | None, read: Callable[[list[ConfigIssue]], Node], overrides: Sequence[str]) -> Config:
    issues: list[ConfigIssue] = []
    given = [override for text in overrides if (override := parse_override(text, issues))]
    try:
        root = read(issues)
    except ConfigError as e:
        raise config_error([*e.issues, *issues], file) from None
    root = expand_shorthands(substitute(root, os.environ))
    for override in given:
        node = substitute(override.node, os.environ)
        root = apply_override(root, override.path, node, expand_shorthand, issues)
    root, without_card = merge_cards(expand_shorthands(root), issues)
    issues += [issue_at(node.place, path, node.problem) for path, node in scalars(root) if node.problem]
    issues += check_rules(root)
    config = None
    try:
        config = Config.model_validate(plain_data(root))
    except ValidationError as e:
        errors = e.errors(include_url=False, include_input=False)
        # What a card would have brought cannot be missed.
        not_missed = {(*section, "postprocess") for section in without_card}
        errors = [x for x in errors if x["loc"] not in not_missed]
        issues += translate(errors, root, base_schema())
    if config is None or issues:
        raise config_error(issues, file)
    return config


@functools.cache
def base_schema() -> Schema:
    """The models as a JSON Schema, as pydantic makes it; what messages and the reference are worded from."""
    return Config.model_json_schema()


def _read(file: str) -> bytes:
    try:
        with Path(file).open("rb") as stream:
            return stream.read(MAX_BYTES + 1)
    except FileNotFoundError:
        near = difflib.get_close_matches(Path(file).name, _yaml_files(Path(file).parent), n=1)
        hint = f"did you mean {near[0]!r}?" if near else None
        raise ConfigError([ConfigIssue("there is no such file", file=file, hint=hint)]) from None
    except IsADirectoryError:
        raise ConfigError([ConfigIssue("this is a folder, not a configuration file", file=file)]) from None
    except (OSError, ValueError) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise ConfigError([ConfigIssue(f"cannot be read: {reason}", file=file)]) from None


def _yaml_files(folder: Path) -> list[str]:
    try:
        return [name for name in os.listdir(folder) if name.endswith((".yaml", ".yml"))]  # noqa: PTH208 - names only
    except OSError:
        return []
