"""What a person sees while a run goes on: a live display on a terminal, a log line from time to time elsewhere."""

from __future__ import annotations

import logging
import os
import sys
import threading
from types import TracebackType
from typing import Protocol

from pipeline.config.models import Observe
from pipeline.observe.estimate import Speed, expected_total, remaining_s
from pipeline.observe.status import RunStatus, SourceState
from pipeline.observe.text import count, duration, rate, shown, size

STOPPING = "Stopping; outputs keep what is done. Ctrl-C again ends at once."

log = logging.getLogger(__name__)


class Display(Protocol):
    """Shows a run from `__enter__` to `__exit__`, from a thread of its own."""

    def fetching(self, what: str, done: int, total: int | None) -> None:
        """A model or clip is on its way: `done` of `total` bytes (None: unknown). Called from any thread."""

    def watch(self, status: RunStatus) -> None:
        """Shows this run from now on."""

    def stopping(self) -> None:
        """The user has asked for the end. Called from a signal handler."""

    def __enter__(self) -> Display: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def display(observe: Observe) -> Display:
    """The display that the configuration and the terminal call for."""
    if observe.progress == "never":
        return NoDisplay()
    if observe.progress == "always" or sys.stderr.isatty():
        from rich.console import Console

        from pipeline.observe.live import LiveDisplay

        console = Console(stderr=True, force_terminal=True if observe.progress == "always" else None)
        if not console.is_dumb_terminal:
            return LiveDisplay(console)
    return LogDisplay(observe.progress_interval_s)


class NoDisplay:
    """Shows nothing."""

    def fetching(self, what: str, done: int, total: int | None) -> None:
        """Shows nothing."""

    def watch(self, status: RunStatus) -> None:
        """Shows nothing."""

    def stopping(self) -> None:
        """Says so."""
        _say_stopping()

    def __enter__(self) -> NoDisplay:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass


class LogDisplay:
    """A log line every `interval_s` seconds, and one at the start and end of each download."""

    def __init__(self, interval_s: float) -> None:
        self._interval_s = interval_s
        self._status: RunStatus | None = None
        self._speed = Speed()
        self._announced: set[str] = set()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._write_lines, name="vramline-progress", daemon=True)

    def fetching(self, what: str, done: int, total: int | None) -> None:
        """Logs the start and the end."""
        self._announce(f"{shown(what)} ...")
        if total is not None and done >= total:
            self._announce(f"{shown(what)}: done, {size(total)}")

    def watch(self, status: RunStatus) -> None:
        """Writes lines of this run from now on."""
        self._status = status

    def stopping(self) -> None:
        """Says so."""
        _say_stopping()

    def __enter__(self) -> LogDisplay:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()

    def _announce(self, line: str) -> None:
        if line not in self._announced:
            self._announced.add(line)
            log.info("%s", line)

    def _write_lines(self) -> None:
        while not self._ended.wait(self._interval_s):
            status = self._status
            if status is not None and status.first_frame_s is not None:
                log.info("%s", progress_line(status, self._speed.update(status)))


def _say_stopping() -> None:
    # Not through Python's streams: the signal may have interrupted a write to them.
    os.write(2, f"{STOPPING}\n".encode())


def progress_line(status: RunStatus, per_s: float) -> str:
    """`412 of 795 frames (52 %), 64.7 frames/s, 6 s left; 1 running, 2 waiting`."""
    total = expected_total(list(status.sources.values()))
    if total:
        done = f"{status.results:,} of {total:,} frames ({100 * status.results // total} %)"
    else:
        done = count(status.results, "frame")
    left = remaining_s(status, per_s)
    parts = [done, rate(per_s), *([f"{duration(left)} left"] if left else [])]
    states = source_counts(status) if len(status.sources) > 1 else ""
    return "; ".join([", ".join(parts), *([states] if states else [])])


def source_counts(status: RunStatus, without: SourceState | None = None) -> str:
    """`1 running, 2 waiting, 3 done`: how many sources stand where, in the order of a source's life."""
    states = [source.state for source in list(status.sources.values())]
    return ", ".join(
        f"{states.count(state):,} {state.value}" for state in SourceState if state is not without and state in states
    )
