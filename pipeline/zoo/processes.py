"""Child processes that never outlive their purpose."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

_POLL_S = 0.1
_GRACE_S = 2.0
_LOG_BYTES = 64_000


def run_child(
    command: Sequence[str],
    folder: Path,
    on_tick: Callable[[], None],
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
) -> None:
    """Runs a command in `folder`; ends it with all of its children if it takes too long or we are interrupted.

    Args:
        command: Program and arguments.
        folder: Its working directory; what it prints goes to a file there.
        on_tick: Called several times a second.
        timeout_s: How long it may take.
        environment: Variables on top of our own.

    Raises:
        subprocess.CalledProcessError: it failed; `output` holds the end of what it printed.
        subprocess.TimeoutExpired: it was not done in time.
    """
    log = folder / ".child.log"
    deadline = time.monotonic() + timeout_s
    with log.open("wb") as out:
        child = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        while child.poll() is None:
            on_tick()
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired(command, timeout_s)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(_POLL_S)
    finally:
        _end(child)
    if child.returncode:
        text = log.read_bytes()[-_LOG_BYTES:].decode("utf-8", "replace")
        raise subprocess.CalledProcessError(child.returncode, command, text)


def _end(child: subprocess.Popen[bytes]) -> None:
    """Asks the child and its children to end, and makes them if they do not."""
    if child.poll() is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        child.wait(_GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()
