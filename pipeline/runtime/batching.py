"""When a batch is full enough: by size, by time, or because nothing more is to be expected soon."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

from pipeline.frames import Frame
from pipeline.queues import Closed
from pipeline.runtime.flow import Batch
from pipeline.runtime.intake import Intake
from pipeline.stages import SinkSource

# What a batch waits for more frames is latency for those it has: a part of the time between two frames of the fastest
# stream. Where the model cannot keep up, frames come together anyway while it is busy.
_SHARE = 0.25
_MOST_WAIT_S = 0.05
_LEAST_WAIT_S = 0.002


class Patience(Protocol):
    """How long a batch waits for more frames.

    Attributes:
        is_renewed: Whether with each frame that comes the batch has as long again.
    """

    is_renewed: bool

    def deadline_s(self, first_s: float, last_s: float) -> float | None:
        """`time.monotonic()` at which a batch goes on whose first and last frame came then; None: when it is full."""

    def least(self, source_ids: set[str], missing: int) -> int:
        """For how many of the missing frames a batch with frames of these sources waits before it looks again; 0: for none.

        Whoever waits for one frame at a time wakes up for each, and takes the interpreter away from those who bring more.
        """


class FixedPatience:
    """Waits for the next frame so long and no longer; without a limit, until the batch is full."""

    is_renewed = True

    def __init__(self, timeout_s: float | None) -> None:
        self._timeout_s = timeout_s

    def deadline_s(self, first_s: float, last_s: float) -> float | None:
        """So long after the last frame."""
        return None if self._timeout_s is None else last_s + self._timeout_s

    def least(self, source_ids: set[str], missing: int) -> int:
        """All: only time and size count."""
        return missing


class AdaptivePatience:
    """Waits for a quarter of what the fastest source takes for its next frame; not at all once each has one in the batch.

    A source that has fallen silent is not waited for.
    """

    is_renewed = False

    def __init__(self, intake: Intake) -> None:
        self._intake = intake
        self._first_s: float | None = None
        self._wait_s = _MOST_WAIT_S

    def deadline_s(self, first_s: float, last_s: float) -> float | None:
        """So long after the first frame."""
        if first_s != self._first_s:  # once a batch: with hundreds of sources it costs more than all else
            self._first_s = first_s
            interval_s = self._intake.fastest_interval_s()
            wait_s = _MOST_WAIT_S if interval_s is None else _SHARE * interval_s
            self._wait_s = min(max(wait_s, _LEAST_WAIT_S), _MOST_WAIT_S)
        return first_s + self._wait_s

    def least(self, source_ids: set[str], missing: int) -> int:
        """As many as other sources are giving frames."""
        return min(missing, self._intake.expected(source_ids))


def collect(intake: Intake, size: int, patience: Patience, clock: Callable[[], float] = time.monotonic) -> Batch | None:
    """The next batch; None when all sources have ended and nothing is left."""
    batch = Batch()
    sources: set[str] = set()
    first_s = last_s = 0.0
    while len(batch.frames) < size:
        # Beginnings and ends do not wait for frames: there may be none for a long time.
        timeout_s = 0.0 if batch.started or batch.finished else None
        missing, least = size - len(batch.frames), 1
        if batch.frames:
            timeout_s = None
            least = patience.least(sources, missing)
            if not least:
                break
            deadline_s = patience.deadline_s(first_s, last_s)
            if deadline_s is not None:
                timeout_s = max(0.0, deadline_s - clock())
        try:
            items = intake.take(missing, timeout_s, least=least, is_renewed=patience.is_renewed)
        except TimeoutError:
            break
        except Closed:
            return batch if batch.frames or batch.started or batch.finished else None
        last_s = clock()
        if not batch.frames:
            first_s = last_s
        for item in items:
            if isinstance(item, Frame):
                batch.frames.append(item)
                sources.add(item.source_id)
            elif isinstance(item, SinkSource):
                batch.started.append(item)
            else:
                batch.finished.append(item.source_id)
    return batch
