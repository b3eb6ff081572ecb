"""Which boxes of tracks overlap which detections of their frame, and by how much."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.float64]

# Pairs that are looked at in one go: a few MB, whatever comes.
_BLOCK_PAIRS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Tracks and detections that overlap.

    Attributes:
        tracks: (E,) int64.
        detections: (E,) int64.
        iou: (E,) float64 in 0..1, above 0.
    """

    tracks: Indices
    detections: Indices
    iou: Floats

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | Indices) -> Pairs:
        return Pairs(self.tracks[chosen], self.detections[chosen], self.iou[chosen])


def overlapping(tracks: Boxes, track_frames: Indices, detections: Boxes, offsets: Indices) -> Pairs:
    """All pairs of a track and a detection of the same frame whose boxes share an area.

    Args:
        tracks: (4, K) x1, y1, x2, y2.
        track_frames: (K,) the frame that each track is looked for in.
        detections: (4, D), those of a frame in succession.
        offsets: (F + 1,): frame f owns the detections offsets[f]:offsets[f + 1].

    Returns:
        The pairs; those of one frame are in an order that does not depend on other frames.
    """
    counts = np.diff(offsets)
    most = int(counts.max(initial=0))
    # The detections of each frame in a row of their own, filled up with intervals that overlap nothing.
    left, right = np.full((len(counts), most), np.inf), np.full((len(counts), most), -np.inf)
    filled = np.arange(most) < counts[:, None]
    left[filled], right[filled] = detections[0], detections[2]
    rows: list[Indices] = []
    columns: list[Indices] = []
    block = max(1, _BLOCK_PAIRS // max(1, most))
    for start in range(0, max(1, len(track_frames)), block):
        frames = track_frames[start : start + block]
        x1, x2 = tracks[0, start : start + block, None], tracks[2, start : start + block, None]
        # Most pairs lie side by side, so the rest of the arithmetic is for few.
        row, column = np.nonzero((left[frames] < x2) & (right[frames] > x1))
        rows.append(row + start)
        columns.append(column + offsets[frames[row]])
    return _with_iou(tracks, detections, np.concatenate(rows), np.concatenate(columns))


def _with_iou(tracks: Boxes, detections: Boxes, rows: Indices, columns: Indices) -> Pairs:
    a, b = tracks[:, rows], detections[:, columns]
    height = np.minimum(a[3], b[3]) - np.maximum(a[1], b[1])
    low = np.flatnonzero(height > 0)
    a, b, rows, columns = a[:, low], b[:, low], rows[low], columns[low]
    shared = (np.minimum(a[2], b[2]) - np.maximum(a[0], b[0])) * height[low]
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
    return Pairs(rows, columns, shared / union)
