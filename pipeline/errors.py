"""Every error that a user can meet, and the exit code that each ends the program with.

An error is one sentence that names the file, field or stream, and, where we know it, a `remedy`: what to do.
Anything else that escapes is a bug and keeps its traceback.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


class ExitCode(enum.IntEnum):
    """What the process tells its caller."""

    DONE = 0
    SOME_SOURCES_FAILED = 1
    BAD_CONFIG = 2
    NOTHING_COULD_RUN = 3
    NOT_VERIFIED = 4
    INTERRUPTED = 130


class VramlineError(Exception):
    """The base of all errors that are reported as one clear message, without a traceback."""

    exit_code = ExitCode.NOTHING_COULD_RUN

    def __init__(self, message: str, *, remedy: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


@dataclass(frozen=True, slots=True)
class ConfigIssue:
    """One thing that is wrong in a configuration.

    Attributes:
        message: What is wrong, what was found and what is allowed.
        field: Path of the field, such as `sinks[0].path`; empty for the file as a whole.
        file: The file it stands in, or `--set KEY` for an override.
        line: 1-based; None where there is no place in a file.
        column: 1-based; None where there is no place in a file.
        hint: What to do, such as "did you mean 'size'?".
    """

    message: str
    field: str = ""
    file: str | None = None
    line: int | None = None
    column: int | None = None
    hint: str | None = None

    def __str__(self) -> str:
        place = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        text = ": ".join(part for part in (place, self.field, self.message) if part)
        return f"{text} ({self.hint})" if self.hint else text


class ConfigError(VramlineError):
    """A configuration that cannot be used; carries all of its issues at once."""

    exit_code = ExitCode.BAD_CONFIG

    def __init__(self, issues: list[ConfigIssue] | tuple[ConfigIssue, ...]) -> None:
        self.issues = tuple(issues)
        super().__init__("\n".join(str(issue) for issue in self.issues))


class SourceErrorCode(str, enum.Enum):
    """Why a source failed; stable names for logs, summaries and programs."""

    NOT_FOUND = "not_found"
    UNAUTHORIZED = "unauthorized"
    TLS = "tls"
    NOT_READABLE = "not_readable"
    NOT_A_VIDEO = "not_a_video"
    NO_VIDEO_STREAM = "no_video_stream"
    UNSUPPORTED = "unsupported"
    DAMAGED = "damaged"
    NO_FRAMES = "no_frames"
    NETWORK = "network"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    ENDED = "ended"
    OUT_OF_MEMORY = "out_of_memory"

    @property
    def is_permanent(self) -> bool:
        """Whether trying again is no use until somebody changes something, here or at the server."""
        return self in _PERMANENT


_PERMANENT = frozenset(
    {
        SourceErrorCode.NOT_FOUND,
        SourceErrorCode.UNAUTHORIZED,
        SourceErrorCode.TLS,
        SourceErrorCode.NO_VIDEO_STREAM,
        SourceErrorCode.UNSUPPORTED,
    }
)


class SourceError(VramlineError):
    """A source that could not be opened, or broke. `message` must not hold credentials."""

    def __init__(self, message: str, *, source_id: str, code: SourceErrorCode, remedy: str | None = None) -> None:
        super().__init__(message, remedy=remedy)
        self.source_id = source_id
        self.code = code


class UnknownStreamError(VramlineError):
    """There is no source of this id."""

    def __init__(self, source_id: str) -> None:
        super().__init__(f"there is no stream {source_id!r}", remedy="`vramline streams list` shows those there are")


class StreamStateError(VramlineError):
    """What was asked of a stream does not fit the state that it is in, or the sort of source that it is."""


class ModelError(VramlineError):
    """A model that cannot be loaded, or does not fit what the configuration says of it."""


class AssetError(VramlineError):
    """A model or clip of a card that could not be fetched, verified or converted."""


class SinkError(VramlineError):
    """An output that cannot be written."""


class DeviceError(VramlineError):
    """The device that was asked for is not there, or not usable."""


class DeviceMemoryError(DeviceError):
    """The device's memory does not suffice."""


class DeviceLostError(DeviceError):
    """The device failed in the middle of a run: nothing in this process can use it any more."""
