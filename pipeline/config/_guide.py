"""Walks a JSON Schema along the data: what is allowed at a path, and which path pydantic means by its `loc`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.config._nodes import ListNode, MapNode, Node, Path, ScalarNode, find
from pipeline.config._words import Schema, alternatives, resolve_reference, tag_of

# What pydantic calls the members of a union in its `loc`.
_MEMBER = re.compile(r"(?:constrained-)?(str|int|float)|(tuple|list|dict)\[.*\]")
_MEMBER_TYPES = {
    "str": "string",
    "int": "integer",
    "float": "number",
    "tuple": "array",
    "list": "array",
    "dict": "object",
}


class Guide:
    """A schema and the data that it is asked about."""

    def __init__(self, schema: Schema, root: Node) -> None:
        self.schema = schema
        self._root = root

    def allowed(self, path: Path) -> Schema:
        """The schema of the value at a path; empty where none is known."""
        here = self.schema
        for depth, part in enumerate(path):
            here = _child(self._reading(here, path[:depth]), part)
        return here

    def section(self, path: Path) -> Schema:
        """The schema of the mapping at a path: of several kinds the one that the data names."""
        return self._reading(self.allowed(path), path)

    def user_path(self, loc: tuple[int | str, ...]) -> tuple[Path, Path | None]:
        """pydantic's `loc` without the names of union members, and the path of the value that has such; else None."""
        here = self.schema
        path: Path = ()
        union: Path | None = None
        for part in loc:
            options = alternatives(here, self.schema)
            member = _MEMBER.fullmatch(part) if isinstance(part, str) and len(options) > 1 else None
            tagged = {tag[1]: option for option in options if (tag := tag_of(option))} if len(options) > 1 else {}
            if part in tagged:
                here = tagged[str(part)]
            elif member:
                union = path
                kind = _MEMBER_TYPES[member[1] or member[2]]
                here = next(option for option in options if option.get("type") == kind)
            elif part != "[key]":
                here = _child(self._reading(here, path), part)
                path = (*path, part)
        return path, union

    def fixed_paths(self) -> Iterator[Path]:
        """The paths of all keys of all sections, but not of those in lists or of several kinds."""
        yield from self._fixed_paths(self.schema, ())

    def _fixed_paths(self, section: Schema, path: Path) -> Iterator[Path]:
        for key, schema in section.get("properties", {}).items():
            yield (*path, key)
            yield from self._fixed_paths(resolve_reference(schema, self.schema), (*path, key))

    def _reading(self, schema: Schema, path: Path) -> Schema:
        """Of the alternatives that a schema allows the one that the data at the path takes."""
        options, node = alternatives(schema, self.schema), find(self._root, path)
        for option in options:
            tag = tag_of(option)
            given = find(node, (tag[0],)) if tag and node else None
            if tag and isinstance(given, ScalarNode) and given.value == tag[1]:
                return option
        kind = {MapNode: "object", ListNode: "array"}.get(type(node))
        return next((option for option in options if option.get("type") == kind), options[0])


def _child(schema: Schema, part: str | int) -> Schema:
    child: Schema | bool | None
    if isinstance(part, int):
        fixed = schema.get("prefixItems", [])
        child = fixed[part] if part < len(fixed) else schema.get("items")
    else:
        child = schema.get("properties", {}).get(part) or schema.get("additionalProperties")
    return child if isinstance(child, dict) else {}
