"""Follows the tracks of all sources: which lines they cross, which zones they are in, and when they have ended."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from pipeline.analytics.arrays import Block, where
from pipeline.analytics.clock import HALF_MICROSECOND_S
from pipeline.analytics.events import EventKind, Layout
from pipeline.analytics.findings import Finding, Frames, Objects, rounded
from pipeline.analytics.homography import homography, on_ground
from pipeline.analytics.layout import Scale, still_radius
from pipeline.analytics.lines import Lines
from pipeline.analytics.motion import Motion, Movement, Positions
from pipeline.analytics.sequences import Sequences
from pipeline.analytics.tracks import Tracks
from pipeline.analytics.zones import Observations, Zones
from pipeline.config.analytics import SourceAnalytics

KMH = 3.6
_NAN = np.float64(np.nan)


class Follower:
    """The tracks of all sources, and their states.

    Attributes:
        lines: The lines of all sources.
        zones: The zones of all sources.
    """

    def __init__(self) -> None:
        self.lines = Lines()
        self.zones = Zones()
        self._tracks = Tracks()
        self._motion = Motion()
        # By row of the source; `now_s` is the time of its frame that is being looked at.
        self._sources = Block(has_columns=False, forget_s=_NAN, now_s=_NAN, radius=_NAN, window_s=_NAN)
        self._grounds = np.zeros((0, 3, 3))
        self._most: dict[int, int] = {}  # tracks by row
        self._movers: set[int] = set()  # rows of the sources whose objects' movement matters

    def __len__(self) -> int:
        """How many tracks are remembered."""
        return len(self._tracks)

    def place(self, row: int, settings: SourceAnalytics, layout: Layout) -> None:
        """A source that is new, or whose pictures have another size than before."""
        self._sources.grow(row + 1)
        if row >= len(self._grounds):
            more = np.full((self._sources.rows - len(self._grounds), 3, 3), np.nan)
            self._grounds = np.concatenate((self._grounds, more))
        self._grounds[row] = np.nan
        self._sources["window_s"][row] = np.nan
        if settings.ground is not None:
            image = Scale(settings, layout.size).points(settings.ground.image)
            self._grounds[row] = homography(image, settings.ground.metres)
            self._sources["window_s"][row] = settings.ground.window_s
        self._sources["forget_s"][row] = settings.forget_s + HALF_MICROSECOND_S
        self._sources["radius"][row] = still_radius(settings, layout.size)
        self._most[row] = settings.max_tracks
        self.lines.set_source(row, layout.lines)
        self.zones.set_source(row, layout.zones, settings.zones)
        if settings.ground is not None or any(zone.stopped_s is not None for zone in settings.zones):
            self._movers.add(row)
        self._reserve()

    def drop(self, row: int) -> list[Finding]:
        """A source that has ended: its tracks end with it."""
        slots = self._tracks.of_source(row)
        found = [finding for slot in slots.tolist() for finding in self._last_of(slot, 0, "source_ended")]
        self._forget(slots)
        self.lines.set_source(row, ())
        self.zones.set_source(row, (), ())
        self._sources.clear(row)
        self._movers.discard(row)
        del self._most[row]
        return found

    def __call__(self, objects: Objects, frames: Frames) -> list[Finding]:
        """What a batch shows."""
        found: list[Finding] = []
        start = 0
        while start < len(frames):
            start = self._part(objects, frames, start, found)
        return found

    def _part(self, objects: Objects, frames: Frames, start: int, found: list[Finding]) -> int:
        """Follows the tracks from frame `start` of the batch on; returns the frame where it stopped.

        It stops short of the end where a track is seen again after so long a time that it has been forgotten in between: that
        is a new one, and what is found must not depend on which frames share a batch.
        """
        own = frames.sources[start:]
        known = own >= 0
        # Of several frames of a source the last assignment stays: backwards that is the first frame.
        self._sources["now_s"][own[known][::-1]] = frames.times_s[start:][known][::-1]
        self._expire(frames, range(start, len(frames)), found)
        end = len(frames)
        chosen = np.flatnonzero((objects.frames >= start) & (objects.track_ids >= 0))
        if len(chosen):
            slots = self._tracks.slots_of(objects.sources[chosen], objects.track_ids[chosen])
            tracks = Sequences(slots)
            rows = chosen[tracks.order]
            gaps_s = tracks.gaps_s(objects.times_s[rows], self._tracks.seen["last_s"])
            late = gaps_s > self._sources.of("forget_s", objects.sources[rows])
            if late.any():
                end = int(objects.frames[rows[late]].min())
                before = objects.frames[chosen] < end
                tracks = Sequences(slots[before])
                rows = chosen[before][tracks.order]
            self._reserve()
            if len(rows):
                self._observe(objects.rows(rows), tracks, frames, found)
        own, known = own[: end - start], known[: end - start]
        self._sources["now_s"][own[known]] = frames.times_s[start:end][known]
        self._expire(frames, range(start, end), found)
        return end

    def _observe(self, seen: Objects, tracks: Sequences, frames: Frames, found: list[Finding]) -> None:
        """What the observations of tracks show, which are sorted as in `tracks`."""
        movement = self._move(seen, tracks) if self._movers else None

        def finding(row: int, column: int, kind: EventKind) -> Finding:
            position = int(seen.frames[row])
            return Finding(
                position, kind, column, int(seen.track_ids[row]), int(seen.class_ids[row]), frames.stamps[position]
            )

        if self.lines.count:
            rows, columns, is_first_way = self.lines.crossings(tracks, seen)
            for row, column, is_first in zip(rows.tolist(), columns.tolist(), is_first_way.tolist(), strict=True):
                crossing = finding(row, column, EventKind.LINE_CROSSED)
                if movement is not None and not np.isnan(movement.speed_mps[row]):
                    crossing.values["speed_kmh"] = rounded("speed_kmh", float(movement.speed_mps[row]) * KMH)
                found.append(crossing if is_first else _back(crossing))
        if self.zones.count:
            for events in self.zones.follow(Observations(tracks, seen, movement)):
                for row, column in zip(*(places.tolist() for places in where(events.where)), strict=True):
                    one = finding(row, column, events.kind)
                    for name, values in events.values.items():
                        one.values[name] = rounded(name, float(values[row, column]))
                    if events.kind is EventKind.ZONE_LEFT:
                        one.values["reason"] = "left"
                    found.append(one)
        last = tracks.ends
        stamps = [frames.stamps[position] for position in seen.frames[last].tolist()]
        self._tracks.saw(tracks.slots[last], seen.times_s[last], seen.class_ids[last], stamps)
        if len(self._tracks) > min(self._most.values()):
            self._limit(seen, found)

    def _move(self, seen: Objects, tracks: Sequences) -> Movement:
        ground = on_ground(self._grounds.take(seen.sources, axis=0), seen.x, seen.y)
        radius, window_s = self._sources.of("radius", seen.sources), self._sources.of("window_s", seen.sources)
        return self._motion(tracks, Positions(seen.times_s, seen.x, seen.y, *ground, radius, window_s))

    def _expire(self, frames: Frames, among: range, found: list[Finding]) -> None:
        """Ends the tracks that have not been seen for too long, each at the first frame of its source that is too late."""
        if not len(self._tracks):
            return
        seen = self._tracks.seen
        taken = np.flatnonzero(seen["source"] >= 0)
        owners = seen.of("source", taken)
        unseen_s = self._sources.of("now_s", owners) - seen.of("last_s", taken)
        gone = taken[unseen_s > self._sources.of("forget_s", owners)]
        for slot in gone.tolist():
            row, last_s = int(seen["source"][slot]), float(seen["last_s"][slot])
            forget_s = float(self._sources["forget_s"][row])
            is_late = (frames.sources == row) & (frames.times_s - last_s > forget_s)
            found += self._last_of(slot, next(i for i in among if is_late[i]), "track_ended")
        self._forget(gone)

    def _limit(self, seen: Objects, found: list[Finding]) -> None:
        """Ends the longest unseen tracks of sources that have more than they may."""
        for row in np.unique(seen.sources).tolist():
            slots = self._tracks.of_source(row)
            excess = len(slots) - self._most[row]
            if excess > 0:
                last_s, track_ids = (self._tracks.seen[name][slots] for name in ("last_s", "track_id"))
                oldest = slots[np.lexsort((track_ids, last_s))[:excess]]
                position = int(seen.frames[seen.sources == row].max())
                for slot in oldest.tolist():
                    found += self._last_of(slot, position, "track_ended")
                self._forget(oldest)

    def _last_of(self, slot: int, position: int, reason: str) -> Iterator[Finding]:
        """What a track that ends leaves open: the zones that it is in, which it leaves where it was last seen."""
        tracks = self._tracks
        last_s, class_id = float(tracks.seen["last_s"][slot]), int(tracks.seen["class_id"][slot])
        for column, since_s in self.zones.visits(slot):
            values = {"dwell_s": rounded("dwell_s", last_s - since_s), "reason": reason}
            yield Finding(
                position, EventKind.ZONE_LEFT, column, tracks.id_of(slot), class_id, tracks.stamp(slot), values
            )

    def _forget(self, slots: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        if len(slots):
            self._tracks.remove(slots)
            self.lines.forget(slots)
            self.zones.forget(slots)
            self._motion.forget(slots)

    def _reserve(self) -> None:
        slots = self._tracks.seen.rows
        self.lines.reserve(slots)
        self.zones.reserve(slots)
        self._motion.reserve(slots)


def _back(crossing: Finding) -> Finding:
    return Finding(
        crossing.position,
        crossing.kind,
        crossing.column,
        crossing.track_id,
        crossing.class_id,
        crossing.stamp,
        crossing.values,
        way=1,
    )
