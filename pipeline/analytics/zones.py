"""Who enters and leaves zones, how long they stay, and the alarms of single objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analytics.areas import Areas
from pipeline.analytics.arrays import Array, Block, Indices
from pipeline.analytics.clock import HALF_MICROSECOND_S
from pipeline.analytics.events import EventKind, ZoneShape
from pipeline.analytics.findings import Objects
from pipeline.analytics.motion import Movement
from pipeline.analytics.sequences import Mask, Sequences
from pipeline.config.analytics import Zone

_NAN = np.float64(np.nan)
_OFF = np.bool_(False)
_KMH = 3.6


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """Events of one kind.

    Attributes:
        kind: Which.
        where: (R, K): of which sorted row and zone there is one.
        values: Name -> (R, K) what is told of it.
    """

    kind: EventKind
    where: Mask
    values: Mapping[str, Array]


@dataclass(frozen=True, slots=True, eq=False)
class Observations:
    """What a batch shows of tracks: the objects are sorted as in `tracks`; `movement` is None where nobody asks for it."""

    tracks: Sequences
    objects: Objects
    movement: Movement | None


class Zones:
    """The zones of all sources, and which tracks are in them.

    A track is in a zone from the observation on that shows it inside, up to the first one that shows it further outside than the
    hysteresis; dwell times are from the one to the other. A track that was never seen outside counts as having entered.
    """

    def __init__(self) -> None:
        self.areas = Areas()
        self._limits = Block(
            has_columns=True, loiter_s=_NAN, stopped_s=_NAN, way_x=_NAN, way_y=_NAN, wrong_way=_NAN, limit_mps=_NAN
        )
        self._state = Block(
            has_columns=True,
            inside=_OFF,
            entered_s=_NAN,
            furthest=_NAN,
            loitering=_OFF,
            stopped=_OFF,
            wrong=_OFF,
            speeding=_OFF,
        )
        # Which of the alarms any source uses: the others cost nothing.
        self._used: dict[int, set[str]] = {}

    @property
    def count(self) -> int:
        """The most zones that a source has."""
        return self.areas.count

    def set_source(self, source: int, shapes: Sequence[ZoneShape], zones: Sequence[Zone]) -> None:
        """The zones of a source: in pixels, and as configured."""
        self.areas.set_source(source, shapes)
        self._limits.grow(source + 1, len(zones))
        self._limits.clear(source)
        for column, (shape, zone) in enumerate(zip(shapes, zones, strict=True)):
            values: dict[str, float | None] = {"loiter_s": zone.loiter_s, "stopped_s": zone.stopped_s}
            if shape.direction is not None:
                (x1, y1), (x2, y2) = shape.direction
                length = float(np.hypot(x2 - x1, y2 - y1))
                values |= {"way_x": (x2 - x1) / length, "way_y": (y2 - y1) / length, "wrong_way": shape.wrong_way}
            if zone.limit_kmh is not None:
                values["limit_mps"] = zone.limit_kmh / _KMH
            for name, value in values.items():
                self._limits[name][source, column] = np.nan if value is None else value
        self._used[source] = {key for zone in zones for key in zone.alarms_of_tracks}

    def reserve(self, slots: int) -> None:
        """Makes room for the state of so many tracks."""
        self._state.grow(slots, self.count)

    def forget(self, slots: Indices) -> None:
        """Tracks that have ended."""
        self._state.clear(slots)

    def visits(self, slot: int) -> list[tuple[int, float]]:
        """The zones that a track is in, and since when."""
        columns = np.flatnonzero(self._state["inside"][slot])
        return [(int(column), float(self._state["entered_s"][slot, column])) for column in columns]

    def follow(self, seen: Observations) -> list[Found]:
        """What the observations of a batch show."""
        tracks, state, objects = seen.tracks, self._state, seen.objects
        allowed = objects.zone_allowed
        decided = ~objects.near if allowed is None else ~objects.near & allowed
        inside, was_inside = tracks.latest(objects.inside, decided, state, "inside")
        enters, leaves = inside & ~was_inside, was_inside & ~inside
        times_s = np.broadcast_to(objects.times_s[:, None], inside.shape)
        entered_s, _ = tracks.latest(times_s, enters, state, "entered_s")
        dwell_s = times_s - entered_s
        found: list[Found] = [
            Found(EventKind.ZONE_ENTERED, enters, {}),
            Found(EventKind.ZONE_LEFT, leaves, {"dwell_s": dwell_s}),
        ]
        used = set().union(*self._used.values())
        if "loiter_s" in used:
            late = inside & (dwell_s >= self._limits.of("loiter_s", seen.objects.sources) - HALF_MICROSECOND_S)
            rises = tracks.rises(late, ~inside, state, "loitering")
            found.append(Found(EventKind.LOITERING, rises, {"dwell_s": dwell_s}))
        if "direction" in used:
            found.append(self._wrong_way(seen, inside, enters))
        if seen.movement is not None:
            if "stopped_s" in used:
                found += self._stops(seen, inside, seen.movement)
            if "limit_kmh" in used:
                speed = np.broadcast_to(seen.movement.speed_mps[:, None], inside.shape)
                fast = inside & (speed > self._limits.of("limit_mps", seen.objects.sources))
                rises = tracks.rises(fast, ~inside, state, "speeding")
                found.append(Found(EventKind.SPEEDING, rises, {"speed_kmh": speed * _KMH}))
        return found

    def _stops(self, seen: Observations, inside: Mask, movement: Movement) -> list[Found]:
        still_s = np.broadcast_to(movement.still_s[:, None], inside.shape)
        stood_s = np.broadcast_to(movement.stood_s[:, None], inside.shape)
        stands = inside & (still_s >= self._limits.of("stopped_s", seen.objects.sources) - HALF_MICROSECOND_S)
        on, was_on = seen.tracks.latest(stands, stands | ~inside | (still_s == 0), self._state, "stopped")
        ends = was_on & ~on & inside
        return [
            Found(EventKind.STOPPED, on & ~was_on, {"stopped_s": still_s}),
            Found(EventKind.MOVED_ON, ends, {"stopped_s": stood_s}),
        ]

    def _wrong_way(self, seen: Observations, inside: Mask, enters: Mask) -> Found:
        """Objects that have gone back from the furthest point along the arrow that they had reached in the zone."""
        limits, state, tracks = self._limits, self._state, seen.tracks
        way_x, way_y = limits.of("way_x", seen.objects.sources), limits.of("way_y", seen.objects.sources)
        # Zones without an arrow have none of this: 0, as a NaN would spread over the rows behind it.
        progress = np.nan_to_num(seen.objects.x[:, None] * way_x + seen.objects.y[:, None] * way_y)
        furthest = tracks.furthest(progress, enters, state, "furthest")
        back = furthest - progress
        wrong = inside & (back > limits.of("wrong_way", seen.objects.sources))
        rises = tracks.rises(wrong, ~inside, state, "wrong")
        return Found(EventKind.WRONG_DIRECTION, rises, {"back_px": back})
