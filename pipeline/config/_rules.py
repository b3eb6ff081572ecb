"""Rules between fields, which no single field can see. They look at the tree, so they hold whatever else is wrong."""

from __future__ import annotations

import itertools
import os.path
import re
from collections.abc import Callable, Iterator
from typing import Any

from pipeline.config._cascade_rules import MAIN, MAY_DETECT, check_appearance, check_cascade, parent_of, second_sections
from pipeline.config._issues import MOST_SHOWN, did_you_mean, issue_at, show
from pipeline.config._nodes import ListNode, MapNode, Node, Path, Place, ScalarNode, find, key_place, plain_data
from pipeline.config.labels import builtin_label_sets, load_labels
from pipeline.config.postprocess import FAMILIES
from pipeline.errors import ConfigIssue

_PLACEHOLDER = re.compile(r"\{[^{}]*\}|[{}]")
_POST = ("pipeline", "postprocess")
_TRACKER = ("pipeline", "tracker")
_ALARMS_OF_TRACKS = ("loiter_s", "stopped_s", "direction", "limit_kmh")


def check_rules(root: Node) -> list[ConfigIssue]:
    """What is wrong between the fields of a configuration."""
    rules: list[Callable[[Node], Iterator[ConfigIssue]]] = [
        _source_ids_differ,
        _output_paths_differ,
        _sink_placeholders_are_known,
        _video_of_several_sources_is_split,
        _raw_goes_with_tensors,
        _tracker_has_detections,
        _analytics_has_what_it_needs,
        check_cascade,
        check_appearance,
        _labels_are_known,
    ]
    # More of one kind than are shown need not be found.
    return [issue for rule in rules for issue in itertools.islice(rule(root), MOST_SHOWN + 1)]


def _items(root: Node, *path: str | int) -> list[tuple[Path, Node]]:
    node = find(root, path)
    return [((*path, index), item) for index, item in enumerate(node.items)] if isinstance(node, ListNode) else []


def _text(root: Node, *path: str | int) -> str | None:
    """The usable text at a path, else None."""
    node = find(root, path)
    if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.problem is None:
        return node.value
    return None


def _repeated(root: Node, paths: list[Path], normal: Callable[[str], str], what: str) -> Iterator[ConfigIssue]:
    first: dict[str, Path] = {}
    for path in paths:
        text, node = _text(root, *path), find(root, path)
        if text is None or node is None:
            continue
        if normal(text) in first:
            earlier = find(root, first[normal(text)])
            line = f" in line {earlier.place.line}" if earlier and earlier.place.line else ""
            yield issue_at(node.place, path, f"found {show(node)} a second time; {what}{line}")
        first.setdefault(normal(text), path)


def _source_ids_differ(root: Node) -> Iterator[ConfigIssue]:
    paths = [(*path, "id") for path, _ in _items(root, "sources")]
    yield from _repeated(root, paths, str, "every source needs its own id; the first is")


def _output_paths_differ(root: Node) -> Iterator[ConfigIssue]:
    paths = [
        *((*path, "path") for path, _ in _items(root, "sinks")),
        *((*path, "analytics", "heatmap", "path") for path, _ in _items(root, "sources")),
        ("observe", "report"),
    ]
    yield from _repeated(root, paths, os.path.normpath, "every output needs its own file; the first is")


def _sink_placeholders_are_known(root: Node) -> Iterator[ConfigIssue]:
    for path, _ in _items(root, "sinks"):
        text, node = _text(root, *path, "path"), find(root, (*path, "path"))
        unknown = [found for found in _PLACEHOLDER.findall(text or "") if found != "{source}"]
        if unknown and node:
            yield issue_at(
                node.place,
                (*path, "path"),
                f"found {show(node)}, allowed in it is no placeholder but {{source}}",
                did_you_mean(unknown[0], ["{source}"]),
            )


def _video_of_several_sources_is_split(root: Node) -> Iterator[ConfigIssue]:
    if len(_items(root, "sources")) < 2:
        return
    for path, sink in _items(root, "sinks"):
        text, node = _text(root, *path, "path"), find(root, (*path, "path"))
        if _text(sink, "type") == "video" and text is not None and node and "{" not in text:
            message = f"found {show(node)}, but there are several sources and a video holds one"
            yield issue_at(node.place, (*path, "path"), message, "put {source} into the path")


