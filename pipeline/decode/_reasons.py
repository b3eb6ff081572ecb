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


# The first that fits. PyAV's classes of system errors are Python's own as well.
_URL_REASONS: tuple[tuple[type[Exception], Reason], ...] = (
    (
        av.error.HTTPUnauthorizedError,
        Reason(SourceErrorCode.NETWORK, "the server asks for a user and password (HTTP 401)", "check them in the URL"),
    ),
    (av.error.HTTPForbiddenError, Reason(SourceErrorCode.NETWORK, "the server refuses access (HTTP 403)")),
    (av.error.HTTPNotFoundError, Reason(SourceErrorCode.NOT_FOUND, "the server has no such file (HTTP 404)")),
    (av.error.HTTPClientError, Reason(SourceErrorCode.NETWORK, "the server refuses the request (HTTP 4xx)")),
    (av.error.HTTPError, Reason(SourceErrorCode.NETWORK, "the server failed (HTTP 5xx)", "try again later")),
    (av.error.ExitError, Reason(SourceErrorCode.TIMEOUT, "the server is silent", "raise timeout_s if it is slow")),
    (TimeoutError, Reason(SourceErrorCode.TIMEOUT, "the server does not answer", "raise timeout_s if it is slow")),
    (ConnectionRefusedError, Reason(SourceErrorCode.NETWORK, "the server refuses the connection")),
    (ConnectionError, Reason(SourceErrorCode.NETWORK, "the connection broke")),
    (
        av.error.ProtocolNotFoundError,
        Reason(SourceErrorCode.UNSUPPORTED, "it refers to a protocol that is not allowed or not supported"),
    ),
    (
        av.error.InvalidDataError,
        Reason(
            SourceErrorCode.NOT_A_VIDEO,
            "not a video (no demuxer recognises it, or its playlist names nothing that may be read)",
        ),
    ),
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


def reason_of(error: Exception, *, is_url: bool, is_open: bool = False) -> Reason:
    """The reason behind an exception of PyAV or the operating system, while a video opens or (`is_open`) later."""
    for kind, reason in (_URL_REASONS + _REASONS) if is_url else _REASONS:
        if isinstance(error, kind):
            return reason
    if is_url and is_open:
        return Reason(SourceErrorCode.NETWORK, "the connection broke")
    if is_url:
        return Reason(
            SourceErrorCode.NETWORK, "the server cannot be reached, or does not send a video", "check the URL"
        )
    words = getattr(error, "strerror", None) or type(error).__name__
    return Reason(SourceErrorCode.NOT_READABLE, f"cannot be read: {words[:1].lower()}{words[1:]}")
