"""The time of a source that durations are measured in."""

from __future__ import annotations

from pipeline.frames import Frame

# Times are told to the microsecond, and compared so: 2.8 s - 1.8 s is 0.9999999999999998 s, but means 1 s.
HALF_MICROSECOND_S = 5e-7


class SourceClock:
    """Seconds that never run back: the container's times, and the wall clock's steps where there are none.

    A time that jumps back (a clip that was joined from several) goes on where the one before was. As long as that does not
    happen these are the times of the container.
    """

    __slots__ = ("_last_s", "_offset_s", "_wall_s")

    def __init__(self) -> None:
        self._last_s: float | None = None
        self._wall_s = 0.0
        self._offset_s = 0.0

    def __call__(self, frame: Frame) -> float:
        """The time of the source's next frame."""
        if frame.pts_s is not None:
            now_s = frame.pts_s + self._offset_s
            if self._last_s is not None and now_s < self._last_s:
                self._offset_s += self._last_s - now_s
                now_s = self._last_s
        elif self._last_s is None:
            now_s = frame.time_s
        else:
            now_s = self._last_s + max(0.0, frame.time_s - self._wall_s)
        self._last_s, self._wall_s = now_s, frame.time_s
        return now_s
