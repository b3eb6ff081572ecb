"""What passes between following tracks and telling of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from pipeline.analytics.arrays import Array, Indices
from pipeline.analytics.events import EventKind
from pipeline.analytics.sequences import Mask
from pipeline.analytics.tracks import Stamp

_RANKS = {kind: rank for rank, kind in enumerate(EventKind)}


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """The frames of a batch.

    Attributes:
        sources: (N,) row of each frame's source; -1 for those without analytics.
        times_s: (N,) by the source's clock.
        stamps: Which frames they are.
    """

    sources: Indices
    times_s: Array
    stamps: Sequence[Stamp]

    def __len__(self) -> int:
        return len(self.stamps)


@dataclass(frozen=True, slots=True, eq=False)
class Objects:
    """The objects that are looked at.

    Attributes:
        frames: (R,) position of the frame in its batch.
        sources: (R,) row of its source.
        times_s: (R,) by the source's clock.
        x: (R,) anchor point in display pixels.
        y: (R,) the same.
        class_ids: (R,).
        track_ids: (R,) negative for those without a track.
        inside: (R, K) of K zones, whether the anchor is inside.
        near: (R, K) whether it is outside, but no further than the hysteresis.
        line_allowed: (R, L) of L lines, which look at its class; None: all.
        zone_allowed: (R, K) the same of zones.
    """

    frames: Indices
    sources: Indices
    times_s: Array
    x: Array
    y: Array
    class_ids: Indices
    track_ids: Indices
    inside: Mask
    near: Mask
    line_allowed: Mask | None
    zone_allowed: Mask | None

    def rows(self, chosen: Indices) -> Objects:
        """Some of them."""
        return Objects(
            self.frames.take(chosen),
            self.sources.take(chosen),
            self.times_s.take(chosen),
            self.x.take(chosen),
            self.y.take(chosen),
            self.class_ids.take(chosen),
            self.track_ids.take(chosen),
            self.inside.take(chosen, axis=0),
            self.near.take(chosen, axis=0),
            None if self.line_allowed is None else self.line_allowed.take(chosen, axis=0),
            None if self.zone_allowed is None else self.zone_allowed.take(chosen, axis=0),
        )


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that happened to a track.

    Attributes:
        position: The frame of the batch that brought it to light.
        kind: What.
        column: Number of the line or zone in its source.
        track_id: Of whom.
        class_id: The object's class.
        stamp: In which frame.
        values: What was measured.
        way: Of a crossing: 0 for the first of the line's directions, 1 for the second.
    """

    position: int
    kind: EventKind
    column: int
    track_id: int
    class_id: int
    stamp: Stamp
    values: dict[str, Any] = field(default_factory=dict)
    way: int = 0

    @property
    def order(self) -> tuple[int, int, int, int, int]:
        """By frame, with what happened earlier first; then so that it does not matter which frames share a batch."""
        return self.position, self.stamp.frame, _RANKS[self.kind], self.column, self.track_id


in_order = attrgetter("order")


def rounded(name: str, value: float) -> float:
    """What a record says of a value: seconds to the microsecond, everything else to two decimals; never -0.0."""
    return round(value, 6 if name.endswith("_s") else 2) + 0.0
