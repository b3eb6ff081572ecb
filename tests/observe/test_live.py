from __future__ import annotations

import io
import sys
import time

import pytest
from rich.console import Console

from pipeline.observe.live import SOURCES_SHOWN, LiveDisplay
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.stages import DecodeStats, StreamInfo


def console(width: int = 80) -> Console:
    return Console(file=io.StringIO(), force_terminal=True, width=width, height=30, color_system=None, _environ={})


def drawn(status: RunStatus | None, width: int = 80, fetches: tuple[tuple[str, int, int | None], ...] = ()) -> str:
    """What the display shows, as plain text."""
    display = LiveDisplay(console())
    if status is not None:
        display.watch(status)
    for fetch in fetches:
        display.fetching(*fetch)
    plain = Console(file=io.StringIO(), width=width, height=30, _environ={})
    plain.print(display.render())
    return plain.file.getvalue()  # type: ignore[attr-defined,no-any-return]


@pytest.fixture
def running(info: StreamInfo) -> RunStatus:
    status = RunStatus(model="coco-ssd@0123456789ab", batch_size=8, first_frame_s=time.monotonic() - 2)
    status.sources = {
        "yard": SourceStatus("yard", "yard.mp4", SourceState.RUNNING, info, DecodeStats(corrupt=3, errors=2), 1060),
        "gate": SourceStatus("gate", "gate.mp4", SourceState.RUNNING, info, results=60),
        "ramp": SourceStatus("ramp", "ramp.mp4"),
        "door": SourceStatus("door", "door.mp4", SourceState.DONE, info, results=300),
        "roof": SourceStatus("roof", "roof.mp4", SourceState.FAILED),
    }
    status.labels.update({"person": 1234, "car": 56})
    return status


def test_a_run_at_a_glance(running: RunStatus) -> None:
    text = drawn(running)
    assert "coco-ssd@0123456789ab · on cpu · batches of 8" in text
    assert "1,420 of 2,213 frames" in text
    assert "frames/s" in text
    assert "left" in text
    assert "yard  1,060 of 1,060  2 errors, 3 corrupt" in text
    assert "gate       60 of 300" in text
    assert "found: person 1,234, car 56" in text
    assert "1 waiting, 1 done, 1 failed" in text
    assert "Ctrl-C" not in text


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_every_row_stays_one_line_at_any_width(running: RunStatus, width: int) -> None:
    running.sources["yard"].source_id = "a/very/long/name/" * 12
    text = drawn(running, width)
    assert len(text.splitlines()) == 6
    assert max(map(len, text.splitlines())) <= width


def test_an_interrupted_run_says_that_it_stops(running: RunStatus) -> None:
    running.interrupted = True
    assert "Ctrl-C again ends at once" in drawn(running)


def test_of_many_sources_the_active_ones_are_shown_and_the_rest_counted(info: StreamInfo) -> None:
    status = RunStatus(first_frame_s=time.monotonic())
    for i in range(60):
        state = SourceState.RUNNING if i < 20 else SourceState.WAITING
        status.sources[f"cam{i:02}"] = SourceStatus(f"cam{i:02}", "x", state, info if i < 20 else None)
    text = drawn(status)
    assert text.count("cam") == SOURCES_SHOWN
    assert "and 12 more sources running" in text
    assert "40 waiting" in text


def test_a_stream_without_end_shows_no_remaining_time(running: RunStatus) -> None:
    running.sources["gate"].info = StreamInfo("h264", 8, 8, None, None, None)
    text = drawn(running)
    assert "1,420 frames" in text
    assert "left" not in text
    assert "gate              60" in text


def test_names_from_outside_are_shown_without_passwords_and_control_characters(running: RunStatus) -> None:
    running.sources["gate"].source_id = "rtsp://admin:hunter2@10.0.0.7/\x1b[2J[red]"
    text = drawn(running)
    assert r"rtsp://***@10.0.0.7/\x1b[2J[red]" in text


def test_downloads_come_before_the_first_frame() -> None:
    fetches = (("fetching a", 5_000_000, 25_000_000), ("fetching b", 1_000_000, None))
    assert "5.0 MB of 25.0 MB  fetching a" in drawn(RunStatus(), fetches=fetches[:1])
    text = drawn(RunStatus(), fetches=fetches)
    assert "done: fetching a" in text
    assert "1.0 MB  fetching b" in text


def test_a_run_that_has_not_begun_gets_ready() -> None:
    assert "getting ready" in drawn(None)
    assert "getting ready" in drawn(RunStatus())


def test_it_draws_itself_and_vanishes_and_the_log_stays(running: RunStatus, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = console()
    monkeypatch.setattr(sys, "stderr", terminal.file)
    with LiveDisplay(terminal) as display:
        display.watch(running)
        display.stopping()
        print("a log line", file=sys.stderr)
    assert isinstance(terminal.file, io.StringIO)
    output = terminal.file.getvalue()
    assert "1,420 of 2,213 frames" in output
    assert "a log line" in output
    assert output.endswith("\x1b[2K")  # the display's last line is erased
    assert output.rindex("\x1b[?25h") > output.index("\x1b[?25l")  # and the cursor is back
    assert sys.stderr is terminal.file
