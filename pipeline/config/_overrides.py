"""`--set pipeline.preprocess.fit=stretch`: single values put over those of the file."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace

from pipeline.config._issues import shorten
from pipeline.config._nodes import Entry, ListNode, MapNode, Node, Path, Place, ScalarNode, format_path, resolve
from pipeline.config._yaml import parse
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.redact import redact

_PART = re.compile(r"(?P<name>[^.\[\]]+)|\[(?P<index>[0-9]{1,6})\]")
_KEY = re.compile(r"[^.:/@\[\]]+(?:\.[^.:/@\[\]]+|\[[0-9]{1,6}\])*")


@dataclass(frozen=True, slots=True)
class Override:
    """One `--set`: where, and what."""

    path: Path
    node: Node


def parse_override(text: str, issues: list[ConfigIssue]) -> Override | None:
    """An override from `key=value`; None, and an issue added, if it is none.

    The value is read as YAML if it starts with a bracket or a quote, else it is a plain scalar as it stands: globs,
    `#` and `: ` need no quotes.
    """
    key, equals, value = text.partition("=")
    key = key.strip()
    if not equals or not _KEY.fullmatch(key):
        shown = shorten(redact(key)) if equals else "..."
        issues.append(
            ConfigIssue("not of the form KEY=VALUE", file=f"--set {shown}", hint="such as sinks[0].path=out.jsonl")
        )
        return None
    path = tuple(match["name"] or int(match["index"]) for match in _PART.finditer(key))
    place = Place(f"--set {key}")
    value = value.strip()
    if value[:1] not in ("[", "{", '"', "'"):
        if "\0" in value:
            issues.append(ConfigIssue("text must not hold a NUL character", format_path(path), place.file))
        return Override(path, ScalarNode(place, resolve(value), value))
    try:
        found: list[ConfigIssue] = []
        node = parse(value, place.file, found)
    except ConfigError as e:
        found = list(e.issues)
        node = None
    issues += [replace(issue, field=format_path(path), line=None, column=None) for issue in found]
    return Override(path, _without_lines(node, place)) if node else None


def apply_override(
    root: Node, path: Path, value: Node, expand: Callable[[Node, Path], Node], issues: list[ConfigIssue]
) -> Node:
    """The tree with a value put at a path; sections on the way that are not there yet are made.

    Args:
        root: The whole configuration.
        path: Where; numbers count list items, one behind the last adds an item.
        value: What to put there.
        expand: Turns a shorthand at a path into the mapping that it is short for.
        issues: Where it is told why the path does not fit; the tree is then returned unchanged.
    """
    try:
        return _put(root, Override(path, value), (), expand)
    except _DoesNotFit as e:
        issues.append(ConfigIssue(str(e), format_path(path), value.place.file))
        return root


class _DoesNotFit(Exception):  # noqa: N818 - never leaves this module
    pass


def _put(node: Node | None, override: Override, done: Path, expand: Callable[[Node, Path], Node]) -> Node:
    if len(done) == len(override.path):
        return override.node
    place, part = override.node.place, override.path[len(done)]
    if node is not None:
        node = expand(node, done)
        if isinstance(node, ScalarNode) and node.value is None and not node.problem:
            node = None  # `observe:` with nothing under it
    if isinstance(node, ListNode) and isinstance(part, str) and part.isdecimal():
        part = int(part)  # sinks.0.path
    if isinstance(part, int):
        items = node.items if isinstance(node, ListNode) else ()
        if node is not None and not isinstance(node, ListNode):
            raise _DoesNotFit(f"{format_path(done)} is not a list")
        if part > len(items):
            raise _DoesNotFit(f"{format_path(done)} has {len(items)} items; the next one would be [{len(items)}]")
        item = _put(items[part] if part < len(items) else None, override, (*done, part), expand)
        return ListNode(node.place if node else place, (*items[:part], item, *items[part + 1 :]))
    if node is not None and not isinstance(node, MapNode):
        raise _DoesNotFit(f"{format_path(done)} is not a mapping")
    entries = node.entries if node else {}
    old = entries.get(part)
    new = _put(old.node if old else None, override, (*done, part), expand)
    # An override of a deeper key leaves the places of the sections around it alone.
    entry = Entry(old.place if old and len(done) + 1 < len(override.path) else place, new)
    return MapNode(node.place if node else place, {**entries, part: entry})


def _without_lines(node: Node, place: Place) -> Node:
    if isinstance(node, MapNode):
        entries = {key: Entry(place, _without_lines(entry.node, place)) for key, entry in node.entries.items()}
        return MapNode(place, entries)
    if isinstance(node, ListNode):
        return ListNode(place, tuple(_without_lines(item, place) for item in node.items))
    return replace(node, place=place)
