"""The observations of a batch as one sequence for each track, so that state machines run over all of them at once.

"What was it last" is a running maximum over row numbers, and "did it change" a comparison with the row before; what came
before the batch stands in arrays with a row for each track's slot.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.analytics.arrays import Array, Block, Indices

Mask = npt.NDArray[np.bool_]
_APART = 1e6


class Sequences:
    """Observations sorted so that those of a track are neighbours, in the order of their frames.

    Attributes:
        order: (R,) from the sorted rows to those given.
        slots: (R,) slot of the track of each sorted row.
        starts: (T,) the first row of each track.
        ends: (T,) the last row of each track.
    """

    def __init__(self, slots: Indices) -> None:
        self.order: Indices = np.argsort(slots, kind="stable")
        self.slots = slots[self.order]
        changes = np.flatnonzero(self.slots[1:] != self.slots[:-1]) + 1
        self.starts: Indices = np.concatenate(([0], changes))
        self.ends: Indices = np.concatenate((changes, [len(slots)])) - 1
        self._rows = np.arange(len(slots))

    def latest(self, values: Array, marks: Mask, state: Block, name: str) -> tuple[Array, Array]:
        """The last marked value of each track, at each row and before it.

        Args:
            values: (R, K) of the sorted rows.
            marks: (R, K): which of them count.
            state: Holds what was the last marked value before this batch, a row a slot; is brought up to date.
            name: Of the array in `state`, (slots, K).

        Returns:
            Two arrays (R, K): with the row's own value if that is marked, and without it.
        """
        stored = state[name]
        if len(self.starts) == len(self.slots):  # one observation each: nothing to carry on within the batch
            before = stored.take(self.slots, axis=0)
            filled = np.where(marks, values, before)
            stored[self.slots] = filled
            return filled, before
        values = values.copy()
        carried = stored.take(self.slots[self.starts], axis=0)
        values[self.starts] = np.where(marks[self.starts], values[self.starts], carried)
        index = np.where(marks, self._rows[:, None], 0)
        index[self.starts] = self.starts[:, None]
        np.maximum.accumulate(index, axis=0, out=index)
        filled = np.take_along_axis(values, index, 0)
        before = np.empty_like(filled)
        before[1:] = filled[:-1]
        before[self.starts] = carried
        stored[self.slots[self.ends]] = filled[self.ends]
        return filled, before

    def before(self, values: Array, state: Block, name: str) -> Array:
        """(R,) the values of the observations before; `state` holds those before this batch, and is brought up to date."""
        stored = state[name]
        before = np.empty_like(values)
        before[1:] = values[:-1]
        before[self.starts] = stored.take(self.slots[self.starts], axis=0)
        stored[self.slots[self.ends]] = values[self.ends]
        return before

    def furthest(self, values: Array, restarts: Mask, state: Block, name: str) -> Array:
        """The running maximum of each track, which starts anew where `restarts` says so; all are (R, K).

        Values lie within -5e5..5e5, and there are no NaN: these would spread. `state` is as in `latest`; NaN stands for none.
        """
        stored = state[name]
        carried = np.fmax(stored.take(self.slots[self.starts], axis=0), values[self.starts])
        maxima = values.copy()
        maxima[self.starts] = np.where(restarts[self.starts], values[self.starts], carried)
        if len(self.starts) < len(self.slots):
            # One running maximum over everything: each part is lifted above those before it.
            parts = restarts.copy()
            parts[self.starts] = True
            lift = np.cumsum(parts, axis=0) * _APART
            maxima = np.maximum.accumulate(maxima + lift, axis=0) - lift
        stored[self.slots[self.ends]] = maxima[self.ends]
        return maxima

    def rises(self, rise: Mask, fall: Mask, state: Block, name: str) -> Mask:
        """Where a latch goes on: it is set by `rise` and reset by `fall`, and `rise` wins. All are (R, K)."""
        on, before = self.latest(rise, rise | fall, state, name)
        result: Mask = on & ~before
        return result

    def gaps_s(self, times_s: npt.NDArray[np.float64], last_s: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Seconds since the observation before of the same track; NaN where there is none. `last_s` is by slot."""
        gaps = np.empty(len(times_s))
        gaps[1:] = times_s[1:] - times_s[:-1]
        gaps[self.starts] = times_s[self.starts] - last_s.take(self.slots[self.starts])
        return gaps

    def rounds(self) -> Iterator[Indices]:
        """The first rows of all tracks, then the second ones, and so on: for what needs one observation after another."""
        lengths = self.ends - self.starts + 1
        for number in range(int(lengths.max(initial=0))):
            yield self.starts[lengths > number] + number
