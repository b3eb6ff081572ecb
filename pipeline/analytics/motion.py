"""How tracks move: for how long they stand still, and how fast they go over the ground."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.analytics.arrays import Array, Block, Indices
from pipeline.analytics.clock import HALF_MICROSECOND_S
from pipeline.analytics.sequences import Sequences

_NAN = np.float64(np.nan)


@dataclass(frozen=True, slots=True, eq=False)
class Movement:
    """Of each observation (R,).

    Attributes:
        still_s: For how long the object has stood still; 0 where it has just moved.
        stood_s: For how long it had stood still before it moved, where it has just moved; else as `still_s`.
        speed_mps: Metres/s over the ground; NaN where it is not known (yet).
    """

    still_s: Array
    stood_s: Array
    speed_mps: Array


@dataclass(frozen=True, slots=True, eq=False)
class Positions:
    """Observations, sorted by track; arrays (R,).

    Attributes:
        times_s: When.
        x: Where, in display pixels.
        y: The same.
        ground_x: Where on the ground, in metres; NaN where that is not known.
        ground_y: The same.
        radius: Pixels within which an object stands still.
        window_s: Seconds that speeds are means over; NaN where none are wanted.
    """

    times_s: Array
    x: Array
    y: Array
    ground_x: Array
    ground_y: Array
    radius: Array
    window_s: Array


class Motion:
    """What is remembered of each track's movement.

    An object stands still as long as it stays within a radius of the place where it was when it last left such a radius. Its
    speed is the way on the ground from a place where it was between half a window and a whole one ago, straight: positions are
    so uncertain that a difference of neighbouring frames says nothing. Of earlier places two are kept, half a window apart.
    """

    def __init__(self) -> None:
        self._state = Block(
            has_columns=False,
            still_x=_NAN,
            still_y=_NAN,
            still_since_s=_NAN,
            old_x=_NAN,
            old_y=_NAN,
            old_s=_NAN,
            new_x=_NAN,
            new_y=_NAN,
            new_s=_NAN,
        )

    def reserve(self, slots: int) -> None:
        """Makes room for the state of so many tracks."""
        self._state.grow(slots)

    def forget(self, slots: Indices) -> None:
        """Tracks that have ended."""
        self._state.clear(slots)

    def __call__(self, tracks: Sequences, seen: Positions) -> Movement:
        """Follows the observations of a batch, sorted as in `tracks`."""
        result = Movement(*(np.full(len(seen.times_s), np.nan) for _ in range(3)))
        for rows in tracks.rounds():
            self._stand(tracks.slots[rows], seen, rows, result)
            self._go(tracks.slots[rows], seen, rows, result)
        return result

    def _stand(self, slots: Indices, seen: Positions, rows: Indices, result: Movement) -> None:
        state = self._state
        now_s, x, y = seen.times_s[rows], seen.x[rows], seen.y[rows]
        stood_s = now_s - state.of("still_since_s", slots)
        square = (x - state.of("still_x", slots)) ** 2 + (y - state.of("still_y", slots)) ** 2
        moved = ~(square <= seen.radius[rows] ** 2)  # also a new track, whose place is NaN
        result.stood_s[rows] = stood_s
        result.still_s[rows] = np.where(moved, 0.0, stood_s)
        left = slots[moved]
        state["still_x"][left], state["still_y"][left] = x[moved], y[moved]
        state["still_since_s"][left] = now_s[moved]

    def _go(self, slots: Indices, seen: Positions, rows: Indices, result: Movement) -> None:
        state = self._state
        now_s, x, y, half_s = (
            seen.times_s[rows],
            seen.ground_x[rows],
            seen.ground_y[rows],
            seen.window_s[rows] / 2 - HALF_MICROSECOND_S,
        )
        lasted_s = now_s - state.of("old_s", slots)
        way = np.hypot(x - state.of("old_x", slots), y - state.of("old_y", slots))
        result.speed_mps[rows] = np.divide(way, lasted_s, out=np.full(len(rows), np.nan), where=lasted_s >= half_s)
        is_new = np.isnan(lasted_s)
        turns = is_new | (now_s - state.of("new_s", slots) >= half_s)
        for axis, value in (("x", x), ("y", y), ("s", now_s)):
            old, new = state[f"old_{axis}"], state[f"new_{axis}"]
            old[slots[turns]] = np.where(is_new[turns], value[turns], new[slots[turns]])
            new[slots[turns]] = value[turns]
