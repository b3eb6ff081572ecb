"""Which track has which slot in the arrays, and when it was last seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.analytics.arrays import Array, Block, Indices


@dataclass(frozen=True, slots=True)
class Stamp:
    """A frame, without its pixels: its number, its presentation time and when it was decoded."""

    frame: int
    pts_s: float | None
    time_s: float


class Tracks:
    """The tracks that are remembered.

    Attributes:
        seen: By slot: `source` (its row, -1 where the slot is free), `last_s` (by the source's clock) and `class_id` of the last
            observation.
    """

    def __init__(self) -> None:
        self.seen = Block(
            has_columns=False,
            source=np.int64(-1),
            track_id=np.int64(-1),
            last_s=np.float64(np.nan),
            class_id=np.int32(-1),
        )
        self._slots: dict[tuple[int, int], int] = {}
        self._free: list[int] = []
        self._stamps: dict[int, Stamp] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def slots_of(self, sources: Indices, track_ids: Indices) -> Indices:
        """The slots of tracks, new ones for those not seen before; (R,) each. `seen` may have grown after it."""
        known = self._slots
        keys = list(zip(sources.tolist(), track_ids.tolist(), strict=True))
        slots = list(map(known.get, keys))
        if None in slots:
            slots = [known[key] if key in known else self._add(key) for key in keys]
        return np.array(slots, np.int64)

    def saw(self, slots: Indices, times_s: Array, class_ids: Indices, stamps: Sequence[Stamp]) -> None:
        """Notes the last observation of each of these slots."""
        self.seen["last_s"][slots] = times_s
        self.seen["class_id"][slots] = class_ids
        self._stamps.update(zip(slots.tolist(), stamps, strict=True))

    def stamp(self, slot: int) -> Stamp:
        """The frame that showed the track last."""
        return self._stamps[slot]

    def id_of(self, slot: int) -> int:
        """The track's number."""
        return int(self.seen["track_id"][slot])

    def of_source(self, source: int) -> Indices:
        """The slots of a source's tracks."""
        return np.flatnonzero(self.seen["source"] == source)

    def remove(self, slots: Indices) -> None:
        """Forgets tracks; their slots are free from now on."""
        for slot in slots.tolist():
            del self._slots[int(self.seen["source"][slot]), self.id_of(slot)]
            self._stamps.pop(slot, None)
        self._free += slots.tolist()
        self.seen.clear(slots)

    def _add(self, key: tuple[int, int]) -> int:
        if not self._free:
            old = self.seen.rows
            self.seen.grow(old + 1)
            self._free = list(range(self.seen.rows - 1, old - 1, -1))
        slot = self._slots[key] = self._free.pop()
        self.seen["source"][slot], self.seen["track_id"][slot] = key
        return slot
