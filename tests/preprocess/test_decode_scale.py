"""What the decoder may make smaller, and how far."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from surface_maker import rois

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, Picture
from pipeline.preprocess.decode_scale import DecodeScale
from pipeline.preprocess.geometry import place
from pipeline.preprocess.roi import region_of


def picture(width: int, height: int, rotation: int = 0, sar: Fraction = Fraction(1)) -> Picture:
    display = round(width * sar), height
    planes = (np.broadcast_to(np.uint8(0), (height, width)),)
    return Picture(planes, (1, 1), Colour(), *(display[::-1] if rotation in (90, 270) else display), rotation)


def settings(width: int, height: int, **more) -> Preprocess:
    return Preprocess(size=(width, height), **more)


def test_full_hd_for_a_small_model():
    assert DecodeScale(settings(640, 640))(picture(1920, 1080), "s") == (640, 360)
    assert DecodeScale(settings(300, 300, fit="stretch"))(picture(1920, 1080), "s") == (300, 300)
    assert DecodeScale(settings(300, 300, fit="crop"))(picture(1920, 1080), "s") == (534, 300)
    assert DecodeScale(settings(640, 640))(picture(1920, 1080, rotation=90), "s") == (640, 360)
    assert DecodeScale(settings(640, 640))(picture(1440, 1080, sar=Fraction(4, 3)), "s") == (640, 360)


def test_what_gains_little_stays():
    assert DecodeScale(settings(640, 640))(picture(1279, 720), "s") is None
    assert DecodeScale(settings(640, 640))(picture(1280, 720), "s") == (640, 360)
    assert DecodeScale(settings(300, 300, fit="stretch"))(picture(1920, 599), "s") is None, "in either direction"
    assert DecodeScale(settings(640, 640, interpolation="nearest"))(picture(3840, 2160), "s") is None


def test_a_region_of_interest_counts_with_what_it_shows():
    half = Roi(rect=(0, 0, 0.5, 0.5), unit="fraction")
    scale = DecodeScale(settings(640, 640), {"s": half})
    assert scale(picture(1920, 1080), "s") is None
    assert scale(picture(1920, 1080), "other") == (640, 360)
    assert scale(picture(3840, 2160), "s") == (1280, 720)
    outside = Roi(rect=(4000, 0, 4100, 100))
    assert DecodeScale(settings(64, 64), {"s": outside})(picture(1920, 1080), "s") is None


@given(
    width=st.integers(16, 4000),
    height=st.integers(16, 3000),
    rotation=st.sampled_from([0, 90, 180, 270]),
    sar=st.sampled_from([Fraction(1), Fraction(16, 11), Fraction(8, 9)]),
    size=st.tuples(st.integers(8, 700), st.integers(8, 700)),
    fit=st.sampled_from(["letterbox", "stretch", "crop"]),
    roi=st.one_of(st.none(), rois()),
)
def test_a_sample_is_left_for_every_pixel(width, height, rotation, sar, size, fit, roi):
    shown = picture(width, height, rotation, sar)
    config = settings(*size, fit=fit)
    found = DecodeScale(config, {"s": roi} if roi else {})(shown, "s")
    # Samples a pixel of the model, across and down the display.
    placement = place(region_of(roi, (shown.width, shown.height), "s"), size, fit)
    across = np.array([shown.width * placement.scale_x, shown.height * placement.scale_y])
    across = across[::-1] if rotation in (90, 270) else across
    if found is None:
        assert (np.array([width, height]) / across).min() < 2 or min(width, height) <= 64
        return
    assert found[0] % 2 == found[1] % 2 == 0
    assert found[0] < width and found[1] < height
    assert (np.array([width, height]) / across).min() >= 2
    assert (np.array(found) / across).min() >= 1 - 1e-6
    # Not much more either.
    assert (np.array(found) <= np.maximum(across + 2, 64)).all()


def test_without_a_size_there_is_nothing_to_decide():
    with pytest.raises(ValueError, match="size"):
        DecodeScale(Preprocess())
