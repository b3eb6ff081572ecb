"""What every message is made of: the place, the value as it was written, the nearest known word."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from pipeline.config._nodes import ListNode, MapNode, Node, Path, Place, ScalarNode, format_path, resolve
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.redact import redact

_ALSO_CALLED = {"gpu": "cuda", "color": "colour", "threshold": "score_threshold"}
_LONGEST_SHOWN = 60
_MOST_SHOWN = 100


def issue_at(place: Place, path: Path, message: str, hint: str | None = None) -> ConfigIssue:
    """An issue of the field at `path`."""
    return ConfigIssue(message, format_path(path), place.file, place.line, place.column, hint)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint at the nearest known word; None if none is near."""
    word = _ALSO_CALLED.get(str(word).lower(), str(word)[:100].lower())
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {near[0]!r}?" if near else None


def one_of(words: Iterable[object]) -> str:
    """The words in quotes: "one of 'a', 'b'"; a single one alone."""
    shown = [repr(word) for word in words]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]


def shorten(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def show(node: Node) -> str:
    """What was found: as written, so that nothing from the environment shows; without credentials; shortened."""
    if isinstance(node, MapNode):
        return f"a mapping with the keys {shorten(', '.join(node.entries))}" if node.entries else "an empty mapping"
    if isinstance(node, ListNode):
        if not node.items:
            return "an empty list"
        if len(node.items) <= 8 and all(isinstance(item, ScalarNode) for item in node.items):
            return shorten(f"[{', '.join(show(item) for item in node.items)}]")
        return f"a list of {len(node.items)}"
    text = shorten(redact(node.written))
    if node.plain and not isinstance(resolve(node.written), str):
        return text or "nothing"
    return repr(text)


def config_error(issues: list[ConfigIssue], first_file: str | None) -> ConfigError:
    """All issues in the order of the text: those of the file first, then those of options and cards."""

    def order(issue: ConfigIssue) -> tuple[bool, str, int, int]:
        return issue.file != first_file, issue.file or "", issue.line or 0, issue.column or 0

    issues = sorted(dict.fromkeys(issues), key=order)
    left_out = len(issues) - _MOST_SHOWN
    if left_out > 0:
        issues = [*issues[:_MOST_SHOWN], ConfigIssue(f"and {left_out:,} more", file=first_file)]
    return ConfigError(issues)
