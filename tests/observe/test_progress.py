from __future__ import annotations

import io
import logging
import sys
import threading
import time

import pytest

from pipeline.config.models import Observe
from pipeline.observe.live import LiveDisplay
from pipeline.observe.progress import LogDisplay, NoDisplay, display, progress_line, source_counts
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.stages import StreamInfo


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Lines(logging.Handler):
    """Collects messages; `arrived` is set when there are `wanted` of them."""

    def __init__(self, wanted: int) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.wanted = wanted
        self.arrived = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        if len(self.messages) >= self.wanted:
            self.arrived.set()


@pytest.fixture
def lines() -> Lines:
    handler = Lines(wanted=3)
    log = logging.getLogger("pipeline.observe.progress")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


@pytest.fixture
def running(info: StreamInfo) -> RunStatus:
    sources = {
        "a": SourceStatus("a", "a.mp4", SourceState.RUNNING, info, results=60),
        "b": SourceStatus("b", "b.mp4"),
        "c": SourceStatus("c", "c.mp4", SourceState.FAILED),
    }
    return RunStatus(sources=sources, started_s=0.0, first_frame_s=time.monotonic() - 2)


@pytest.mark.parametrize(
    ("progress", "terminal", "kind"),
    [
        ("never", True, NoDisplay),
        ("never", False, NoDisplay),
        ("auto", True, LiveDisplay),
        ("auto", False, LogDisplay),
        ("always", True, LiveDisplay),
        ("always", False, LiveDisplay),
    ],
)
def test_the_display_that_configuration_and_terminal_call_for(
    monkeypatch: pytest.MonkeyPatch, progress: str, terminal: bool, kind: type
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(sys, "stderr", Terminal() if terminal else io.StringIO())
    assert type(display(Observe(progress=progress))) is kind  # type: ignore[arg-type]


def test_a_terminal_that_cannot_move_its_cursor_gets_log_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert type(display(Observe())) is LogDisplay


def test_a_line_says_how_far_how_fast_and_how_long(running: RunStatus) -> None:
    line = progress_line(running, per_s=30.0)
    assert line == "60 of 600 frames (10 %), 30.0 frames/s, 18 s left; 1 waiting, 1 running, 1 failed"


def test_one_source_needs_no_list_of_states(running: RunStatus) -> None:
    del running.sources["b"], running.sources["c"]
    assert progress_line(running, 30.0) == "60 of 300 frames (20 %), 30.0 frames/s, 8.0 s left"


def test_a_live_stream_has_no_end(running: RunStatus) -> None:
    running.sources = {"a": running.sources["a"]}
    running.sources["a"].info = None
    assert progress_line(running, 30.0) == "60 frames, 30.0 frames/s"


def test_states_can_be_left_out(running: RunStatus) -> None:
    assert source_counts(running, without=SourceState.RUNNING) == "1 waiting, 1 failed"


def test_log_lines_come_from_time_to_time_until_the_end(running: RunStatus, lines: Lines) -> None:
    with LogDisplay(interval_s=0.01) as progress:
        progress.watch(running)
        assert lines.arrived.wait(10)
    assert lines.messages[0].startswith("60 of 600 frames (10 %), ")
    assert not any(thread.name == "vramline-progress" for thread in threading.enumerate())


def test_nothing_is_logged_before_the_first_frame(running: RunStatus, lines: Lines) -> None:
    running.first_frame_s = None
    with LogDisplay(interval_s=0.001) as progress:
        progress.watch(running)
        assert not lines.arrived.wait(0.1)
    assert lines.messages == []


def test_a_download_is_logged_at_its_start_and_end(lines: Lines) -> None:
    with LogDisplay(interval_s=60) as progress:
        for done in range(0, 26_000_000, 1_000_000):
            progress.fetching("fetching coco-ssd", done, 25_000_000)
        progress.fetching("converting coco-ssd", 0, None)
        progress.fetching("converting coco-ssd", 0, None)
    assert lines.messages == [
        "fetching coco-ssd ...",
        "fetching coco-ssd: done, 25.0 MB",
        "converting coco-ssd ...",
    ]


@pytest.mark.parametrize("quiet", [NoDisplay(), LogDisplay(60)])
def test_stopping_is_acknowledged_from_a_signal_handler(
    capfd: pytest.CaptureFixture[str], quiet: NoDisplay | LogDisplay
) -> None:
    with quiet as progress:
        progress.watch(RunStatus())
        progress.fetching("x", 0, None)
        progress.stopping()
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
