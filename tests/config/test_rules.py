from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.config.load import parse_config

Told = Callable[..., list[str]]
STAGES = "pipeline: {model: m/x, postprocess: {family: ssd}}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "sources: [{path: a, id: x}, {path: b, id: x}]\n" + STAGES,
            "a.yaml:1:43: sources[1].id: found 'x' a second time; every source needs its own id; the first is in line 1",
        ),
        (
            "sources: [a]\nsinks:\n- {type: jsonl, path: out/a}\n- {type: csv, path: out/./a}\n" + STAGES,
            "a.yaml:4:21: sinks[1].path: found 'out/./a' a second time; every output needs its own file; the first is in line 3",
        ),
        (
            "sources: [a]\nsinks: [{type: jsonl, path: r}]\nobserve: {report: r}\n" + STAGES,
            "a.yaml:3:19: observe.report: found 'r' a second time; every output needs its own file; the first is in line 2",
        ),
        (
            "sources: [a]\nsinks: [{type: csv, path: '{sorce}.csv'}]\n" + STAGES,
            "a.yaml:2:27: sinks[0].path: found '{sorce}.csv', allowed in it is no placeholder but {source}"
            " (did you mean '{source}'?)",
        ),
        (
            "sources: [a]\nsinks: [{type: csv, path: '{source}-{.csv'}]\n" + STAGES,
            "a.yaml:2:27: sinks[0].path: found '{source}-{.csv', allowed in it is no placeholder but {source}",
        ),
        (
            "sources: [a, b]\nsinks: [{type: video, path: a.mp4}]\n" + STAGES,
            "a.yaml:2:29: sinks[0].path: found 'a.mp4', but there are several sources and a video holds one"
            " (put {source} into the path)",
        ),
        (
            "sources: [a]\nsinks: [{type: tensors, path: a.npz}]\n" + STAGES,
            "a.yaml:2:16: sinks[0].type: a tensors sink needs postprocess family 'raw', found 'ssd'",
        ),
        (
            "sources: [a]\nsinks: [{type: jsonl, path: a}]\n" + STAGES.replace("ssd", "raw"),
            "a.yaml:2:16: sinks[0].type: postprocess family 'raw' gives no results for a jsonl sink (use type: tensors)",
        ),
        (
            "sources: [a]\nsinks: [{type: csv, path: a}]\n" + STAGES.replace("ssd", "embedding"),
            "a.yaml:2:16: sinks[0].type: postprocess family 'embedding' gives no rows for a csv sink (use type: jsonl)",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "segment, labels: [car, bus], classes: [bsu]"),
            "a.yaml:2:85: pipeline.postprocess.classes[0]: found 'bsu', which is not among the 2 labels"
            " (did you mean 'bus'?)",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "pose, edges: [[0, 17]]"),
            "a.yaml:2:37: pipeline.postprocess: edges join keypoints 0 to 16",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "pose, max_person: 3"),
            "a.yaml:2:52: pipeline.postprocess.max_person: unknown key (did you mean 'max_persons'?)",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "ssd, labels: [car, bus], classes: [bus, cat, 7]"),
            "a.yaml:2:86: pipeline.postprocess.classes[1]: found 'cat', which is not among the 2 labels"
            " (did you mean 'car'?)",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "ssd, labels: {3: car}, thresholds: {car: 1, truck: 1}"),
            "a.yaml:2:90: pipeline.postprocess.thresholds.truck: found 'truck', which is not among the 1 labels",
        ),
        (
            "sources: [a]\n" + STAGES.replace("ssd", "ssd, labels: coco80, classes: [persn]"),
            "a.yaml:2:77: pipeline.postprocess.classes[0]: found 'persn', which is not among the 80 labels"
            " (did you mean 'person'?)",
        ),
    ],
)  # fmt: skip
def test_broken_rule(told: Told, text: str, expected: str) -> None:
    assert told(text) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        "sources: [{path: a, id: x}, {path: b, id: y}, {path: c}, {path: d}]\n" + STAGES,
        "sources: [a, b]\nsinks: [{type: video, path: '{source}.mp4'}, {type: jsonl, path: '{source}.jsonl'}]\n" + STAGES,
        "sources: [a]\nsinks: [{type: tensors, path: a.npz}]\n" + STAGES.replace("ssd", "raw"),
        "sources: [a]\n" + STAGES.replace("ssd", "raw"),
        "sources: [a]\n" + STAGES.replace("ssd", "ssd, labels: my.txt, classes: [anything]"),
        "sources: [a]\n" + STAGES.replace("ssd", "ssd, classes: [anything]"),
    ],
)  # fmt: skip
def test_kept_rules(text: str) -> None:
    parse_config(text)


def test_rules_are_told_along_with_wrong_values(told: Told) -> None:
    text = "device: x\nsources: [{path: a, id: x}, {path: b, id: x}]\nsinks: [3, {type: csv}]\n" + STAGES
    assert len(told(text)) == 4
