"""Files come out of archives only if they are what the card says, and only to where they belong."""

from __future__ import annotations

import contextlib
import hashlib
import io
import random
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.errors import AssetError
from pipeline.zoo import archives

DATA = {"models/a.json": b"{}", "models/deep/b.bin": bytes(range(256)) * 9000, "unwanted.txt": b"no"}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def tarball(path: Path, members: dict[str, bytes], top: str = "package/") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(top + name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def wheel(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


WANTED = {name: sha256(DATA[name]) for name in ("models/a.json", "models/deep/b.bin")}


@pytest.mark.parametrize("kind", ["tar", "odd top folder", "dotted", "wheel"])
def test_only_the_wanted_files_are_written(tmp_path: Path, kind: str) -> None:
    tops = {"tar": "package/", "odd top folder": "tfjs coco/", "dotted": "./package/"}
    archive = wheel(tmp_path / "p.whl", DATA) if kind == "wheel" else tarball(tmp_path / "p.tgz", DATA, tops[kind])
    (tmp_path / "out").mkdir()

    archives.extract(archive, WANTED, tmp_path / "out")

    found = {str(p.relative_to(tmp_path / "out")): p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {name: DATA[name] for name in WANTED}


@pytest.mark.parametrize("make", [tarball, wheel])
def test_another_hash_names_both(tmp_path: Path, make: object) -> None:
    path = tmp_path / ("p.whl" if make is wheel else "p.tgz")
    archive = make(path, {"a": b"evil"})  # type: ignore[operator]

    with pytest.raises(AssetError) as error:
        archives.extract(archive, {"a": sha256(b"good")}, tmp_path)

    assert sha256(b"evil") in str(error.value)
    assert sha256(b"good") in str(error.value)


@pytest.mark.parametrize("make", [tarball, wheel])
def test_a_missing_file_is_named(tmp_path: Path, make: object) -> None:
    archive = make(tmp_path / ("p.whl" if make is wheel else "p.tgz"), DATA)  # type: ignore[operator]

    with pytest.raises(AssetError, match=r"does not hold models/other.json"):
        archives.extract(archive, {"models/other.json": "0" * 64}, tmp_path)


@pytest.mark.parametrize("name", ["../escaped", "package/../../escaped", "/tmp/escaped-by-vramline-test"])
def test_names_that_climb_write_nothing_outside(tmp_path: Path, name: str) -> None:
    out = tmp_path / "a" / "out"
    out.mkdir(parents=True)

    with contextlib.suppress(AssetError):
        archives.extract(tarball(tmp_path / "p.tgz", {name: b"evil"}, top=""), {"escaped": sha256(b"evil")}, out)

    assert [p for p in tmp_path.rglob("*escaped*") if p.parent != out] == []
    assert not Path("/tmp/escaped-by-vramline-test").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    with tarfile.open(tmp_path / "p.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/a")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)

    with pytest.raises(AssetError, match="not a regular file"):
        archives.extract(tmp_path / "p.tgz", {"a": "0" * 64}, tmp_path)
    assert not (tmp_path / "a").exists()


def test_what_is_too_large_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = {"a": bytes(3_000_000)}
    monkeypatch.setattr(archives, "MAX_FILE_BYTES", 1_500_000)
    for number, archive in enumerate((tarball(tmp_path / "p.tgz", bomb), wheel(tmp_path / "p.whl", bomb))):
        out = tmp_path / str(number)
        out.mkdir()
        with pytest.raises(AssetError, match="larger than"):
            archives.extract(archive, {"a": sha256(bomb["a"])}, out)
        assert (out / "a").stat().st_size <= 1_500_000

    monkeypatch.setattr(archives, "MAX_ARCHIVE_BYTES", 1_000_000)
    with pytest.raises(AssetError, match="unpacks to more than"):
        archives.extract(tmp_path / "p.tgz", {"b": "0" * 64}, tmp_path)


@pytest.mark.parametrize("name", ["p.tgz", "p.whl"])
@pytest.mark.parametrize("cut", [0, 10, 400])
def test_a_broken_archive_is_one_clear_error(tmp_path: Path, name: str, cut: int) -> None:
    path = tmp_path / name
    whole = wheel(path, DATA) if name.endswith("whl") else tarball(path, DATA)
    path.write_bytes(whole.read_bytes()[:cut])

    with pytest.raises(AssetError, match=f"{name}"):
        archives.extract(path, WANTED, tmp_path)


@pytest.mark.parametrize("name", ["p.tgz", "p.whl"])
def test_damage_in_the_middle_is_one_clear_error(tmp_path: Path, name: str) -> None:
    members = {"models/a.json": random.Random(0).randbytes(50_000)}
    path = wheel(tmp_path / name, members) if name.endswith("whl") else tarball(tmp_path / name, members)
    whole = path.read_bytes()
    for position in range(60, len(whole) - 200, 5000):
        path.write_bytes(whole[:position] + bytes(10) + whole[position + 10 :])
        out = tmp_path / str(position)
        out.mkdir()
        with pytest.raises(AssetError):
            archives.extract(path, {"models/a.json": "0" * 64}, out)
