"""Label sets and label files of every format that users bring."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.config.labels import builtin_label_sets, load_labels
from pipeline.errors import ConfigError


def test_coco80_and_coco90_hold_the_same_labels_in_the_same_order() -> None:
    coco80, coco90 = load_labels("coco80"), load_labels("coco90")

    assert list(coco80) == list(range(80))
    assert list(coco80.values()) == list(coco90.values())
    assert (coco80[0], coco80[79]) == ("person", "toothbrush")
    assert (coco90[1], coco90[13], coco90[90]) == ("person", "stop sign", "toothbrush")
    # The ten ids that COCO left out in its 2014 release.
    assert set(range(1, 91)) - set(coco90) == {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
    assert {"coco80", "coco90"} <= set(builtin_label_sets())


def test_values_in_the_configuration_itself() -> None:
    assert load_labels(None) == {}
    assert load_labels(["cat", "dog"]) == {0: "cat", 1: "dog"}
    assert load_labels({7: "cat"}) == {7: "cat"}


LABEL_MAP = """
# a comment
item {
  name: "/m/01g317"
  id: 1
  display_name: "person"
}
item { id: 3 name: 'it\\'s a {brace}'
  keypoints { id: 17 label: "nose" } }
"""


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("plain.txt", "cat\nhot dog\n", {0: "cat", 1: "hot dog"}),
        ("plain.names", "cat\r\n\r\n2 wheeler\r\n\r\n", {0: "cat", 2: "2 wheeler"}),
        ("bom.txt", "\ufeffcat\n", {0: "cat"}),
        ("colon.txt", "1: cat\n7 : hot dog\n", {1: "cat", 7: "hot dog"}),
        ("space.txt", "0 cat\n1  hot dog\n", {0: "cat", 1: "hot dog"}),
        ("list.json", '["cat", "dog"]', {0: "cat", 1: "dog"}),
        ("map.json", '{"1": "cat", "3": "dog"}', {1: "cat", 3: "dog"}),
        ("swapped.json", '{"cat": 0, "dog": 1}', {0: "cat", 1: "dog"}),
        ("digits.json", '{"0": 5, "1": 7}', {0: "5", 1: "7"}),
        ("names.yaml", "nc: 2\nnames: {0: cat, 1: dog}\n", {0: "cat", 1: "dog"}),
        ("list.yml", "- cat\n- dog\n", {0: "cat", 1: "dog"}),
        ("map.pbtxt", LABEL_MAP, {1: "person", 3: "it's a {brace}"}),
    ],
)
def test_files(tmp_path: Path, name: str, text: str, expected: dict[int, str]) -> None:
    (tmp_path / name).write_bytes(text.encode())

    assert load_labels(name, base=tmp_path) == expected
    assert load_labels(str(tmp_path / name)) == expected


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("empty.txt", b"\n\n", "no labels"),
        ("binary.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("twice.txt", b"1: cat\n1: dog\n", "id 1 has two labels"),
        ("broken.json", b"{", "not valid JSON"),
        ("scalar.json", b"3", "expected a list or a mapping"),
        ("nested.json", b'[["cat"]]', "the label of id 0 is not text"),
        ("keys.json", b'{"a": "cat"}', "whole numbers"),
        ("broken.yaml", b"a: [", "not valid YAML"),
        ("bool.yaml", b"- no\n", "put it in quotes"),
        ("open.pbtxt", b"item { id: 1 name: 'a'", "braces"),
        ("noid.pbtxt", b"item { name: 'a' }", "lacks its id"),
        ("junk.pbtxt", b"item {\n id: 1 $ }", "2: labels: not a TensorFlow label map"),
    ],
)
def test_a_bad_file_is_one_clear_error(tmp_path: Path, name: str, content: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(ConfigError) as error:
        load_labels(name, base=tmp_path)

    assert words in str(error.value)
    assert name in str(error.value)
    assert error.value.issues[0].field == "labels"


def test_a_missing_file_names_the_built_in_sets(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no such label file.*coco80"):
        load_labels("coco81", base=tmp_path)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_labels(str(tmp_path))


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "huge.json").write_text(json.dumps(["x" * 100] * 100_000))

    with pytest.raises(ConfigError, match="larger than 10 MB"):
        load_labels("huge.json", base=tmp_path)
