"""What `pipeline.models` and `pipeline.cascade` found, as it stands in JSON records."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline.crops import Crops
from pipeline.frames import Frame, ResultBatch
from pipeline.sinks._records import text
from pipeline.sinks._task_records import TaskRecords

Record = dict[str, Any]


class SecondRecords:
    """Turns a batch's further results into parts of its frames' records."""

    def __init__(self, mask_side: int | None) -> None:
        self._mask_side = mask_side
        self._tasks: dict[str, TaskRecords] = {}

    def __call__(self, batch: ResultBatch, detections: list[Record]) -> list[Record]:
        """For each frame `models` and `cascade`, where there are any.

        Args:
            batch: The results.
            detections: The records of the batch's own detections, one after another; attributes are put into them.
        """
        extra: list[Record] = [{} for _ in batch.frames]
        known: dict[str | None, list[Record]] = {None: detections}
        for name, side in batch.models.items():
            found = self._of(name)(side.predictions)
            known[name] = found.detections
            for i, record in enumerate(extra):
                own = {field: values[i] for field, values in found.fields.items()}
                record.setdefault("models", {})[name] = {"model": text(side.model), **own}
        for name, crops in batch.crops.items():
            found = self._of(name)(crops.predictions)
            known[name] = found.detections
            _put_attributes(
                known[crops.of], name, found.fields, crops.parents.tolist(), _kept_from(batch.frames, crops)
            )
            parts = self._parts(crops, found.detections)
            for i, record in enumerate(extra):
                own = {} if parts is None else {"detections": parts[i]}
                record.setdefault("cascade", {})[name] = {"model": text(crops.model), **own}
        return extra

    def _of(self, name: str) -> TaskRecords:
        if name not in self._tasks:
            self._tasks[name] = TaskRecords(self._mask_side)
        return self._tasks[name]

    def _parts(self, crops: Crops, detections: list[Record]) -> list[list[Record]] | None:
        """For each frame the detections that were found in crops; None where the model is no detector."""
        if crops.predictions.detections is None:
            return None
        offsets = crops.found_offsets
        first = np.repeat(crops.parent_offsets[:-1], np.diff(offsets))
        for record, parent in zip(detections, (crops.found_parents - first).tolist(), strict=True):
            record["parent"] = parent
        return [detections[start:end] for start, end in itertools.pairwise(offsets.tolist())]


def _put_attributes(
    detections: list[Record],
    name: str,
    fields: Mapping[str, list[Any]],
    parents: list[int],
    kept_from: list[int | None],
) -> None:
    attributes = {field: values for field, values in fields.items() if field != "detections"}
    if not attributes:
        return
    for i, (row, number) in enumerate(zip(parents, kept_from, strict=True)):
        own = {field: values[i] for field, values in attributes.items()}
        if number is not None:
            own["frame"] = number
        detections[row].setdefault("attributes", {})[name] = own


def _kept_from(frames: Sequence[Frame], crops: Crops) -> list[int | None]:
    """For each crop the number of the frame that its result was kept from; None if it is of the detection's own frame."""
    numbers = np.repeat([frame.index for frame in frames], np.diff(crops.offsets))
    return [
        None if own == number else own
        for own, number in zip(crops.frame_numbers.tolist(), numbers.tolist(), strict=True)
    ]
