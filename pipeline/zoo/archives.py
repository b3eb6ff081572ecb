"""Takes single files out of package archives, trusting neither their names nor their sizes."""

from __future__ import annotations

import gzip
import hashlib
import lzma
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO

from pipeline.errors import AssetError

MAX_FILE_BYTES = 2_000_000_000
MAX_ARCHIVE_BYTES = 8_000_000_000
_CHUNK_BYTES = 1 << 20
# All that the standard library raises at broken archives. RuntimeError: an encrypted one.
_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, gzip.BadGzipFile, zlib.error, lzma.LZMAError),
    *(EOFError, ValueError, NotImplementedError, RuntimeError),
)


def extract(archive: Path, wanted: Mapping[str, str], into: Path) -> None:
    """Writes the wanted files below `into` and checks what they hold.

    Args:
        archive: A wheel (`.whl`) or a gzipped tar file whose paths lie in one top folder, as npm packs them.
        wanted: Path inside the package -> sha256 in hex. The names come from here, never from the archive.
        into: An existing folder.

    Raises:
        AssetError: a file is missing, is no regular file, is too large or has another sha256, or the archive is broken.
    """
    missing = dict(wanted)
    try:
        for name, file in _members(archive, missing):
            expected = missing.pop(name)
            target = into / name
            target.parent.mkdir(parents=True, exist_ok=True)
            actual = _copy(file, target, f"{name} in {archive.name}")
            if actual != expected:
                raise AssetError(
                    f"{name} in {archive.name} is not the file that its card describes: "
                    f"its sha256 is {actual}, the card says {expected}",
                    remedy="do not use it; the package was replaced or damaged on its way",
                )
    except _DAMAGE as e:
        raise AssetError(f"{archive.name}: the package's archive is damaged: {e}") from e
    if missing:
        raise AssetError(f"{archive.name} does not hold {', '.join(missing)}")


def _members(archive: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    return _zip_members(archive, wanted) if archive.suffix == ".whl" else _tar_members(archive, wanted)


def _zip_members(archive: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(archive) as package:
        for name in list(wanted):
            try:
                info = package.getinfo(name)
            except KeyError:
                continue
            with package.open(info) as file:
                yield name, file


def _tar_members(archive: Path, wanted: Mapping[str, str]) -> Iterator[tuple[str, IO[bytes]]]:
    total = 0
    with tarfile.open(archive, "r:gz") as package:
        for member in package:
            total += member.size
            if total > MAX_ARCHIVE_BYTES:
                raise AssetError(f"{archive.name} unpacks to more than {MAX_ARCHIVE_BYTES // 10**9} GB; not going on")
            _, _, name = member.name.removeprefix("./").partition("/")
            if name not in wanted:
                continue
            file = package.extractfile(member) if member.isreg() else None
            if file is None:
                raise AssetError(f"{name} in {archive.name} is a link or a device, not a regular file")
            yield name, file
            if not wanted:
                return


def _copy(source: IO[bytes], target: Path, what: str) -> str:
    digest = hashlib.sha256()
    size = 0
    with target.open("xb") as out:
        for chunk in _chunks(source):
            size += len(chunk)
            if size > MAX_FILE_BYTES:
                raise AssetError(f"{what} is larger than {MAX_FILE_BYTES // 10**9} GB; not going on")
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _chunks(source: IO[bytes]) -> Iterable[bytes]:
    return iter(lambda: source.read(_CHUNK_BYTES), b"")
