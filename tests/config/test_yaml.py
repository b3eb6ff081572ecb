from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.config import _yaml
from pipeline.config._nodes import find, key_place, plain_data
from pipeline.config.load import load_config, parse_config
from pipeline.errors import ConfigError, ConfigIssue

Told = Callable[..., list[str]]


@pytest.fixture(params=["libyaml", "python"], autouse=True)
def parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything holds with either of PyYAML's parsers."""
    if request.param == "python":
        monkeypatch.setattr(_yaml, "_Parser", yaml.SafeLoader)


def data_of(text: str) -> Any:
    issues: list[ConfigIssue] = []
    node = _yaml.parse(text, "a.yaml", issues)
    assert not issues
    return plain_data(node)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("12", 12), ("-3", -3), ("+3", 3), ("010", 10), ("0x1F", 31), ("0o17", 15), ("1_000", "1_000"),
        ("1.5", 1.5), ("1e-3", 1e-3), (".5", 0.5), ("-.inf", float("-inf")), ("1.", 1.0), ("1.2.3", "1.2.3"),
        ("true", True), ("False", False), ("yes", "yes"), ("no", "no"), ("on", "on"), ("Off", "Off"), ("y", "y"),
        ("null", None), ("~", None), ("", None), ("none", "none"), ("12:30", "12:30"), ("2024-01-01", "2024-01-01"),
        ("'12'", "12"), ('"true"', "true"), ("9" * 5000, "9" * 5000), ("=", "="), ("a: b", {"a": "b"}),
    ],
)  # fmt: skip
def test_scalars_mean_what_yaml_1_2_says(text: str, value: object) -> None:
    indented = f"\n  {text}" if ": " in text else f" {text}"
    assert data_of(f"k:{indented}") == {"k": value}


def test_keys_are_text() -> None:
    assert data_of("{1: a, on: b, 1.0: c, null: d, 'x': e}") == {"1": "a", "on": "b", "1.0": "c", "null": "d", "x": "e"}


def test_anchors_aliases_and_merge_keys() -> None:
    text = "a: &a {x: 1, y: 2}\nb: {<<: *a, y: 3}\nc: {y: 4, <<: [{z: 5}, *a]}\nd: [*a, *a]\n"
    assert data_of(text) == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 1, "y": 3},
        "c": {"z": 5, "x": 1, "y": 4},
        "d": [{"x": 1, "y": 2}, {"x": 1, "y": 2}],
    }
    # Without merge keys, what our reading makes of a file is what PyYAML makes of it.
    text = "a: &a [1, {b: two}]\nc:\n- *a\n- |\n  block\n  text\n- >-\n  folded\n  text\n"
    assert data_of(text) == yaml.safe_load(text)


def test_earlier_of_several_merged_mappings_wins() -> None:
    assert data_of("{<<: [{a: 1}, {a: 2, b: 3}]}") == {"a": 1, "b": 3}


def test_places() -> None:
    root = _yaml.parse("a: 1\nb:\n  - c: 2\n    d:   3\n", "f", [])
    node = find(root, ("b", 0, "d"))
    assert node is not None
    assert (node.place.line, node.place.column) == (4, 10)
    place = key_place(root, ("b", 0, "d"))
    assert (place.line, place.column) == (4, 5)
    missing = key_place(root, ("b", 0, "nothing"))
    assert (missing.line, missing.column) == (3, 5)
    assert key_place(root, ("zzz", 3)).line == 1


