"""Which detections are looked at now, and which keep what is known of their tracks."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

# Of how many tracks of one entry the last result is kept; the one that was not seen for longest is forgotten first.
MOST_TRACKS = 8192
NO_TRACK = -1


@dataclass(slots=True)
class _Track:
    """What is remembered of a track: where its last result is kept, which one that is, and how often it was found since."""

    slot: int
    ticket: int
    since: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """What is done with some detections of a batch.

    Attributes:
        rows: (R,) ascending: which of the detections have a result, as indices into those that were asked about.
        is_new: (R,) bool: whether it is looked at now; the others keep the last result of their track.
        tickets: (R,) number of the result, counted over the whole run: which one it is.
        slots: (R,) where the track's last result is kept; `NO_TRACK` where nothing is kept.
    """

    rows: Rows
    is_new: npt.NDArray[np.bool_]
    tickets: Rows
    slots: Rows


class Turns:
    """Decides for one entry of the cascade, frame by frame in their order. All calls come from one thread.

    Args:
        every: Of the frames that a track is found in, one in this many is looked at.
        most: Detections that are looked at in a frame; None: all.
        keeps: Whether the results of tracks are kept.
        capacity: Of how many tracks.
    """

    def __init__(
        self, every: int = 1, most: int | None = None, *, keeps: bool = True, capacity: int = MOST_TRACKS
    ) -> None:
        self._every, self._most, self._keeps, self._capacity = every, most, keeps, capacity
        self._tracks: OrderedDict[tuple[str, int], _Track] = OrderedDict()
        self._free: list[int] = []
        self._next_ticket = 0

    def __call__(self, source_ids: Sequence[str], offsets: Rows, track_ids: Rows | None) -> Chosen:
        """Decides for a batch.

        Args:
            source_ids: Of its N frames.
            offsets: (N + 1,): frame i owns the detections offsets[i]:offsets[i + 1], the best first.
            track_ids: (D,), -1 without a track; None where nothing tracks.
        """
        count = int(offsets[-1])
        if self._most is None and (track_ids is None or self._every == 1):
            first, self._next_ticket = self._next_ticket, self._next_ticket + count
            return Chosen(
                np.arange(count), np.ones(count, np.bool_), np.arange(first, first + count), np.full(count, NO_TRACK)
            )
        ids = [NO_TRACK] * count if track_ids is None else track_ids.tolist()
        told: list[tuple[int, bool, int, int]] = []
        ends = offsets.tolist()
        for source_id, start, end in zip(source_ids, ends[:-1], ends[1:], strict=True):
            told += self._of_frame(source_id, range(start, end), ids)
        rows, is_new, tickets, slots = zip(*told, strict=True) if told else ((), (), (), ())
        return Chosen(
            np.array(rows, np.int64), np.array(is_new, np.bool_), np.array(tickets, np.int64), np.array(slots, np.int64)
        )

    def forget(self, source_id: str) -> None:
        """A source has ended, and its tracks with it."""
        for key in [key for key in self._tracks if key[0] == source_id]:
            self._free.append(self._tracks.pop(key).slot)

    def _of_frame(self, source_id: str, rows: range, ids: list[int]) -> list[tuple[int, bool, int, int]]:
        known: dict[int, _Track] = {}
        due: list[tuple[float, int]] = []
        for row in rows:
            track = None if ids[row] == NO_TRACK else self._tracks.get((source_id, ids[row]))
            if track is None:
                # A new track comes before all that are known; what has no track at all comes last.
                due.append((0.0 if ids[row] == NO_TRACK else -np.inf, row))
                continue
            known[row] = track
            self._tracks.move_to_end((source_id, ids[row]))
            track.since += 1
            if track.since >= self._every:
                due.append((-track.since, row))
        if self._most is not None and len(due) > self._most:
            due = sorted(due)[: self._most]  # of those that have waited as long the best, which come first
        told = []
        looked_at = {row for _, row in due}
        for row in rows:
            if row in looked_at:
                told.append((row, True, self._ticket(), self._look(source_id, ids[row], known.get(row))))
            elif row in known and self._keeps:
                told.append((row, False, known[row].ticket, known[row].slot))
        return told

    def _ticket(self) -> int:
        self._next_ticket += 1
        return self._next_ticket - 1

    def _look(self, source_id: str, track_id: int, track: _Track | None) -> int:
        """Remembers that a track is looked at, as the latest ticket says; where its result is kept."""
        if track_id == NO_TRACK:
            return NO_TRACK
        if track is None:
            if len(self._tracks) >= self._capacity:
                self._free.append(self._tracks.popitem(last=False)[1].slot)
            track = _Track(self._free.pop() if self._free else len(self._tracks), 0)
            self._tracks[source_id, track_id] = track
        track.ticket, track.since = self._next_ticket - 1, 0
        return track.slot
