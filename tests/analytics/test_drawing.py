"""Lines and zones on the annotated video, and the still with a grid."""

from __future__ import annotations

import json
from fractions import Fraction

import av
import numpy as np
import pytest
from analytics_world import batch_of, frame, settings
from media_maker import make_clip, read_number
from PIL import Image
from typer.testing import CliRunner

from pipeline.analytics.engine import Analytics
from pipeline.analytics.events import Scene
from pipeline.analytics.layout import layout_of
from pipeline.cli.main import app, main
from pipeline.config.sinks import VideoSink
from pipeline.errors import ConfigError, SourceError
from pipeline.frames import Colour, Picture
from pipeline.sinks import build_sink
from pipeline.sinks._canvas import Canvas
from pipeline.sinks._colour import to_sample
from pipeline.sinks._scene import CROWDED_RGB, LINE_RGB, ZONE_RGB, draw_scene
from pipeline.sinks._upright import Placement
from pipeline.sinks.still import draw_still, grid_step
from pipeline.stages import SinkSource, StreamInfo

SIZE = (320, 240)
SHAPES = {
    "lines": [{"name": "gate", "points": [[20, 200], [300, 200]], "directions": ["in", "out"]}],
    "zones": [
        {"name": "hall", "polygon": [[40, 60], [140, 60], [140, 160], [40, 160]], "direction": [[60, 80], [60, 120]]},
        {"name": "well", "circle": {"center": [230, 110], "radius": 50}},
    ],
}
COLOUR = Colour("bt601")


