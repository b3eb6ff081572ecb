"""The Kalman filter of all tracks at once.

The state of a track is centre, velocity and size of its box. As in SORT (Bewley et al., "Simple online and realtime
tracking", ICIP 2016) and ByteTrack (Zhang et al., ECCV 2022) the centre moves at a constant velocity and all noise is in
proportion to the box's height. Differently from them,

- time is in seconds, not in frames: the velocity is disturbed by white noise of acceleration, whose integral over a time step is
  the textbook's Q = q [[t^3/3, t^2/2], [t^2/2, t]] (Bar-Shalom, Li and Kirubarajan, "Estimation with applications to
  tracking and navigation", 2001, section 6.2.2), so that two steps are the same as one that is as long as both, and
  dropped frames and variable rates come out right;
- width and height have no velocity: they wander (Q = q t). A velocity of sizes makes boxes of lost tracks shrink or
  explode.

x, y, width and height do not disturb each other, and the noise of x and y is the same, and that of width and height. So
the covariance of a track is four numbers, and nothing needs to be inverted.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Rows of the states of tracks. Pixels, pixels/s, and their squares.
CX, CY, VX, VY, WIDTH, HEIGHT = range(6)
POSITION_VAR, CROSS_VAR, VELOCITY_VAR, SIZE_VAR = range(6, 10)
STATE_ROWS = 10

# Standard deviations in heights of the box.
MEASUREMENT = 0.1  # of the centre and of the size that a detector gives
FIRST_VELOCITY_PER_S = 2.0  # of what the velocity of a new track may be; ByteTrack's is 1.9 at 30 frames/s
ACCELERATION = 0.5  # by which a velocity changes in a second
SIZE_CHANGE = 0.1  # by which a size changes in a second

# A box without height would have no noise at all.
_LEAST_SIZE_PX = 1e-3

States = npt.NDArray[np.float64]
Boxes = npt.NDArray[np.float64]


def initial(boxes: Boxes) -> States:
    """(10, K) the states of new tracks from (4, K) boxes x1, y1, x2, y2 in pixels."""
    states = np.zeros((STATE_ROWS, boxes.shape[1]))
    centre, size = _measured(boxes)
    states[CX : CY + 1], states[WIDTH : HEIGHT + 1] = centre, size
    square = size[1] ** 2
    states[POSITION_VAR] = states[SIZE_VAR] = MEASUREMENT**2 * square
    states[VELOCITY_VAR] = FIRST_VELOCITY_PER_S**2 * square
    return states


def predict(states: States, step_s: npt.NDArray[np.float64]) -> None:
    """Moves (10, K) states on by (K,) seconds, in place."""
    square = states[HEIGHT] ** 2
    noise = ACCELERATION**2 * square * step_s
    cross, velocity = states[CROSS_VAR], states[VELOCITY_VAR]
    states[CX : CY + 1] += states[VX : VY + 1] * step_s
    states[POSITION_VAR] += step_s * (2 * cross + step_s * (velocity + noise / 3))
    cross += step_s * (velocity + noise / 2)
    velocity += noise
    states[SIZE_VAR] += SIZE_CHANGE**2 * square * step_s


def update(states: States, boxes: Boxes) -> States:
    """The states after (4, K) boxes x1, y1, x2, y2 have been measured."""
    centre, size = _measured(boxes)
    noise = MEASUREMENT**2 * states[HEIGHT] ** 2
    position, cross, size_var = states[POSITION_VAR], states[CROSS_VAR], states[SIZE_VAR]
    weight = 1 / (position + noise)
    gain, velocity_gain, size_gain = position * weight, cross * weight, size_var / (size_var + noise)
    moved = centre - states[CX : CY + 1]
    updated = np.empty_like(states)
    updated[CX : CY + 1] = states[CX : CY + 1] + gain * moved
    updated[VX : VY + 1] = states[VX : VY + 1] + velocity_gain * moved
    updated[WIDTH : HEIGHT + 1] = states[WIDTH : HEIGHT + 1] + size_gain * (size - states[WIDTH : HEIGHT + 1])
    # (1 - gain) is written as noise / (position + noise): it keeps variances positive however often it is applied.
    rest = noise * weight
    updated[POSITION_VAR] = rest * position
    updated[CROSS_VAR] = rest * cross
    updated[VELOCITY_VAR] = states[VELOCITY_VAR] - velocity_gain * cross
    updated[SIZE_VAR] = size_gain * noise
    return updated


def boxes_of(states: States) -> Boxes:
    """(4, K) x1, y1, x2, y2 in pixels."""
    boxes = np.empty((4, states.shape[1]))
    half = states[WIDTH : HEIGHT + 1] / 2
    np.subtract(states[CX : CY + 1], half, out=boxes[:2])
    np.add(states[CX : CY + 1], half, out=boxes[2:])
    return boxes


def _measured(boxes: Boxes) -> tuple[Boxes, Boxes]:
    """(2, K) centre and (2, K) size."""
    return (boxes[:2] + boxes[2:]) / 2, np.maximum(boxes[2:] - boxes[:2], _LEAST_SIZE_PX)
