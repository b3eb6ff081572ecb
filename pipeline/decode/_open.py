"""Opens a video: container and stream, with limits on what it may make FFmpeg read, and errors in words."""

from __future__ import annotations

import logging
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from pipeline.decode._reasons import Reason, reason_of
from pipeline.errors import SourceError, SourceErrorCode

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from pipeline.sources.resolve import VideoSpec

log = logging.getLogger(__name__)

# What playlists and other files that name files may lead to: nothing outside the machine from a file, nothing on the
# machine from a URL.
_FILE_PROTOCOLS = "file,crypto,data"
_URL_PROTOCOLS = "http,https,httpproxy,tls,tcp,crypto,data"


def failure(spec: VideoSpec, reason: Reason) -> SourceError:
    """The error of this source."""
    return SourceError(f"{spec.shown}: {reason.text}", source_id=spec.source_id, code=reason.code, remedy=reason.remedy)


# PyAV 19 has no such option any more and does what it asked for; before, odd bytes in a title would be an error.
_METADATA_ERRORS: dict[str, Any] = {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}


def open_container(spec: VideoSpec) -> InputContainer:
    """The open container.

    Raises:
        SourceError: it is not there, cannot be read or is no video; or the server cannot be reached or is silent.
    """
    if not spec.is_url:
        _check_file(spec)
    protocols = _URL_PROTOCOLS if spec.is_url else _FILE_PROTOCOLS
    try:
        container: InputContainer = av.open(
            # Without the prefix a file named "a:b.mp4" would be taken for a URL.
            spec.location if spec.is_url else f"file:{spec.location}",
            # Not `options`, which PyAV 16 writes past the end of an array with where a container has no header.
            container_options={**spec.settings.options, "protocol_whitelist": protocols},
            timeout=spec.settings.timeout_s if spec.is_url else None,
            **_METADATA_ERRORS,
        )
        return container
    except (av.error.FFmpegError, OSError, ValueError) as e:
        reason = reason_of(e, is_url=spec.is_url)
        if not spec.is_url and reason.code is SourceErrorCode.NOT_A_VIDEO:
            reason = _look_inside(Path(spec.location), reason)
        raise failure(spec, reason) from None  # FFmpeg's message may name the URL with its password


def choose_stream(spec: VideoSpec, container: InputContainer) -> VideoStream:
    """The video stream that FFmpeg rates best; cover pictures do not count.

    Raises:
        SourceError: there is none, or nothing can decode it.
    """
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        kinds = sorted({s.type for s in container.streams})
        held = f"it holds only {' and '.join(kinds)}" if kinds else "it holds no streams"
        if container.streams.video:
            held = "it holds only a cover picture"
        raise failure(spec, Reason(SourceErrorCode.NO_VIDEO_STREAM, f"no video in it: {held}"))
    best = container.streams.best("video")
    stream = next((s for s in streams if best is not None and s.index == best.index), streams[0])
    if len(streams) > 1:
        others = ", ".join(str(s.index) for s in streams if s is not stream)
        log.debug("%s: has %d video streams; takes %d, not %s", spec.shown, len(streams), stream.index, others)
    if stream.codec_context is None:
        raise failure(spec, Reason(SourceErrorCode.UNSUPPORTED, "there is no decoder for its codec"))
    return stream


def _check_file(spec: VideoSpec) -> None:
    path = Path(spec.location)
    try:
        status = path.stat()
        if stat.S_ISDIR(status.st_mode):
            raise failure(spec, Reason(SourceErrorCode.NOT_A_VIDEO, "is a directory, not a video"))
        if not stat.S_ISREG(status.st_mode):
            raise failure(spec, Reason(SourceErrorCode.NOT_READABLE, "is not a regular file"))
        if status.st_size == 0:
            raise failure(spec, Reason(SourceErrorCode.NOT_A_VIDEO, "not a video: the file is empty"))
        os.close(os.open(path, os.O_RDONLY))
    except (OSError, ValueError) as e:
        raise failure(spec, reason_of(e, is_url=False)) from e


def _look_inside(path: Path, fallback: Reason) -> Reason:
    """Why a file that FFmpeg recognises as nothing is none, where its first bytes tell."""
    with path.open("rb") as file:
        head = file.read(4096)
    if head[4:8] == b"ftyp":
        text = "its index (the moov box) is missing: the recording or download was cut off"
        return Reason(SourceErrorCode.DAMAGED, text)
    if all(byte >= 0x20 or byte in b"\t\n\r\f" for byte in head):
        return Reason(SourceErrorCode.NOT_A_VIDEO, "not a video: it is a text file")
    return fallback
