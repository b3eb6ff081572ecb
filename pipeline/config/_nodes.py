"""A parsed configuration as a tree that still knows where each key and value was written.

Overrides and card defaults are merged into this tree before validation, so an error always finds its way back to the
line, option or card that it came from. Trees are immutable; aliases share nodes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

Path = tuple[str | int, ...]
MAX_DEPTH = 40
Value = str | int | float | bool | None


@dataclass(frozen=True, slots=True)
class Place:
    """Where something was written; line and column are 1-based and None outside of files."""

    file: str | None
    line: int | None = None
    column: int | None = None


@dataclass(frozen=True, slots=True)
class ScalarNode:
    """A single value.

    Attributes:
        place: Where it starts.
        value: What it means after substitution.
        written: As written, before substitution: what messages may show.
        plain: Whether it was written without quotes.
        problem: Why it has no usable value (an unset variable), in words; None if it has.
    """

    place: Place
    value: Value
    written: str
    plain: bool = True
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ListNode:
    """A sequence of values."""

    place: Place
    items: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class Entry:
    """A key's place, and its value."""

    place: Place
    node: Node


@dataclass(frozen=True, slots=True)
class MapNode:
    """A mapping; keys are text, whatever they look like."""

    place: Place
    entries: Mapping[str, Entry] = field(default_factory=dict)


Node: TypeAlias = ScalarNode | ListNode | MapNode

# The core schema of YAML 1.2, as editors read it: `yes`, `on`, `12:30` and 2024-01-01 are text.
_WORDS: dict[str, Value] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_INT = re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_SPECIAL_FLOAT = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_MOST_DIGITS = 100


def resolve(text: str) -> Value:
    """What an unquoted scalar means. Numbers of more than 100 characters stay text."""
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _MOST_DIGITS:
        if _INT.fullmatch(text):
            return int(text, 0 if text[:2] in ("0o", "0x") else 10)
        if _FLOAT.fullmatch(text):
            return float(text)
        if _SPECIAL_FLOAT.fullmatch(text):
            return float(text.replace(".", ""))
    return text


def from_data(data: Any, place: Place, depth: int = 0) -> Node:
    """The tree of Python data; its texts are taken as if they were in quotes. Raises ValueError if it is too deep."""
    if depth > MAX_DEPTH:
        raise ValueError(f"nested more than {MAX_DEPTH} levels deep")
    if isinstance(data, Mapping):
        entries = {str(key): Entry(place, from_data(value, place, depth + 1)) for key, value in data.items()}
        return MapNode(place, entries)
    if isinstance(data, (list, tuple)):
        return ListNode(place, tuple(from_data(item, place, depth + 1) for item in data))
    if data is None or isinstance(data, (bool, int, float)):
        return ScalarNode(place, data, "null" if data is None else str(data))
    return ScalarNode(place, str(data), str(data), plain=False)


def plain_data(node: Node) -> Any:
    """The dicts, lists and scalars that the tree stands for."""
    if isinstance(node, MapNode):
        return {key: plain_data(entry.node) for key, entry in node.entries.items()}
    if isinstance(node, ListNode):
        return [plain_data(item) for item in node.items]
    return node.value


def find(root: Node, path: Path) -> Node | None:
    """The node at a path, None if there is none."""
    node = root
    for part in path:
        if isinstance(node, MapNode) and part in node.entries:
            node = node.entries[str(part)].node
        elif isinstance(node, ListNode) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            return None
    return node


def key_place(root: Node, path: Path) -> Place:
    """Where the key of a path stands; for a list item the item, for a missing key the nearest ancestor that exists."""
    while path:
        parent = find(root, path[:-1])
        if isinstance(parent, MapNode) and path[-1] in parent.entries:
            return parent.entries[str(path[-1])].place
        node = find(root, path)
        if node is not None:
            return node.place
        path = path[:-1]
    return root.place


def scalars(node: Node, path: Path = ()) -> Iterator[tuple[Path, ScalarNode]]:
    """All scalars of a tree with their paths, in the order of the text."""
    if isinstance(node, MapNode):
        for key, entry in node.entries.items():
            yield from scalars(entry.node, (*path, key))
    elif isinstance(node, ListNode):
        for index, item in enumerate(node.items):
            yield from scalars(item, (*path, index))
    else:
        yield path, node


def format_path(path: Path) -> str:
    """Such as `sinks[0].path`."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
