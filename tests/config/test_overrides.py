from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from pipeline.config.load import parse_config

Told = Callable[..., list[str]]
TEXT = """\
sources:
  - a.mp4
  - path: b.mp4
pipeline:
  model: m/x
  postprocess: {family: ssd}
sinks:
  - {type: jsonl, path: a.jsonl}
observe:
"""


def value(config: Any, path: str) -> Any:
    for part in path.replace("[", ".").replace("]", "").split("."):
        config = config[int(part)] if part.isdecimal() else config[part]
    return config


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("pipeline.preprocess.fit=stretch", "pipeline.preprocess.fit", "stretch"),
        ("pipeline.preprocess.size=[640, 480]", "pipeline.preprocess.size", [640, 480]),
        ("sources[0].path=x y#z: *.mp4", "sources[0].path", "x y#z: *.mp4"),
        ("sources.0.path=x", "sources[0].path", "x"),
        ("sources[0].max_frames=3", "sources[0].max_frames", 3),
        ("sources[0].id='12'", "sources[0].id", "12"),
        ("sources[2]=media:bikes", "sources[2].media", "bikes"),
        ("sources=[c.mp4]", "sources[0].path", "c.mp4"),
        ("sinks[0].path=out.jsonl", "sinks[0].path", "out.jsonl"),
        ("sinks=[]", "sinks", []),
        ("pipeline.model.name=net", "pipeline.model.name", "net"),
        ("pipeline.postprocess.thresholds.traffic light=.25", "pipeline.postprocess.thresholds.traffic light", 0.25),
        ("pipeline.postprocess.nms_iou=", "pipeline.postprocess.nms_iou", None),
        ('pipeline.postprocess={family: raw, outputs: ["a"]}', "pipeline.postprocess.outputs", ["a"]),
        ("runtime.batch_size=16", "runtime.batch_size", 16),
        (" runtime.batch_size = 16 ", "runtime.batch_size", 16),
        ("observe.report=a=b", "observe.report", "a=b"),
    ],
)
def test_value_is_replaced(override: str, path: str, expected: object) -> None:
    text = TEXT if override.startswith("observe") else TEXT.replace("observe:\n", "")
    text = text.replace("type: jsonl", "type: tensors") if "raw" in override else text
    data = parse_config(text, overrides=[override]).model_dump(mode="json")
    assert value(data, path) == expected


def test_other_values_stay_and_the_last_override_wins() -> None:
    config = parse_config(TEXT.replace("observe:\n", ""), overrides=["sources[1].id=x", "device=cuda", "device=cpu"])
    assert (config.sources[1].path, config.sources[1].id, config.device) == ("b.mp4", "x", "cpu")


def test_override_can_make_a_missing_section() -> None:
    config = parse_config(
        "device: cpu", overrides=["sources[0]=a", "pipeline.model=m/x", "pipeline.postprocess.family=raw"]
    )
    assert config.pipeline.model.path == "m/x"


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("fit", "--set ...: not of the form KEY=VALUE (such as sinks[0].path=out.jsonl)"),
        ("=x", "--set : not of the form KEY=VALUE (such as sinks[0].path=out.jsonl)"),
        ("a..b=x", "--set a..b: not of the form KEY=VALUE (such as sinks[0].path=out.jsonl)"),
        ("a[x]=1", "--set a[x]: not of the form KEY=VALUE (such as sinks[0].path=out.jsonl)"),
        ("devise=cpu", "--set devise: devise: unknown key (did you mean 'device'?)"),
        ("runtme.batch_size=1", "--set runtme.batch_size: runtme: unknown key (did you mean 'runtime'?)"),
        ("runtime.batch_size=x", "--set runtime.batch_size: runtime.batch_size: found 'x', allowed is a whole number from 1 to 1024, or null"),
        ("sources[5].path=x", "--set sources[5].path: sources[5].path: sources has 2 items; the next one would be [2]"),
        ("sources.path=x", "--set sources.path: sources.path: sources is not a mapping"),
        ("pipeline[0]=x", "--set pipeline[0]: pipeline[0]: pipeline is not a list"),
        ("device.x=1", "--set device.x: device.x: unknown key"),
        ("sinks[0].path=[", "--set sinks[0].path: sinks[0].path: not valid YAML: "),
        ("device={a: 1, a: 2}", "--set device: device: the key 'a' stands here a second time"),
        ("device=a\0b", "--set device: device: text must not hold a NUL character"),
    ],
)  # fmt: skip
def test_issue_names_the_option(told: Told, override: str, expected: str) -> None:
    text = TEXT.replace("observe:\n", "device: cpu\n" if override.startswith("device.") else "")
    messages = told(text, override)
    if override.startswith("device.x"):
        expected = "--set device.x: device.x: device is not a mapping"
    assert messages[0].startswith(expected), messages


def test_bad_option_and_bad_file_come_together(told: Told) -> None:
    assert len(told("a: [", "nothing", "x[=1")) == 3
