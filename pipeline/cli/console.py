"""How the commands speak: results on stdout, everything else on stderr, colour only on a terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

import typer

from pipeline.errors import ConfigError, VramlineError
from pipeline.observe.text import printable
from pipeline.redact import redact


def print_out(text: str = "") -> None:
    """A result, on stdout."""
    typer.echo(text)


def print_error(error: VramlineError) -> None:
    """One `error:` line for each thing that is wrong, and what to do about it, on stderr."""
    red = styler(sys.stderr, fg="red", bold=True)
    messages = [str(issue) for issue in error.issues] if isinstance(error, ConfigError) else [error.message]
    for message in messages:
        typer.echo(f"{red('error:')} {_safe(message)}", err=True)
    if error.remedy:
        typer.echo(f"       {_safe(error.remedy)}", err=True)


def print_note(text: str) -> None:
    """Something worth knowing, on stderr."""
    typer.echo(_safe(text), err=True)


def styler(stream: TextIO, **style: object) -> Callable[[str], str]:
    """A function that styles text for this stream: not at all unless it is a terminal, or if `NO_COLOR` is set."""
    if not stream.isatty() or os.environ.get("NO_COLOR"):
        return str
    return lambda text: typer.style(text, **style)  # type: ignore[arg-type]


def _safe(text: str) -> str:
    return printable(redact(text))
