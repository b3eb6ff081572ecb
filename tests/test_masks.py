"""Class maps on the picture: against brute force, and through the transforms that preprocessing makes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, Frame, Picture
from pipeline.masks import NO_CLASS, Segmentations
from pipeline.postprocess.unseen import hide_unseen
from pipeline.preprocess.geometry import place
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.preprocess.roi import region_of

rects = st.none() | st.tuples(st.floats(0, 0.4), st.floats(0, 0.4), st.floats(0.6, 1), st.floats(0.6, 1))


def of_one(classes, transform, size, **more) -> Segmentations:
    return Segmentations(
        np.asarray(classes, np.uint8)[None], np.array([transform], float), np.array([size], float), **more
    )


def test_by_hand():
    found = of_one([[0, 1], [2, 255]], (0.5, 0.5, 0, 0), (4, 4), names={5: "cat"}, class_offset=4)
    one = found.frame(0)
    assert one.upright().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 255, 255], [2, 2, 255, 255]]
    assert one.upright((2, 2)).tolist() == [[0, 1], [2, 255]]
    assert one.upright((1, 1)).tolist() == [[255]], "a middle on a border belongs to the cell behind it"
    assert one.found() == [("4", 4, 0.25), ("cat", 5, 0.25), ("6", 6, 0.25)]
    assert one.mask(5).nonzero()[0].tolist() == [0, 0, 1, 1]
    assert not one.mask(3).any()
    assert not one.mask(9).any()
    assert not one.mask(4 + NO_CLASS).any()
    assert one.mask(3, (7, 2)).shape == (2, 7)
    assert (found.label(1), found.label(2)) == ("cat", "6")
    assert repr(found) == "Segmentations(1 class maps of 2x2)"
    with pytest.raises(ValueError, match="1 maps, transforms"):
        Segmentations(np.zeros((1, 2, 2), np.uint8), np.zeros((2, 4)), np.zeros((1, 2)))


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from([0.11, 0.5, 0.737, 1.0, 1.9]),
    st.sampled_from([0.3, 1.0, 1.31]),
    st.floats(-9, 9),
    st.floats(-9, 9),
    st.none() | st.tuples(st.integers(1, 50), st.integers(1, 50)),
)
def test_every_pixel_takes_the_cell_under_its_middle(seed, width, height, scale_x, scale_y, left, top, size):
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 1, 2, 255], (11, 13)).astype(np.uint8)
    transform = (scale_x, scale_y, round(left, 3), round(top, 3))
    shown = of_one(classes, transform, (width, height)).frame(0).upright(size)
    out_width, out_height = size or (width, height)
    assert shown.shape == (out_height, out_width)
    for row in range(out_height):
        for column in range(out_width):
            x = (column + 0.5) * width / out_width * scale_x + transform[2]
            y = (row + 0.5) * height / out_height * scale_y + transform[3]
            if min(abs(x - round(x)), abs(y - round(y))) < 1e-6:
                continue  # on a border
            inside = 0 <= x < 13 and 0 <= y < 11
            assert shown[row, column] == (classes[math.floor(y), math.floor(x)] if inside else NO_CLASS)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.02, 3), st.floats(0.02, 3), st.floats(-9, 9), st.floats(-9, 9))
def test_shares_are_areas(seed, scale_x, scale_y, left, top):
    """Against a picture sampled ten times as finely as it has pixels."""
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 3, 255], (5, 7)).astype(np.uint8)
    found = of_one(classes, (scale_x, scale_y, left, top), (20, 30))
    fine = found.frame(0).upright((2000, 3000))
    counts = np.bincount(fine.ravel(), minlength=256) / fine.size
    assert found.shares.shape == (1, 256)
    for number in (0, 3):
        assert found.shares[0, number] == pytest.approx(counts[number], abs=0.01)
    assert found.shares[0].sum() <= 1 + 1e-9


@settings(max_examples=80, deadline=None)
@given(
    st.sampled_from(["letterbox", "stretch", "crop"]),
    st.integers(20, 400),
    st.integers(20, 400),
    rects,
    st.sampled_from([(64, 48), (32, 32), (37, 91)]),
)
def test_what_the_model_saw_is_where_it_was_in_the_picture(fit, width, height, rect, model_size):
    """A map that says of each pixel of the model's input which fifth of the picture it shows."""
    roi = None if rect is None else Roi(rect=rect, unit="fraction")
    region = region_of(roi, (width, height), "cam")
    placement = place(region, model_size, fit)
    scale_x, scale_y, offset_x, offset_y = placement.transform
    x = (np.arange(model_size[0]) + 0.5 - offset_x) / scale_x
    y = (np.arange(model_size[1]) + 0.5 - offset_y) / scale_y
    fifths = np.add.outer(np.floor(y * 5 / height) * 5, np.floor(x * 5 / width)).clip(0, 24).astype(np.uint8)
    shown = of_one(fifths, placement.transform, (width, height)).frame(0).upright()
    rows, columns = np.mgrid[:height, :width] + 0.5
    expected = np.floor(rows * 5 / height) * 5 + np.floor(columns * 5 / width)
    # Only next to the borders between fifths, by less than a pixel of the model's input, may it differ.
    near_x = np.abs(columns[0, :, None] - np.arange(6) * width / 5).min(axis=1) < 1 / scale_x + 1e-9
    near_y = np.abs(rows[:, 0, None] - np.arange(6) * height / 5).min(axis=1) < 1 / scale_y + 1e-9
    seen = shown != NO_CLASS
    np.testing.assert_array_equal(
        shown[seen & ~(near_y[:, None] | near_x)], expected[seen & ~(near_y[:, None] | near_x)]
    )
    cut = fit == "crop"
    inside = (columns > region.x) & (columns < region.x + region.width)
    inside &= (rows > region.y) & (rows < region.y + region.height)
    assert cut or seen[inside].all()


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize(
    "roi",
    [
        None,
        Roi(rect=(10, 20, 50, 30)),
        Roi(rect=(0.2, 0, 0.4, 1), unit="fraction"),
        Roi(polygon=[(5, 5), (90, 10), (40, 55)]),
    ],
)
def test_only_the_region_of_interest_has_classes(fit, roi):
    """Of a model that finds its class everywhere, in the padding too."""
    picture = Picture((np.full((60, 100), 90, np.uint8),), (0, 0), Colour(), 100, 60)
    settings_ = Preprocess(size=(80, 80), fit=fit, layout="nhwc", dtype="uint8")
    batch = ReferencePreprocessor(settings_, {} if roi is None else {"cam": roi})(
        [Frame("cam", 0, 0.0, 0.0, picture)], 1
    )
    classes = np.zeros((1, 80, 80), np.uint8)
    hide_unseen(classes, batch)
    assert batch.windows is not None
    shown = Segmentations(classes, batch.transforms, batch.display_sizes).frame(0).upright() == 0
    region = region_of(roi, (100, 60), "cam")
    rows, columns = np.mgrid[:60, :100] + 0.5
    inside = (columns > region.x) & (columns < region.x + region.width)
    inside &= (rows > region.y) & (rows < region.y + region.height)
    if roi is not None and roi.polygon is not None:
        # (5, 5), (90, 10), (40, 55) by the sign of the cross products.
        points = [*roi.polygon, roi.polygon[0]]
        for (x1, y1), (x2, y2) in itertools.pairwise(points):
            inside &= (x2 - x1) * (rows - y1) - (y2 - y1) * (columns - x1) > 0
    assert not (shown & ~_grown(inside)).any()
    if fit != "crop":
        assert shown[~_grown(~inside)].all()
        assert shown.any()


def _grown(mask: np.ndarray) -> np.ndarray:
    """By the two pixels that a cell of the model's input may cover."""
    padded = np.pad(mask, 2)
    return np.any([padded[i : i + 60, j : j + 100] for i in range(5) for j in range(5)], axis=0)
