from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.observe import text


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (-1, "0.0 s"),
        (0.44, "0.4 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (187, "3 min 07 s"),
        (3599.7, "1 h 00 min"),
        (7500, "2 h 05 min"),
        (360000, "100 h 00 min"),
    ],
)
def test_duration(seconds: float, expected: str) -> None:
    assert text.duration(seconds) == expected


@pytest.mark.parametrize(
    ("number_bytes", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (25_100_000, "25.1 MB"),
        (2 * 10**12, "2.0 TB"),
        (5 * 10**15, "5,000.0 TB"),
    ],
)
def test_size(number_bytes: int, expected: str) -> None:
    assert text.size(number_bytes) == expected


def test_counts_and_rates_read_as_a_person_writes_them() -> None:
    assert text.count(1, "frame") == "1 frame"
    assert text.count(1590, "frame") == "1,590 frames"
    assert text.count(2, "box", "boxes") == "2 boxes"
    assert text.rate(9.96) == "10.0 frames/s"
    assert text.rate(4828.4) == "4,828 frames/s"


def test_a_file_name_cannot_drive_the_terminal() -> None:
    assert text.shown("evil\x1b[31m\r\n name\udcff\u202e") == r"evil\x1b[31m\r name\udcff\u202e"


def test_what_is_shown_holds_no_password() -> None:
    assert "hunter2" not in text.shown("rtsp://admin:hunter2@10.0.0.7/live")


@given(st.text(st.characters()))
def test_shown_text_is_one_line_that_can_be_written(value: str) -> None:
    result = text.shown(value)
    result.encode("utf-8")
    assert len(result.splitlines()) <= 1
    assert all(character.isprintable() or character.isspace() or ord(character) > 0x9F for character in result)
