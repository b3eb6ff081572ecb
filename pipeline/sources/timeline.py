"""A live stream's time: cameras restart their clocks, jump, go back and leave timestamps out; records must not."""

from __future__ import annotations

# Presentation times that run ahead of their arrival by more than this have jumped: no camera sends so far ahead.
_MOST_AHEAD_S = 5.0
# Going back by less than this is disorder within a stream; by more, its clock was set back.
_MOST_BACK_S = 1.0
# What follows a frame of the same time, or of a later one, is shown this much later.
_LEAST_STEP_S = 0.001


class Timeline:
    """Makes presentation times increase, as the stream's own clock says while that can be believed.

    The first connection's times are kept as they are. After a jump or a new connection time goes on from where it was, by as
    much as passed here meanwhile.
    """

    def __init__(self) -> None:
        self._offset_s = 0.0
        self._last_s: float | None = None
        self._received_s = 0.0
        self._is_new = True

    def reconnected(self) -> None:
        """The next frame is the first of another connection."""
        self._is_new = True

    def __call__(self, pts_s: float | None, received_s: float) -> float:
        """The time of the next frame in display order.

        Args:
            pts_s: What the stream says; None if nothing.
            received_s: `time.monotonic()` when it came.

        Returns:
            Seconds, more than all before.
        """
        last_s = self._last_s
        if last_s is None:
            time_s = pts_s if pts_s is not None else 0.0
        else:
            elapsed_s = max(received_s - self._received_s, 0.0)
            time_s = last_s + max(elapsed_s, _LEAST_STEP_S)
            if pts_s is not None:
                stated_s = pts_s + self._offset_s
                if self._is_new or stated_s > last_s + elapsed_s + _MOST_AHEAD_S or stated_s < last_s - _MOST_BACK_S:
                    self._offset_s = time_s - pts_s
                else:
                    time_s = max(stated_s, last_s + _LEAST_STEP_S)
        self._is_new = False
        self._last_s, self._received_s = time_s, max(received_s, self._received_s)
        return time_s
