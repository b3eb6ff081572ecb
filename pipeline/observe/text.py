"""How numbers, times and names are written for people."""

from __future__ import annotations

import re

from pipeline.redact import redact

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with control characters written as escapes: a file's name cannot drive the terminal."""
    return _CONTROL.sub(lambda m: m[0].encode("unicode_escape").decode("ascii"), text)


def one_line(text: str) -> str:
    """The same on a single line."""
    return " ".join(printable(text).split())


def shown(text: str) -> str:
    """What came from outside (a name, a path, an error's words) as it is shown: one line, no credentials, no control."""
    return one_line(redact(text))


def safe(text: str) -> str:
    """Without credentials, and encodable: a file's name need not be valid UTF-8."""
    return redact(text).encode("utf-8", "backslashreplace").decode("utf-8")


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 frame`, `1,590 frames`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def rate(per_s: float) -> str:
    """`64.7 frames/s`; without decimals from 100 on."""
    return f"{per_s:,.1f} frames/s" if per_s < 100 else f"{per_s:,.0f} frames/s"


def duration(seconds: float) -> str:
    """`0.4 s`, `42 s`, `3 min 07 s`, `2 h 05 min`."""
    if seconds < 9.95:
        return f"{max(seconds, 0):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02} min"


def size(number_bytes: int) -> str:
    """`512 B`, `25.1 MB`; decimal units, as downloads and disks are sold."""
    if number_bytes < 1000:
        return f"{number_bytes} B"
    value = number_bytes / 1000
    units = ["kB", "MB", "GB", "TB"]
    while value >= 999.95 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:,.1f} {units[0]}"
