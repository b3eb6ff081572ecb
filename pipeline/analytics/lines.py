"""Line crossings with hysteresis.

A track is on the side of a line on which it was last further away than the hysteresis; within it a track keeps its side. It
crosses when that side changes, if the place where it last passed the line, on the straight way between two observations, lies
between the line's ends. So jitter within the hysteresis never counts, and neither does the way around an end.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.analytics.arrays import Array, Block, Indices, where
from pipeline.analytics.events import LineShape
from pipeline.analytics.findings import Objects
from pipeline.analytics.sequences import Mask, Sequences

_NAN = np.float64(np.nan)
_UNKNOWN = np.int8(0)


class Lines:
    """The lines of all sources, and where each track is of them."""

    def __init__(self) -> None:
        # From one end to the other, and the cross product at the hysteresis. NaN where a source has fewer lines: every
        # comparison with it is false.
        self._table = Block(has_columns=True, x=_NAN, y=_NAN, step_x=_NAN, step_y=_NAN, band=_NAN, square=_NAN)
        # `side` and `half` are +1 to the right and -1 to the left, with and without hysteresis; `passed` is +1 if the line was
        # last passed between its ends, -1 if beside them.
        self._state = Block(has_columns=True, side=_UNKNOWN, half=_UNKNOWN, passed=_UNKNOWN)
        self._place = Block(has_columns=False, x=_NAN, y=_NAN)  # of the last observation

    @property
    def count(self) -> int:
        """The most lines that a source has."""
        return self._table.columns

    def set_source(self, source: int, lines: Sequence[LineShape]) -> None:
        """The lines of a source, in pixels."""
        self._table.grow(source + 1, len(lines))
        self._table.clear(source)
        for column, line in enumerate(lines):
            step_x, step_y = line.end[0] - line.start[0], line.end[1] - line.start[1]
            square = step_x**2 + step_y**2
            row = (*line.start, step_x, step_y, line.hysteresis * np.sqrt(square), square)
            for name, value in zip(("x", "y", "step_x", "step_y", "band", "square"), row, strict=True):
                self._table[name][source, column] = value

    def reserve(self, slots: int) -> None:
        """Makes room for the state of so many tracks."""
        self._state.grow(slots, self.count)
        self._place.grow(slots)

    def forget(self, slots: Indices) -> None:
        """Tracks that have ended."""
        self._state.clear(slots)
        self._place.clear(slots)

    def crossings(self, tracks: Sequences, seen: Objects) -> tuple[Indices, Indices, Mask]:
        """The crossings of a batch's observations, which are sorted as in `tracks`.

        Returns:
            (row, line, whether it is the line's first direction: to the right) of each.
        """
        state, slots = self._state, tracks.slots
        step_x, step_y, cross = self._cross(seen.sources, seen.x, seen.y)
        band = self._table.of("band", seen.sources)
        half = (cross > 0).astype(np.int8) - (cross < 0)
        side = (cross > band).astype(np.int8) - (cross < -band)
        decided = side != 0 if seen.line_allowed is None else (side != 0) & seen.line_allowed
        _, half_before = tracks.latest(half, half != 0, state, "half")
        side_now, side_before = tracks.latest(side, decided, state, "side")
        before_x, before_y = tracks.before(seen.x, self._place, "x"), tracks.before(seen.y, self._place, "y")

        passing = half * half_before < 0
        rows, columns = where(passing)
        if len(rows):
            steps = step_x[rows, columns], step_y[rows, columns]
            _, _, cross_before = self._cross(seen.sources[rows], before_x[rows], before_y[rows])
            part = cross_before[np.arange(len(rows)), columns]
            part = part / (part - cross[rows, columns])
            x = before_x[rows] + part * (seen.x[rows] - before_x[rows])
            y = before_y[rows] + part * (seen.y[rows] - before_y[rows])
            from_x, from_y = (
                place - self._table[axis][seen.sources[rows], columns] for axis, place in (("x", x), ("y", y))
            )
            along = steps[0] * from_x + steps[1] * from_y
            is_between = (along >= 0) & (along <= self._table["square"][seen.sources[rows], columns])
            passed = np.zeros(cross.shape, np.int8)
            passed[rows, columns] = np.where(is_between, 1, -1)
            last_passed, _ = tracks.latest(passed, passing, state, "passed")
        else:
            last_passed = state.of("passed", slots)
        rows, columns = where((side_now * side_before < 0) & (last_passed > 0))
        return rows, columns, side_now[rows, columns] > 0

    def _cross(self, sources: Indices, x: Array, y: Array) -> tuple[Array, Array, Array]:
        """The steps along the lines, and twice the area of the triangles of lines and points; (R, K) each.

        The area is the distance times the line's length, positive to the right (y is down). Unlike the distance it is exact
        for pixels.
        """
        table = self._table
        step_x, step_y = table.of("step_x", sources), table.of("step_y", sources)
        cross = step_x * (y[:, None] - table.of("y", sources)) - step_y * (x[:, None] - table.of("x", sources))
        return step_x, step_y, cross
