"""Opens a video: container and stream, with limits on what it may make FFmpeg read, and errors in words."""

from __future__ import annotations

import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import av.error
from av.container import InputContainer
from av.stream import Disposition

from pipeline.decode._live import PROTOCOLS, certificate_fault, live_options, scheme_of, with_credentials
from pipeline.decode._reasons import Reason, certificate_reason, reason_of, timeout_reason
from pipeline.errors import SourceError, SourceErrorCode

if TYPE_CHECKING:
    from av.video.stream import VideoStream

    from pipeline.sources.resolve import VideoSpec

log = logging.getLogger(__name__)

# What playlists and other files that name files may lead to: nothing outside the machine from a file, nothing on the
# machine from a URL.
_FILE_PROTOCOLS = "file,crypto,data"
_URL_PROTOCOLS = "http,https,httpproxy,tls,tcp,crypto,data"
_RTSP = ("rtsp", "rtsps")


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
    started_s = time.monotonic()
    try:
        container: InputContainer = av.open(
            # Without the prefix a file named "a:b.mp4" would be taken for a URL.
            with_credentials(spec.location, spec.settings) if spec.is_url else f"file:{spec.location}",
            # Not `options`, which PyAV 16 writes past the end of an array with where a container has no header.
            container_options=_options(spec),
            # FFmpeg asks it in every wait, whatever trickles in meanwhile: once for opening, once for the parameters,
            # and then for every packet.
            timeout=spec.settings.timeout_s if spec.is_url else None,
            **_METADATA_ERRORS,
        )
    except (av.error.FFmpegError, OSError, ValueError) as e:
        reason = _opening_reason(spec, e, time.monotonic() - started_s)
        raise failure(spec, reason) from None  # FFmpeg's message may name the URL with its password
    # FFmpeg opens a stream of which not one packet came.
    if spec.settings.is_live and time.monotonic() - started_s >= spec.settings.timeout_s:
        container.close()
        raise failure(spec, timeout_reason(is_camera=_is_camera(spec)))
    return container


def reason_for(spec: VideoSpec, error: Exception, *, is_open: bool = False) -> Reason:
    """The reason behind an exception that this video raised while it opened or (`is_open`) later."""
    return reason_of(
        error, is_url=spec.is_url, is_open=is_open, is_live=spec.settings.is_live, is_camera=_is_camera(spec)
    )


def _is_camera(spec: VideoSpec) -> bool:
    return spec.is_url and scheme_of(spec.location) in _RTSP


def _options(spec: VideoSpec) -> dict[str, str]:
    settings, scheme = spec.settings, scheme_of(spec.location)
    protocols = PROTOCOLS.get(scheme, _URL_PROTOCOLS) if spec.is_url else _FILE_PROTOCOLS
    defaults = live_options(scheme, settings) if settings.is_live else {}
    return {**defaults, **settings.options, "protocol_whitelist": protocols}


def _opening_reason(spec: VideoSpec, error: Exception, waited_s: float) -> Reason:
    settings, is_camera = spec.settings, _is_camera(spec)
    reason = reason_for(spec, error)
    if settings.is_live and waited_s >= settings.timeout_s:
        # FFmpeg's RTSP says "invalid data" when its wait for an answer is interrupted.
        return timeout_reason(is_camera=is_camera)
    if is_camera and reason.code is SourceErrorCode.NETWORK and scheme_of(spec.location) == "rtsps":
        fault = certificate_fault(spec.location, settings, settings.timeout_s - waited_s)
        return certificate_reason(fault) if fault else reason
    if not spec.is_url and reason.code is SourceErrorCode.NOT_A_VIDEO:
        return _look_inside(Path(spec.location), reason)
    return reason


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
        raise failure(spec, reason_for(spec, e)) from e


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
