"""How far a run is, how fast, and how long it will still take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection

from pipeline.observe.status import ENDED, RunStatus, SourceState, SourceStatus


def expected_frames(source: SourceStatus) -> int | None:
    """How many frames a source will have given at its end; None where nobody knows (live, or not open yet)."""
    if source.state in ENDED:
        return source.results
    limit, info = source.frame_limit, source.info
    total: float | None = None
    if info is not None:
        if info.frame_count is not None:
            total = info.frame_count
        elif info.duration_s is not None and info.frame_rate is not None:
            total = info.duration_s * float(info.frame_rate)
        elif info.duration_s is not None and source.last_pts_s and source.results:
            total = source.results * info.duration_s / source.last_pts_s
    if total is None:
        # A limit is only a promise where the video is known to be long enough; for a live stream it will be.
        return limit if info is not None else None
    expected = round(total if limit is None else min(total, limit))
    return max(expected, source.results)


def expected_total(sources: Collection[SourceStatus]) -> int | None:
    """The same for all sources; those that are not open yet count like the mean of the others."""
    begun = [source for source in sources if source.info is not None or source.state in ENDED]
    expected = [(source, expected_frames(source)) for source in begun]
    if any(frames is None for _, frames in expected):
        return None
    # What failed says nothing about the length of the others.
    typical = [frames or 0 for source, frames in expected if source.state is not SourceState.FAILED]
    if not typical:
        return None
    to_come = (len(sources) - len(begun)) * sum(typical) / len(typical)
    return sum(frames or 0 for _, frames in expected) + round(to_come)


class Speed:
    """The rate of the last seconds: what a person sees change when something stalls."""

    def __init__(self, window_s: float = 10.0, clock: Callable[[], float] = time.monotonic) -> None:
        self._window_s = window_s
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque()

    def update(self, status: RunStatus) -> float:
        """Takes a reading; returns results/s over the window, over the whole run at the first reading."""
        now, results = self._clock(), status.results
        self._seen.append((now, results))
        while len(self._seen) > 2 and self._seen[1][0] <= now - self._window_s:
            self._seen.popleft()
        first_s, first = self._seen[0]
        return (results - first) / (now - first_s) if now > first_s else status.frames_per_s


def remaining_s(status: RunStatus, per_s: float) -> float | None:
    """Seconds until the end at this rate; None where nobody knows."""
    total = expected_total(list(status.sources.values()))
    return (total - status.results) / per_s if total is not None and per_s > 0 else None
