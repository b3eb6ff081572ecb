"""YAML text -> tree of nodes with places, from the parser's events: no tags, no code, nothing expanded, no recursion.

PyYAML's own composer and constructor are not used: they recurse (a deeply nested file ends the process when libyaml
is used), they keep the last of two equal keys, and they forget where values stood.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import yaml

from pipeline.config._nodes import (
    MAX_DEPTH,
    Entry,
    ListNode,
    MapNode,
    Node,
    Path,
    Place,
    ScalarNode,
    format_path,
    resolve,
)
from pipeline.errors import ConfigError, ConfigIssue

MAX_BYTES = 1_000_000
MAX_NODES = 50_000

# libyaml's parser is some thirty times faster; both are safe, as only their events are used.
_Parser: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_NOT_YAML = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_HINTS = (
    ("cannot start any token", "indent with spaces, not tabs; text that starts with @, ` or % needs quotes"),
    ("mapping values are not allowed", "indent keys of one section alike; text that contains ': ' needs quotes"),
    ("undefined alias", "text that starts with * needs quotes"),
    ("quoted scalar", "a quote is not closed"),
    ("expected ',' or", "inside [ ] and { } text such as ${NAME} needs quotes"),
    ("expected <block end>", "indent keys of one section alike"),
    ("did not find expected key", "indent keys of one section alike"),
    ("did not find expected '-'", "indent the items of a list alike"),
)


def decode(data: bytes, file: str) -> str:
    """The text of a configuration file. Raises ConfigError if it is larger than 1 MB or not UTF-8."""
    if len(data) > MAX_BYTES:
        raise _failure("the file is larger than 1 MB; a configuration is not", Place(file))
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        before = data[: e.start].decode("utf-8-sig", "replace")
        raise _failure(
            f"not UTF-8 text (byte 0x{data[e.start]:02x})", _place_behind(before, file), "save the file as UTF-8"
        ) from None


def parse(text: str, file: str | None, issues: list[ConfigIssue]) -> Node:
    """The tree of a YAML text. What is wrong but leaves the rest readable (a key twice, a tag) is added to `issues`.

    Raises:
        ConfigError: a syntax error, no or several documents, or more than 50,000 values or 40 levels, counted as if
            every alias were written out.
    """
    if len(text) > MAX_BYTES:
        raise _failure("the file is larger than 1 MB; a configuration is not", Place(file))
    bad = _NOT_YAML.search(text)
    if bad:
        raise _failure(
            f"the character U+{ord(bad[0]):04X} is not allowed in YAML", _place_behind(text[: bad.start()], file)
        )
    builder = _Builder(file, issues)
    for event in _events(text, file):
        builder.take(event)
    if builder.root is None or (isinstance(builder.root, ScalarNode) and builder.root.value is None):
        raise _failure("the file is empty", Place(file))
    return builder.root


def _failure(message: str, place: Place, hint: str | None = None, path: Path = ()) -> ConfigError:
    return ConfigError([_issue(message, place, hint, path)])


def _issue(message: str, place: Place, hint: str | None = None, path: Path = ()) -> ConfigIssue:
    return ConfigIssue(message, format_path(path), place.file, place.line, place.column, hint)


def _place_behind(text: str, file: str | None) -> Place:
    return Place(file, text.count("\n") + 1, len(text) - text.rfind("\n"))


def _events(text: str, file: str | None) -> Iterator[yaml.Event]:
    try:
        parser = _Parser(text)
        while parser.check_event():
            yield parser.get_event()
    except yaml.MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        problem = e.problem or e.context or "cannot be read"
        hint = next((hint for part, hint in _HINTS if part in f"{problem} {e.context}"), None)
        place = Place(file, mark.line + 1, mark.column + 1) if mark else Place(file)
        if "nesting depth" in problem:  # libyaml's own limit, from PyYAML 6.0.4 on
            raise _failure(f"nested more than {MAX_DEPTH} levels deep", place) from None
        raise _failure(f"not valid YAML: {problem}", place, hint) from None
    except (yaml.YAMLError, ValueError, OverflowError) as e:
        raise _failure(f"not valid YAML: {e}", Place(file)) from None


@dataclass(slots=True)
class _Open:
    """A collection whose end has not come yet."""

    place: Place
    anchor: str | None
    is_map: bool
    items: list[Node] = field(default_factory=list)
    entries: dict[str, Entry] = field(default_factory=dict)
    merged: list[Node] = field(default_factory=list)
    key: str | None = None
    key_place: Place | None = None
    merge_key: bool = False
    nodes: int = 1
    depth: int = 1


@dataclass(frozen=True, slots=True)
class _Anchored:
    node: Node
    nodes: int
    depth: int


class _Builder:
    """Builds the tree event by event; an alias costs what it stands for, but is never copied."""

    def __init__(self, file: str | None, issues: list[ConfigIssue]) -> None:
        self.root: Node | None = None
        self._file = file
        self._issues = issues
        self._stack: list[_Open] = []
        self._anchors: dict[str, _Anchored] = {}
        self._handlers: dict[type[yaml.Event], Callable[[Any], None]] = {
            yaml.DocumentStartEvent: self._document,
            yaml.MappingStartEvent: self._start,
            yaml.SequenceStartEvent: self._start,
            yaml.MappingEndEvent: self._end,
            yaml.SequenceEndEvent: self._end,
            yaml.ScalarEvent: self._scalar,
            yaml.AliasEvent: self._alias,
        }

    def take(self, event: yaml.Event) -> None:
        handler = self._handlers.get(type(event))
        if handler:
            handler(event)

    def _place(self, event: Any) -> Place:
        return Place(self._file, event.start_mark.line + 1, event.start_mark.column + 1)

    def _path(self) -> Path:
        return tuple(len(level.items) if not level.is_map else level.key or "" for level in self._stack)

    def _document(self, event: yaml.DocumentStartEvent) -> None:
        if self.root is not None:
            raise _failure("a second document starts here", self._place(event), "one file holds one configuration")

    def _start(self, event: yaml.CollectionStartEvent) -> None:
        self._refuse_tag(event)
        if self._expects_key():
            raise _failure(
                "a key must be a single word, but here is a list or mapping",
                self._place(event),
                "text with { } or [ ] needs quotes",
                self._path()[:-1],
            )
        if len(self._stack) >= MAX_DEPTH:
            raise _failure(f"nested more than {MAX_DEPTH} levels deep", self._place(event))
        if event.anchor:
            self._anchors.pop(event.anchor, None)
        self._stack.append(_Open(self._place(event), event.anchor, isinstance(event, yaml.MappingStartEvent)))

    def _end(self, _event: yaml.Event) -> None:
        level = self._stack.pop()
        node: Node
        if level.is_map:
            inherited: dict[str, Entry] = {}
            for other in reversed(level.merged):
                inherited.update(other.entries if isinstance(other, MapNode) else {})
            node = MapNode(level.place, {**inherited, **level.entries})
        else:
            node = ListNode(level.place, tuple(level.items))
        self._add(_Anchored(node, level.nodes, level.depth), level.anchor)

    def _scalar(self, event: yaml.ScalarEvent) -> None:
        self._refuse_tag(event)
        place, plain = self._place(event), not event.style
        if self._expects_key():
            self._set_key(event.value, place, merge=plain and event.value == "<<")
            return
        value = resolve(event.value) if plain else event.value
        if "\0" in event.value:
            self._issues.append(_issue("text must not hold a NUL character", place, None, self._path()))
        self._add(_Anchored(ScalarNode(place, value, event.value, plain), 1, 0), event.anchor)

    def _alias(self, event: yaml.AliasEvent) -> None:
        place, target = self._place(event), self._anchors.get(str(event.anchor))
        if any(level.anchor == event.anchor for level in self._stack) and target is None:
            raise _failure(f"*{event.anchor} stands inside of what it refers to", place, None, self._path())
        if target is None:
            raise _failure(
                f"there is no &{event.anchor} before this *{event.anchor}",
                place,
                "text that starts with * needs quotes",
                self._path(),
            )
        if self._expects_key():
            raise _failure("an alias cannot be a key", place, None, self._path()[:-1])
        if len(self._stack) + target.depth > MAX_DEPTH:
            raise _failure(f"nested more than {MAX_DEPTH} levels deep", place, None, self._path())
        self._add(target, None)

    def _add(self, added: _Anchored, anchor: str | None) -> None:
        if anchor:
            self._anchors[anchor] = added
        if not self._stack:
            self.root = added.node
            return
        level = self._stack[-1]
        level.nodes += added.nodes
        level.depth = max(level.depth, added.depth + 1)
        if level.nodes > MAX_NODES:
            raise _failure(
                f"more than {MAX_NODES:,} values, with every alias written out", level.place, None, self._path()[:-1]
            )
        if not level.is_map:
            level.items.append(added.node)
        elif level.merge_key:
            self._merge(level, added.node)
        elif level.key is not None and level.key_place is not None:
            level.entries.setdefault(level.key, Entry(level.key_place, added.node))
        level.key = level.key_place = None

    def _merge(self, level: _Open, node: Node) -> None:
        level.merge_key = False
        given = node.items if isinstance(node, ListNode) else (node,)
        if not all(isinstance(other, MapNode) for other in given):
            self._issues.append(_issue("<< takes a mapping or a list of mappings", node.place, None, self._path()[:-1]))
        level.merged += given

    def _expects_key(self) -> bool:
        return bool(self._stack) and self._stack[-1].is_map and self._stack[-1].key is None

    def _set_key(self, key: str, place: Place, merge: bool) -> None:
        level = self._stack[-1]
        level.key, level.key_place, level.merge_key = key, place, merge
        first = level.entries.get(key)
        if first:
            message = f"the key {key!r} stands here a second time; the first is in line {first.place.line}"
            self._issues.append(_issue(message, place, "remove one of them", self._path()))

    def _refuse_tag(self, event: yaml.ScalarEvent | yaml.CollectionStartEvent) -> None:
        if event.tag is not None:
            tag = str(event.tag).replace("tag:yaml.org,2002:", "!!")
            self._issues.append(
                _issue(
                    f"the tag {tag!r} is not allowed", self._place(event), "remove it; quotes make text", self._path()
                )
            )
