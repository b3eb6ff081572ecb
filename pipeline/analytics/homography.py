"""From the picture to the ground: the plane projective map of four points."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Points = npt.NDArray[np.float64]


def homography(image: Sequence[tuple[float, float]], ground: Sequence[tuple[float, float]]) -> Points:
    """The 3x3 matrix H with ground ~ H * image, by the direct linear transform on normalised points.

    R. Hartley and A. Zisserman, "Multiple View Geometry in Computer Vision", 2nd edition, algorithm 4.2. Its sign is such that
    the third homogeneous coordinate is positive at the image points: behind the horizon it is negative.

    Args:
        image: N >= 4 points, no three of them in a line.
        ground: The same points on the ground, in metres.
    """
    source, to_source = _normalised(np.array(image, np.float64))
    target, to_target = _normalised(np.array(ground, np.float64))
    rows = []
    for (x, y), (u, v) in zip(source, target, strict=True):
        rows.append([0, 0, 0, -x, -y, -1, v * x, v * y, v])
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y, -u])
    _, _, basis = np.linalg.svd(np.array(rows, np.float64))
    matrix = np.linalg.inv(to_target) @ basis[-1].reshape(3, 3) @ to_source
    matrix /= np.linalg.norm(matrix)
    at_points = np.array(image, np.float64) @ matrix[2, :2] + matrix[2, 2]
    result: Points = matrix if at_points.sum() > 0 else -matrix
    return result


def on_ground(matrix: Points, x: Points, y: Points) -> tuple[Points, Points]:
    """Points of the picture on the ground.

    Args:
        matrix: (..., 3, 3), one a point or one for all.
        x: (N,) in display pixels.
        y: (N,) in display pixels.

    Returns:
        Two arrays (N,) in metres; NaN for points at or above the horizon, which are no ground.
    """
    w = matrix[..., 2, 0] * x + matrix[..., 2, 1] * y + matrix[..., 2, 2]
    w = np.where(w > 0, w, np.nan)
    across = (matrix[..., 0, 0] * x + matrix[..., 0, 1] * y + matrix[..., 0, 2]) / w
    along = (matrix[..., 1, 0] * x + matrix[..., 1, 1] * y + matrix[..., 1, 2]) / w
    return across, along


def _normalised(points: Points) -> tuple[Points, Points]:
    """The points moved to their centroid and scaled to a mean distance of sqrt(2) from it, and the matrix that does so."""
    centre = points.mean(0)
    scale = np.sqrt(2) / np.linalg.norm(points - centre, axis=1).mean()
    matrix = np.array([[scale, 0, -scale * centre[0]], [0, scale, -scale * centre[1]], [0, 0, 1]])
    return (points - centre) * scale, matrix
