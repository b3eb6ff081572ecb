"""What is cut around boxes: property tests against the definitions."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cascade.regions import crop_regions, is_usable

SIZE = np.array([[640.0, 360.0]])


def cut(box, size=SIZE[0], **rules):
    return crop_regions(np.array([box], np.float64), np.array([size], np.float64), **rules)[0]


@st.composite
def boxes(draw):
    """(box, size) of a box with an area inside a picture; it may reach beyond the picture."""
    width, height = draw(st.integers(8, 4000)), draw(st.integers(8, 4000))
    x, y = draw(st.floats(-20, width - 1)), draw(st.floats(-20, height - 1))
    right = draw(st.floats(max(x, 0) + 0.5, width + 50))
    bottom = draw(st.floats(max(y, 0) + 0.5, height + 50))
    return (x, y, right, bottom), (width, height)


def test_without_rules_it_is_the_box():
    assert cut((10, 20, 50, 90)).tolist() == [10, 20, 50, 90]


def test_the_margin_is_part_of_the_box_on_each_side():
    assert cut((100, 100, 200, 300), margin=0.1).tolist() == [90, 80, 210, 320]


def test_the_margin_ends_at_the_picture():
    assert cut((0, 5, 100, 355), margin=0.5).tolist() == [0, 0, 150, 360]


@pytest.mark.parametrize(
    ("box", "aspect", "expected"),
    [
        ((100, 100, 140, 180), 1.0, (80, 100, 160, 180)),  # taller than wide: widened
        ((100, 100, 180, 140), 1.0, (100, 80, 180, 160)),  # wider than tall: heightened
        ((0, 100, 40, 180), 1.0, (0, 100, 80, 180)),  # at the left border: moved to the right
        ((600, 100, 640, 180), 1.0, (560, 100, 640, 180)),
        ((100, 340, 180, 360), 1.0, (100, 280, 180, 360)),
        ((0, 0, 640, 100), 1.0, (0, 0, 640, 360)),  # the picture is not high enough: cut off
        ((100, 100, 140, 180), 2.0, (40, 100, 200, 180)),
    ],
)
def test_the_aspect_ratio_is_reached_by_widening(box, aspect, expected):
    assert cut(box, aspect=aspect).tolist() == list(expected)


@given(boxes(), st.floats(0, 3), st.none() | st.floats(0.1, 10))
def test_regions_hold_the_box_and_lie_in_the_picture(drawn, margin, aspect):
    box, size = drawn
    x1, y1, x2, y2 = cut(box, size, margin=margin, aspect=aspect)
    assert 0 <= x1 < x2 <= size[0]
    assert 0 <= y1 < y2 <= size[1]
    slack = 1e-6 * max(size)
    assert x1 <= max(box[0], 0) + slack
    assert y1 <= max(box[1], 0) + slack
    assert x2 >= min(box[2], size[0]) - slack
    assert y2 >= min(box[3], size[1]) - slack


@given(boxes(), st.floats(0, 1), st.floats(0.2, 5))
def test_the_ratio_holds_wherever_the_picture_has_room(drawn, margin, aspect):
    box, size = drawn
    width, height = (box[2] - box[0]) * (1 + 2 * margin), (box[3] - box[1]) * (1 + 2 * margin)
    width, height = max(width, height * aspect), max(height, width / aspect)
    x1, y1, x2, y2 = cut(box, size, margin=margin, aspect=aspect)
    if width <= size[0] and height <= size[1]:
        assert (x2 - x1) / (y2 - y1) == pytest.approx(aspect, rel=1e-6)
        assert x2 - x1 == pytest.approx(width, rel=1e-6)


@given(st.lists(boxes(), min_size=2, max_size=6), st.floats(0, 1), st.none() | st.floats(0.2, 5))
def test_many_at_once_are_those_of_each(drawn, margin, aspect):
    corners, sizes = np.array([b for b, _ in drawn], np.float64), np.array([s for _, s in drawn], np.float64)
    together = crop_regions(corners, sizes, margin, aspect)
    for i in range(len(drawn)):
        alone = crop_regions(corners[i : i + 1], sizes[i : i + 1], margin, aspect)[0]
        np.testing.assert_array_equal(together[i], alone)


def test_boxes_that_are_none():
    corners = np.array(
        [
            (1, 1, 2, 2),
            (np.nan, 1, 2, 2),
            (1, 1, np.inf, 2),
            (5, 1, 5, 2),
            (6, 1, 5, 2),
            (640, 0, 700, 10),
            (-9, 0, 0, 9),
            (630, 350, 700, 700),
        ]
    )
    expected = [True, False, False, False, False, False, False, True]
    assert is_usable(corners, np.tile(SIZE, (8, 1))).tolist() == expected