def canvas(width=320, height=240):
    y = np.full((height, width), 100, np.uint8)
    chroma = [np.full((height // 2, width // 2), 128, np.uint8) for _ in "ab"]
    return Canvas(y, *chroma, colour=COLOUR)


def is_painted(drawn, x, y, rgb):
    luma, blue, red = to_sample(rgb, COLOUR)
    shades = ((drawn.cb, blue), (drawn.cr, red))
    # At least a quarter of what a chroma sample stands for is covered.
    has_colour = all(abs(int(plane[y // 2, x // 2]) - 128) >= abs(value - 128) // 4 for plane, value in shades)
    return abs(int(drawn.y[y, x]) - luma) <= 1 and has_colour


@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_lines_and_zones_lie_where_they_are(scale) -> None:
    layout = layout_of(settings(**SHAPES), SIZE)
    drawn = canvas(int(320 * scale), int(240 * scale))
    draw_scene(drawn, Placement(scale, scale, 0, 0), Scene(layout, ((3, 1),), (2, 0), (True, False)))

    def at(x, y):
        return round(x * scale), round(y * scale)

    assert is_painted(drawn, *at(280, 200), LINE_RGB)
    assert is_painted(drawn, *at(140, 140), CROWDED_RGB)
    assert is_painted(drawn, *at(60, 90), CROWDED_RGB)  # the arrow
    assert is_painted(drawn, *at(230, 160), ZONE_RGB)
    assert drawn.y[at(100, 140)[::-1]] == 100
    # The arrow of the line points to its right: down.
    assert is_painted(drawn, *at(160, 205), LINE_RGB) or scale < 1


def test_numbers_are_written() -> None:
    layout = layout_of(settings(**SHAPES), SIZE)
    pictures = []
    for crossed, occupancy in (((3, 1), 2), ((3, 1), 2), ((4, 1), 2), ((3, 1), 5)):
        drawn = canvas()
        draw_scene(drawn, Placement(1, 1, 0, 0), Scene(layout, (crossed,), (occupancy, 0), (False, False)))
        pictures.append(drawn.y.copy())
    assert (pictures[0] == pictures[1]).all()
    assert np.argwhere(pictures[0] != pictures[2])[:, 0].min() >= 195  # at the line
    assert np.argwhere(pictures[0] != pictures[3])[:, 0].max() <= 90  # at the first zone


def test_what_lies_partly_outside_is_drawn_as_far_as_it_is_seen() -> None:
    shapes = {
        "lines": [{"name": "a", "points": [[100, 100], [900, 100]]}],
        "zones": [{"name": "b", "circle": {"center": [0, 0], "radius": 400}}],
    }
    drawn = canvas()
    draw_scene(drawn, Placement(1, 1, 0, 0), Scene(layout_of(settings(**shapes), SIZE), ((0, 0),), (0,), (False,)))
    assert is_painted(drawn, 310, 100, LINE_RGB)


# ---------------------------------------------------------------------------------------------------------------- still


@pytest.mark.parametrize(("side", "step"), [(64, 5), (320, 20), (640, 50), (1280, 50), (1920, 100), (3840, 200)])
def test_the_grid_has_about_twenty_lines(side, step) -> None:
    assert grid_step(side) == step


def test_a_still_of_a_video(tmp_path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=320, height=240, frames=12, content="gradient")
    out = tmp_path / "new" / "a.png"
    result = CliRunner().invoke(app, ["zones", str(clip), "-o", str(out), "--frame", "7"])
    assert result.exit_code == 0, result.output
    assert result.output.startswith(f"{out}: frame 7, 0.233 s of clip, 320 x 240 pixels")
    with Image.open(out) as image:
        assert (image.size, image.mode, image.format) == ((320, 240), "RGB", "PNG")


@pytest.mark.parametrize(
    ("option", "number"), [([], 0), (["--frame", "4"], 4), (["--at", "0.2"], 5), (["--at", "0.21"], 6)]
)
def test_the_frame_that_was_asked_for(tmp_path, monkeypatch, option, number) -> None:
    # The first time is not 0.
    clip = make_clip(
        tmp_path / "clip.mkv", frames=10, rate=25, pts=range(100, 110), time_base=Fraction(1, 25), width=128, height=96
    )
    seen = []
    monkeypatch.setattr("pipeline.sinks.still.draw_still", lambda p, _: seen.append(p) or Image.new("RGB", (8, 8)))
    assert CliRunner().invoke(app, ["zones", str(clip), "-o", str(tmp_path / "a.png"), *option]).exit_code == 0
    assert read_number(seen[0].planes[0]) == number


def config_file(folder, clip, analytics, **more):
    path = folder / "a.yaml"
    source = {"path": str(clip), "id": "door", "analytics": analytics, **more}
    stages = {"model": {"path": "m"}, "tracker": "iou", "postprocess": {"family": "ssd", "labels": ["car"]}}
    path.write_text(json.dumps({"sources": [source, {"path": str(clip), "id": "plain"}], "pipeline": stages}))
    return path


def test_the_lines_and_zones_of_a_configuration_are_drawn(tmp_path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=320, height=240, frames=3, content="gradient")
    ground = {"image": [[10, 230], [300, 230], [200, 50], [100, 50]], "metres": [[0, 0], [5, 0], [5, 20], [0, 20]]}
    file = config_file(tmp_path, clip, {**SHAPES, "ground": ground})
    for name, out in (("door", "with.png"), ("plain", "without.png")):
        result = CliRunner().invoke(app, ["zones", name, "--config", str(file), "-o", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "with.png") as a, Image.open(tmp_path / "without.png") as b:
        differs = (np.asarray(a) != np.asarray(b)).any(2)
    assert differs[200, 25:295].mean() > 0.9
    assert differs[60:160, 40].mean() > 0.9
    assert not differs[150:160, 60:130].any()


def test_what_lies_outside_is_told_with_its_field(tmp_path) -> None:
    clip = make_clip(tmp_path / "clip.mp4", width=320, height=240, frames=3)
    file = config_file(tmp_path, clip, {"lines": [{"name": "gate", "points": [[400, 0], [400, 99]]}]})
    out = str(tmp_path / "a.png")
    with pytest.raises(
        SourceError, match=r"door: analytics.lines\[0\].points \('gate'\) lies outside the picture, which is 320x240"
    ):
        CliRunner().invoke(app, ["zones", "door", "--config", str(file), "-o", out], catch_exceptions=False)
    change = "sources[0].analytics.lines[0].points=[[10,5],[400,9]]"
    result = CliRunner().invoke(app, ["zones", "door", "--config", str(file), "-o", out, "--set", change])
    assert result.exit_code == 0
    assert "warning: door: a part of analytics.lines[0].points ('gate') lies outside the picture" in result.stderr


def test_mistakes_are_told(tmp_path, capsys) -> None:
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    file = config_file(tmp_path, clip, SHAPES)
    call = CliRunner().invoke

    def error(kind, *arguments):
        with pytest.raises(kind) as caught:
            call(app, ["zones", *arguments, "-o", str(tmp_path / "a.png")], catch_exceptions=False)
        return str(caught.value)

    assert "one of --frame and --at" in error(ConfigError, str(clip), "--frame", "1", "--at", "1")
    assert "which is missing" in error(ConfigError, str(clip), "--set", "a=b")
    assert "it has no frame 9; its last frame is 2" in error(SourceError, str(clip), "--frame", "9")
    assert "nothing 9 s after its beginning" in error(SourceError, str(clip), "--at", "9")
    assert "no source of it is 'dor' (there are: door, plain)" in error(ConfigError, "dor", "--config", str(file))
    assert "there is no such file" in error(SourceError, str(tmp_path / "b.mp4"))
    make_clip(tmp_path / "clip2.mp4", frames=3)
    assert "names several videos" in error(ConfigError, str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        main(["zones", str(clip), "-o", "/proc/nowhere/a.png"])
    assert ended.value.code == 3
    assert "/proc/nowhere/a.png: cannot be written" in capsys.readouterr().err


def test_a_turned_picture_is_shown_upright() -> None:
    planes = (np.full((48, 64), 90, np.uint8),)
    still = draw_still(Picture(planes, (0, 0), Colour(), 48, 64, rotation=90), None)
    assert still.size == (48, 64)


def test_the_annotated_video_shows_them(tmp_path) -> None:
    planes = tuple(np.full(shape, 100, np.uint8) for shape in ((240, 320), (120, 160), (120, 160)))
    picture = Picture(planes, (1, 1), COLOUR, *SIZE)
    analytics = Analytics({"cam": settings(**SHAPES)})
    sink = build_sink(VideoSink(path=tmp_path / "a.mp4", crf=5), several_sources=False)
    sink.open()
    sink.source_started(SinkSource("cam", StreamInfo("h264", *SIZE, Fraction(10), None, None)))
    frames = [frame("cam", i, i / 10) for i in range(4)]
    frames = [type(f)(f.source_id, f.index, f.pts_s, f.time_s, picture) for f in frames]
    sink.write(analytics(batch_of(frames, [{}, {}, {}, {}])))
    sink.close()
    with av.open(str(tmp_path / "a.mp4")) as video:
        shown = [f.to_ndarray(format="yuv420p")[:240] for f in video.decode(video=0)]
    assert abs(int(shown[0][200, 280]) - to_sample(LINE_RGB, COLOUR)[0]) < 15
    assert abs(int(shown[0][140, 120]) - 100) < 5
