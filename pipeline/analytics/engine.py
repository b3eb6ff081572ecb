"""`Analytics`: from batches of results to events, for all sources of a run together.

What costs time is done on arrays of a whole batch, whatever sources its frames come from: where points lie, and which state
each track is in. Only what happens, which is rare, and what belongs to a frame as a whole is done one by one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from pipeline.analytics.arrays import Block, Indices, where
from pipeline.analytics.classes import ClassFilters
from pipeline.analytics.clock import SourceClock
from pipeline.analytics.events import Event, EventKind, Scene
from pipeline.analytics.findings import Finding, Frames, Objects, in_order
from pipeline.analytics.follow import Follower
from pipeline.analytics.layout import check_layout, layout_of
from pipeline.analytics.tally import Tally, Told
from pipeline.analytics.tracks import Stamp
from pipeline.config.analytics import SourceAnalytics
from pipeline.errors import SourceError
from pipeline.frames import Detections, Frame, ResultBatch

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Source:
    """A source that has analytics, from its first frame on."""

    row: int
    source_id: str
    settings: SourceAnalytics
    tally: Tally
    stamp: Stamp
    clock: SourceClock = field(default_factory=SourceClock)
    now_s: float = 0.0


class Analytics:
    """Adds events, and what lines and zones have counted, to results. All calls come from one thread.

    Args:
        settings: Source id -> what is wanted of it; sources that are not in it pass by. May change as sources come and go.

    Attributes:
        settings: The same.
    """

    def __init__(self, settings: dict[str, SourceAnalytics]) -> None:
        self.settings = settings
        self._sources: dict[str, _Source] = {}
        self._free_rows: list[int] = []
        self._anchors = Block(has_columns=False, share=np.float64(1.0))  # of a box's height, from its top
        self._filters = ClassFilters()
        self._follow = Follower()
        self._names: Mapping[int, str] = {}

    def __call__(self, batch: ResultBatch) -> ResultBatch:
        """The batch with the events that its frames bring, and a scene for each frame of a source that has analytics."""
        detections = batch.predictions.detections
        if detections is None or not (self.settings or self._sources):
            return batch
        sources = [self._source(frame) for frame in batch.frames]
        if not any(sources):
            return batch
        self._names = detections.names
        frames = Frames(
            np.array([-1 if source is None else source.row for source in sources], np.int64),
            np.array([0.0 if s is None else s.clock(f) for s, f in zip(sources, batch.frames, strict=True)]),
            [_stamp(frame) for frame in batch.frames],
        )
        objects = self._objects(detections, frames)
        findings = sorted(self._follow(objects, frames), key=in_order)
        occupancy = self._occupancy(objects, len(frames))
        return self._told(batch, sources, frames, occupancy, findings)

    def finish(self, source_id: str) -> tuple[Event, ...]:
        """A source has ended: what is still open comes to its end, and all that is remembered of it is dropped."""
        source = self._sources.pop(source_id, None)
        if source is None:
            return ()
        findings = sorted(self._follow.drop(source.row), key=in_order)
        events = [self._event(source, finding, None) for finding in findings]
        events += [_of_frame(source, told, None) for told in source.tally.finish(source.now_s)]
        self._filters.set_source(source.row, None)
        self._anchors.clear(source.row)
        self._free_rows.append(source.row)
        return tuple(events)

    def _source(self, frame: Frame) -> _Source | None:
        """The frame's source, which is new with its first frame; None if it has no analytics."""
        source = self._sources.get(frame.source_id)
        size = frame.picture.width, frame.picture.height
        if source is None:
            settings = self.settings.get(frame.source_id)
            if settings is None:
                return None
            tally = Tally(layout_of(settings, size), settings.zones, settings.interval_s)
            row = self._free_rows.pop() if self._free_rows else len(self._sources)
            source = self._sources[frame.source_id] = _Source(row, frame.source_id, settings, tally, _stamp(frame))
            self._place(source)
        elif source.tally.layout.size != size:
            try:
                warnings = check_layout(source.settings, size, source.source_id)
            except (
                SourceError
            ) as e:  # a live stream whose pictures have changed their size: what they still show goes on
                warnings = [str(e)]
            for warning in warnings:
                log.warning("%s", warning)
            source.tally.layout = layout_of(source.settings, size)
            self._place(source)
        return source

    def _place(self, source: _Source) -> None:
        """Puts a source's geometry, in pixels, into the tables of all sources."""
        self._anchors.grow(source.row + 1)
        self._anchors["share"][source.row] = 1.0 if source.settings.anchor == "bottom" else 0.5
        self._filters.set_source(source.row, source.settings)
        self._follow.place(source.row, source.settings, source.tally.layout)

    def _objects(self, detections: Detections, frames: Frames) -> Objects:
        """The objects that are looked at, with the point that stands for each and where that lies."""
        positions = np.repeat(np.arange(len(frames)), np.diff(detections.offsets))
        sources = frames.sources.take(positions)
        class_ids = detections.class_ids.astype(np.int64)
        chosen = sources >= 0
        looked_at = self._filters.allowed("objects", np.maximum(sources, 0), class_ids, detections.names)
        if looked_at is not None:
            chosen &= looked_at[:, 0]
        positions, sources, class_ids = positions[chosen], sources[chosen], class_ids[chosen]
        x1, y1, x2, y2 = detections.boxes[chosen].astype(np.float64).T
        x, y = (x1 + x2) / 2, y1 + (y2 - y1) * self._anchors.of("share", sources)
        track_ids = np.full(len(positions), -1, np.int64)
        if detections.track_ids is not None:
            track_ids = detections.track_ids[chosen].astype(np.int64)
        lines, zones = self._follow.lines.count, self._follow.zones.count
        inside = near = np.zeros((len(positions), 0), np.bool_)
        if zones:
            inside, near = self._follow.zones.areas.locate(sources, x, y)
        return Objects(
            positions,
            sources,
            frames.times_s.take(positions),
            x,
            y,
            class_ids,
            track_ids,
            inside,
            near,
            self._filters.allowed("lines", sources, class_ids, detections.names, lines),
            self._filters.allowed("zones", sources, class_ids, detections.names, zones),
        )

    def _occupancy(self, objects: Objects, frames: int) -> npt.NDArray[np.int64]:
        """(frames, K): how many objects are inside each zone, tracked or not."""
        zones = self._follow.zones.count
        inside = objects.inside if objects.zone_allowed is None else objects.inside & objects.zone_allowed
        rows, columns = where(inside)
        counts: Indices = np.bincount(objects.frames[rows] * zones + columns, minlength=frames * zones)
        return counts.reshape(frames, zones)

    def _told(
        self,
        batch: ResultBatch,
        sources: Sequence[_Source | None],
        frames: Frames,
        occupancy: npt.NDArray[np.int64],
        findings: Sequence[Finding],
    ) -> ResultBatch:
        """The batch with its events, in order, and scenes."""
        events: list[Event] = []
        scenes: list[Scene | None] = []
        detections = batch.predictions.detections
        knows_tracks = detections is not None and detections.track_ids is not None
        counts, times_s = occupancy.tolist(), frames.times_s.tolist()
        next_finding = 0
        for position, source in enumerate(sources):
            if source is None:
                scenes.append(None)
                continue
            source.now_s, source.stamp = times_s[position], frames.stamps[position]
            own = tuple(counts[position][: len(source.tally.layout.zones)])
            # An interval that is over counts what came before this frame.
            for told in source.tally.begin(source.now_s, knows_tracks=knows_tracks):
                events.append(_of_frame(source, told, position))
            while next_finding < len(findings) and findings[next_finding].position == position:
                events.append(self._event(source, findings[next_finding], position))
                next_finding += 1
            for told in source.tally.fill(source.now_s, own):
                events.append(_of_frame(source, told, position))
            scenes.append(source.tally.scene())
        return replace(batch, events=tuple(events), scenes=scenes)

    def _event(self, source: _Source, finding: Finding, position: int | None) -> Event:
        label = self._names.get(finding.class_id, str(finding.class_id))
        direction, values, column = None, finding.values, finding.column
        if finding.kind is EventKind.LINE_CROSSED:
            line = source.tally.layout.lines[column]
            name, direction = line.name, line.directions[finding.way]
            values = {"count": source.tally.crossed(column, finding.way, label), **values}
        else:
            name = source.tally.layout.zones[column].name
            source.tally.visited(finding.kind, column)
            if finding.kind is EventKind.SPEEDING:
                values = {**values, "limit_kmh": source.settings.zones[column].limit_kmh}
        stamp = finding.stamp
        return Event(
            finding.kind,
            source.source_id,
            stamp.frame,
            stamp.pts_s,
            stamp.time_s,
            name,
            direction,
            finding.class_id,
            label,
            finding.track_id,
            values,
            position,
        )


def _stamp(frame: Frame) -> Stamp:
    return Stamp(frame.index, frame.pts_s, frame.time_s)


def _of_frame(source: _Source, told: Told, position: int | None) -> Event:
    kind, name, values = told
    stamp = source.stamp
    return Event(kind, source.source_id, stamp.frame, stamp.pts_s, stamp.time_s, name, values=values, position=position)