def _raw_goes_with_tensors(root: Node) -> Iterator[ConfigIssue]:
    family = _text(root, *_POST, "family")
    if family is None:
        return
    for path, sink in _items(root, "sinks"):
        kind, node = _text(sink, "type"), find(sink, ("type",))
        if node is None or kind not in ("jsonl", "csv", "video", "tensors"):
            continue
        if kind == "tensors" and family != "raw":
            message = f"a tensors sink needs postprocess family 'raw', found {family!r}"
            yield issue_at(node.place, (*path, "type"), message)
        if kind != "tensors" and family == "raw":
            message = f"postprocess family 'raw' gives no results for a {kind} sink"
            yield issue_at(node.place, (*path, "type"), message, "use type: tensors")
        if kind == "csv" and family == "embedding":
            message = "postprocess family 'embedding' gives no rows for a csv sink"
            yield issue_at(node.place, (*path, "type"), message, "use type: jsonl")


def _tracker_has_detections(root: Node) -> Iterator[ConfigIssue]:
    kind, node = FAMILIES.get(_text(root, *_POST, "family") or ""), find(root, _TRACKER)
    if kind is None or issubclass(kind, MAY_DETECT) or node is None or plain_data(node) is None:
        return
    message = f"postprocess family {_text(root, *_POST, 'family')!r} gives no detections that could be tracked"
    yield issue_at(node.place, _TRACKER, message, "leave tracker out")


def _analytics_has_what_it_needs(root: Node) -> Iterator[ConfigIssue]:
    """Analytics looks at detections; what tells one object from another needs a tracker as well."""
    family, tracker = _text(root, *_POST, "family"), find(root, _TRACKER)
    kind = FAMILIES.get(family or "")
    has_tracker = tracker is not None and plain_data(tracker) is not None
    for source, _ in _items(root, "sources"):
        path: Path = (*source, "analytics")
        node = find(root, path)
        if not isinstance(node, MapNode):
            continue
        if kind is not None and not issubclass(kind, MAY_DETECT):
            message = f"postprocess family {family!r} gives no detections that could be counted"
            yield issue_at(key_place(root, path), path, message, "leave analytics out")
            continue
        needs = [(*path, "lines"), (*path, "ground")]
        needs += [(*zone, key) for zone, _ in _items(root, *path, "zones") for key in _ALARMS_OF_TRACKS]
        for needed in needs:
            value = find(root, needed)
            if value is not None and plain_data(value) and not has_tracker:
                message = "needs to know which object is which, but there is no pipeline.tracker"
                yield issue_at(key_place(root, needed), needed, message, "add tracker: bytetrack to pipeline")


def _labels_are_known(root: Node) -> Iterator[ConfigIssue]:
    for section in (MAIN, *second_sections(root)):
        known = _known_labels(find(root, (*section, "postprocess", "labels")))
        if not known:
            continue
        for path, place, node in _labels_used(root, section):
            if isinstance(node.value, str) and node.problem is None and node.value not in known:
                hint = did_you_mean(node.value, sorted(known)) if node.written == node.value else None
                yield issue_at(place, path, f"found {show(node)}, which is not among the {len(known)} labels", hint)


def _labels_used(root: Node, section: Path) -> list[tuple[Path, Place, ScalarNode]]:
    """Where labels of a section's model are named."""
    post = (*section, "postprocess")
    owners: list[Path] = [post]
    if section == MAIN:
        for source, _ in _items(root, "sources"):
            analytics: Path = (*source, "analytics")
            shapes = [path for kind in ("lines", "zones") for path, _ in _items(root, *analytics, kind)]
            owners += [analytics, *shapes]
    owners += [path for path in second_sections(root, "cascade") if parent_of(root, path) == section]
    used: list[tuple[Path, Place, ScalarNode]] = []
    for owner in owners:
        classes = _items(root, *owner, "classes")
        used += [(path, item.place, item) for path, item in classes if isinstance(item, ScalarNode)]
    thresholds = find(root, (*post, "thresholds"))
    if isinstance(thresholds, MapNode):
        for key, entry in thresholds.entries.items():
            used.append(((*post, "thresholds", key), entry.place, ScalarNode(entry.place, key, key)))
    return used


def _known_labels(node: Node | None) -> set[str] | None:
    """The labels that are given in full or as a built-in set; None where they are in a file or not usable."""
    labels: Any = plain_data(node) if node else None
    if isinstance(labels, str):
        return set(load_labels(labels).values()) if labels in builtin_label_sets() else None
    if isinstance(labels, dict):
        labels = list(labels.values())
    return set(labels) if isinstance(labels, list) and all(isinstance(label, str) for label in labels) else None
