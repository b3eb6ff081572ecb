"""The cache: folders that appear complete or not at all, however many processes make them at the same time."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.cache import CACHE_VARIABLE, cache_dir
from pipeline.errors import AssetError
from pipeline.zoo.progress import Progress, silent

ABANDONED_S = 24 * 3600.0
_POLL_S = 0.1


def cached(key: str, build: Callable[[Path], None], progress: Progress = silent) -> Path:
    """The folder `key` of the cache; `build` fills it, in a temporary place, if it is not there yet.

    Only one process builds; others wait for it. Where the file system has no locks several build, and the first wins.

    Raises:
        AssetError: the cache cannot be written. Errors of `build` pass through; then nothing is cached.
    """
    entry = cache_dir() / key
    if entry.is_dir():
        return entry
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        with _locked(entry.with_name(f".{entry.name}.lock"), progress):
            if not entry.is_dir():
                _build(entry, build)
    except OSError as e:
        raise AssetError(
            f"the cache {cache_dir()} cannot be written: {e.strerror or e}",
            remedy=f"set {CACHE_VARIABLE} to a folder that you can write and that has space",
        ) from e
    return entry


def _build(entry: Path, build: Callable[[Path], None]) -> None:
    prefix = f".{entry.name}."
    _sweep(entry.parent, prefix)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=entry.parent, ignore_cleanup_errors=True) as work:
        made = Path(work) / "entry"
        made.mkdir()
        build(made)
        try:
            made.rename(entry)
        except OSError:
            if not entry.is_dir():  # Else another process was quicker; what it made is as good.
                raise


def _sweep(folder: Path, prefix: str) -> None:
    """Removes what a killed process left behind, once nobody can be working on it any more."""
    for path in folder.glob(f"{prefix}*"):
        with contextlib.suppress(OSError):
            if path.is_dir() and time.time() - path.stat().st_mtime > ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    """Holds an advisory lock; the system frees it when its process ends, in whatever way."""
    with path.open("a") as file:
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                progress("waiting for another process that fetches the same", 0, None)
                time.sleep(_POLL_S)
            except OSError:  # A file system without locks.
                break
        yield
