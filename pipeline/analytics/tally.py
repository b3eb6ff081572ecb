"""The running numbers of one source: crossings and visits, in total and by interval, and how full its zones are."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.analytics.clock import HALF_MICROSECOND_S
from pipeline.analytics.events import EventKind, Layout, Scene
from pipeline.analytics.findings import rounded
from pipeline.config.analytics import Zone

# What an event is made of here: kind, name of the line or zone, values.
Told = tuple[EventKind, str, dict[str, Any]]


class Tally:
    """Counts what one source's events say, frame by frame.

    Args:
        layout: Its lines and zones.
        zones: The zones as configured.
        interval_s: Length of the intervals that are reported; None: none are.
    """

    def __init__(self, layout: Layout, zones: Sequence[Zone], interval_s: float | None) -> None:
        self.layout = layout
        self._interval_s = interval_s
        self._crossed = [[0, 0] for _ in layout.lines]
        self._crossed_by_now: tuple[tuple[int, int], ...] = ((0, 0),) * len(layout.lines)
        self._occupancy: tuple[int, ...] = (0,) * len(layout.zones)
        self._crowds = {
            i: _Crowd(z.max_occupancy, z.crowd_s) for i, z in enumerate(zones) if z.max_occupancy is not None
        }
        self._crowded = (False,) * len(layout.zones)
        self._knows_tracks = False
        self._interval: _Interval | None = None

    def begin(self, now_s: float, *, knows_tracks: bool) -> list[Told]:
        """Goes on to the next frame: what an interval that is over by then has counted.

        Args:
            now_s: The frame's time by the source's clock.
            knows_tracks: Whether objects have track ids.
        """
        self._knows_tracks |= knows_tracks
        interval = self._interval
        if self._interval_s is None:
            return []
        if interval is None:
            self._interval = _Interval(now_s, self._interval_s, len(self.layout.zones))
            return []
        if now_s < interval.end_s - HALF_MICROSECOND_S:
            return []
        told = list(self._report(interval, interval.end_s))
        self._interval = interval.following(now_s)
        return told

    def fill(self, now_s: float, occupancy: tuple[int, ...]) -> list[Told]:
        """How many objects are in each zone in this frame: which of them are too full, or no longer."""
        if self._interval is not None:
            self._interval.go_on(now_s, occupancy)
        self._occupancy = occupancy
        told: list[Told] = []
        for zone, crowd in self._crowds.items():
            if (occupancy[zone] > crowd.limit) == crowd.is_told:
                crowd.changed_s = None
            elif (change := crowd.change(now_s, occupancy[zone])) is not None:
                told.append((change[0], self.layout.zones[zone].name, change[1]))
                self._crowded = tuple(i in self._crowds and self._crowds[i].is_told for i in range(len(occupancy)))
        return told

    def crossed(self, line: int, way: int, label: str) -> int:
        """One more crossing; `way` is 0 or 1. Returns how many there are by now."""
        self._crossed[line][way] += 1
        self._crossed_by_now = tuple((forward, backward) for forward, backward in self._crossed)
        if self._interval is not None:
            self._interval.crossings[line, way][label] += 1
        return self._crossed[line][way]

    def visited(self, kind: EventKind, zone: int) -> None:
        """Somebody has entered or left a zone."""
        if self._interval is not None:
            self._interval.visits[kind, zone] += 1

    def scene(self) -> Scene:
        """The numbers by now."""
        return Scene(self.layout, self._crossed_by_now, self._occupancy, self._crowded)

    def finish(self, now_s: float) -> Iterator[Told]:
        """The source has ended: what is still open."""
        for zone, crowd in self._crowds.items():
            if crowd.is_told:
                values = {"duration_s": _seconds(now_s - crowd.since_s)}
                yield EventKind.OVERCROWDING_ENDED, self.layout.zones[zone].name, values
        if self._interval is not None:
            yield from self._report(self._interval, now_s)

    def _report(self, interval: _Interval, end_s: float) -> Iterator[Told]:
        interval.go_on(end_s, self._occupancy)
        span = {"start_s": _seconds(interval.start_s), "duration_s": _seconds(end_s - interval.start_s)}
        for i, line in enumerate(self.layout.lines):
            counts = {
                name: dict(sorted(interval.crossings[i, way].items())) for way, name in enumerate(line.directions)
            }
            yield EventKind.COUNTS, line.name, {**span, "counts": counts}
        for i, zone in enumerate(self.layout.zones):
            values: dict[str, Any] = {
                **span,
                "occupancy_max": interval.most[i],
                "occupancy_mean": round(interval.mean(i, end_s), 4),
            }
            if self._knows_tracks:
                values["entered"] = interval.visits[EventKind.ZONE_ENTERED, i]
                values["left"] = interval.visits[EventKind.ZONE_LEFT, i]
            yield EventKind.COUNTS, zone.name, values


class _Interval:
    """What happened since its start. The number of objects in a zone stays what a frame says up to the next frame."""

    def __init__(self, start_s: float, length_s: float, zones: int) -> None:
        self.start_s, self.length_s, self.end_s = start_s, length_s, start_s + length_s
        self.crossings: defaultdict[tuple[int, int], Counter[str]] = defaultdict(Counter)
        self.visits: Counter[tuple[EventKind, int]] = Counter()
        self.most = [0] * zones
        self._area = [0.0] * zones  # object-seconds
        self._current = [0] * zones
        self._now_s = start_s

    def go_on(self, now_s: float, occupancy: tuple[int, ...]) -> None:
        passed_s = max(0.0, now_s - self._now_s)
        self._now_s = max(now_s, self._now_s)
        for zone, count in enumerate(occupancy):
            self._area[zone] += passed_s * self._current[zone]
            self.most[zone] = max(self.most[zone], count)
        self._current[:] = occupancy

    def mean(self, zone: int, end_s: float) -> float:
        """Objects in a zone on the average; of an interval without length those that are in it."""
        length_s = end_s - self.start_s
        return self._area[zone] / length_s if length_s > 0 else float(self._current[zone])

    def following(self, now_s: float) -> _Interval:
        """The interval that this time falls into; those in between, in which nothing was seen, are left out."""
        passed = max(1, math.floor((now_s - self.start_s + HALF_MICROSECOND_S) / self.length_s))
        after = _Interval(self.start_s + self.length_s * passed, self.length_s, len(self.most))
        if passed == 1:
            after.most = list(self._current)
            after._current = list(self._current)
        return after


class _Crowd:
    """Whether a zone is too full: for long enough, either way."""

    def __init__(self, limit: int, delay_s: float) -> None:
        self.limit = limit
        self.is_told = False  # that it is too full
        self.since_s = 0.0  # when that began
        self.changed_s: float | None = None  # since when it has been otherwise than told
        self._delay_s = delay_s

    def change(self, now_s: float, occupancy: int) -> tuple[EventKind, dict[str, Any]] | None:
        """A frame that shows it otherwise than told; None as long as that may pass."""
        if self.changed_s is None:
            self.changed_s = now_s
        if now_s - self.changed_s < self._delay_s - HALF_MICROSECOND_S:
            return None
        changed_s, self.changed_s = self.changed_s, None
        self.is_told = not self.is_told
        if self.is_told:
            self.since_s = changed_s
            return EventKind.OVERCROWDED, {"occupancy": occupancy, "limit": self.limit}
        return EventKind.OVERCROWDING_ENDED, {"duration_s": _seconds(changed_s - self.since_s)}


def _seconds(value: float) -> float:
    return rounded("_s", value)
