"""Labels: from whatever a user has them in to a mapping from class id to name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.base import Labels
from pipeline.config.cards import data_dir
from pipeline.errors import ConfigError, ConfigIssue

MAX_FILE_BYTES = 10_000_000

_NUMBERED = re.compile(r"(\d{1,9})(?:\s*:\s*|\s+)(\S.*)")
_PBTXT_TOKEN = re.compile(
    r"""\s+ | [;,] | \#[^\n]*
      | (?P<open>\w+ \s* :? \s* \{) | (?P<close>\})
      | (?P<field>\w+) \s* : \s* (?: "(?P<double>(?:\\.|[^"\\])*)" | '(?P<single>(?:\\.|[^'\\])*)' | (?P<bare>[\w.+-]+) )""",
    re.VERBOSE,
)


def builtin_label_sets() -> list[str]:
    """The names of the label sets that come with the package, sorted."""
    return sorted(path.stem for path in (data_dir("models") / "labels").glob("*.txt"))


def load_labels(labels: Labels | None, *, base: Path | None = None) -> dict[int, str]:
    """What a configuration says of labels -> class id to label.

    Args:
        labels: A list (its positions are the ids, from 0), a mapping, the name of a built-in set, or a file: text with
            one label a line or `id: label` / `id label` lines, JSON or YAML (a list, a mapping either way round, or
            either of these under `names`), or a TensorFlow label map (`.pbtxt`). None gives an empty mapping.
        base: Folder that a relative file name starts from. Default: the working directory.

    Raises:
        ConfigError: the file cannot be read or holds no labels; the message names it and says what is expected.
    """
    if labels is None:
        return {}
    if isinstance(labels, list):
        return dict(enumerate(labels))
    if isinstance(labels, Mapping):
        return dict(labels)
    if labels in builtin_label_sets():
        return _read(data_dir("models") / "labels" / f"{labels}.txt")
    return _read((base or Path()) / labels)


def _read(path: Path) -> dict[int, str]:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise _problem(path, f"larger than {MAX_FILE_BYTES // 1_000_000} MB, which no label file is")
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError as e:
        sets = ", ".join(builtin_label_sets())
        raise _problem(path, "there is no such label file", hint=f"built-in sets are: {sets}") from e
    except OSError as e:
        raise _problem(path, f"the label file cannot be read: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise _problem(path, "the label file is not UTF-8 text") from e
    found = _PARSERS.get(path.suffix.lower(), _parse_lines)(text, path)
    if not found:
        raise _problem(path, "the label file holds no labels")
    return found


def _parse_lines(text: str, path: Path) -> dict[int, str]:
    """One label a line, a blank line leaving its id without one; or, if every line has one, with the id in front."""
    lines = [line.strip() for line in text.splitlines()]
    numbered = [_NUMBERED.fullmatch(line) for line in lines if line]
    if numbered and all(numbered):
        return _unique(((int(m[1]), m[2]) for m in numbered if m), path)
    return {i: line for i, line in enumerate(lines) if line}


def _parse_json(text: str, path: Path) -> dict[int, str]:
    try:
        return _from_data(json.loads(text), path)
    except (ValueError, RecursionError) as e:
        raise _problem(path, f"not valid JSON: {e}") from e


def _parse_yaml(text: str, path: Path) -> dict[int, str]:
    try:
        return _from_data(yaml.safe_load(text), path)
    except (yaml.YAMLError, RecursionError) as e:
        raise _problem(path, f"not valid YAML: {' '.join(str(e).split())}") from e


def _from_data(data: Any, path: Path) -> dict[int, str]:
    if isinstance(data, dict) and isinstance(data.get("names"), (dict, list)):
        data = data["names"]
    if isinstance(data, list):
        pairs: Iterable[tuple[Any, Any]] = enumerate(data)
    elif isinstance(data, dict):
        swapped = bool(data) and all(isinstance(v, int) for v in data.values()) and not all(map(_is_id, data))
        pairs = ((v, k) for k, v in data.items()) if swapped else data.items()
    else:
        raise _problem(path, f"expected a list or a mapping of labels, found {type(data).__name__}")
    return _unique((_checked(key, label, path) for key, label in pairs), path)


def _is_id(key: Any) -> bool:
    return str(key).isdecimal() and not isinstance(key, bool)


def _checked(key: Any, label: Any, path: Path) -> tuple[int, str]:
    if not _is_id(key):
        raise _problem(path, f"class ids are whole numbers from 0 on, found {key!r}")
    if isinstance(label, bool) or not isinstance(label, (str, int)):
        raise _problem(path, f"the label of id {key} is not text, but {label!r}", hint="put it in quotes")
    return int(key), str(label)


def _parse_pbtxt(text: str, path: Path) -> dict[int, str]:
    """`item { id: 1 name: "..." display_name: "..." }`, of which the display name is the one for people."""
    pairs: list[tuple[int, str]] = []
    fields: dict[str, str] = {}
    depth = position = 0
    while position < len(text):
        token = _PBTXT_TOKEN.match(text, position)
        if token is None:
            line = text.count("\n", 0, position) + 1
            raise _problem(path, f"not a TensorFlow label map: cannot read {text[position]!r}", line=line)
        position = token.end()
        if token["open"]:
            depth += 1
        elif token["close"]:
            depth -= 1
            if depth == 0:
                pairs.append(_pbtxt_item(fields, path))
                fields = {}
        elif token["field"] and depth == 1:  # Deeper ones belong to parts of the item, such as its keypoints.
            value = token["double"] or token["single"] or token["bare"] or ""
            fields[token["field"]] = re.sub(r"\\(.)", r"\1", value)
    if depth:
        raise _problem(path, "the braces of the label map do not match")
    return _unique(pairs, path)


def _pbtxt_item(fields: Mapping[str, str], path: Path) -> tuple[int, str]:
    label = fields.get("display_name") or fields.get("name")
    if label is None or not _is_id(fields.get("id")):
        raise _problem(path, f"an item of the label map lacks its id or its name: found {dict(fields)}")
    return int(fields["id"]), label


def _unique(pairs: Iterable[tuple[int, str]], path: Path) -> dict[int, str]:
    found: dict[int, str] = {}
    for key, label in pairs:
        if key in found:
            raise _problem(path, f"id {key} has two labels, {found[key]!r} and {label!r}")
        found[key] = label
    return found


def _problem(path: Path, message: str, *, hint: str | None = None, line: int | None = None) -> ConfigError:
    return ConfigError([ConfigIssue(message, field="labels", file=str(path), hint=hint, line=line)])


_PARSERS = {".json": _parse_json, ".yaml": _parse_yaml, ".yml": _parse_yaml, ".pbtxt": _parse_pbtxt}
