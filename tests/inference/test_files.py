from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import ModelError
from pipeline.inference.files import content_hash, find_format


def write(path: Path, content: bytes = b"") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(path: Path, name: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(name, "{}")
    return path


def test_content_counts_and_not_the_name(tmp_path: Path) -> None:
    assert find_format(write(tmp_path / "a/saved_model.pb").parent) == "saved_model"
    assert find_format(write(tmp_path / "model.bin", b"\x89HDF\r\n\x1a\n....")) == "keras_h5"
    assert find_format(zipped(tmp_path / "model.zip", "config.json")) == "keras"
    assert find_format(write(tmp_path / "graph", b"\x0a\x05\x0a\x01x\x12\x00")) == "graphdef"


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("clip.mp4", b"\x00\x00\x00\x20ftypisom", ["not a model", "SavedModel folder"]),
        ("net.onnx", b"\x08\x07\x12\x07pytorch", ["not a model"]),
        ("net.pb", b"node {\n}", ["not a model"]),
        ("net.tflite", b"\x1c\x00\x00\x00TFL3....", ["TensorFlow Lite"]),
        ("net.keras", b"\x0a\x05hello", ["no ZIP archive"]),
        ("cut.keras", b"PK\x03\x04\x14\x00", ["damaged or incomplete"]),
        ("empty.pb", b"", ["empty"]),
        ("saved_model.pb", b"\x08\x01\x12\x00", ["part of a SavedModel", "name its folder"]),
        ("other.pb", b"\x08\x01\x12\x00", ["part of a SavedModel"]),
        ("folder/model.json", b"{}", ["TensorFlow.js"]),
        ("folder/ckpt-1.index", b"", ["checkpoint"]),
        ("folder/readme.txt", b"", ["no saved_model.pb"]),
        ("folder/saved_model.pbtxt", b"", ["text form"]),
        ("folder/inner/saved_model.pb", b"", ["it holds one", "did you mean", "inner"]),
    ],
)
def test_says_what_it_is_instead(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    path = write(tmp_path / name, content)
    with pytest.raises(ModelError) as caught:
        find_format(tmp_path / "folder" if name.startswith("folder") else path)
    for word in words:
        assert word in str(caught.value)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="not of Keras"):
        find_format(zipped(tmp_path / "net.pt", "data.pkl"))


def test_finds_the_nearest_name(tmp_path: Path) -> None:
    write(tmp_path / "detector.keras")
    for wrong in ("detecter.keras", "detector.h5"):
        with pytest.raises(ModelError, match=r"did you mean .*detector\.keras"):
            find_format(tmp_path / wrong)
    with pytest.raises(ModelError, match="there is no folder"):
        find_format(tmp_path / "none" / "model")
    with pytest.raises(ModelError, match="expected is"):
        find_format(tmp_path / "zzz")


def test_the_hash_of_a_file_is_its_sha256(tmp_path: Path) -> None:
    content = bytes(range(256)) * 9000
    assert content_hash(write(tmp_path / "m.pb", content)) == hashlib.sha256(content).hexdigest()[:12]


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path) -> None:
    def folder(name: str, files: dict[str, bytes]) -> str:
        for file, content in files.items():
            write(tmp_path / name / file, content)
        return content_hash(tmp_path / name)

    same = {"saved_model.pb": b"graph", "variables/index": b"1"}
    hashes = [
        folder("a", same),
        folder("c", {**same, "variables/index": b"2"}),
        folder("d", {"saved_model.pb": b"graph", "variables/indez": b"1"}),
        folder("e", {"saved_model.pb": b"graph1", "variables/index": b""}),
        folder("f", {**same, "assets/x": b""}),
    ]
    assert len(set(hashes)) == len(hashes)
    assert folder("b", dict(reversed(same.items()))) == hashes[0]
