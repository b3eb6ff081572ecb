"""Drawing, checked sample by sample."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.frames import Colour
from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import BLACK, WHITE, class_rgb, luminance, text_rgb, to_sample
from pipeline.sinks._text import text_mask


def canvas(width: int = 64, height: int = 48, colour: Colour | None = None) -> Canvas:
    rng = np.random.default_rng(1)
    y, cb, cr = (
        rng.integers(16, 236, size, np.uint8)
        for size in ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    )
    return Canvas(y, cb, cr, colour or Colour("bt601"))


def copies(c: Canvas) -> list[np.ndarray]:
    return [c.y.copy(), c.cb.copy(), c.cr.copy()]


@given(*[st.integers(-5, 70)] * 4)
def test_fill_paints_exactly_these_pixels(x1: int, y1: int, x2: int, y2: int) -> None:
    c = canvas()
    before = copies(c)
    rgb = (0.9, 0.2, 0.1)
    c.fill(x1, y1, x2, y2, rgb)
    inside = np.zeros((48, 64))
    inside[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)] = 1
    share = inside.reshape(24, 2, 32, 2).mean((1, 3))
    sample = to_sample(rgb, c.colour)
    for plane, old, weight, value in zip((c.y, c.cb, c.cr), before, (inside, share, share), sample, strict=True):
        np.testing.assert_allclose(plane, old + weight * (value - old.astype(float)), atol=0.51)
        np.testing.assert_array_equal(plane[weight == 0], old[weight == 0])


@pytest.mark.parametrize(("width", "height", "thickness"), [(64, 48, 1), (1280, 720, 2), (1920, 1080, 3)])
def test_outlines_lie_on_the_inside_of_the_box(width: int, height: int, thickness: int) -> None:
    c = canvas(width, height)
    before = c.y.copy()
    x1, y1, x2, y2 = 7, 9, 40, 33
    c.outline((x1, y1, x2, y2), (0.0, 0.0, 1.0))
    edge = np.zeros((height, width), bool)
    edge[y1:y2, x1:x2] = True
    edge[y1 + thickness : y2 - thickness, x1 + thickness : x2 - thickness] = False
    assert (c.y[edge] == to_sample((0.0, 0.0, 1.0), c.colour)[0]).all()
    np.testing.assert_array_equal(c.y[~edge], before[~edge])


@given(st.text(max_size=40), st.integers(-500, 500), st.integers(-500, 500), st.booleans())
def test_texts_stay_inside_and_change_nothing_else(text: str, x: int, y: int, above: bool) -> None:
    c = canvas(96, 60)
    before = copies(c)
    height = c.text(text, x, y, (0.1, 0.1, 0.1), above=above)
    changed = [plane != old for plane, old in zip((c.y, c.cb, c.cr), before, strict=True)]
    if height:
        rows, columns = np.nonzero(changed[0])
        assert rows.max() - rows.min() < height
        # Chroma changes under the same rectangle only.
        grown = np.repeat(np.repeat(changed[1] | changed[2], 2, 0), 2, 1)
        rows2, columns2 = np.nonzero(grown)
        assert rows.min() - 1 <= rows2.min() <= rows2.max() <= rows.max() + 1
        assert columns.min() - 1 <= columns2.min() <= columns2.max() <= columns.max() + 1
    else:
        assert not any(change.any() for change in changed)


def test_text_shows_in_the_right_place() -> None:
    c = canvas(200, 100)
    c.y[...] = 100
    height = c.text("person 0.93", 20, 50, (1.0, 1.0, 0.0), above=True)
    background = to_sample((1.0, 1.0, 0.0), c.colour)[0]
    rows, columns = np.nonzero(c.y != 100)
    assert (rows.min(), rows.max()) == (50 - height, 49)
    assert columns.min() == 20
    area = c.y[50 - height : 50, 20 : columns.max() + 1]
    assert area[0, 0] == background
    assert 0.03 < (area < 60).mean() < 0.5  # black letters, about that dense


@pytest.mark.parametrize("text", ["自転車", "größe", "", "a\nb\t", "\ud800", "👩‍👩‍👧 x", "x" * 10_000, "\u202ertl"])
def test_odd_texts_have_even_masks_that_fit(text: str) -> None:
    mask = text_mask(text, 14, 101)
    height, width = mask.shape
    assert height % 2 == width % 2 == 0
    assert width <= 101
    assert bool(mask.any()) == bool(text)


def test_accents_are_left_out() -> None:
    np.testing.assert_array_equal(text_mask("Über", 14, 200), text_mask("Uber", 14, 200))


def test_a_picture_too_small_for_text() -> None:
    c = canvas(4, 4)
    before = copies(c)
    assert c.text("person", 0, 0, WHITE) == 0
    np.testing.assert_array_equal(c.y, before[0])


def test_labels_are_legible_and_neighbouring_classes_differ() -> None:
    colours = [class_rgb(i) for i in range(200)]
    for rgb in [*colours, BLACK, WHITE]:
        light, dark = sorted((luminance(rgb), luminance(text_rgb(rgb))), reverse=True)
        assert (light + 0.05) / (dark + 0.05) >= 4.5
    for i in range(12):
        for j in range(i):
            assert max(abs(a - b) for a, b in zip(colours[i], colours[j], strict=True)) > 0.1


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020", "smpte240m"])
def test_samples_are_those_of_the_standards(matrix: str, full_range: bool) -> None:
    colour = Colour(matrix, full_range)  # type: ignore[arg-type]
    luma = {"bt601": (76, 150, 29), "bt709": (54, 182, 18), "bt2020": (67, 173, 15), "smpte240m": (54, 179, 22)}
    for i, primary in enumerate(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))):
        full = luma[matrix][i]
        assert to_sample(primary, colour)[0] == pytest.approx(full if full_range else 16 + full * 219 / 255, abs=1)
    assert to_sample(WHITE, colour) == ((255, 128, 128) if full_range else (235, 128, 128))
    assert to_sample(BLACK, colour) == ((0, 128, 128) if full_range else (16, 128, 128))
    assert to_sample((1.0, 0.0, 0.0), colour)[2] == (255 if full_range else 240)
    assert to_sample((0.0, 0.0, 1.0), colour)[1] == (255 if full_range else 240)
