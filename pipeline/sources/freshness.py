"""Which of a source's packets and frames are worth the work: policies, rates, and not falling behind.

Dropping a packet is the cheapest, but only possible where no other frame refers to it; dropping a frame after decoding
always is.
"""

from __future__ import annotations

from pipeline.config.sources import Source

DEFAULT_STALENESS_MS = 2000.0
# Clocks of cameras are off by up to some hundred parts in a million; without an allowance the difference adds up to a lag.
_DRIFT = 3e-4
# A read that took this long had to wait for the camera: nothing was left to catch up with.
_WAITED_S = 0.005
# Frames are reordered by less than this; a time that goes further back is a clock that was set.
_MOST_BACK_S = 1.0


def policy_of(settings: Source) -> str:
    """`latest`, `fifo` or `keyframes`: what is configured, else what fits the source."""
    return settings.policy or ("latest" if settings.is_live else "fifo")


def replaces(settings: Source) -> bool:
    """Whether a frame that waits for the model gives way to a newer one."""
    return settings.is_live and policy_of(settings) != "fifo"


def max_staleness_s(settings: Source) -> float | None:
    """How old a frame may be when the model could take it; None: as old as it likes."""
    if settings.max_staleness_ms is not None:
        return settings.max_staleness_ms / 1e3
    return DEFAULT_STALENESS_MS / 1e3 if replaces(settings) else None


class RateGate:
    """Keeps every n-th frame, and of those no more a second of the video than are wanted.

    Attributes:
        is_open: Whether it keeps everything.
    """

    def __init__(self, every: int, max_fps: float | None) -> None:
        self._every = every
        self._interval_s = 1.0 / max_fps if max_fps else None
        self._seen = 0
        self._due_s: float | None = None
        self.is_open = every == 1 and self._interval_s is None

    def is_due(self, time_s: float) -> bool:
        """Whether a frame of this time would not come too soon."""
        due_s, interval_s = self._due_s, self._interval_s
        if due_s is None or interval_s is None:
            return True
        # A time far before the next one is due is not a frame that comes too soon but a clock that was set back. Half
        # a millisecond: timestamps are rounded.
        return time_s >= due_s - 5e-4 or time_s < due_s - 2 * interval_s - _MOST_BACK_S

    def keeps(self, time_s: float | None) -> bool:
        """Whether the next frame in display order is kept; one without a time is never too soon."""
        self._seen += 1
        if (self._seen - 1) % self._every:
            return False
        if self._interval_s is None or time_s is None:
            return True
        if not self.is_due(time_s):
            return False
        # From when it was due, so that the mean rate is right where the source's is no multiple of it.
        due_s = time_s if self._due_s is None or abs(time_s - self._due_s) >= self._interval_s else self._due_s
        self._due_s = due_s + self._interval_s
        return True


class Lag:
    """How far reading is behind the camera, from when packets come and what they say of their time.

    The difference between the two is least where nothing waits to be read; how much it has grown since then is the lag. It
    may also grow because the clocks run apart, which is let pass while the reader has to wait for packets.
    """

    def __init__(self) -> None:
        self._least_s: float | None = None
        self._latest_pts_s = 0.0
        self._received_s = 0.0

    def update(self, pts_s: float, received_s: float, waited_s: float) -> float:
        """Takes a packet; the lag in seconds.

        Args:
            pts_s: What it says of its time.
            received_s: `time.monotonic()` when it was read.
            waited_s: How long reading it took.
        """
        offset_s = received_s - pts_s
        least_s = self._least_s
        elapsed_s, self._received_s = received_s - self._received_s, received_s
        if least_s is None or offset_s < least_s or pts_s < self._latest_pts_s - _MOST_BACK_S:
            self._least_s, self._latest_pts_s = offset_s, pts_s
            return 0.0
        self._latest_pts_s = max(self._latest_pts_s, pts_s)
        if waited_s > _WAITED_S:
            least_s = min(offset_s, least_s + _DRIFT * elapsed_s)
            self._least_s = least_s
        return offset_s - least_s
