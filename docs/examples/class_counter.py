"""A stage plug-in: counts detections per class and source, and can leave classes out for everyone behind it.

pipeline:
  plugins:
    - use: class_counter:ClassCounter
      options: {path: counts.json, ignore: [bird]}
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from pipeline.plugins import Detections, ResultBatch


class ClassCounter:
    """Counts; writes what it counted when the run ends.

    Args:
        path: Of the JSON file: source id -> label -> number of detections.
        ignore: Labels whose detections go no further.
    """

    class Options(BaseModel):
        """If a class has this, the YAML's options are checked against it before the run begins."""

        model_config = ConfigDict(extra="forbid")

        path: Path
        ignore: frozenset[str] = frozenset()

    def __init__(self, path: Path, ignore: frozenset[str] = frozenset()) -> None:
        self._path = path
        self._ignore = ignore
        self._counts: dict[str, Counter[str]] = defaultdict(Counter)

    def __call__(self, batch: ResultBatch) -> ResultBatch | None:
        """Counts, and gives back a batch without the classes to ignore."""
        detections = batch.predictions.detections
        if detections is None:
            return None  # nothing to count: the batch goes on as it is
        ignored = [class_id for class_id, label in detections.names.items() if label in self._ignore]
        kept = only(detections, ~np.isin(detections.class_ids, ignored))
        for i, frame in enumerate(batch.frames):
            self._counts[frame.source_id].update(kept.label(int(c)) for c in kept.frame(i).class_ids)
        return dataclasses.replace(batch, predictions=dataclasses.replace(batch.predictions, detections=kept))

    def close(self) -> None:
        """Called once, after the last batch."""
        self._path.write_text(json.dumps(self._counts, indent=2), encoding="utf-8")


def only(detections: Detections, keep: np.ndarray) -> Detections:
    """Some of the detections, as new arrays: those of others are not changed in place.

    Args:
        detections: Of all frames of a batch.
        keep: (D,) bool.
    """
    kept_before = np.concatenate([[0], np.cumsum(keep)])  # how many of the first n rows are kept
    return dataclasses.replace(
        detections,
        boxes=detections.boxes[keep],
        scores=detections.scores[keep],
        class_ids=detections.class_ids[keep],
        offsets=kept_before[detections.offsets],
        track_ids=None if detections.track_ids is None else detections.track_ids[keep],
    )
