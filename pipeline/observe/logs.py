"""The command's log: plain lines on stderr with UTC times, and never a password in them."""

from __future__ import annotations

import logging
import os
import sys
import time
import traceback

from pipeline.observe.text import printable
from pipeline.redact import redact

_formatter = logging.Formatter()


class RedactingFilter(logging.Filter):
    """Takes credentials out of a record: its text, the arguments in it, its exception and its stack."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Rewrites the record and lets it pass."""
        record.msg = redact(_message(record))
        record.args = ()
        if record.exc_info:
            # With its text in place the formatter never looks at the exception itself.
            record.exc_text = redact(_formatter.formatException(record.exc_info))
            record.exc_info = None
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        if record.stack_info:
            record.stack_info = redact(record.stack_info)
        return True


def _message(record: logging.LogRecord) -> str:
    try:
        return record.getMessage()
    except (TypeError, ValueError):  # arguments that do not fit: no reason to lose the record, or the run
        return f"{record.msg} {record.args}"


class PlainFormatter(logging.Formatter):
    """`2026-01-31T12:00:00Z info    message`; at level debug with the logger's name."""

    def __init__(self, *, names: bool) -> None:
        name = "%(name)s: " if names else ""
        super().__init__(f"%(asctime)s %(severity)-7s {name}%(message)s", datefmt="%Y-%m-%dT%H:%M:%SZ")
        self.converter = time.gmtime

    def format(self, record: logging.LogRecord) -> str:
        """The record as text that cannot drive the terminal."""
        record.severity = record.levelname.lower()
        return printable(super().format(record))


class _StderrHandler(logging.Handler):
    """Writes to what `sys.stderr` is at the moment: the live display puts itself there while it shows."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            sys.stderr.write(self.format(record) + "\n")
            sys.stderr.flush()
        except Exception:
            self.handleError(record)


def set_up(level: str) -> None:
    """Sends this process's log to stderr; for commands only, a library leaves logging to its host.

    Args:
        level: Least severity of our own records: `debug`, `info`, `warning` or `error`. Other packages' records are
            shown from `warning` on, or from `error` on if that is the level.
    """
    ours = logging.getLevelName(level.upper())
    handler = _StderrHandler()
    handler.addFilter(RedactingFilter())
    handler.setFormatter(PlainFormatter(names=ours <= logging.DEBUG))
    root = logging.getLogger()
    for old in [h for h in root.handlers if isinstance(h, _StderrHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(max(ours, logging.WARNING))
    logging.getLogger("pipeline").setLevel(ours)
    logging.captureWarnings(True)
    # TensorFlow's C++ side writes to stderr by itself; it reads this when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "0" if ours <= logging.DEBUG else "3")


def redacted_traceback(error: BaseException) -> str:
    """The traceback of an unexpected error without credentials, for stderr."""
    return redact("".join(traceback.format_exception(error)))
