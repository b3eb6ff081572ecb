"""Whatever the bytes, text, options or data: a configuration or a ConfigError, soon, and never anything else."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.config._yaml import parse
from pipeline.config.load import base_schema, config_from_mapping, load_config, parse_config
from pipeline.config.models import Config
from pipeline.errors import ConfigError

TASKS = ("Pose", "Segment", "Embedding")
QUICK = settings(max_examples=150, deadline=2000, suppress_health_check=[HealthCheck.too_slow])


def words_of_the_schema() -> list[str]:
    sections = [base_schema(), *base_schema()["$defs"].values()]
    keys = {key for section in sections for key in section["properties"]}
    values = {str(value) for section in sections for p in section["properties"].values() for value in p.get("enum", [])}
    return sorted(keys | values)


WORDS = words_of_the_schema()
PUNCTUATION = [
    "\n",
    "\n  ",
    "\n- ",
    ": ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    ", ",
    "#",
    "&a ",
    "*a",
    "<<: ",
    "!!x ",
    "|\n",
    "'",
    '"',
]
TOKENS = [*WORDS, *PUNCTUATION, "${X}", "${", "$${", "---\n", "%", "@", "\t", "1", "-.5", "1e9", "true", "~", "\0", "ä"]
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.sampled_from(WORDS), st.text(max_size=8),
    st.sampled_from(["a.mp4", "m/x", "{source}", "${X}", "https://u:p@h/", 0, 1, 0.5, [], {}]),
)  # fmt: skip
KEYS = st.one_of(st.sampled_from(WORDS), st.text(max_size=5))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(KEYS, inner, max_size=5)),
    max_leaves=8,
)


def outcome(text: str, overrides: list[str] | None = None) -> Config | ConfigError:
    try:
        return parse_config(text, overrides=overrides or ())
    except ConfigError as e:
        assert e.issues
        assert all(issue.message and str(issue) for issue in e.issues)
        return e


@QUICK
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_bytes(data)
        try:
            load_config(path)
        except ConfigError as e:
            assert str(path) in str(e)


@QUICK
@given(st.text(max_size=200))
def test_any_text(text: str) -> None:
    outcome(text)


@QUICK
@given(st.lists(st.sampled_from(TOKENS), max_size=40))
def test_any_tokens(tokens: list[str]) -> None:
    outcome("".join(tokens))


@QUICK
@given(
    st.text(max_size=30),
    st.text(max_size=30),
    st.lists(st.sampled_from([*TOKENS, ".", "[0]", "[1]", "="]), max_size=10),
)
def test_any_override(key: str, value: str, tokens: list[str]) -> None:
    text = "sources: [a]\npipeline: {model: m/x, postprocess: {family: raw}}"
    outcome(text, [f"{key}={value}", "".join(tokens), f"sources[0].{value}={key}"])


@QUICK
@given(st.fixed_dictionaries({}, optional=dict.fromkeys(Config.model_fields, TREES)))
def test_any_values_under_known_keys(data: dict[str, Any]) -> None:
    text = yaml.safe_dump(data, allow_unicode=False)
    result = outcome(text)
    try:
        assert isinstance(result, Config) == isinstance(config_from_mapping(data), Config)
    except ConfigError as e:
        # Floats and odd characters may be written in a form that reads as something else; the verdict is the same.
        assert isinstance(result, ConfigError), e


@settings(QUICK, max_examples=60)
@given(st.data())
def test_any_values_under_the_keys_of_any_section(data: st.DataObject) -> None:
    def section(name: str) -> dict[str, Any]:
        keys = base_schema()["$defs"][name]["properties"]
        return data.draw(st.fixed_dictionaries({}, optional=dict.fromkeys(keys, TREES)))

    post = data.draw(
        st.sampled_from(
            [f"{kind}Post" for kind in ("OdApi", "Ssd", "Yolo", "Gfl", "Boxes", "Classify", "Raw", "Plugin", *TASKS)]
        )
    )
    sink = data.draw(st.sampled_from(["JsonlSink", "CsvSink", "VideoSink", "TensorsSink", "PluginSink"]))
    family = {"family": base_schema()["$defs"][post]["properties"]["family"]["const"]}
    kind = {"type": base_schema()["$defs"][sink]["properties"]["type"]["const"]}
    config = {
        "sources": [section("Source"), {"path": "a", "roi": section("Roi"), "colour": section("ColourOverride")}],
        "pipeline": {
            "model": section("ModelSource"),
            "decode": section("Decode"),
            "preprocess": section("Preprocess"),
            "postprocess": {**section(post), **family},
        },
        "sinks": [{**section(sink), **kind}],
        "runtime": section("Runtime"),
        "observe": section("Observe"),
    }
    try:
        config_from_mapping(config)
    except ConfigError as e:
        # No name of a union's member or of a kind got into the path of a field.
        fields = [issue.field for issue in e.issues]
        assert not any("tuple[" in field or "constrained" in field or "list[" in field for field in fields), fields
        tag = f".{family['family']}."
        if family["family"] in base_schema()["$defs"][post]["properties"]:  # `boxes` is a key of its own family
            tag += tag[1:]
        assert not any(tag in field or f"].{kind['type']}" in field for field in fields), fields


@QUICK
@given(st.lists(st.sampled_from([t for t in TOKENS if "&" not in t and "!" not in t and "<<" not in t]), max_size=30))
def test_what_is_read_has_a_place_in_the_text(tokens: list[str]) -> None:
    text = "".join(tokens)
    lines = text.split("\n")
    try:
        root = parse(text, "a", [])
    except ConfigError as e:
        assert all((issue.line or 1) <= len(lines) + 1 for issue in e.issues)
        return
    assert root.place.line is not None
    assert 1 <= root.place.line <= len(lines)
