"""From the configuration's sources to single videos: directories, globs, URLs and media cards."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pipeline.config.sources import LIVE_SCHEMES, Source
from pipeline.errors import SourceError, SourceErrorCode, VramlineError
from pipeline.redact import redact

# What a directory is searched for. A file or glob that is named outright may have any ending.
# fmt: off
VIDEO_SUFFIXES = frozenset({
    ".3g2", ".3gp", ".264", ".265", ".asf", ".avi", ".av1", ".divx", ".dv", ".f4v", ".flv",
    ".gif", ".h264", ".h265", ".hevc", ".ivf", ".m2t", ".m2ts", ".m4v", ".mjpeg", ".mjpg", ".mkv",
    ".mov", ".mp4", ".mpeg", ".mpg", ".mts", ".mxf", ".nut", ".obu", ".ogm", ".ogv", ".ts",
    ".vob", ".webm", ".wmv", ".y4m",
})
# fmt: on
# FFmpeg knows many more, among them ones that read local files or join them (file, concat, subfile, pipe).
URL_SCHEMES = ("http", "https", *LIVE_SCHEMES)
_RTSP = ("rtsp", "rtsps")


@dataclass(frozen=True)
class VideoSpec:
    """One video to decode.

    Attributes:
        source_id: Its name in records and messages, unique in a run, without credentials.
        location: Path or URL as FFmpeg needs it; a URL may hold credentials, so it is never shown.
        shown: The same for messages, without credentials.
        is_url: Whether `location` is a URL.
        settings: The source that it comes from.
    """

    source_id: str
    location: str = field(repr=False)
    shown: str
    is_url: bool
    settings: Source = field(repr=False)


def resolve(
    sources: Sequence[Source], fetch_media: Callable[[str], Path], taken: Collection[str] = ()
) -> list[VideoSpec | SourceError]:
    """The videos of all sources, in the order of the configuration; a directory's and a glob's in natural order.

    Args:
        sources: As configured.
        fetch_media: Media card's name -> the clip on disk; raises `VramlineError` where it cannot be had.
        taken: Ids that other sources have already.

    Returns:
        A spec for every video and, in its place, an error for every source that names none (nothing there, nothing
        matches, a scheme that is not allowed). Ids are unique over both.
    """
    ids = _UniqueIds(taken)
    found: list[VideoSpec | SourceError] = []
    for source in sources:
        try:
            found += [
                VideoSpec(ids.take(wanted), location, redact(location), source.url is not None, source)
                for wanted, location in list(_videos(source, fetch_media))
            ]
        except SourceError as e:
            found.append(SourceError(e.message, source_id=ids.take(e.source_id), code=e.code, remedy=e.remedy))
    return found


class _UniqueIds:
    def __init__(self, taken: Collection[str]) -> None:
        self._taken = set(taken)

    def take(self, wanted: str) -> str:
        name, number = wanted, 1
        while name in self._taken:
            number += 1
            name = f"{wanted}-{number}"
        self._taken.add(name)
        return name


def _videos(source: Source, fetch_media: Callable[[str], Path]) -> Iterator[tuple[str, str]]:
    """(wanted id, location) of each video of a source."""
    if source.url is not None:
        yield source.id or _url_id(source.url), _checked_url(source.url, source.id)
    elif source.media is not None:
        try:
            path = fetch_media(source.media)
        except VramlineError as e:
            raise _error(source.id or source.media, e.message, SourceErrorCode.NOT_FOUND, e.remedy) from e
        yield source.id or source.media, str(path)
    else:
        path = Path(source.path or "").expanduser()
        try:
            yield from _local_videos(source, path)
        except OSError as e:
            message = f"{path}: cannot be read: {(e.strerror or str(e)).lower()}"
            raise _error(source.id or path.stem or str(path), message, SourceErrorCode.NOT_READABLE) from e


def _local_videos(source: Source, path: Path) -> Iterator[tuple[str, str]]:
    if path.is_dir():
        root, found = path, _in_directory(source, path)
    elif path.exists() or not glob.has_magic(str(path)):
        if not path.exists():
            raise _error(source.id or path.stem or str(path), f"{path}: there is no such file or directory")
        yield source.id or path.stem, str(path)
        return
    else:
        root = _fixed_part(path)
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]  # noqa: PTH207  (Path.glob takes hidden files)
        found = [file for file in found if not file.is_dir()]
    if not found:
        what = "no file matches" if glob.has_magic(str(path)) and not path.is_dir() else "there are no videos in it"
        remedy = None if source.recursive else "its sub-directories are not searched: recursive is false"
        raise _error(source.id or path.name or str(path), f"{path}: {what}", remedy=remedy)
    for file in sorted(found, key=_natural_key):
        name = file.relative_to(root).with_suffix("").as_posix()
        yield f"{source.id}/{name}" if source.id else name, str(file)


def _in_directory(source: Source, path: Path) -> list[Path]:
    with os.scandir(path):  # os.walk would take a directory that cannot be read for an empty one
        found = []
    for folder, folders, files in os.walk(path):
        folders[:] = [name for name in folders if source.recursive and not name.startswith(".")]
        found += [Path(folder, name) for name in files if not name.startswith(".")]
    return [file for file in found if file.suffix.lower() in VIDEO_SUFFIXES]


def _fixed_part(pattern: Path) -> Path:
    """The part of a glob before the first wildcard: what ids are relative to."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def _natural_key(path: Path) -> list[list[tuple[int, int, str]]]:
    """Sorts clip2 before clip10, folder by folder."""
    return [
        [(0, int(piece), "") if piece.isdecimal() else (1, 0, piece) for piece in re.split(r"(\d+)", part.casefold())]
        for part in path.parts
    ]


def _checked_url(url: str, source_id: str | None) -> str:
    scheme = url.partition("://")[0].lower()
    if scheme not in URL_SCHEMES:
        message = f"{redact(url)}: {scheme}:// is not supported"
        possible = f"possible are {', '.join(URL_SCHEMES[:-1])} and {URL_SCHEMES[-1]}"
        remedy = "give a local file as path" if scheme == "file" else possible
        raise _error(source_id or _url_id(url), message, SourceErrorCode.UNSUPPORTED, remedy)
    return url


def _url_id(url: str) -> str:
    """What a URL is known by; never credentials.

    The stem of the last part of its path, else the host. The paths of cameras are alike, so theirs is host/stem; and a
    stream that comes to an address without a path is named after address and port.
    """
    try:
        parts = urlsplit(redact(url))
        name = Path(unquote(parts.path).rstrip("/").rpartition("/")[2].partition(";")[0]).stem
        host = parts.hostname or ""
        if parts.scheme in _RTSP:
            return "/".join(part for part in (host, name) if part) or "url"
        if parts.scheme in LIVE_SCHEMES:
            return f"{host or parts.scheme}-{parts.port}" if parts.port else host or "url"
        return name or host or "url"
    except ValueError:
        return "url"


def _error(
    source_id: str, message: str, code: SourceErrorCode = SourceErrorCode.NOT_FOUND, remedy: str | None = None
) -> SourceError:
    return SourceError(redact(message), source_id=redact(source_id), code=code, remedy=remedy)
