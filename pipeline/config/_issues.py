"""What every message is made of: the place, the value as it was written, the nearest known word."""

from __future__ import annotations

import difflib
import functools
from collections.abc import Iterable

from pipeline.config._nodes import ListNode, MapNode, Node, Path, Place, ScalarNode, format_path, resolve
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.redact import redact

_ALSO_CALLED = {"gpu": "cuda", "color": "colour", "threshold": "score_threshold"}
_LONGEST_SHOWN = 60
_LONGEST_READ = 2000
MOST_SHOWN = 100
_MOST_COMPARED = 2000


def issue_at(place: Place, path: Path, message: str, hint: str | None = None) -> ConfigIssue:
    """An issue of the field at `path`."""
    return ConfigIssue(message, format_path(path), place.file, place.line, place.column, hint)


def did_you_mean(word: str, known: Iterable[str]) -> str | None:
    """A hint at the nearest known word; None if none is near."""
    word = _ALSO_CALLED.get(str(word).lower(), str(word)[:100].lower())
    words = tuple(known)
    near = _nearest(word, words) if len(words) <= _MOST_COMPARED else None
    return f"did you mean {near!r}?" if near else None


@functools.lru_cache(maxsize=256)
def _nearest(word: str, words: tuple[str, ...]) -> str | None:
    return next(iter(difflib.get_close_matches(word, words, n=1)), None)


def one_of(words: Iterable[object]) -> str:
    """The words in quotes, true and false without: "one of 'a', 'b'"; a single one alone."""
    shown = [str(word).lower() if isinstance(word, bool) else repr(word) for word in words]
    return f"one of {', '.join(shown)}" if len(shown) > 1 else shown[0]


def shorten(text: str) -> str:
    """At most 60 characters of a text."""
    return text if len(text) <= _LONGEST_SHOWN else f"{text[: _LONGEST_SHOWN - 3]}..."


def show(node: Node) -> str:
    """What was found: as written, so that nothing from the environment shows; without credentials; shortened."""
    if isinstance(node, MapNode):
        return f"a mapping with the keys {shorten(', '.join(node.entries))}" if node.entries else "an empty mapping"
    if isinstance(node, ListNode):
        return _show_list(node)
    if len(node.written) > _LONGEST_READ:
        return f"a text of {len(node.written):,} characters"
    text = shorten(redact(node.written))
    if node.plain and not isinstance(resolve(node.written), str):
        return text or "nothing"
    return repr(text)


def _show_list(node: ListNode) -> str:
    if not node.items:
        return "an empty list"
    if len(node.items) <= 8 and all(isinstance(item, ScalarNode) for item in node.items):
        return shorten(f"[{', '.join(show(item) for item in node.items)}]")
    return f"a list of {len(node.items)}"


def config_error(issues: list[ConfigIssue], first_file: str | None) -> ConfigError:
    """All issues in the order of the text: those of the file first, then those of options and cards."""

    def order(issue: ConfigIssue) -> tuple[bool, str, int, int]:
        return issue.file != first_file, issue.file or "", issue.line or 0, issue.column or 0

    issues = sorted(dict.fromkeys(issues), key=order)
    if len(issues) > MOST_SHOWN:
        rest = ConfigIssue(f"there are more issues than these {MOST_SHOWN}", file=first_file)
        issues = [*issues[:MOST_SHOWN], rest]
    return ConfigError(issues)
