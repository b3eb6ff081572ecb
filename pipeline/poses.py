"""Persons with keypoints: what the `pose` family finds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]

PERSON = "person"
"""What is found, where a label is wanted."""

# The keypoints of COCO's person annotations (https://cocodataset.org/#format-data) in their order, and which of them its
# skeleton joins, counted from 0 here.
COCO_KEYPOINTS = (
    *("nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow"),
    *("right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle"),
    "right_ankle",
)
COCO_EDGES = (
    *((15, 13), (13, 11), (16, 14), (14, 12), (11, 12), (5, 11), (6, 12), (5, 6), (5, 7), (6, 8), (7, 9), (8, 10)),
    *((1, 2), (0, 1), (0, 2), (1, 3), (2, 4), (3, 5), (4, 6)),
)


@dataclass(frozen=True, slots=True, eq=False)
class Poses:
    """Persons of N frames, one after another, with K keypoints each.

    Attributes:
        boxes: (P, 4) float32: x1, y1, x2, y2 in display pixels, clipped to the picture, with an area.
        scores: (P,) float32 in 0..1, descending within a frame.
        points: (P, K, 2) float32: x, y in display pixels. Not clipped: where the model sees less than the picture, or pads
            it, a keypoint may be guessed to lie outside.
        point_scores: (P, K) float32 in 0..1.
        visible: (P, K) bool: which keypoints reach the threshold. The numbers of others mean little; where the model gave
            none at all they are 0.
        offsets: (N + 1,) int64; frame i owns rows offsets[i]:offsets[i + 1].
        names: Of the keypoints.
        edges: Which keypoints make the skeleton, as pairs of their numbers.
    """

    boxes: FloatArray
    scores: FloatArray
    points: FloatArray
    point_scores: FloatArray
    visible: npt.NDArray[np.bool_]
    offsets: npt.NDArray[np.int64]
    names: tuple[str, ...] = COCO_KEYPOINTS
    edges: tuple[tuple[int, int], ...] = COCO_EDGES

    def __post_init__(self) -> None:
        shape = len(self.boxes), len(self.names)
        if self.points.shape != (*shape, 2) or self.point_scores.shape != shape or self.visible.shape != shape:
            raise ValueError(f"points {self.points.shape} do not fit {shape[0]} boxes and {shape[1]} names")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.boxes):
            raise ValueError(f"offsets run from {self.offsets[0]} to {self.offsets[-1]}, not from 0 to {shape[0]}")

    def __len__(self) -> int:
        return len(self.boxes)

    def __repr__(self) -> str:
        return f"Poses({len(self)} persons in {len(self.offsets) - 1} frames)"

    def frame(self, index: int) -> Poses:
        """The persons of one frame of the batch, as views."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return Poses(
            self.boxes[rows],
            self.scores[rows],
            self.points[rows],
            self.point_scores[rows],
            self.visible[rows],
            np.array([0, rows.stop - rows.start], np.int64),
            self.names,
            self.edges,
        )
