"""Average precision of one class against boxes that people drew, at one IoU.

The protocol, so that figures can be compared:

- All detections of all frames are sorted by score, the best first; equal scores stay in the order given.
- One after another each takes, among the true boxes of its frame that no better detection has taken, the one it
  overlaps most. With an IoU of at least `min_iou` it is a true positive and the box is taken, else a false positive.
- Precision after each detection is made non-increasing from the right, and integrated over recall at every recall
  that occurs (all-point interpolation, as PASCAL VOC has done since 2010).
- Every true box counts: no frame, box size or occlusion is left out.

Boxes are x1, y1, x2, y2 with areas (x2 - x1) * (y2 - y1).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

Boxes = npt.NDArray[np.float64]


def load_mot_boxes(path: Path) -> dict[int, Boxes]:
    """True boxes of a MOT Challenge gt.txt, whose lines are frame (from 1), id, x, y, width, height, flag, ...

    All of them: also those that the flag marks as hardly visible.

    Returns:
        0-based frame -> (K, 4) boxes x1, y1, x2, y2.
    """
    rows = np.loadtxt(path, delimiter=",", ndmin=2)
    boxes = np.column_stack([rows[:, 2:4], rows[:, 2:4] + rows[:, 4:6]])
    frames = rows[:, 0].astype(int) - 1
    return {int(frame): boxes[frames == frame] for frame in np.unique(frames)}


def average_precision(
    truth: Mapping[int, Boxes],
    frames: npt.NDArray[np.int64],
    boxes: Boxes,
    scores: npt.NDArray[np.float64],
    min_iou: float = 0.5,
) -> float:
    """The area under the interpolated precision-recall curve.

    Args:
        truth: Frame -> (K, 4) true boxes.
        frames: (D,) the frame of each detection.
        boxes: (D, 4) detections.
        scores: (D,) their scores.
        min_iou: From which overlap on a detection can be right.

    Raises:
        ValueError: there is no true box.
    """
    true_count = sum(len(b) for b in truth.values())
    if not true_count:
        raise ValueError("no true boxes: average precision is not defined")
    taken = {frame: np.zeros(len(b), bool) for frame, b in truth.items()}
    hits = np.zeros(len(scores), bool)
    for position, row in enumerate(np.argsort(-scores, kind="stable")):
        frame = int(frames[row])
        if frame not in truth:
            continue
        overlap = np.where(taken[frame], -1.0, _iou(boxes[row], truth[frame]))
        best = int(overlap.argmax())
        if overlap[best] >= min_iou:
            taken[frame][best] = hits[position] = True
    true_positives = np.cumsum(hits)
    recall = np.concatenate([[0.0], true_positives / true_count])
    precision = true_positives / np.arange(1, len(hits) + 1)
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    return float(np.sum(np.diff(recall) * envelope))


def _iou(box: Boxes, others: Boxes) -> npt.NDArray[np.float64]:
    top_left = np.maximum(box[:2], others[:, :2])
    bottom_right = np.minimum(box[2:], others[:, 2:])
    shared = np.clip(bottom_right - top_left, 0, None).prod(axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(others[:, 2:] - others[:, :2], axis=1) - shared
    iou: npt.NDArray[np.float64] = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return iou
