"""The last results of tracks, and a batch's results put together from new ones and kept ones."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.cascade.turns import NO_TRACK, Chosen
from pipeline.crops import Rows, joined, taken
from pipeline.frames import Predictions

_FIRST_CAPACITY = 64


@dataclass(frozen=True, slots=True, eq=False)
class Merged:
    """Results of detections, whether new or kept.

    Attributes:
        rows: (R,) ascending, as in `Chosen.rows`: those of which something is known.
        frame_numbers: (R,): number of the frame that each result comes from.
        predictions: Of the R crops.
    """

    rows: Rows
    frame_numbers: Rows
    predictions: Predictions


class KeptResults:
    """Where the last results of tracks are kept, by slot. Batches come in the order in which they were chosen, from one thread."""

    def __init__(self) -> None:
        self._predictions: Predictions | None = None  # a row a slot
        self._frame_numbers = np.zeros(_FIRST_CAPACITY, np.int64)
        self._is_known = np.zeros(_FIRST_CAPACITY, np.bool_)

    def merge(
        self, chosen: Chosen, frame_numbers: Rows, new: Predictions | None, has_result: npt.NDArray[np.bool_]
    ) -> Merged | None:
        """Puts a batch's results together, then keeps the new ones.

        Args:
            chosen: What was decided for the batch.
            frame_numbers: (R,): of the frame that each of the rows is in.
            new: Of those that were looked at and have a result, in their order; None if there are none.
            has_result: For each that was looked at, whether it has one.

        Returns:
            What is known; None if nothing is.
        """
        looked_at = np.flatnonzero(chosen.is_new)
        self._grow(int(chosen.slots.max(initial=-1)) + 1)
        capacity = len(self._is_known)
        # Rows of what was known before, by slot, then of what is new, by ticket.
        position = np.full(len(looked_at), -1, np.int64)
        position[has_result] = capacity + np.arange(int(has_result.sum()))
        sources = np.where(chosen.slots >= 0, chosen.slots, 0)
        sources[~self._is_known[sources]] = -1
        if len(looked_at):
            nth = chosen.tickets - chosen.tickets[looked_at[0]]
            is_of_batch = nth >= 0
            sources[is_of_batch] = position[nth[is_of_batch]]
        known = np.flatnonzero(sources >= 0)
        merged = None
        if len(known):
            numbers = np.concatenate([self._frame_numbers, frame_numbers[looked_at][has_result]])
            merged = Merged(chosen.rows[known], numbers[sources[known]], self._rows(sources[known], new))
        self._keep(chosen.slots[looked_at], frame_numbers[looked_at], new, has_result)
        return merged

    def _rows(self, sources: Rows, new: Predictions | None) -> Predictions:
        """`sources` counts the slots first, then the new ones."""
        capacity = len(self._is_known)
        if (sources >= capacity).all():
            assert new is not None
            return taken(new, sources - capacity)
        assert self._predictions is not None
        if new is None:
            return taken(self._predictions, sources)
        used = np.unique(sources[sources < capacity])  # not all slots: there may be thousands
        place = np.zeros(capacity, np.int64)
        place[used] = np.arange(len(used))
        old = sources < capacity
        rows = np.where(old, place[np.where(old, sources, 0)], sources - capacity + len(used))
        return taken(joined([taken(self._predictions, used), new]), rows)

    def _keep(
        self, slots: Rows, frame_numbers: Rows, new: Predictions | None, has_result: npt.NDArray[np.bool_]
    ) -> None:
        is_last = np.zeros(len(slots), np.bool_)  # of a slot that was filled several times the last one counts
        is_last[len(slots) - 1 - np.unique(slots[::-1], return_index=True)[1]] = True
        is_last &= slots != NO_TRACK
        self._is_known[slots[is_last & ~has_result]] = False
        chosen = is_last & has_result
        if new is None or not chosen.any():
            return
        nth = np.cumsum(has_result) - 1
        filled, rows = slots[chosen], nth[chosen]
        if self._predictions is None:
            self._predictions = taken(new, np.zeros(len(self._is_known), np.int64))
        _put(self._predictions, filled, new, rows)
        self._frame_numbers[filled] = frame_numbers[chosen]
        self._is_known[filled] = True

    def _grow(self, capacity: int) -> None:
        old = len(self._is_known)
        if capacity <= old:
            return
        more = max(capacity, 2 * old) - old
        self._is_known = np.concatenate([self._is_known, np.zeros(more, np.bool_)])
        self._frame_numbers = np.concatenate([self._frame_numbers, np.zeros(more, np.int64)])
        if self._predictions is not None:
            self._predictions = taken(self._predictions, np.minimum(np.arange(old + more), old - 1))


def _put(into: Predictions, slots: Rows, new: Predictions, rows: Rows) -> None:
    """Overwrites rows of `into`, which nobody else has; only what has no place in the picture is kept."""
    if into.classes is not None and new.classes is not None:
        into.classes.class_ids[slots] = new.classes.class_ids[rows]
        into.classes.scores[slots] = new.classes.scores[rows]
        into.classes.counts[slots] = new.classes.counts[rows]
    if into.embeddings is not None and new.embeddings is not None:
        into.embeddings[slots] = new.embeddings[rows]
