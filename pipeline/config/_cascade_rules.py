"""Rules of `pipeline.models` and `pipeline.cascade`: names, whose detections are looked at, and what that needs."""

from __future__ import annotations

from collections.abc import Iterator

from pipeline.config._issues import did_you_mean, issue_at, show
from pipeline.config._nodes import ListNode, Node, Path, ScalarNode, find, key_place, plain_data
from pipeline.config.plugins import PluginPost
from pipeline.config.postprocess import FAMILIES, DetectionPost
from pipeline.errors import ConfigIssue

MAIN: Path = ("pipeline",)
# What a plug-in finds is only known when it has run.
MAY_DETECT = (DetectionPost, PluginPost)


def second_sections(root: Node, *lists: str) -> list[Path]:
    """The paths of the entries of `pipeline.models` and `pipeline.cascade`, or of the given ones."""
    found: list[Path] = []
    for name in lists or ("models", "cascade"):
        node = find(root, (*MAIN, name))
        if isinstance(node, ListNode):
            found += [(*MAIN, name, index) for index in range(len(node.items))]
    return found


def parent_of(root: Node, section: Path) -> Path | None:
    """The section whose detections an entry of the cascade looks at; None if it names none that there is."""
    node = find(root, (*section, "of"))
    if node is None or plain_data(node) is None:
        return MAIN
    others = {plain_data(n): path for path in second_sections(root) if (n := find(root, (*path, "name"))) is not None}
    name = plain_data(node)
    return others.get(name) if isinstance(name, str) else None


def check_cascade(root: Node) -> Iterator[ConfigIssue]:
    """What is wrong between the entries."""
    yield from _names_differ(root)
    for section in second_sections(root, "cascade"):
        parent = parent_of(root, section)
        yield from _parent_detects(root, section, parent)
        if parent is not None:
            yield from _tracks_are_there(root, section, parent)
        engine = find(root, (*section, "preprocess", "engine"))
        if engine is not None and plain_data(engine) == "cvcuda":
            path = (*section, "preprocess", "engine")
            yield issue_at(engine.place, path, "cvcuda cannot cut crops", "use engine: fused")


def check_appearance(root: Node) -> Iterator[ConfigIssue]:
    """The tracker knows objects again by vectors of its own detections, all of them, before they have ids."""
    path = (*MAIN, "tracker", "appearance")
    node = find(root, path)
    if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or node.problem is not None:
        return
    entries = {
        plain_data(n): p for p in second_sections(root, "cascade") if (n := find(root, (*p, "name"))) is not None
    }
    section = entries.get(node.value)
    if section is None:
        known = [str(name) for name in entries]
        hint = did_you_mean(node.value, known) or f"there are: {', '.join(known) or 'none'}"
        yield issue_at(node.place, path, f"found {show(node)}, which is the name of no entry of pipeline.cascade", hint)
        return
    family, every = _family(root, section), find(root, (*section, "every"))
    if family not in (None, "embedding"):
        message = f"{show(node)} has postprocess family {family!r}, but vectors are needed"
        yield issue_at(node.place, path, message, "name an entry with family: embedding")
    if parent_of(root, section) not in (MAIN, None):
        yield issue_at(node.place, path, f"{show(node)} looks at another model's detections", "leave its `of` out")
    if every is not None and plain_data(every) not in (None, 1):
        message = "is looked at before detections are tracked, when no track is known yet"
        yield issue_at(key_place(root, (*section, "every")), (*section, "every"), message, "leave every out")


def _names_differ(root: Node) -> Iterator[ConfigIssue]:
    seen: dict[str, Node] = {}
    for section in second_sections(root):
        path = (*section, "name")
        node = find(root, path)
        if not isinstance(node, ScalarNode) or not isinstance(node.value, str) or node.problem is not None:
            continue
        if node.value in seen:
            first = seen[node.value].place
            line = f"; the first is in line {first.line}" if first.line else ""
            yield issue_at(node.place, path, f"found {show(node)} a second time; every model needs its own name{line}")
        seen.setdefault(node.value, node)


def _parent_detects(root: Node, section: Path, parent: Path | None) -> Iterator[ConfigIssue]:
    path = (*section, "of")
    node = find(root, path)
    place = key_place(root, path) if node is None else node.place
    if parent is None:
        if isinstance(node, ScalarNode) and isinstance(node.value, str) and node.problem is None:
            names = [plain_data(n) for p in second_sections(root) if p != section and (n := find(root, (*p, "name")))]
            known = [name for name in names if isinstance(name, str)]
            hint = did_you_mean(node.value, known) or f"there are: {', '.join(known) or 'none'}"
            yield issue_at(place, path, f"found {show(node)}, which is the name of no other model", hint)
        return
    seen = [section]
    while parent is not None and parent[:2] == (*MAIN, "cascade"):
        if parent in seen:
            if parent == section:  # told once for each entry of the circle, not for those that lead into it
                yield issue_at(place, path, "looks at its own detections, by a circle of entries")
            return
        seen.append(parent)
        parent = parent_of(root, parent)
    parent = parent_of(root, section)
    assert parent is not None
    family = _family(root, parent)
    kind = FAMILIES.get(family or "")
    if kind is not None and not issubclass(kind, MAY_DETECT):
        whose = (
            "the pipeline's own model" if parent == MAIN else repr(plain_data(find(root, (*parent, "name")) or root))
        )
        message = f"{whose} has postprocess family {family!r}, which gives no detections to look at"
        yield issue_at(place, path, message, "let `of` name a detector")


def _tracks_are_there(root: Node, section: Path, parent: Path) -> Iterator[ConfigIssue]:
    path = (*section, "every")
    node = find(root, path)
    if not isinstance(node, ScalarNode) or not isinstance(node.value, int) or node.value <= 1:
        return
    if parent != MAIN:
        message = "counts the frames of tracks, which only the pipeline's own model's detections have"
        yield issue_at(key_place(root, path), path, message, "leave every out")
        return
    tracker = find(root, (*MAIN, "tracker"))
    if tracker is None or plain_data(tracker) is None:
        message = "needs to know which object is which, but there is no pipeline.tracker"
        yield issue_at(key_place(root, path), path, message, "add tracker: bytetrack to pipeline")


def _family(root: Node, section: Path) -> str | None:
    node = find(root, (*section, "postprocess", "family"))
    return node.value if isinstance(node, ScalarNode) and isinstance(node.value, str) else None
