"""Trackers, and frames with boxes whose tracks are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.config.postprocess import SsdPost
from pipeline.config.tracking import ByteTrackTracker, IouTracker
from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.tracking import build_tracker
from pipeline.tracking.tracker import BatchTracker

PICTURE = Picture((), (1, 1), Colour(), 1280, 720)
Seen = tuple[float, float, float, float, float, int]  # x1, y1, x2, y2, score, class id


def tracker(kind: str = "bytetrack", *, thresholds: dict | None = None, score_threshold: float = 0.5, **settings):
    section = {"bytetrack": ByteTrackTracker, "iou": IouTracker}[kind](type=kind, **settings)
    post = SsdPost(
        family="ssd", score_threshold=score_threshold, thresholds=thresholds or {}, labels=["person", "car", "bus"]
    )
    made = build_tracker(section, post)
    assert isinstance(made, BatchTracker)
    return made


def box(
    x: float, y: float = 300, width: float = 40, height: float = 100, *, score: float = 0.9, class_id: int = 0
) -> Seen:
    """A detection by its centre."""
    return (x - width / 2, y - height / 2, x + width / 2, y + height / 2, score, class_id)


def frame(index: int, pts_s: float | None, source: str = "cam") -> Frame:
    return Frame(source, index, pts_s, 0.0, PICTURE)


def batch(frames: Sequence[Frame], seen: Sequence[Sequence[Seen]]) -> ResultBatch:
    """The detections of each frame, which are sorted as postprocessing does."""
    rows = [np.array(sorted(own, key=lambda s: -s[4]), np.float64).reshape(-1, 6) for own in seen]
    flat = np.concatenate(rows)
    detections = Detections(
        flat[:, :4].astype(np.float32),
        flat[:, 4].astype(np.float32),
        flat[:, 5].astype(np.int32),
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        {0: "person", 1: "car", 2: "bus"},
    )
    return ResultBatch(list(frames), Predictions(detections), "model@0")


def found(result: ResultBatch) -> Detections:
    detections = result.predictions.detections
    assert detections is not None
    assert detections.track_ids is not None
    assert detections.track_ids.dtype == np.int64
    return detections


def follow(
    made, seen: Sequence[Sequence[Seen]], times_s: Sequence[float | None], source: str = "cam", start: int = 0
) -> list:
    """Frame by frame; for each frame {rounded centre x: id} of all its detections."""
    result = []
    for index, (own, time_s) in enumerate(zip(seen, times_s, strict=True), start):
        one = found(made(batch([frame(index, time_s, source)], [own])))
        centres = (one.boxes[:, 0] + one.boxes[:, 2]) / 2
        result.append({round(float(x)): int(i) for x, i in zip(centres, one.track_ids, strict=True)})
    return result
