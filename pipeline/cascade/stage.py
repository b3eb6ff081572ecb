"""`Cascade`: cuts the crops of a batch's detections, runs the models on them and puts the results together.

It has two halves, for two threads: `start` decides what is looked at, cuts and runs, which on a device only enqueues work;
`finish` waits for the results. Only where the detections of an entry are looked at by another one does `start` wait as well,
once for each level.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.cascade.kept import KeptResults
from pipeline.cascade.regions import crop_regions, is_usable
from pipeline.cascade.second import Part, SecondModel
from pipeline.cascade.turns import Chosen, Turns
from pipeline.config.cascade import CropRules
from pipeline.crops import Crops, Rows, followed, joined
from pipeline.errors import ConfigIssue
from pipeline.frames import Detections, Frame, Predictions, ResultBatch
from pipeline.observe.status import CropCounts, RunStatus, SecondStatus
from pipeline.postprocess.class_rules import class_ids_of
from pipeline.stages import Cropper


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """One of `pipeline.cascade`.

    Attributes:
        second: The model.
        crop: Cuts its input.
        rules: Which detections are looked at.
        nothing: What it gives for no crops at all.
        keeps: Whether results of tracks are kept: they say nothing of places in the picture.
    """

    second: SecondModel
    crop: Cropper
    rules: CropRules
    nothing: Predictions = field(default_factory=Predictions)
    keeps: bool = False


@dataclass(slots=True, eq=False)
class _Started:
    """What an entry is doing for a batch.

    Attributes:
        detections: Those that are looked at, of all frames.
        parent_offsets: (N + 1,): which of them are in which frame.
        rows: (A,) those that may be looked at.
        regions: (A, 4) what would be cut.
        frame_numbers: (A,) of the frames that they are in.
        chosen: What is done with them.
        parts: What the calls gave, each with how many crops it had.
        crops: The results, once somebody has waited for them.
    """

    detections: Detections | None
    parent_offsets: Rows
    rows: Rows
    regions: npt.NDArray[np.float64]
    frame_numbers: Rows
    chosen: Chosen
    parts: list[tuple[int, Part]]
    crops: Crops | None = None


Started = dict[str, _Started]


class Cascade:
    """Runs the entries. `start` and `forget` are called from one thread, `finish` from one that may be another.

    Args:
        entries: Each behind the one whose detections it looks at.
        status: Times are counted in its `stages`, which have an entry for each, and crops in its `models`.
        appearance: The entry by which the tracker knows objects again.
    """

    def __init__(self, entries: Sequence[Entry], status: RunStatus, *, appearance: str | None = None) -> None:
        self.entries = list(entries)
        self._status = status
        self._appearance = next((entry for entry in entries if entry.second.name == appearance), None)
        self._counts = {entry.second.name: CropCounts() for entry in entries}
        for entry in entries:
            name = entry.second.name
            status.models[name] = SecondStatus(entry.second.model.name, crops=self._counts[name])
        self._turns = {
            entry.second.name: Turns(entry.rules.every, entry.rules.max_per_frame, keeps=entry.keeps)
            for entry in entries
        }
        self._kept = {entry.second.name: KeptResults() for entry in entries}
        self._class_ids: dict[str, tuple[Mapping[int, str], list[int]]] = {}

    def looks(self, results: ResultBatch, frames: Sequence[Frame]) -> Crops | None:
        """What detections look like that are not tracked yet, waited for; None if the tracker does not want to know.

        Arguments and errors as for `start`.
        """
        entry, detections = self._appearance, results.predictions.detections
        if entry is None or detections is None:
            return None
        start_s = time.perf_counter()
        own = self._start(entry, detections, detections.offsets, frames)
        self._status.stages[crop_stage(entry.second.name)].add(time.perf_counter() - start_s, len(own.rows))
        return self._crops(entry, own)

    def start(
        self,
        results: ResultBatch,
        frames: Sequence[Frame],
        looks: Crops | None = None,
        before: Detections | None = None,
    ) -> Started:
        """Cuts all crops of a batch and runs the models on them.

        Args:
            results: The detections, with track ids if something tracks, and what other models found in the frames.
            frames: The same frames, with their pixels. Surfaces may be let go of as soon as this returns.
            looks: What `looks` gave.
            before: The detections for which it did: the tracker chooses among them.

        Raises:
            ModelError: a model does not run.
        """
        started: Started = {}
        for entry in self.entries:
            start_s, name = time.perf_counter(), entry.second.name
            if entry is self._appearance and looks is not None and before is not None:
                started[name] = _known(followed({name: looks}, before, results.predictions.detections)[name])
                continue
            detections, offsets = self._looked_at(entry, results, started)
            own = started[name] = self._start(entry, detections, offsets, frames)
            self._status.stages[crop_stage(name)].add(time.perf_counter() - start_s, int(own.chosen.is_new.sum()))
        return started

    def finish(self, started: Started) -> dict[str, Crops]:
        """What is known of the crops, by entry, waited for if need be.

        Raises:
            ModelError: a model's numbers are not what its family needs.
        """
        return {entry.second.name: self._crops(entry, started[entry.second.name]) for entry in self.entries}

    def forget(self, source_id: str) -> None:
        """A source has ended, and its tracks with it."""
        for turns in self._turns.values():
            turns.forget(source_id)

    def close(self) -> None:
        """Releases the models."""
        for entry in self.entries:
            entry.second.model.close()

    def _looked_at(self, entry: Entry, results: ResultBatch, started: Started) -> tuple[Detections | None, Rows]:
        """The detections that an entry looks at, and which of them are in which frame."""
        of, none = entry.rules.of, np.zeros(len(results.frames) + 1, np.int64)
        if of is None or of in results.models:
            predictions = results.predictions if of is None else results.models[of].predictions
            found = predictions.detections
            return found, none if found is None else found.offsets
        if of not in started:  # another model on the frames, whose own postprocessor failed
            return None, none
        parent = next(other for other in self.entries if other.second.name == of)
        crops = self._crops(parent, started[of])
        return crops.predictions.detections, crops.found_offsets

    def _start(self, entry: Entry, detections: Detections | None, offsets: Rows, frames: Sequence[Frame]) -> _Started:
        counts = self._counts[entry.second.name]
        frame_of = np.repeat(np.arange(len(frames)), np.diff(offsets))
        sizes = np.array([(f.picture.width, f.picture.height) for f in frames], np.float64).reshape(-1, 2)[frame_of]
        boxes = np.zeros((0, 4)) if detections is None else detections.boxes.astype(np.float64)
        rows = np.flatnonzero(self._is_wanted(entry, detections, boxes, sizes, counts))
        track_ids = None
        if entry.rules.of is None and detections is not None and detections.track_ids is not None:
            track_ids = detections.track_ids[rows]
        source_ids = [frame.source_id for frame in frames]
        chosen = self._turns[entry.second.name](source_ids, np.searchsorted(rows, offsets), track_ids)
        regions = crop_regions(boxes[rows], sizes[rows], entry.rules.margin, entry.rules.aspect)
        numbers = np.array([frame.index for frame in frames], np.int64)[frame_of[rows]]
        looked_at = chosen.rows[chosen.is_new]
        counts.crops += len(looked_at)
        counts.kept += len(chosen.rows) - len(looked_at)
        counts.left_out += len(rows) - len(chosen.rows)
        parts = self._run(entry, [frames[i] for i in frame_of[rows[looked_at]].tolist()], regions[looked_at])
        return _Started(detections, offsets, rows, regions, numbers, chosen, parts)

    def _is_wanted(
        self,
        entry: Entry,
        detections: Detections | None,
        boxes: npt.NDArray[np.float64],
        sizes: npt.NDArray[np.float64],
        counts: CropCounts,
    ) -> npt.NDArray[np.bool_]:
        """(D,) which detections may be looked at."""
        if detections is None:
            return np.zeros(0, np.bool_)
        wanted: npt.NDArray[np.bool_] = np.ones(len(boxes), np.bool_)
        if entry.rules.classes is not None:
            wanted = np.isin(detections.class_ids, self._ids(entry, detections.names))
        usable = is_usable(boxes, sizes)
        counts.unusable += int((wanted & ~usable).sum())
        wanted &= usable
        with np.errstate(invalid="ignore"):
            is_large: npt.NDArray[np.bool_] = (boxes[:, 2:] - boxes[:, :2]).min(
                axis=1, initial=np.inf
            ) >= entry.rules.min_size_px
        counts.too_small += int((wanted & ~is_large).sum())
        return wanted & is_large

    def _ids(self, entry: Entry, names: Mapping[int, str]) -> list[int]:
        """The ids of an entry's classes. A detector's names stay the same object; those of the user's own code may not."""
        known = self._class_ids.get(entry.second.name)
        if known is None or known[0] is not names:
            unknown: list[ConfigIssue] = []  # told when the run began, where the names were known
            ids = [i for label in entry.rules.classes or [] for i in class_ids_of(label, names, "", unknown)]
            known = self._class_ids[entry.second.name] = names, ids
        return known[1]

    def _run(self, entry: Entry, frames: list[Frame], regions: npt.NDArray[np.float64]) -> list[tuple[int, Part]]:
        """Cuts and runs as many at a time as the model takes."""
        most, bare = entry.second.model.batch_size, {}
        parts: list[tuple[int, Part]] = []
        for first in range(0, len(frames), most):
            some = frames[first : first + most]
            batch = entry.crop(some, regions[first : first + most], entry.second.model.rows(len(some)))
            for frame in some:
                if id(frame) not in bare:
                    bare[id(frame)] = frame.without_pixels()
            batch = batch.with_frames(tuple(bare[id(frame)] for frame in some))
            parts.append((len(some), entry.second(batch)))
        return parts

    def _crops(self, entry: Entry, own: _Started) -> Crops:
        if own.crops is None:
            own.crops = self._waited_for(entry, own)
            own.parts.clear()
        return own.crops

    def _waited_for(self, entry: Entry, own: _Started) -> Crops:
        results = [(count, entry.second.wait(part)) for count, part in own.parts]
        sound = [result for _, result in results if result is not None]
        has_result = np.repeat(
            np.array([result is not None for _, result in results], np.bool_), [count for count, _ in results]
        )
        self._counts[entry.second.name].failed += int((~has_result).sum())
        new = joined(sound) if sound else None
        chosen = own.chosen
        rows, numbers, predictions = np.zeros(0, np.int64), np.zeros(0, np.int64), entry.nothing
        if not entry.keeps or (chosen.slots < 0).all():
            if new is not None:
                rows, predictions = chosen.rows[has_result], new
                numbers = own.frame_numbers[rows]
        else:
            merged = self._kept[entry.second.name].merge(chosen, own.frame_numbers[chosen.rows], new, has_result)
            if merged is not None:
                rows, numbers, predictions = merged.rows, merged.frame_numbers, merged.predictions
        return Crops(
            entry.second.model.name,
            entry.rules.of,
            own.rows[rows],
            own.parent_offsets,
            own.regions[rows].astype(np.float32),
            numbers,
            predictions,
        )


def _known(crops: Crops) -> _Started:
    """An entry that has its results already."""
    none = np.zeros(0, np.int64)
    nothing = Chosen(none, np.zeros(0, np.bool_), none, none)
    return _Started(None, crops.parent_offsets, none, np.zeros((0, 4)), none, nothing, [], crops)


def crop_stage(name: str) -> str:
    """What the times of one of `pipeline.cascade` are called."""
    return f"cascade.{name}"
