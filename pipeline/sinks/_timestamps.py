"""Presentation times of the annotated video."""

from __future__ import annotations

import math
from fractions import Fraction

TICKS_PER_S = 90_000
TIME_BASE = Fraction(1, TICKS_PER_S)
_DEFAULT_RATE = Fraction(25)


class Timestamps:
    """Turns a source's own times into strictly increasing ticks of 1/90000 s that start at 0.

    The constant offset of the source is removed: its first frame is at 0, and the distances stay as they are. A time
    that is not behind the last one is put one tick behind it; where time jumps back by more than a second (a clip
    that was joined from two), the rest follows one frame behind. A missing time is one frame behind the last one.

    Attributes:
        repaired: How many times had to be changed.
    """

    def __init__(self, frame_rate: Fraction | None) -> None:
        rate = frame_rate if frame_rate is not None and 0 < frame_rate <= 1000 else _DEFAULT_RATE
        self.step = max(1, round(TICKS_PER_S / rate))
        self.repaired = 0
        self._offset_s: float | None = None
        self._last = -self.step

    def ticks(self, pts_s: float | None) -> int:
        """The time of the next frame."""
        if pts_s is None or not math.isfinite(pts_s):
            self.repaired += 1
            ticks = self._last + self.step
        else:
            ticks = self._of(pts_s)
            if ticks <= self._last:
                self.repaired += 1
                ticks = self._behind(ticks, pts_s)
        self._last = ticks
        return ticks

    def _of(self, pts_s: float) -> int:
        if self._offset_s is None:
            self._offset_s = pts_s - (self._last + self.step) / TICKS_PER_S
        return round((pts_s - self._offset_s) * TICKS_PER_S)

    def _behind(self, ticks: int, pts_s: float) -> int:
        if self._last - ticks <= TICKS_PER_S:
            return self._last + 1
        self._offset_s = pts_s - (self._last + self.step) / TICKS_PER_S
        return self._last + self.step


def clock(pts_s: float) -> str:
    """Seconds as `HH:MM:SS.mmm`."""
    total_ms = round(abs(pts_s) * 1000)
    minutes, ms = divmod(total_ms, 60_000)
    sign = "-" if pts_s < 0 and total_ms else ""
    return f"{sign}{minutes // 60:02}:{minutes % 60:02}:{ms // 1000:02}.{ms % 1000:03}"
