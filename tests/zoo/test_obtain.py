"""Obtaining by name: once from the package, then from the cache."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipeline import zoo
from pipeline.config import cards
from pipeline.errors import AssetError
from pipeline.zoo import apart, obtain
from pipeline.zoo.__main__ import main
from pipeline.zoo.tfjs import convert_tfjs

GRAPH = {
    "modelTopology": {
        "node": [
            {
                "op": "Placeholder",
                "name": "x",
                "attr": {"dtype": {"type": 1}, "shape": {"shape": {"dim": [{"size": 3}]}}},
            },
            {"op": "Neg", "name": "y", "input": ["x"], "attr": {"T": {"type": 1}}},
        ]
    },
    "weightsManifest": [],
}
MODEL = json.dumps(GRAPH).encode()
SHA256 = hashlib.sha256(MODEL).hexdigest()


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of cards, an empty cache, and an npm that serves one package and counts its calls."""
    source = {"registry": "npm", "package": "pack", "version": "1.0.0", "file": "m.json", "sha256": {"m.json": SHA256}}
    card = {"card": 1, "name": "neg", "title": "Neg", "licence": "MIT", "source": source}
    model = {**card, "task": "pose", "convert": {"format": "tfjs"}, "preprocess": {}, "postprocess": {"family": "raw"}}
    (tmp_path / "models" / "media").mkdir(parents=True)
    (tmp_path / "models" / "neg.yaml").write_text(yaml.safe_dump(model))
    (tmp_path / "models" / "media" / "neg.yaml").write_text(yaml.safe_dump(card))
    with tarfile.open(tmp_path / "pack-1.0.0.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/m.json")
        info.size = len(MODEL)
        archive.addfile(info, io.BytesIO(MODEL))
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f"#!/bin/sh\necho call >> {tmp_path}/calls\ncp {tmp_path}/pack-1.0.0.tgz .\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VRAMLINE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cards, "data_dir", lambda name: tmp_path / name)
    return tmp_path


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time that a process needs to import TensorFlow."""

    def convert(model_json: Path, out: Path, how: cards.Convert, folder: Path, on_tick: Callable[[], None]) -> None:
        on_tick()
        convert_tfjs(model_json, out, how)

    monkeypatch.setattr(obtain, "convert_apart", convert)


def calls(world: Path) -> int:
    return len((world / "calls").read_text().splitlines()) if (world / "calls").exists() else 0


@pytest.mark.usefixtures("in_process")
def test_a_model_is_fetched_once_and_then_needs_nothing(world: Path) -> None:
    told: list[str] = []
    assert not zoo.is_cached("neg")

    folder = zoo.obtain_model("neg", lambda what, done, total: told.append(what))

    assert (folder / "saved_model.pb").is_file()
    assert folder.parent == world / "cache" / "models"
    assert folder.name.startswith("neg-")
    assert list(dict.fromkeys(told)) == ["fetching pack 1.0.0", "unpacking pack 1.0.0", "converting neg"]
    assert zoo.is_cached("neg")
    shutil.rmtree(world / "bin")
    assert zoo.obtain_model("neg") == folder
    assert calls(world) == 1
    assert [p.name for p in folder.parent.iterdir() if p.is_dir()] == [folder.name]


def test_two_machines_agree_on_the_model(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are stamped with the model's hash."""
    first = zoo.obtain_model("neg")
    monkeypatch.setenv("VRAMLINE_CACHE", str(world / "another cache"))
    second = zoo.obtain_model("neg")

    assert first != second
    files = [{p.relative_to(f): p.read_bytes() for p in f.rglob("*") if p.is_file()} for f in (first, second)]
    assert Path("saved_model.pb") in files[0]
    assert files[0] == files[1]


def serve(world: Path, model: bytes) -> None:
    """Puts another file into the package, and its hash into the cards."""
    with tarfile.open(world / "pack-1.0.0.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/m.json")
        info.size = len(model)
        archive.addfile(info, io.BytesIO(model))
    path = world / "models" / "neg.yaml"
    path.write_text(path.read_text().replace(SHA256, hashlib.sha256(model).hexdigest()))


def test_what_the_converter_says_comes_through(world: Path) -> None:
    serve(world, MODEL.replace(b"Neg", b"WriteFile"))

    with pytest.raises(AssetError, match=r"m\.json: node 'y' \(WriteFile\) keeps state"):
        zoo.obtain_model("neg")
    assert not zoo.is_cached("neg")


def test_a_converter_that_breaks_or_hangs(world: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(code: str, timeout_s: float = 60) -> None:
        python = world / "bin" / "python"
        python.write_text(f"#!/bin/sh\n{code}\n")
        python.chmod(0o755)
        monkeypatch.setattr("sys.executable", str(python))
        how = cards.Convert(format="tfjs")
        apart.convert_apart(Path("m.json"), world / "out", how, world, lambda: None, timeout_s=timeout_s)

    with pytest.raises(AssetError, match=r"m\.json: the conversion failed: no TensorFlow here"):
        convert("echo warning; echo no TensorFlow here >&2; exit 1")
    with pytest.raises(AssetError, match="the conversion failed: exit code -11"):
        convert("kill -SEGV $$")
    with pytest.raises(AssetError, match="not done after"):
        convert("sleep 100", timeout_s=0.3)


def test_the_child_reports_errors_in_a_file(world: Path) -> None:
    error = world / "error.json"

    assert main(str(world / "gone.json"), str(world / "out"), '{"format": "tfjs"}', str(error)) == 1
    assert "gone.json: the model cannot be read" in json.loads(error.read_text())["message"]

    (world / "m.json").write_bytes(MODEL)
    assert main(str(world / "m.json"), str(world / "out"), '{"format": "tfjs"}', str(error)) == 0
    assert (world / "out" / "saved_model.pb").exists()


@pytest.mark.usefixtures("in_process")
def test_a_changed_card_is_converted_anew(world: Path) -> None:
    first = zoo.obtain_model("neg")
    path = world / "models" / "neg.yaml"
    card = yaml.safe_load(path.read_text())

    card["title"] = "another title"
    path.write_text(yaml.safe_dump(card))
    assert zoo.obtain_model("neg") == first

    card["convert"]["outputs"] = {"negative": "y"}
    path.write_text(yaml.safe_dump(card))
    assert not zoo.is_cached("neg")
    assert zoo.obtain_model("neg") != first
    assert calls(world) == 2


def test_a_clip_is_fetched_once(world: Path) -> None:
    first, second = zoo.obtain_media("neg"), zoo.obtain_media("neg")

    assert first == second
    assert first.name == "m.json"
    assert first.read_bytes() == MODEL
    assert calls(world) == 1


def test_a_wrong_hash_caches_nothing(world: Path) -> None:
    for path in (world / "models" / "neg.yaml", world / "models" / "media" / "neg.yaml"):
        path.write_text(path.read_text().replace(SHA256, "ab" * 32))

    for get in (zoo.obtain_model, zoo.obtain_media):
        with pytest.raises(AssetError) as error:
            get("neg")
        assert SHA256 in str(error.value)
        assert "ab" * 32 in str(error.value)

    assert not zoo.is_cached("neg")
    assert [p for p in (world / "cache").rglob("*") if p.is_dir() and p.parent != world / "cache"] == []


def test_a_name_without_a_card(world: Path) -> None:
    for get in (zoo.obtain_model, zoo.is_cached):
        with pytest.raises(cards.CardError, match="did you mean 'neg'"):
            get("negg")
