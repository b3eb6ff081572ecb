"""Class maps and skeletons on the annotated video: pixels change where they should, and nowhere else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.sinks import VideoSink
from pipeline.frames import Colour, Frame, Picture, Predictions, Result, ResultBatch
from pipeline.masks import NO_CLASS, Segmentations
from pipeline.poses import COCO_KEYPOINTS, Poses
from pipeline.sinks import build_sink
from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import class_rgb, to_sample
from pipeline.sinks._overlay import draw_classes, draw_skeletons
from pipeline.sinks._upright import Placement, Upright
from pipeline.sinks.video import annotate
from pipeline.stages import SinkSource

WHOLE = Placement(1.0, 1.0, 0.0, 0.0)


def canvas(width: int = 64, height: int = 48) -> Canvas:
    rng = np.random.default_rng(1)
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    return Canvas(*(rng.integers(16, 236, size, np.uint8) for size in sizes), Colour("bt601"))


def copies(c: Canvas) -> list[np.ndarray]:
    return [c.y.copy(), c.cb.copy(), c.cr.copy()]


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    *[st.integers(0, 40)] * 2,
    *[st.integers(0, 12)] * 2,
    st.sampled_from([0.0, 0.3, 0.45, 1.0]),
)
def test_paint_changes_exactly_the_mask(
    seed: int, left: int, top: int, width: int, height: int, opacity: float
) -> None:
    c = canvas()
    before = copies(c)
    top = min(top, 48 - height)
    mask = np.random.default_rng(seed).random((height, width)) < 0.4
    rgb = (0.9, 0.2, 0.1)
    c.paint(mask, left, top, rgb, opacity)
    whole = np.zeros((48, 64))
    whole[top : top + height, left : left + width] = mask
    share = whole.reshape(24, 2, 32, 2).mean((1, 3))
    sample = to_sample(rgb, c.colour)
    for plane, old, weight, value in zip((c.y, c.cb, c.cr), before, (whole, share, share), sample, strict=True):
        np.testing.assert_allclose(plane, old + opacity * weight * (value - old.astype(float)), atol=0.51)
        np.testing.assert_array_equal(plane[weight == 0], old[weight == 0])


def segmentation(classes: np.ndarray, size: tuple[int, int]) -> Any:
    rows, columns = classes.shape
    transform = [columns / size[0], rows / size[1], 0, 0]
    return Segmentations(classes[None].astype(np.uint8), np.array([transform]), np.array([size], float)).frame(0)


def test_each_class_has_its_colour_and_what_has_none_stays() -> None:
    c = canvas()
    before = copies(c)
    classes = np.array([[0, 1, NO_CLASS, 7]] * 3)
    draw_classes(c, WHOLE, segmentation(classes, (64, 48)), 0.5)
    for number, left in ((0, 0), (1, 16), (7, 48)):
        part = slice(left, left + 16)
        expected = (before[0][:, part] + float(to_sample(class_rgb(number), c.colour)[0])) / 2
        np.testing.assert_allclose(c.y[:, part], expected, atol=0.51)
    np.testing.assert_array_equal(c.y[:, 32:48], before[0][:, 32:48])
    np.testing.assert_array_equal(c.cb[:, 16:24], before[1][:, 16:24])
    np.testing.assert_array_equal(c.cr[:, 16:24], before[2][:, 16:24])


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("max_width", [None, 40])
def test_masks_lie_on_the_upright_picture(
    make_picture: Callable[..., Picture], rotation: int, max_width: int | None
) -> None:
    """Turned, scaled down, and, for a second picture of another size, fitted in with bars, which are never painted."""
    first, second = make_picture(64, 48, rotation=rotation), make_picture(32, 64, rotation=rotation)
    upright = Upright(first, max_width)
    for picture in (first, second):
        size = picture.width, picture.height
        classes = np.full((size[1], size[0]), NO_CLASS)
        classes[: size[1] // 2, : size[0] // 2] = 3
        _, drawn, placement = upright(picture)
        before = drawn.y.copy()
        drawn.y[...] = 0
        draw_classes(drawn, placement, segmentation(classes, size), 1.0)
        changed = drawn.y == to_sample(class_rgb(3), drawn.colour)[0]
        left, top, right, bottom = placement.box(0, 0, size[0] // 2, size[1] // 2)
        expected = np.zeros(before.shape, bool)
        expected[top:bottom, left:right] = True
        wrong = changed != expected
        assert not wrong[:, : max(left - 1, 0)].any()
        assert wrong.sum() <= (right - left + bottom - top + 2), "at most the edge, by rounding"
        assert changed.any()


def poses(points: np.ndarray, visible: np.ndarray | None = None) -> Poses:
    persons = len(points)
    visible = np.ones((persons, 17), bool) if visible is None else visible
    scores = np.full((persons, 17), 0.9, np.float32)
    box = np.tile(np.float32([10, 20, 50, 40]), (persons, 1))
    return Poses(
        box, np.full(persons, 0.8, np.float32), points.astype(np.float32), scores, visible, np.array([0, persons])
    )


def test_a_skeleton_lies_along_its_edges() -> None:
    c = canvas(160, 120)
    before = copies(c)
    rng = np.random.default_rng(3)
    points = rng.uniform((10, 10), (150, 110), (2, 17, 2))
    visible = rng.random((2, 17)) < 0.8
    found = poses(points, visible)
    draw_skeletons(c, WHOLE, found, labels=False)
    changed = c.y != before[0]
    y, x = np.mgrid[:120, :160] + 0.5
    nearest = np.full((120, 160), np.inf)
    for own, shown in zip(points, visible, strict=True):
        for a, b in found.edges:
            if shown[a] and shown[b]:
                (ax, ay), (bx, by) = own[a], own[b]
                length = (bx - ax) ** 2 + (by - ay) ** 2
                t = np.clip(((x - ax) * (bx - ax) + (y - ay) * (by - ay)) / length, 0, 1)
                nearest = np.minimum(nearest, np.hypot(x - ax - t * (bx - ax), y - ay - t * (by - ay)))
        for px, py in own[shown]:
            nearest = np.minimum(nearest, np.maximum(np.hypot(x - px, y - py) - 2, 0))
    assert not changed[nearest > 2.5].any(), "nothing far from the skeleton changes"
    # A line of two pixels lies half a pixel to one side.
    assert changed[nearest < 0.5].mean() > 0.8
    grown = np.repeat(np.repeat((c.cb != before[1]) | (c.cr != before[2]), 2, 0), 2, 1)
    assert not grown[nearest > 4].any()


def test_sides_have_colours_of_their_own() -> None:
    points = np.full((1, 17, 2), 200.0)
    visible = np.zeros((1, 17), bool)
    for name, place in (("left_shoulder", (10, 10)), ("left_elbow", (10, 40)), ("right_shoulder", (50, 10))):
        index = COCO_KEYPOINTS.index(name)
        points[0, index], visible[0, index] = place, True
    c = canvas()
    draw_skeletons(c, WHOLE, poses(points, visible), labels=False)
    middle, left, right = c.y[10, 30], c.y[25, 10], c.y[10, 50]
    assert len({int(middle), int(left), int(right)}) == 3


@pytest.mark.parametrize("far", [1e4, 1e9, 3e38, -3e38])
def test_keypoints_far_outside_take_no_time_and_do_no_harm(far: float) -> None:
    points = np.full((1, 17, 2), far)
    points[0, 0] = 5, 5
    c = canvas()
    draw_skeletons(c, WHOLE, poses(points), labels=True)
    assert c.y.shape == (48, 64)


def test_persons_have_labels_and_nobody_changes_nothing() -> None:
    c = canvas(320, 240)
    before = copies(c)
    draw_skeletons(c, WHOLE, poses(np.zeros((0, 17, 2))), labels=True)
    assert all(np.array_equal(a, b) for a, b in zip(copies(c), before, strict=True))
    hidden = np.zeros((1, 17), bool)
    draw_skeletons(c, WHOLE, poses(np.zeros((1, 17, 2)), hidden), labels=True)
    rows, columns = np.nonzero(c.y != before[0])
    assert (rows.max() < 20, columns.min()) == (True, 10)
    plain = canvas(320, 240)
    draw_skeletons(plain, WHOLE, poses(np.zeros((1, 17, 2)), hidden), labels=False)
    np.testing.assert_array_equal(plain.y, before[0])


def test_the_legend_names_the_classes(make_picture: Callable[..., Picture]) -> None:
    found = segmentation(np.array([[2, NO_CLASS]] * 2), (320, 240))
    result = Result(Frame("cam", 0, 0.0, 0.0, make_picture(320, 240)), "m@0", segmentation=found)
    plain, named = canvas(320, 240), canvas(320, 240)
    annotate(plain, WHOLE, result, labels=False, caption=False, mask_opacity=0.0)
    np.testing.assert_array_equal(plain.y, canvas(320, 240).y)
    annotate(named, WHOLE, result, labels=True, caption=False, mask_opacity=0.0)
    assert named.y[0, 0] == to_sample(class_rgb(2), named.colour)[0]


def test_a_lossless_video_differs_only_under_the_mask(tmp_path: Path, make_picture: Callable[..., Picture], make_source: Callable[..., SinkSource]) -> None:  # fmt: skip
    pictures = [make_picture(96, 64, seed=i) for i in range(3)]
    frames = [Frame("cam", i, i / 25, 0.0, p) for i, p in enumerate(pictures)]
    classes = np.full((3, 64, 96), NO_CLASS, np.uint8)
    classes[:, 20:40, 30:60] = 1
    found = Segmentations(classes, np.tile([1.0, 1, 0, 0], (3, 1)), np.tile([96.0, 64.0], (3, 1)))
    config = VideoSink(
        path=tmp_path / "o.mp4", preset="ultrafast", crf=0, labels=False, caption=False, mask_opacity=1.0
    )
    sink = build_sink(config, several_sources=False)
    sink.open()
    sink.source_started(make_source())
    sink.write(ResultBatch(frames, Predictions(segmentations=found), "m@0"))
    sink.close()
    with av.open(str(tmp_path / "o.mp4")) as container:
        decoded = [f.to_ndarray()[:64, :96] for f in container.decode(video=0)]
    inside = classes[0] == 1
    for y, picture in zip(decoded, pictures, strict=True):
        np.testing.assert_array_equal(y[~inside], picture.planes[0][~inside])
        assert (y[inside] == to_sample(class_rgb(1), picture.colour)[0]).all()
