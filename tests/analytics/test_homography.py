"""The map from the picture to the ground, against exact projective maps."""

from __future__ import annotations

import numpy as np
from hypothesis import assume, given
from hypothesis import strategies as st

from pipeline.analytics.homography import homography, on_ground

NUMBER = st.floats(-1, 1)


@given(st.lists(NUMBER, min_size=8, max_size=8), st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=10))
def test_any_projective_map_is_found(numbers, points) -> None:
    # Picture -> ground, near enough to a similarity that the picture has no horizon in it.
    a, b, c, d, e, f, g, h = numbers
    true = np.array([[4 + a, b, c], [d, -4 + e, f], [0.3 * g, 0.3 * h, 1]])
    corners = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)]) * 500 + 600
    place = np.linalg.inv(np.array([[500, 0, 600], [0, 500, 600], [0, 0, 1]]))
    true = true @ place
    assume(abs(np.linalg.det(true)) > 1e-7)
    ground = [(true @ (x, y, 1))[:2] / (true @ (x, y, 1))[2] for x, y in corners]
    found = homography([tuple(p) for p in corners], [tuple(p) for p in ground])
    x, y = (np.array(points) * 500 + 600).T
    expected = true @ np.stack([x, y, np.ones(len(x))])
    across, along = on_ground(found, x, y)
    np.testing.assert_allclose(np.stack([across, along]), expected[:2] / expected[2], rtol=1e-6, atol=1e-6)


def test_the_side_of_the_horizon_does_not_depend_on_the_sign_of_the_solution() -> None:
    image = [(400, 300), (880, 300), (1280, 700), (0, 700)]
    metres = [(0, 50), (10, 50), (10, 0), (0, 0)]
    for turn in range(4):
        matrix = homography(image[turn:] + image[:turn], metres[turn:] + metres[:turn])
        across, _ = on_ground(matrix, np.array([640.0, 640.0]), np.array([650.0, -200.0]))
        assert np.isfinite(across[0])
        assert np.isnan(across[1])