@pytest.mark.parametrize(
    ("text", "place", "words"),
    [
        ("a: [1, 2", "", "not valid YAML"),
        ("a:\n\tb: 1", "2:1", "indent with spaces"),
        ("a: b: c", "1:5", "mapping values are not allowed"),
        ("a: 'x", "", "a quote is not closed"),
        ("a: *nothing", "1:4", "there is no &nothing before this *nothing"),
        ("a: &a [*a]", "1:8", "*a stands inside of what it refers to"),
        ("? [a]\n: b", "1:3", "a key must be a single word"),
        ("a: {{b}}", "1:5", "a key must be a single word"),
        ("a: &a b\n*a : c", "2:1", "an alias cannot be a key"),
        ("a: 1\n---\nb: 2", "2:1", "a second document starts here"),
        ("a: @x", "1:4", "not valid YAML"),
        ("a: ${X} b\nc: {d: ${X}}", "2:", "needs quotes"),
        ("", "", "the file is empty"),
        ("# nothing\n", "", "the file is empty"),
        ("---\n...\n", "", "the file is empty"),
        ("a: \x07", "1:4", "the character U+0007 is not allowed"),
        ("ä: 1\nb: \ud800", "2:4", "the character U+D800 is not allowed"),
        ("just text", "1:1", "found 'just text', allowed is a mapping"),
        ("- a", "1:1", "found ['a'], allowed is a mapping with keys of version,"),
        ("%YAML 3.0\n---\na: 1", "", "not valid YAML"),
    ],
)
def test_what_ends_reading(told: Told, text: str, place: str, words: str) -> None:
    (message,) = told(text)
    assert message.startswith(f"a.yaml:{place}" if place else "a.yaml:")
    assert words in message
    assert "\n" not in message


def test_tags_run_nothing_and_are_refused(told: Told, tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    messages = told(f"a: !!python/object/apply:os.mkdir ['{trap}']\nb: !x {{c: 1}}\nd: !!str 3")
    assert (
        "a.yaml:1:4: a: the tag '!!python/object/apply:os.mkdir' is not allowed (remove it; quotes make text)"
        in messages
    )
    assert sum("the tag" in message for message in messages) == 3
    assert not trap.exists()


def test_a_key_twice_is_an_error(told: Told) -> None:
    text = "device: cpu\nsources: [a]\npipeline: {model: m/x, postprocess: {family: raw}}\ndevice: cuda\n"
    assert told(text) == [
        "a.yaml:4:1: device: the key 'device' stands here a second time; the first is in line 1 (remove one of them)"
    ]


def test_merge_of_something_else_is_an_error(told: Told) -> None:
    assert "a.yaml:1:5: << takes a mapping or a list of mappings" in told("<<: 3\na: 1")


def test_nul_in_text_is_an_error(told: Told) -> None:
    text = 'sources: ["a\\0b"]\npipeline: {model: m/x, postprocess: {family: raw}}'
    assert told(text) == ["a.yaml:1:11: sources[0]: text must not hold a NUL character"]


def test_size_encoding_and_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(b"#" * (_yaml.MAX_BYTES + 1))
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        load_config(path)
    with pytest.raises(ConfigError, match="larger than 1 MB"):
        parse_config("#" * (_yaml.MAX_BYTES + 1))
    path.write_bytes(b"a: 1\nb: \xff\n")
    with pytest.raises(ConfigError, match=r"c.yaml:2:4: not UTF-8 text \(byte 0xff\) \(save the file as UTF-8\)"):
        load_config(path)
    good = "sources: [ä.mp4]\npipeline: {model: m/x, postprocess: {family: raw}}"
    path.write_bytes(good.encode("utf-8-sig"))
    assert load_config(path).sources[0].path == "ä.mp4"
    assert parse_config("\ufeff" + good).sources[0].path == "ä.mp4"


def test_alias_bombs_are_refused_quickly(told: Told) -> None:
    lines = ["l0: &l0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]"]
    lines += [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 30)]
    start = time.perf_counter()
    (message,) = told("\n".join(lines))
    assert "more than 50,000 values, with every alias written out" in message
    assert time.perf_counter() - start < 2


def test_deep_nesting_is_refused(told: Told) -> None:
    for text in ("a: " + "[" * 200_000, "a: " + "{a: " * 100_000, "- " * 100_000):
        (message,) = told(text)
        assert "nested more than 40 levels deep" in message
    (message,) = told("\n".join(["a0: &a0 [x]", *(f"a{i}: &a{i} [*a{i - 1}]" for i in range(1, 60))]))
    assert "nested more than 40 levels deep" in message
