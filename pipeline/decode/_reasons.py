"""Why FFmpeg refused a video, in words. Its own messages name numbers, and URLs with passwords."""

from __future__ import annotations

from dataclasses import dataclass

import av.error

from pipeline.errors import SourceErrorCode


@dataclass(frozen=True, slots=True)
class Reason:
    """What is wrong, to stand behind the video's name and a colon, and what to do about it."""

    code: SourceErrorCode
    text: str
    remedy: str | None = None


_CHECK_CREDENTIALS = "check username and password"
_RAISE_TIMEOUT = "raise timeout_s if it is slow"

# The first that fits. PyAV's classes of system errors are Python's own as well. {peer} is a server or a camera, {protocol}
# HTTP or RTSP.
_URL_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (
        av.error.HTTPUnauthorizedError,
        Reason(
            SourceErrorCode.UNAUTHORIZED, "the {peer} asks for a user and password ({protocol} 401)", _CHECK_CREDENTIALS
        ),
    ),
    (
        av.error.HTTPForbiddenError,
        Reason(SourceErrorCode.UNAUTHORIZED, "the {peer} refuses access ({protocol} 403)", _CHECK_CREDENTIALS),
    ),
    (
        av.error.HTTPNotFoundError,
        Reason(SourceErrorCode.NOT_FOUND, "the {peer} has no such {thing} ({protocol} 404)", "check the URL's path"),
    ),
    (av.error.HTTPClientError, Reason(SourceErrorCode.NETWORK, "the {peer} refuses the request ({protocol} 4xx)")),
    (av.error.HTTPError, Reason(SourceErrorCode.NETWORK, "the {peer} failed ({protocol} 5xx)", "try again later")),
    (av.error.ExitError, Reason(SourceErrorCode.TIMEOUT, "the {peer} is silent", _RAISE_TIMEOUT)),
    (TimeoutError, Reason(SourceErrorCode.TIMEOUT, "the {peer} does not answer", _RAISE_TIMEOUT)),
    (
        ConnectionRefusedError,
        Reason(SourceErrorCode.NETWORK, "the {peer} refuses the connection", "check the URL's host and port"),
    ),
    (ConnectionError, Reason(SourceErrorCode.NETWORK, "the connection broke")),
    (
        av.error.ProtocolNotFoundError,
        Reason(SourceErrorCode.UNSUPPORTED, "it refers to a protocol that is not allowed or not supported"),
    ),
)
_NO_VIDEO_REASON = Reason(
    SourceErrorCode.NOT_A_VIDEO,
    "not a video (no demuxer recognises it, or its playlist names nothing that may be read)",
)
# Of a live stream. FFmpeg has these for a camera that closes the connection or is still starting up as well as for
# something that is none, and only the one passes: so they are worth another attempt.
_LIVE_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (
        av.error.HTTPOtherClientError,  # 454 (session lost) and 461 (transport) are not told apart
        Reason(
            SourceErrorCode.NETWORK,
            "the {peer} refuses the request ({protocol} 4xx)",
            "check the URL, and try the other transport",
        ),
    ),
    (
        av.error.InvalidDataError,
        Reason(
            SourceErrorCode.NETWORK,
            "the {peer} breaks off or does not send a video",
            "check that the URL is that of its video",
        ),
    ),
    (EOFError, Reason(SourceErrorCode.NETWORK, "the {peer} ends the stream before a picture came")),
    (PermissionError, Reason(SourceErrorCode.NETWORK, "the {peer} does not start the stream", "try again later")),
    (FileNotFoundError, Reason(SourceErrorCode.NETWORK, "the {peer} cannot be reached", "check the URL")),
)
_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (av.error.DemuxerNotFoundError, Reason(SourceErrorCode.UNSUPPORTED, "its container format is not supported")),
    (av.error.DecoderNotFoundError, Reason(SourceErrorCode.UNSUPPORTED, "there is no decoder for its codec")),
    (NotImplementedError, Reason(SourceErrorCode.UNSUPPORTED, "it uses a feature that FFmpeg does not support")),
    (av.error.PatchWelcomeError, Reason(SourceErrorCode.UNSUPPORTED, "it uses a feature that FFmpeg does not support")),
    (FileNotFoundError, Reason(SourceErrorCode.NOT_FOUND, "there is no such file")),
    (
        PermissionError,
        Reason(SourceErrorCode.NOT_READABLE, "no permission to read it", "check its owner and permissions"),
    ),
    (MemoryError, Reason(SourceErrorCode.DAMAGED, "it asks for more memory than there is")),
    (av.error.InvalidDataError, Reason(SourceErrorCode.NOT_A_VIDEO, "not a video (no demuxer recognises it)")),
    (EOFError, Reason(SourceErrorCode.NOT_A_VIDEO, "it ends before a video begins")),
)


def reason_of(
    error: Exception, *, is_url: bool, is_open: bool = False, is_live: bool = False, is_camera: bool = False
) -> Reason:
    """The reason behind an exception of PyAV or the operating system.

    Args:
        error: The exception.
        is_url: Whether the video comes over the network.
        is_open: Whether the video was open already.
        is_live: Whether it is a live stream.
        is_camera: Whether the peer speaks RTSP: a camera, to most people.
    """
    if not is_url:
        for kind, reason in _REASONS:
            if isinstance(error, kind):
                return reason
        words = getattr(error, "strerror", None) or type(error).__name__
        return Reason(SourceErrorCode.NOT_READABLE, f"cannot be read: {words[:1].lower()}{words[1:]}")
    return _in_words(_url_reason(error, is_open=is_open, is_live=is_live), is_camera=is_camera)


def timeout_reason(*, is_camera: bool) -> Reason:
    """Opening took longer than it may."""
    text = "the {peer} is silent, or does not send a picture in time"
    return _in_words(Reason(SourceErrorCode.TIMEOUT, text, _RAISE_TIMEOUT), is_camera=is_camera)


def certificate_reason(fault: str) -> Reason:
    """The server's certificate is not accepted."""
    return Reason(
        SourceErrorCode.TLS,
        f"its certificate is not trusted: {fault}",
        "name the certificate to trust with options: {ca_file: ...}, or set tls_verify: '0'",
    )


def _url_reason(error: Exception, *, is_open: bool, is_live: bool) -> Reason:
    own = _LIVE_REASONS if is_live else ((av.error.InvalidDataError, _NO_VIDEO_REASON),)
    for kind, reason in own + _URL_REASONS + _REASONS:
        if isinstance(error, kind):
            return reason
    if is_open:
        return Reason(SourceErrorCode.NETWORK, "the connection broke")
    return Reason(SourceErrorCode.NETWORK, "the {peer} cannot be reached, or does not send a video", "check the URL")


def _in_words(reason: Reason, *, is_camera: bool) -> Reason:
    words = ("camera", "RTSP", "stream") if is_camera else ("server", "HTTP", "file")
    text = reason.text
    for name, word in zip(("{peer}", "{protocol}", "{thing}"), words, strict=True):
        text = text.replace(name, word)
    return Reason(reason.code, text, reason.remedy)
