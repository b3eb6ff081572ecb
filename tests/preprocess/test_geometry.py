"""Placement, and coordinates there and back again."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, Frame, Picture
from pipeline.preprocess.geometry import mask_to_display, place, rows_of, to_display, to_model
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.preprocess.roi import Region, inside, region_of

FITS = ["letterbox", "stretch", "crop"]


def whole(width, height):
    return region_of(None, (width, height), "clip")


def test_letterbox_centres_whole_pixels():
    placed = place(whole(1920, 1080), (640, 640), "letterbox")
    assert (placed.left, placed.top, placed.width, placed.height) == (0, 140, 640, 360)
    assert placed.transform == pytest.approx((1 / 3, 1 / 3, 0, 140))
    placed = place(whole(1000, 501), (320, 320), "letterbox")
    assert (placed.top, placed.height) == (80, 160)
    assert placed.scale_y == 160 / 501
    assert place(whole(10_000, 1), (100, 100), "letterbox").height == 1


def test_stretch_and_crop():
    assert place(whole(1920, 1080), (300, 300), "stretch").transform == (300 / 1920, 300 / 1080, 0, 0)
    assert place(whole(1920, 1080), (300, 300), "crop").transform == pytest.approx(
        (300 / 1080, 300 / 1080, 150 - 960 * 300 / 1080, 0)
    )


def test_regions():
    assert region_of(Roi(rect=(0.25, 0.5, 1, 1), unit="fraction"), (640, 480), "a") == Region(160, 240, 480, 240)
    assert region_of(Roi(rect=(600, 100, 900, 900)), (640, 480), "a") == Region(600, 100, 40, 380)
    triangle = region_of(Roi(polygon=[(0, 0), (1280, 0), (0, 960)]), (640, 480), "a")
    assert (triangle.x, triangle.y, triangle.width, triangle.height) == (0, 0, 640, 480)
    assert triangle.polygon is not None
    assert inside(triangle.polygon, np.array([1.0, 639.0]), np.array([1.0, 479.0])).all()


fractions = st.floats(0, 0.9).map(lambda v: round(v, 3))


@st.composite
def rois(draw):
    x, y = draw(fractions), draw(fractions)
    right, bottom = x + 0.02 + (0.98 - x) * draw(fractions), y + 0.02 + (0.98 - y) * draw(fractions)
    if draw(st.booleans()):
        return Roi(rect=(x, y, right, bottom), unit="fraction")
    return Roi(polygon=[(x, y), (right, y), (right, bottom), (x, (y + bottom) / 2)], unit="fraction")


@st.composite
def batches(draw):
    """A batch of 1 to 4 frames of any size, orientation and region, and what they were made from."""
    size = draw(st.integers(8, 96)), draw(st.integers(8, 96))
    preprocess = Preprocess(size=size, fit=draw(st.sampled_from(FITS)), layout="nhwc", dtype="float32")
    frames, regions = [], {}
    for i in range(draw(st.integers(1, 4))):
        width, height = draw(st.integers(16, 400)), draw(st.integers(16, 400))
        rotation, sar = draw(st.sampled_from([0, 90, 180, 270])), draw(st.sampled_from([1, Fraction(16, 11)]))
        shown = (round(width * sar), height)[:: -1 if rotation in (90, 270) else 1]
        picture = Picture(
            (np.zeros((height, width), np.uint8),),
            (0, 0),
            Colour(),
            *shown,
            rotation,
            draw(st.booleans()),
            Fraction(sar),
        )
        frames.append(Frame(f"s{i}", 0, 0.0, 0.0, picture))
        roi = draw(st.one_of(st.none(), rois()))
        if roi is not None:
            regions[f"s{i}"] = roi
    return ReferencePreprocessor(preprocess, regions)(frames, len(frames))


@settings(max_examples=80, deadline=None)
@given(batches(), st.integers(0, 2**16), st.sampled_from([np.float32, np.float64]))
def test_boxes_and_points_come_back(batch, seed, dtype):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 5, len(batch.frames))
    rows = rows_of(np.concatenate([[0], np.cumsum(counts)]))
    assert rows.tolist() == [i for i, count in enumerate(counts) for _ in range(count)]
    sizes = batch.display_sizes[rows]
    points = (rng.random((len(rows), 17, 2)) * sizes[:, None]).astype(dtype)
    boxes = np.concatenate([points[:, 0], points[:, 1]], axis=-1)
    for there in (points, boxes, points[:, 0]):
        seen = to_model(there, batch.transforms, rows)
        back = to_display(seen, batch.transforms, rows)
        assert seen.dtype == back.dtype == dtype
        assert back.shape == there.shape
        assert np.abs(back - there).max(initial=0) < 1e-3
    for point, seen, row in zip(points[:, 0], to_model(points[:, 0], batch.transforms, rows), rows, strict=True):
        scale_x, scale_y, offset_x, offset_y = batch.transforms[row]
        assert seen == pytest.approx([point[0] * scale_x + offset_x, point[1] * scale_y + offset_y], abs=1e-2)


@settings(max_examples=80, deadline=None)
@given(batches(), st.sampled_from([1, 2, 4]))
def test_masks_come_back_to_where_they_were(batch, coarser):
    """Masks that hold their own pixels' model x and y: on the picture they must say what `to_model` says there."""
    width, height = batch.model_size
    columns, lines = max(2, width // coarser), max(2, height // coarser)
    ramp_x = np.tile((np.arange(columns) + 0.5) * width / columns, (lines, 1))
    ramp_y = np.tile((np.arange(lines)[:, None] + 0.5) * height / lines, (1, columns))
    for i, frame in enumerate(batch.frames):
        shown = frame.picture.width, frame.picture.height
        transform = batch.transforms[i]
        got = [mask_to_display(r, transform, shown, (width, height)) for r in (ramp_x, ramp_y)]
        assert got[0].shape == shown[::-1]
        x, y = np.meshgrid(np.arange(shown[0]) + 0.5, np.arange(shown[1]) + 0.5)
        display = np.stack([x, y], axis=-1).reshape(-1, 2)
        model = to_model(display, batch.transforms, np.full(len(display), i))
        # Beyond the outermost samples' centres there is nothing to interpolate between.
        edge = np.array([width / columns, height / lines]) / 2
        within = ((model >= edge) & (model <= np.array([width, height]) - edge)).all(axis=1)
        seen = np.stack([g.ravel() for g in got], axis=-1)[within]
        back = to_display(seen.astype(np.float64), batch.transforms, np.full(len(seen), i))
        assert np.abs(back - display[within]).max(initial=0) < 1e-3
        outside = ((model < -1e-6) | (model > np.array([width, height]) + 1e-6)).any(axis=1)
        assert not got[0].ravel()[outside].any()


@pytest.mark.parametrize("fit", FITS)
def test_a_region_keeps_its_place_and_shape_through_a_mask(fit):
    """A bright rectangle is preprocessed, its pixels are the mask: back on the picture it lies where it was."""
    luma = np.full((360, 480), 16, np.uint8)
    luma[120:240, 180:330] = 235
    picture = Picture((luma,), (0, 0), Colour(), 480, 360)
    preprocess = Preprocess(size=(240, 240), fit=fit, interpolation="area", layout="nhwc", dtype="float32", pad=0)
    batch = ReferencePreprocessor(preprocess)([Frame("clip", 0, 0.0, 0.0, picture)], 1)
    mask = mask_to_display(batch.tensor[0, ..., 0] / 255, batch.transforms[0], (480, 360))
    truth = luma == 235
    found = mask > 0.5
    assert (found & truth).sum() / (found | truth).sum() > 0.98
    y, x = np.mgrid[:360, :480]
    for axis, centre in ((x, 255), (y, 180)):
        assert ((axis + 0.5) * mask).sum() / mask.sum() == pytest.approx(centre, abs=1e-3)
