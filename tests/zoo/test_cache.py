"""The cache's entries appear complete or not at all, whoever makes them at the same time."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipeline.errors import AssetError
from pipeline.zoo import cache
from pipeline.zoo.cache import cache_dir, cached


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("VRAMLINE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_where_it_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.setenv("VRAMLINE_CACHE", "~/mine")
    assert cache_dir() == Path("/home/somebody/mine")
    monkeypatch.delenv("VRAMLINE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/xdg")
    assert cache_dir() == Path("/var/xdg/vramline")
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == Path("/home/somebody/.cache/vramline")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == Path("/home/somebody/.cache/vramline")


def test_built_once_and_found_again(own_cache: Path) -> None:
    calls = []

    def build(out: Path) -> None:
        calls.append(out)
        (out / "file").write_text("made")

    first, second = cached("a/key", build), cached("a/key", build)

    assert first == second == own_cache / "a" / "key"
    assert (first / "file").read_text() == "made"
    assert len(calls) == 1


@pytest.mark.parametrize("error", [AssetError("no"), KeyboardInterrupt()])
def test_a_failed_build_leaves_nothing(own_cache: Path, error: BaseException) -> None:
    def fail(out: Path) -> None:
        (out / "half").write_text("half")
        raise error

    with pytest.raises(type(error)):
        cached("key", fail)

    assert [p for p in own_cache.iterdir() if p.is_dir()] == []
    assert (cached("key", lambda out: (out / "whole").touch()) / "whole").exists()


BUILDER = """
import os, sys, time
from pathlib import Path
from pipeline.zoo.cache import cached
def build(out):
    with open(sys.argv[1], "a") as log:
        log.write("built\\n")
    (out / "a").write_text("x" * 1000)
    time.sleep(0.5)
    (out / "b").write_text("y" * 1000)
entry = cached("key", build)
assert (entry / "a").read_text() == "x" * 1000 and (entry / "b").read_text() == "y" * 1000
"""


def test_processes_at_the_same_time_build_once(tmp_path: Path) -> None:
    log = tmp_path / "log"
    children = [subprocess.Popen([sys.executable, "-c", BUILDER, str(log)]) for _ in range(4)]

    assert [child.wait(60) for child in children] == [0] * 4
    assert log.read_text() == "built\n"


def test_without_locks_the_first_wins(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)

    def build(out: Path) -> None:
        (out / "mine").touch()
        winner = own_cache / "key"
        winner.mkdir()
        (winner / "theirs").touch()

    assert [p.name for p in cached("key", build).iterdir()] == ["theirs"]
    assert [p.name for p in own_cache.iterdir() if p.is_dir()] == ["key"]


def test_waiting_is_told(own_cache: Path) -> None:
    own_cache.mkdir()
    told = []
    with (own_cache / ".key.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)

        def tell(what: str, done: int, total: int | None) -> None:
            told.append(what)
            fcntl.flock(other, fcntl.LOCK_UN)

        cached("key", lambda out: None, tell)

    assert told == ["waiting for another process that fetches the same"]


def test_what_a_killed_process_left_is_swept_after_a_day(own_cache: Path) -> None:
    old, fresh = own_cache / ".key.old", own_cache / ".key.fresh"
    for folder in (old, fresh):
        folder.mkdir(parents=True)
        (folder / "half").touch()
    yesterday = time.time() - cache.ABANDONED_S - 60
    os.utime(old, (yesterday, yesterday))

    cached("key", lambda out: None)

    assert not old.exists()
    assert fresh.exists()


def test_a_cache_that_cannot_be_written(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_cache.write_text("a file, not a folder")

    with pytest.raises(AssetError, match=r"cannot be written.*set VRAMLINE_CACHE"):
        cached("models/key", lambda out: None)


def test_a_full_disk_is_an_error_and_leaves_nothing(own_cache: Path) -> None:
    def full(out: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(AssetError, match="No space left on device"):
        cached("key", full)
    assert [p for p in own_cache.iterdir() if p.is_dir()] == []
