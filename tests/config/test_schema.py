from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from pipeline.config import (
    analytics,
    cascade,
    models,
    plugins,
    postprocess,
    schema,
    sinks,
    sources,
    stages,
    tasks,
    tracking,
)
from pipeline.config._nodes import plain_data
from pipeline.config._yaml import parse
from pipeline.config.base import Section
from pipeline.config.cards import data_dir
from pipeline.config.load import parse_config
from pipeline.errors import ConfigError

VALIDATOR = jsonschema.Draft202012Validator(schema.json_schema())
TOP = "version: 1\nsources: [a.mp4]\npipeline: {model: m/saved, postprocess: {family: ssd}}\n"

GOOD = [
    TOP,
    "sources: [a, https://example.org/b, media:bikes, {path: c}]\npipeline: {model: coco-ssd}",
    "sources: [{url: 'http://h/x', options: {a: b}, timeout_s: 3, max_frames: 1}]\npipeline: {model: {card: coco-ssd}}",
    "sources: [a]\npipeline: {model: coco-ssd, postprocess: {score_threshold: 0.1}}",
    "sources: [a]\npipeline: {model: coco-ssd, postprocess: {box_format: xywh}}",
    "sources: [a]\npipeline: {model: coco-ssd, postprocess: {family: classify, top_k: 3}}",
    "sources: [a]\npipeline: {model: {path: m, outputs: [a]}, postprocess: {family: boxes, boxes: a, scores: b}}",
    "sources: [a]\npipeline: {model: x.keras, postprocess: {family: ssd, labels: {0: a, 1: b}, classes: [a, 1]}}",
    "sources: [a]\npipeline: {model: m/x, postprocess: {family: gfl, strides: [8], nms_iou: null}}",
    "sources: [a]\npipeline: {model: m/x, postprocess: {family: raw}, preprocess: {pad: [1, 2, 3], size: [3, 4], std: 2}}",
    TOP + "sinks: [{type: jsonl, path: a}, {type: video, path: b, crf: 1}]\nruntime: {batch_size: 2}\ndevice: cuda",
    TOP + "runtime:\n  batch_size: ${V_INT}\n  queue_batches: ${V_UNSET:-3}",
    TOP + "device: ${V_UNSET:-cpu}",
    TOP + "observe:\n  summary: ${V_BOOL}\n  log_level: ${V_UNSET:-info}",
    "sources:\n  - url: ${V_URL}\n    max_frames: ${V_INT}\n    recursive: ${V_BOOL}\npipeline: {model: coco-ssd}",
    "sources:\n  - path: a\n    roi:\n      rect:\n        - 0\n        - 0\n        - ${V_INT}\n        - 5\npipeline: {model: coco-ssd}",
    "sources:\n  - ${V_URL}\npipeline:\n  model: ${V_CARD}",
    "sources: [{path: a, roi: {polygon: [[0, 0], [1, 0], [1, 1]]}}]\npipeline: {model: coco-ssd}",
    "sources: [a]\npipeline: {model: coco-ssd, models: [{name: pose, model: movenet}], cascade: [{name: e, model: emotion}]}",
    "sources: [a]\npipeline: {model: coco-ssd, cascade: [{name: e, model: m/x, postprocess: {family: classify}, margin: 0.1}]}",
]  # fmt: skip
BAD = [
    "version: 1",
    TOP + "devise: cpu",
    TOP.replace("version: 1", "version: 2"),
    TOP.replace("version: 1", "version: '1'"),
    TOP.replace("[a.mp4]", "[]"),
    TOP.replace("[a.mp4]", "a.mp4"),
    TOP.replace("[a.mp4]", "[3]"),
    TOP.replace("[a.mp4]", "[{}]"),
    TOP.replace("[a.mp4]", "[{path: a, url: 'http://b'}]"),
    TOP.replace("[a.mp4]", "[{path: null}]"),
    TOP.replace("[a.mp4]", "[{url: b}]"),
    TOP.replace("[a.mp4]", "[{path: a, id: ''}]"),
    TOP.replace("[a.mp4]", "[{path: a, id: 12}]"),
    TOP.replace("[a.mp4]", "[{path: a, options: {a: 1}}]"),
    TOP.replace("[a.mp4]", "[{path: a, roi: {}}]"),
    TOP.replace("[a.mp4]", "[{path: a, roi: {rect: [1, 2, 3]}}]"),
    TOP.replace("[a.mp4]", "[{path: a, roi: {polygon: [[1, 2], [3, 4]]}}]"),
    TOP.replace("m/saved", "{card: a, path: b}"),
    TOP.replace("m/saved", "3"),
    TOP.replace("{family: ssd}", "{family: sdd}"),
    TOP.replace("{family: ssd}", "{}"),
    TOP.replace("{family: ssd}", "{score_threshold: 0.1}"),
    TOP.replace("{family: ssd}", "{family: boxes}"),
    TOP.replace("{family: ssd}", "{family: ssd, top_k: 3}"),
    TOP.replace("{family: ssd}", "{family: ssd, score_threshold: 2}"),
    TOP.replace("{family: ssd}", "{family: ssd, thresholds: {a: x}}"),
    TOP.replace("{family: ssd}", "{family: ssd, classes: [true]}"),
    TOP.replace(", postprocess: {family: ssd}", ""),
    TOP.replace("m/saved", "x.keras").replace(", postprocess: {family: ssd}", ""),
    "sources: [a]\npipeline: {model: {path: m}}",
    "sources: [a]\npipeline: {model: coco-ssd, cascade: [{model: emotion}]}",
    "sources: [a]\npipeline: {model: coco-ssd, cascade: [{name: 'a b', model: emotion}]}",
    "sources: [a]\npipeline: {model: coco-ssd, models: [{name: e, model: m/x}]}",
    "sources: [a]\npipeline: {model: coco-ssd, models: [{name: e, model: movenet, every: 2}]}",
    TOP + "sinks: [{path: a}]",
    TOP + "sinks: [{type: jsonl}]",
    TOP + "sinks: [{type: jsonl, path: a, crf: 3}]",
    TOP + "sinks: [{type: video, path: a, crf: 52}]",
    TOP + "sinks: [3]",
    TOP + "runtime: {batch_size: 0}",
    TOP + "runtime: {batch_size: '8'}",
    TOP + "runtime: {batch_size: true}",
    TOP + "runtime: {batch_size: x}",
    TOP + "runtime: {batch_timeout_ms: 0}",
    TOP + "runtime:",
    TOP + "observe: {summary: 1}",
    TOP + "observe: {summary: yes}",
    TOP + "observe: {log_level: loud}",
]


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"V_INT": "16", "V_BOOL": "true", "V_URL": "http://h/x", "V_CARD": "coco-ssd"}.items():
        monkeypatch.setenv(name, value)


