"""The streams that a tracker knows: a number, a clock and the next free id for each."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.int64]
Seconds = npt.NDArray[np.float64]

# Between two frames of a source that states no times.
_NOMINAL_STEP_S = 1 / 25
_FIRST_CAPACITY = 64
_NO_FRAME = -1


class Streams:
    """Source ids -> numbers from 0 on, which are used again when a source has ended.

    Every stream has a clock that starts at 0 and never goes back, whatever its presentation times do.
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._free: list[int] = list(range(_FIRST_CAPACITY))[::-1]
        self._next_ids_of_ended: dict[str, int] = {}
        self._clock_s = np.zeros(_FIRST_CAPACITY)
        self._pts_s = np.full(_FIRST_CAPACITY, np.nan)
        self._index = np.full(_FIRST_CAPACITY, _NO_FRAME, np.int64)
        self._next_id = np.ones(_FIRST_CAPACITY, np.int64)
        self._steps_s = np.full((2, _FIRST_CAPACITY), np.inf)  # the last one and the one before

    @property
    def capacity(self) -> int:
        """All numbers are below it."""
        return len(self._clock_s)

    def numbers(self, source_ids: Sequence[str]) -> Numbers:
        """(F,) the streams' numbers; streams that are not known yet get one."""
        known = self._numbers
        try:
            return np.array([known[source_id] for source_id in source_ids], np.int64)
        except KeyError:
            for source_id in source_ids:
                if source_id not in known:
                    self._add(source_id)
            return self.numbers(source_ids)

    def forget(self, source_id: str) -> int | None:
        """The number that an ended source had and that is free again; None if it had none.

        What stays is how many ids it gave out, so that none is given out twice in a run.
        """
        number = self._numbers.pop(source_id, None)
        if number is not None:
            self._next_ids_of_ended[source_id] = int(self._next_id[number])
            self._free.append(number)
        return number

    def advance(self, numbers: Numbers, pts_s: Seconds, index: Numbers) -> tuple[Seconds, Seconds, Seconds]:
        """The next frame of some streams, at most one each.

        Args:
            numbers: (F,) which streams.
            pts_s: (F,) presentation times in seconds; not finite where there is none, which makes the frame's number
                count, at a nominal rate.
            index: (F,) the frames' numbers.

        Returns:
            (F,) seconds since the frame before, 0 where time did not go on; (F,) the streams' clocks in seconds; and (F,)
            what a usual step was so far: the smaller one of the last two, which a single gap does not change, and
            infinite before the first.
        """
        last_s, last_index = self._pts_s[numbers], self._index[numbers]
        is_first = last_index == _NO_FRAME
        pts_s = np.where(np.isfinite(pts_s), pts_s, np.nan)
        step_s = pts_s - last_s
        by_index_s = (index - last_index) * _NOMINAL_STEP_S
        step_s = np.maximum(np.where(np.isnan(step_s), by_index_s, step_s), 0.0)
        step_s[is_first] = 0.0
        clock_s = self._clock_s[numbers] + step_s
        self._clock_s[numbers] = clock_s
        # Without a time of its own a frame is where its number puts it, so that the next one's time has something to follow.
        self._pts_s[numbers] = np.where(np.isnan(pts_s), last_s + step_s, pts_s)
        self._index[numbers] = index
        usual_s = self._steps_s[:, numbers].min(axis=0)
        self._steps_s[1, numbers] = self._steps_s[0, numbers]
        self._steps_s[0, numbers] = np.where(is_first, np.inf, step_s)
        return step_s, clock_s, usual_s

    def new_ids(self, numbers: Numbers) -> Numbers:
        """(K,) an id for each new track of the stream beside it; `numbers` has those of one stream in succession."""
        order = np.arange(len(numbers))
        starts = np.ones(len(numbers), bool)
        starts[1:] = numbers[1:] != numbers[:-1]
        rank = order - np.maximum.accumulate(np.where(starts, order, 0))
        ids = self._next_id[numbers] + rank
        np.maximum.at(self._next_id, numbers, ids + 1)
        return ids

    def _add(self, source_id: str) -> None:
        if not self._free:
            old = self.capacity
            self._free = list(range(old, 2 * old))[::-1]
            self._clock_s, self._pts_s = np.resize(self._clock_s, 2 * old), np.resize(self._pts_s, 2 * old)
            self._index, self._next_id = np.resize(self._index, 2 * old), np.resize(self._next_id, 2 * old)
            self._steps_s = np.tile(self._steps_s, 2)
        number = self._free.pop()
        self._numbers[source_id] = number
        self._clock_s[number], self._pts_s[number], self._index[number] = 0.0, np.nan, _NO_FRAME
        self._next_id[number] = self._next_ids_of_ended.pop(source_id, 1)
        self._steps_s[:, number] = np.inf
