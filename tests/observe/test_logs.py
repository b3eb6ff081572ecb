from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterator

import pytest

from pipeline.observe import logs

SECRET = "rtsp://admin:hunter2@10.0.0.7/live"


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leaves the process's logging as it was."""
    root, ours = logging.getLogger(), logging.getLogger("pipeline")
    handlers, levels = list(root.handlers), (root.level, ours.level)
    root.handlers[:] = []
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)


def test_a_line_has_utc_time_severity_and_message(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    record = logging.LogRecord("pipeline.x", logging.INFO, __file__, 1, "opened %s", ("a.mp4",), None)
    record.created = 0.0
    logging.getLogger("pipeline.x").handle(record)
    assert capsys.readouterr().err == "1970-01-01T00:00:00Z info    opened a.mp4\n"


def test_debug_names_the_logger(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("debug")
    logging.getLogger("pipeline.decode").debug("x")
    assert re.fullmatch(r"\S+Z debug   pipeline\.decode: x\n", capsys.readouterr().err)


@pytest.mark.parametrize(
    ("level", "shown"),
    [
        ("debug", ["debug", "info", "warning", "error", "warning", "error"]),
        ("info", ["info", "warning", "error", "warning", "error"]),
        ("warning", ["warning", "error", "warning", "error"]),
        ("error", ["error", "error"]),
    ],
)
def test_levels_of_ours_and_of_other_packages(capsys: pytest.CaptureFixture[str], level: str, shown: list[str]) -> None:
    logs.set_up(level)
    for name in ("pipeline.x", "somebody.else"):
        for severity in ("debug", "info", "warning", "error"):
            getattr(logging.getLogger(name), severity)("x")
    assert [line.split()[1] for line in capsys.readouterr().err.splitlines()] == shown


def test_setting_up_twice_writes_every_line_once(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    logs.set_up("info")
    logging.getLogger("pipeline").info("once")
    assert capsys.readouterr().err.count("once") == 1


def test_no_part_of_a_record_shows_a_password(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    log = logging.getLogger("pipeline.x")
    log.info(f"opening {SECRET}")
    log.info("opening %s", SECRET)
    log.info("opening %(url)s", {"url": SECRET})
    try:
        try:
            raise OSError(f"cause {SECRET}")
        except OSError as cause:
            raise RuntimeError(f"failed {SECRET}") from cause
    except RuntimeError:
        log.exception("with its trace", stack_info=True)
    warnings.warn(f"careful with {SECRET}", stacklevel=1)
    err = capsys.readouterr().err
    assert "hunter2" not in err
    assert "admin" not in err
    assert err.count("rtsp://***@10.0.0.7/live") >= 6
    assert "Traceback" in err


@pytest.mark.parametrize(("level", "expected"), [("debug", "0"), ("info", "3")])
def test_tensorflow_is_quiet_unless_debugging(monkeypatch: pytest.MonkeyPatch, level: str, expected: str) -> None:
    monkeypatch.delenv("TF_CPP_MIN_LOG_LEVEL", raising=False)
    logs.set_up(level)
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == expected


def test_what_the_user_set_for_tensorflow_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TF_CPP_MIN_LOG_LEVEL", "1")
    logs.set_up("info")
    assert os.environ["TF_CPP_MIN_LOG_LEVEL"] == "1"


def test_another_handler_behind_the_filter_sees_no_password_either() -> None:
    record = logging.LogRecord("x", logging.INFO, __file__, 1, "%s", (SECRET,), None)
    record.exc_text = record.stack_info = SECRET
    assert logs.RedactingFilter().filter(record)
    assert "hunter2" not in str(record.__dict__)


def test_arguments_that_do_not_fit_lose_neither_the_record_nor_the_secret(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logging.getLogger(), "handlers", [])  # pytest's own would raise
    logs.set_up("info")
    logging.getLogger("pipeline").info("two %s %s", SECRET)  # noqa: PLE1206
    err = capsys.readouterr().err
    assert "two" in err
    assert "hunter2" not in err


def test_a_name_cannot_drive_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    logs.set_up("info")
    logging.getLogger("pipeline").info("opened %s", "a\x1b]0;title\x07.mp4")
    assert r"opened a\x1b]0;title\x07.mp4" in capsys.readouterr().err


def test_an_unexpected_error_keeps_its_traceback_without_the_password() -> None:
    try:
        raise KeyError(SECRET)
    except KeyError as error:
        text = logs.redacted_traceback(error)
    assert text.startswith("Traceback (most recent call last)")
    assert __file__ in text
    assert "hunter2" not in text
