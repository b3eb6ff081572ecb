"""Exact greedy non-maximum suppression of many groups of boxes at once, without a loop over boxes.

Greedy NMS keeps the best box, drops all that overlap it too much, and goes on with the best one left. Box j is kept,
then, exactly if no kept better box i suppresses it: keep[j] = not any(keep[i] and suppresses[i, j] for i < j). That is
a fixed point of a map on bit vectors, and there is only one, as the matrix is strictly triangular. Iterating from "all
kept" makes at least one further box final each time and usually ends after a few steps (Zheng et al., "Enhancing
Geometric Factors in Model Learning and Inference for Object Detection and Instance Segmentation", 2020, call it Cluster-NMS).

Groups (of a frame, or a frame and class) of similar size are padded to one array and done together; large groups are
done in blocks, each after dropping what boxes kept so far suppress.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.frames import FloatArray

Keep = npt.NDArray[np.bool_]

_BLOCK = 256
_LARGEST_MATRIX = 1 << 20  # Elements of one (groups, boxes, boxes) array: bounds the memory.


def nms(boxes: FloatArray, groups: npt.NDArray[np.int64], iou_threshold: float) -> Keep:
    """Which boxes greedy non-maximum suppression keeps.

    Overlaps are computed in double precision, and any number of boxes is treated exactly.

    Args:
        boxes: (M, 4) x1, y1, x2, y2, finite, with x2 > x1 and y2 > y1.
        groups: (M,) only boxes of the same group suppress each other. Within a group the best box comes first.
        iou_threshold: A box goes if its intersection over union with a better kept one is larger than this.

    Returns:
        (M,) bool.
    """
    keep = np.ones(len(boxes), bool)
    if not len(boxes):
        return keep
    order = np.argsort(groups, kind="stable")
    first = np.flatnonzero(np.diff(groups[order], prepend=groups[order[0]] - 1))
    sizes = np.diff(first, append=len(boxes))
    doubles = np.asarray(boxes, np.float64)
    width = 2
    while width <= _BLOCK:
        alike = np.flatnonzero((sizes > width // 2) & (sizes <= width))
        for some in np.array_split(alike, -(-len(alike) * width * width // _LARGEST_MATRIX) or 1):
            columns = np.arange(width)
            valid = columns < sizes[some, None]
            rows = order[np.where(valid, first[some, None] + columns, first[some, None])]
            keep[rows[valid]] = _greedy(doubles[rows], valid, iou_threshold)[valid]
        width *= 2
    for group in np.flatnonzero(sizes > _BLOCK):
        rows = order[first[group] : first[group] + sizes[group]]
        keep[rows] = _greedy_in_blocks(doubles[rows], iou_threshold)
    return keep


def iou_matrix(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union of (..., P, 4) with (..., Q, 4) boxes x1, y1, x2, y2 that have an area: (..., P, Q)."""
    a, b = a[..., :, None, :], b[..., None, :, :]
    width = np.minimum(a[..., 2], b[..., 2]) - np.maximum(a[..., 0], b[..., 0])
    height = np.minimum(a[..., 3], b[..., 3]) - np.maximum(a[..., 1], b[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area_a = (a[..., 2] - a[..., 0]) * (a[..., 3] - a[..., 1])
    area_b = (b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])
    ious: npt.NDArray[np.float64] = shared / (area_a + area_b - shared)
    return ious


def _greedy(boxes: npt.NDArray[np.float64], valid: Keep, iou_threshold: float) -> Keep:
    """(G, L, 4) boxes, best first, and (G, L) which of them count -> (G, L) which are kept."""
    suppresses = np.triu(iou_matrix(boxes, boxes) > iou_threshold, k=1) & valid[:, :, None]
    keep = valid
    while True:
        further = valid & ~(suppresses & keep[:, :, None]).any(axis=1)
        if np.array_equal(further, keep):
            return keep
        keep = further


def _greedy_in_blocks(boxes: npt.NDArray[np.float64], iou_threshold: float) -> Keep:
    """(L, 4) boxes, best first -> (L,) which are kept; for any L."""
    keep = np.zeros(len(boxes), bool)
    for start in range(0, len(boxes), _BLOCK):
        block = boxes[start : start + _BLOCK]
        kept = boxes[:start][keep[:start]]
        # In pieces, so that memory stays bounded however many are kept.
        free = np.ones(len(block), bool)
        for piece in range(0, len(kept), _LARGEST_MATRIX // _BLOCK):
            better = kept[piece : piece + _LARGEST_MATRIX // _BLOCK]
            free &= ~(iou_matrix(better, block) > iou_threshold).any(axis=0)
        keep[start : start + _BLOCK] = _greedy(block[None], free[None], iou_threshold)[0]
    return keep
