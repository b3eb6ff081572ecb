"""`${NAME}` and `${NAME:-default}` in values. What a variable holds may be a secret: no message shows it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace

from pipeline.config._nodes import Entry, ListNode, MapNode, Node, ScalarNode, resolve

# `$${` is a literal `${`; the last alternative catches what was meant as a reference and is none. A default holds no
# further reference, which also keeps the search linear.
_REFERENCE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>(?:(?!\$\{)[^}])*))?\}|\$\{")


def substitute(node: Node, environment: Mapping[str, str]) -> Node:
    """The tree with its references replaced; a scalar that cannot be gets its `problem` set.

    A reference that is the whole of an unquoted scalar is read as YAML would read its value, so `${BATCH:-8}` is a
    number; everywhere else the value is text.
    """
    if isinstance(node, MapNode):
        entries = {key: Entry(entry.place, substitute(entry.node, environment)) for key, entry in node.entries.items()}
        return replace(node, entries=entries)
    if isinstance(node, ListNode):
        return replace(node, items=tuple(substitute(item, environment) for item in node.items))
    return _substitute_scalar(node, environment) if "${" in node.written else node


def _substitute_scalar(node: ScalarNode, environment: Mapping[str, str]) -> ScalarNode:
    problems: list[str] = []

    def value_of(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        if match[0] == "$${":
            return "${"
        if name is None:
            problems.append("'${' starts no reference such as ${NAME} or ${NAME:-default}; write $${ for the text '${'")
            return ""
        value = environment.get(name)
        if not value and default is not None:
            return default
        if value is None:
            problems.append(f"the environment variable {name} is not set; set it, or write ${{{name}:-default}}")
            return ""
        return value

    text = _REFERENCE.sub(value_of, node.written)
    whole = _REFERENCE.fullmatch(node.written)
    if problems:
        return replace(node, value="", problem=problems[0])
    read_again = node.plain and whole is not None and whole["name"] is not None
    return replace(node, value=resolve(text) if read_again else text)
