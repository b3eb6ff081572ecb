"""pydantic's errors -> issues in plain words, each at the line, option or card that its value came from."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pydantic_core import ErrorDetails

from pipeline.config._guide import Guide
from pipeline.config._issues import did_you_mean, issue_at, one_of, show
from pipeline.config._nodes import MapNode, Node, Path, Place, ScalarNode, find, key_place, resolve
from pipeline.config._words import Schema, alternatives, describe, tag_of
from pipeline.errors import ConfigIssue

_MOST_WORDED = 2000
_YES_NO = {"yes": "true", "on": "true", "y": "true", "no": "false", "off": "false", "n": "false"}


def translate(errors: Sequence[ErrorDetails], root: Node, schema: Schema) -> list[ConfigIssue]:
    """The issues that pydantic's errors of the data in `root` stand for; `schema` is its JSON Schema.

    Errors of values that are known to be unusable (an unset variable) are left out: their cause is told elsewhere.
    """
    translator = _Translator(root, Guide(schema, root))
    # Nobody reads more than the first; to word the errors of a file of nothing else would take its time.
    return [translator.issue(kind, path, text) for kind, path, text in translator.faults(errors[:_MOST_WORDED])]


class _Translator:
    def __init__(self, root: Node, guide: Guide) -> None:
        self._root = root
        self._guide = guide

    def faults(self, errors: Sequence[ErrorDetails]) -> list[tuple[str, Path, str]]:
        """(kind, path, pydantic's words) of what is wrong; of the readings of one value only the one that was meant."""
        faults: list[tuple[str, Path, str]] = []
        readings: dict[Path, list[tuple[str, Path, str]]] = defaultdict(list)
        for error in errors:
            path, union = self._guide.user_path(error["loc"])
            kind = "key" if error["loc"][-1:] == ("[key]",) else error["type"]
            if kind == "missing" and path and isinstance(path[-1], int):
                kind, path = "too_short", path[:-1]
            text = str(error.get("ctx", {}).get("error", error["msg"]))
            (faults if union is None else readings[union]).append((kind, path, text))
        for union, group in readings.items():
            faults += [fault for fault in group if fault[1] != union] or [("value", union, group[0][2])]
        return [fault for fault in faults if not self._is_unusable(fault[1])]

    def issue(self, kind: str, path: Path, text: str) -> ConfigIssue:
        if kind == "extra_forbidden":
            return self._unknown_key(path)
        if kind == "missing":
            return self._missing(path)
        if kind in ("union_tag_not_found", "union_tag_invalid"):
            return self._tag(path)
        if kind == "value_error":
            return issue_at(self._place(path), path, text)
        if kind == "key":
            place = key_place(self._root, path)
            return issue_at(place, path, f"found the key {path[-1]!r}, allowed are whole numbers")
        return self._value(path, text)

    def _is_unusable(self, path: Path) -> bool:
        node = find(self._root, path)
        return isinstance(node, ScalarNode) and node.problem is not None

    def _place(self, path: Path) -> Place:
        node = find(self._root, path)
        return node.place if node else key_place(self._root, path)

    def _value(self, path: Path, text: str) -> ConfigIssue:
        node, schema = find(self._root, path), self._guide.allowed(path)
        found = show(node) if node else "nothing"
        allowed = f", allowed is {describe(schema, self._guide.schema)}" if schema else f": {text}"
        hint = self._value_hint(node, schema) if isinstance(node, ScalarNode) else None
        return issue_at(self._place(path), path, f"found {found}{allowed}", hint)

    def _value_hint(self, node: ScalarNode, schema: Schema) -> str | None:
        options = alternatives(schema, self._guide.schema)
        types = {option.get("type") for option in options}
        as_written = node.written == node.value
        enumerated = [word for option in options for word in option.get("enum", [])]
        words = [str(word) for word in enumerated if not isinstance(word, bool)]
        if len(words) < len(enumerated):
            types.add("boolean")
        hint = did_you_mean(node.written, words) if words and as_written else None
        if hint or (words and "boolean" not in types):
            return hint
        if isinstance(node.value, str):
            unquoted = resolve(node.value)
            number = isinstance(unquoted, (int, float)) and not isinstance(unquoted, bool)
            if not node.plain and (
                types & {"integer", "number"} if number else "boolean" in types and unquoted != node.value
            ):
                return "leave out the quotes"
            word = _YES_NO.get(node.value.lower())
            return f"write {word}" if word and as_written and "boolean" in types else None
        return f"for text write it in quotes: '{node.written}'" if "string" in types and node.written else None

    def _unknown_key(self, path: Path) -> ConfigIssue:
        key, known = str(path[-1]), list(self._guide.section(path[:-1]).get("properties", {}))
        elsewhere = [".".join(map(str, other)) for other in self._guide.fixed_paths() if other[-1] == key]
        hint = did_you_mean(key, known)
        if hint is None and len(elsewhere) == 1:
            hint = f"did you mean {elsewhere[0]}?"
        return issue_at(
            key_place(self._root, path), path, "unknown key", hint or f"the keys here are {', '.join(known)}"
        )

    def _missing(self, path: Path) -> ConfigIssue:
        allowed = describe(self._guide.allowed(path), self._guide.schema)
        hint = "a model card would bring its own" if path[-1] == "postprocess" else None
        return issue_at(key_place(self._root, path), path, f"missing; needed is {allowed}", hint)

    def _tag(self, path: Path) -> ConfigIssue:
        options = alternatives(self._guide.allowed(path), self._guide.schema)
        tags = [tag for option in options if (tag := tag_of(option))]
        key, words = tags[0][0], [value for _, value in tags]
        node = find(self._root, path)
        if not isinstance(node, MapNode):
            return self._value(path, "")
        given = find(node, (key,))
        if given is None:
            return issue_at(key_place(self._root, path), (*path, key), f"missing; needed is {one_of(words)}")
        hint = did_you_mean(given.written, words) if isinstance(given, ScalarNode) else None
        return issue_at(given.place, (*path, key), f"found {show(given)}, allowed is {one_of(words)}", hint)
