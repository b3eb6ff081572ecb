"""What stands between the lines: shorthands written out, and a model card's values under the user's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from pipeline.config import cards
from pipeline.config._issues import did_you_mean, issue_at, show
from pipeline.config._nodes import Entry, ListNode, MapNode, Node, Path, ScalarNode, find
from pipeline.config.sources import expand_source
from pipeline.config.stages import expand_model
from pipeline.config.tracking import expand_tracker
from pipeline.errors import ConfigIssue

_TRACKER = ("pipeline", "tracker")
_LISTS = ("models", "cascade")


def model_sections(root: Node) -> Iterator[Path]:
    """The paths of the sections that have a `model`, a `preprocess` and a `postprocess`."""
    yield ("pipeline",)
    for name in _LISTS:
        node = find(root, ("pipeline", name))
        if isinstance(node, ListNode):
            yield from (("pipeline", name, index) for index in range(len(node.items)))


def expand_shorthand(node: Node, path: Path) -> Node:
    """The mapping that a plain text in `sources`, as a `model` or as `pipeline.tracker` is short for; any other node as it is."""
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str):
        return node
    if _is_model(path):
        written_out = expand_model(node.value)
    elif path == _TRACKER:
        written_out = expand_tracker(node.value)
    elif len(path) == 2 and path[0] == "sources":
        written_out = expand_source(node.value)
    else:
        return node
    entries = {key: Entry(node.place, replace(node, value=value)) for key, value in written_out.items()}
    return MapNode(node.place, entries)


def expand_shorthands(root: Node) -> Node:
    """The tree with every shorthand written out."""
    sources = find(root, ("sources",))
    if isinstance(sources, ListNode):
        items = tuple(expand_shorthand(item, ("sources", index)) for index, item in enumerate(sources.items))
        root = _with(root, ("sources",), replace(sources, items=items))
    for path in (*((*section, "model") for section in model_sections(root)), _TRACKER):
        node = find(root, path)
        if node is not None:
            root = _with(root, path, expand_shorthand(node, path))
    return root


def merge_cards(root: Node, issues: list[ConfigIssue]) -> tuple[Node, list[Path]]:
    """The tree with the cards' `preprocess` and `postprocess` under the user's keys.

    A card's `postprocess` is left out where the user names another family. Returns with the tree the sections whose card
    is named but cannot be had, so that what it would have given is not known to be missing.
    """
    unknown = []
    for section in model_sections(root):
        root, is_known = _merge_card(root, section, issues)
        if not is_known:
            unknown.append(section)
    return root, unknown


def _is_model(path: Path) -> bool:
    if path[-1:] != ("model",) or path[:1] != ("pipeline",):
        return False
    return len(path) == 2 or (len(path) == 4 and path[1] in _LISTS and isinstance(path[2], int))


def _merge_card(root: Node, section: Path, issues: list[ConfigIssue]) -> tuple[Node, bool]:
    model = (*section, "model")
    name, stages = find(root, (*model, "card")), find(root, section)
    if not isinstance(name, ScalarNode) or not isinstance(stages, MapNode) or name.value is None:
        return root, True
    if name.problem or not isinstance(name.value, str):
        return root, False
    known = cards.card_names("model")
    if name.value not in known:
        hint = did_you_mean(name.value, known) or f"there are: {', '.join(known) or 'none'}"
        issues.append(issue_at(name.place, model, f"no model card is named {show(name)}", hint))
        return root, False
    try:
        card = cards.read_model_card(name.value)
    except cards.CardError as e:
        issues.append(issue_at(name.place, model, e.message))
        return root, False
    entries = dict(stages.entries)
    for key in ("preprocess", "postprocess"):
        default, own = find(card, (key,)), entries.get(key)
        if default is None or (own and _names_other_family(own.node, default)):
            continue
        entries[key] = Entry(own.place, _under(own.node, default)) if own else Entry(default.place, default)
    return _with(root, section, replace(stages, entries=entries)), True


def _names_other_family(own: Node, default: Node) -> bool:
    family, of_card = find(own, ("family",)), find(default, ("family",))
    return isinstance(family, ScalarNode) and isinstance(of_card, ScalarNode) and family.value != of_card.value


def _under(own: Node, default: Node) -> Node:
    if isinstance(own, MapNode) and isinstance(default, MapNode):
        return replace(own, entries={**default.entries, **own.entries})
    return own


def _with(root: Node, path: Path, node: Node) -> Node:
    """The tree with an existing entry of a mapping or list replaced."""
    if not path:
        return node
    part = path[0]
    if isinstance(root, ListNode) and isinstance(part, int):
        item = _with(root.items[part], path[1:], node)
        return replace(root, items=(*root.items[:part], item, *root.items[part + 1 :]))
    if not isinstance(root, MapNode):
        return root
    key = str(part)
    entry = root.entries[key]
    return replace(root, entries={**root.entries, key: replace(entry, node=_with(entry.node, path[1:], node))})
