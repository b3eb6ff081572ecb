"""Whether what a plug-in gives fits the batch: a mistake should show where it was made, not three stages later."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from pipeline.crops import followed
from pipeline.frames import Predictions, ResultBatch


def check_predictions(predictions: object, frames: int) -> Predictions:
    """The predictions, if they are some of `frames` frames.

    Raises:
        TypeError: it is something else, or its arrays are not NumPy's.
        ValueError: it is of another number of frames.
    """
    if not isinstance(predictions, Predictions):
        raise TypeError(f"gave {type(predictions).__name__}, not Predictions")
    p = predictions
    arrays: dict[str, object] = {}
    counts: dict[str, int] = {}
    if p.detections is not None:
        d = p.detections
        arrays |= {"boxes": d.boxes, "scores": d.scores, "class_ids": d.class_ids, "offsets": d.offsets}
        counts["detections"] = len(d.offsets) - 1
    if p.classes is not None:
        arrays |= {"classes.class_ids": p.classes.class_ids, "classes.scores": p.classes.scores}
        counts["classes"] = len(p.classes.counts)
    if p.embeddings is not None:
        arrays["embeddings"] = p.embeddings
        counts["embeddings"] = len(p.embeddings)
    for name, tensor in (p.tensors or {}).items():
        arrays[f"tensors[{name!r}]"] = tensor
        counts[f"tensors[{name!r}]"] = len(tensor)
    for name, array in arrays.items():
        if not isinstance(array, np.ndarray):
            raise TypeError(f"{name} is {type(array).__module__}.{type(array).__name__}, not a NumPy array")
    for name, count in counts.items():
        if count != frames:
            raise ValueError(f"{name} are of {count} frames, but the batch has {frames}")
    return p


def check_results(results: object, given: ResultBatch) -> ResultBatch:
    """The batch that goes on behind a stage: what it returned, or for None what it was given.

    Where it has other detections, what is known of their crops goes with them.

    Raises:
        TypeError: it is no batch.
        ValueError: its frames are not those that it was given, or what it holds does not fit them.
    """
    if results is None:
        return given
    if not isinstance(results, ResultBatch):
        raise TypeError(f"gave {type(results).__name__}, not a ResultBatch or None")
    frames = len(given.frames)
    if len(results.frames) != frames or any(a is not b for a, b in zip(results.frames, given.frames, strict=True)):
        raise ValueError("gave other frames: leave out detections, not frames")
    check_predictions(results.predictions, frames)
    if len(results.scenes) not in (0, frames):
        raise ValueError(f"gave {len(results.scenes)} scenes for {frames} frames")
    for event in results.events:
        if event.position is not None and not 0 <= event.position < frames:
            raise ValueError(f"an event is of frame {event.position} of a batch of {frames}")
    before, after = given.predictions.detections, results.predictions.detections
    if results.crops and results.crops is given.crops and before is not None and after is not before:
        return replace(results, crops=followed(results.crops, before, after))
    return results
