"""The filter of all tracks at once against the textbook's matrices, one track at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking import kalman as k


class Textbook:
    """x' = F x, P' = F P F^T + Q; K = P H^T (H P H^T + R)^-1. State: cx, cy, vx, vy, width, height."""

    def __init__(self, box):
        x1, y1, x2, y2 = box
        h = y2 - y1
        self.x = np.array([(x1 + x2) / 2, (y1 + y2) / 2, 0, 0, x2 - x1, h])
        m, v = (k.MEASUREMENT * h) ** 2, (k.FIRST_VELOCITY_PER_S * h) ** 2
        self.p = np.diag([m, m, v, v, m, m])

    def predict(self, t):
        f = np.eye(6)
        f[0, 2] = f[1, 3] = t
        q = np.zeros((6, 6))
        h2 = self.x[5] ** 2
        for place, speed in ((0, 2), (1, 3)):
            q[place, place], q[place, speed], q[speed, place], q[speed, speed] = t**3 / 3, t**2 / 2, t**2 / 2, t
        q *= k.ACCELERATION**2 * h2
        q[4, 4] = q[5, 5] = k.SIZE_CHANGE**2 * h2 * t
        self.x, self.p = f @ self.x, f @ self.p @ f.T + q

    def update(self, box):
        x1, y1, x2, y2 = box
        h = np.zeros((4, 6))
        h[0, 0] = h[1, 1] = h[2, 4] = h[3, 5] = 1
        r = np.eye(4) * (k.MEASUREMENT * self.x[5]) ** 2
        z = np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])
        gain = self.p @ h.T @ np.linalg.inv(h @ self.p @ h.T + r)
        self.x = self.x + gain @ (z - h @ self.x)
        joseph = np.eye(6) - gain @ h
        self.p = joseph @ self.p @ joseph.T + gain @ r @ gain.T


def random_boxes(random, count):
    corner, size = random.uniform(0, 1000, (2, count)), random.uniform(5, 300, (2, count))
    return np.concatenate([corner, corner + size])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.tuples(st.floats(0, 3), st.booleans()), min_size=1, max_size=30))
def test_equals_the_textbook(seed, steps):
    random = np.random.default_rng(seed)
    boxes = random_boxes(random, 5)
    states, books = k.initial(boxes), [Textbook(own) for own in boxes.T]
    for step_s, is_seen in steps:
        k.predict(states, np.full(5, step_s))
        for book in books:
            book.predict(step_s)
        if is_seen:
            boxes = boxes + random.normal(0, 5, boxes.shape)
            boxes[2:] = np.maximum(boxes[2:], boxes[:2] + 1)
            states = k.update(states, boxes)
            for book, own in zip(books, boxes.T, strict=True):
                book.update(own)
        np.testing.assert_allclose(states[:6].T, [book.x for book in books], rtol=1e-9, atol=1e-6)
        for row, at in {
            k.POSITION_VAR: (1, 1),
            k.CROSS_VAR: (1, 3),
            k.VELOCITY_VAR: (3, 3),
            k.SIZE_VAR: (5, 5),
        }.items():
            np.testing.assert_allclose(states[row], [book.p[at] for book in books], rtol=1e-8, atol=1e-9)


@settings(deadline=None)
@given(st.floats(0, 2), st.floats(0, 2))
def test_two_steps_are_one_that_is_as_long_as_both(first_s, second_s):
    states = k.update(k.initial(np.array([[0.0], [0], [40], [100]])), np.array([[5.0], [0], [45], [100]]))
    states[k.VX], states[k.CROSS_VAR] = 50, 20
    once, twice = states.copy(), states.copy()
    k.predict(once, np.array([first_s + second_s]))
    k.predict(twice, np.array([first_s]))
    k.predict(twice, np.array([second_s]))
    np.testing.assert_allclose(once, twice, rtol=1e-9, atol=1e-9)


def test_variances_stay_positive_over_a_long_life():
    random = np.random.default_rng(0)
    boxes = random_boxes(random, 50)
    states = k.initial(boxes)
    for number in range(5000):
        k.predict(states, np.full(50, 1e-3 if number % 2 else 0.0))
        states = k.update(states, boxes)
    determinant = states[k.POSITION_VAR] * states[k.VELOCITY_VAR] - states[k.CROSS_VAR] ** 2
    assert (states[k.POSITION_VAR] > 0).all()
    assert (states[k.SIZE_VAR] > 0).all()
    assert (determinant > 0).all()


def test_boxes_come_back_as_they_went_in():
    boxes = random_boxes(np.random.default_rng(1), 9)
    np.testing.assert_allclose(k.boxes_of(k.initial(boxes)), boxes, rtol=1e-12, atol=1e-9)


def test_a_box_without_area_does_no_harm():
    states = k.initial(np.zeros((4, 1)))
    k.predict(states, np.array([0.04]))
    assert np.isfinite(k.update(states, np.zeros((4, 1)))).all()