def data_of(text: str) -> Any:
    return plain_data(parse(text, "a.yaml", []))


@pytest.mark.parametrize("text", GOOD)
def test_good_samples_pass_both(text: str) -> None:
    parse_config(text)
    errors = [error.message for error in VALIDATOR.iter_errors(data_of(text))]
    assert not errors


@pytest.mark.parametrize("text", BAD)
def test_bad_samples_fail_both(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_config(text)
    assert not VALIDATOR.is_valid(data_of(text))


def test_schema_is_valid_and_up_to_date() -> None:
    jsonschema.Draft202012Validator.check_schema(schema.json_schema())
    assert schema.dumps() == schema.dumps()
    assert (data_dir("configs") / "schema.json").read_text(encoding="utf-8") == schema.dumps()
    assert schema.main(["--check"]) == 0


@pytest.mark.parametrize("path", sorted(data_dir("configs").glob("*.yaml")), ids=lambda path: path.name)
def test_ready_configurations_pass(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    parse_config(text)
    assert VALIDATOR.is_valid(data_of(text))
    assert VALIDATOR.is_valid(yaml.safe_load(text))
    assert text.startswith("# yaml-language-server: $schema=schema.json\n")


def test_schema_is_not_shared_between_calls() -> None:
    first = schema.json_schema()
    before = copy.deepcopy(first)
    first["properties"].clear()
    assert schema.json_schema() == before


def all_models() -> list[type[BaseModel]]:
    modules = (models, sources, stages, postprocess, tasks, tracking, cascade, analytics, plugins, sinks)
    found = {value: None for module in modules for value in vars(module).values() if isinstance(value, type)}
    return [value for value in found if issubclass(value, Section) and value is not Section]


# What cannot have a default: without these nothing can be done.
REQUIRED = {
    ("Config", "sources"), ("Config", "pipeline"), ("Stages", "model"), ("Stages", "postprocess"),
    ("BoxesPost", "boxes"), ("BoxesPost", "scores"), ("Http", "token"),
    *((model, "name") for model in ("NamedModel", "SideModel", "CascadeModel")),
    *((model, key) for model in ("SideModel", "CascadeModel") for key in ("model", "postprocess")),
    ("Line", "name"), ("Line", "points"), ("Zone", "name"), ("Circle", "center"), ("Circle", "radius"),
    ("Ground", "image"), ("Ground", "metres"), ("Heatmap", "path"),
    *((plugin, "use") for plugin in ("PluginSection", "PluginPost", "PluginSink", "StagePlugin")),
    *((sink, "path") for sink in ("FileSink", "JsonlSink", "CsvSink", "VideoSink", "TensorsSink")),
}  # fmt: skip


@pytest.mark.parametrize("model", all_models(), ids=lambda model: model.__name__)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    assert model.__doc__
    for name, field in model.model_fields.items():
        assert field.title, f"{model.__name__}.{name} has no title"
        assert field.description, f"{model.__name__}.{name} has no description"
        has_default = field.default is not PydanticUndefined or field.default_factory is not None
        assert has_default == ((model.__name__, name) not in REQUIRED), f"{model.__name__}.{name}"


def test_every_key_reaches_the_schema_with_title_or_section_and_description() -> None:
    built = schema.json_schema()
    for model in all_models():
        section = built if model is models.Config else built["$defs"].get(model.__name__)
        if section is None:
            assert model.__subclasses__(), model
            continue
        assert section["additionalProperties"] is False
        for name in model.model_fields:
            entry = section["properties"][name]
            target = built["$defs"][entry["$ref"].rpartition("/")[2]] if "$ref" in entry else entry
            assert entry.get("description") or target["description"], (model, name)
            assert entry.get("title") or target["title"], (model, name)
