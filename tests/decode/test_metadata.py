from __future__ import annotations

import logging
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_maker import make_clip

from pipeline.config.sources import ColourOverride
from pipeline.decode._metadata import colour, display_size, sane_sar
from pipeline.frames import Colour


def frame(width: int = 64, height: int = 48, pix_fmt: str = "yuv420p", space: int = 2, scale: int = 0) -> av.VideoFrame:
    made = av.VideoFrame(width, height, pix_fmt)
    made.colorspace, made.color_range = space, scale
    return made


def found(made: av.VideoFrame, codec: str = "h264", **override: Any) -> Colour:
    return colour(made, codec=codec, bit_depth=8, override=ColourOverride(**override))


@pytest.mark.parametrize(
    ("space", "matrix"),
    [(1, "bt709"), (4, "bt601"), (5, "bt601"), (6, "bt601"), (7, "smpte240m"), (9, "bt2020"), (10, "bt2020")],
)
def test_tagged_matrices(space: int, matrix: str) -> None:
    assert found(frame(space=space)).matrix == matrix


@pytest.mark.parametrize(
    ("width", "height", "matrix"),
    [(1278, 718, "bt601"), (720, 576, "bt601"), (960, 720, "bt709"), (1280, 534, "bt709")],
)
def test_untagged_matrix_by_size(width: int, height: int, matrix: str) -> None:
    assert found(frame(width, height)).matrix == matrix


def test_an_unsupported_matrix_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert found(frame(62, 46, space=14)).matrix == "bt601"
    assert "matrix 14" in caplog.text
    caplog.clear()
    assert found(frame(62, 46, space=14), matrix="bt2020").matrix == "bt2020"
    assert not caplog.text


def test_range() -> None:
    assert found(frame(scale=1)).full_range is False
    assert found(frame(scale=2)).full_range is True
    assert found(frame()).full_range is False
    assert found(frame(pix_fmt="yuvj420p")).full_range is True
    assert found(frame(), codec="mjpeg").full_range is True
    assert found(frame(scale=1, pix_fmt="yuvj420p")).full_range is False


def test_siting() -> None:
    assert found(frame()).siting == "left"
    assert found(frame(), codec="mpeg1video").siting == "center"
    assert found(frame(), codec="mjpeg").siting == "center"
    assert found(frame(space=9)).siting == "topleft"


def test_overrides_win() -> None:
    override = {"matrix": "smpte240m", "range": "full", "siting": "bottom"}
    assert found(frame(space=9, scale=1), **override) == Colour("smpte240m", True, 8, "bottom")


def test_rgb_has_no_matrix_to_override() -> None:
    assert found(frame(pix_fmt="gbrp"), matrix="bt709", range="limited") == Colour("rgb", True, 8, "center")


@pytest.mark.parametrize("matrix", ["bt601", "bt709", "bt2020", "smpte240m"])
@pytest.mark.parametrize("scale", ["limited", "full"])
@pytest.mark.parametrize("depth", [8, 10])
def test_colour_of_clips(tmp_path: Path, open_video: Any, matrix: str, scale: str, depth: int) -> None:
    pix_fmt = "yuv420p" if depth == 8 else "yuv420p10le"
    path = make_clip(tmp_path / "a.mp4", pix_fmt=pix_fmt, colour=(matrix, scale), frames=2)
    found = next(iter(open_video(path))).picture.colour
    assert (found.matrix, found.full_range, found.bit_depth) == (matrix, scale == "full", depth)
    override = {"matrix": "bt709", "range": "limited", "siting": "top"}
    found = next(iter(open_video(path, colour=override))).picture.colour
    assert found == Colour("bt709", False, depth, "top")


@pytest.mark.parametrize(
    ("coded", "sar", "rotation", "expected"),
    [
        ((640, 360), Fraction(1), 0, (640, 360)),
        ((640, 360), Fraction(4, 3), 0, (853, 360)),
        ((720, 576), Fraction(16, 15), 0, (768, 576)),
        ((720, 480), Fraction(8, 9), 180, (640, 480)),
        ((640, 360), Fraction(4, 3), 90, (360, 853)),
        ((640, 360), Fraction(1), 270, (360, 640)),
        ((1, 1), Fraction(1, 10), 0, (1, 1)),
    ],
)
def test_display_size(coded: tuple[int, int], sar: Fraction, rotation: int, expected: tuple[int, int]) -> None:
    assert display_size(coded, sar, rotation) == expected


def test_aspect_ratios_that_cannot_be_meant() -> None:
    assert sane_sar(None, Fraction(0), Fraction(1, 4000), Fraction(64, 45)) == Fraction(64, 45)
    assert sane_sar(None, None) == sane_sar() == 1


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.ts", "a.h264"])
def test_aspect_ratio_of_clips(tmp_path: Path, open_video: Any, name: str) -> None:
    decoder = open_video(make_clip(tmp_path / name, sar=Fraction(4, 3), width=96, height=48))
    shown = next(iter(decoder)).picture
    assert (shown.sar, shown.width, shown.height) == (Fraction(4, 3), 128, 48)
    assert (decoder.info.width, decoder.info.height) == (128, 48)


def test_rotation_and_aspect_ratio_together(tmp_path: Path, open_video: Any) -> None:
    decoder = open_video(make_clip(tmp_path / "a.mp4", sar=Fraction(4, 3), width=96, height=48, rotation=90))
    shown = next(iter(decoder)).picture
    assert (shown.rotation, shown.mirror, shown.width, shown.height) == (270, False, 48, 128)
    assert np.asarray(shown.planes[0]).shape == (48, 96)
