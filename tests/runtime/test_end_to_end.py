"""Real video through the whole pipeline into real files, with a detector whose answer is known.

The detector is a TensorFlow model that returns the bounding box of the bright pixels; the clips show one white box on
grey whose place in every frame is known. So boxes are compared with the truth, not with another detector.
"""

from __future__ import annotations

import functools
import json
import os
import re
import signal
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from bright_detector import save_bright_detector
from media_maker import box_of
from media_maker import make_clip as make_numbered_clip

from pipeline import Pipeline
from pipeline.errors import ConfigError, ExitCode, ModelError, SinkError
from pipeline.observe.status import SourceState

SIZE = (128, 96)
make_clip = functools.partial(make_numbered_clip, numbered=False)


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel: image float32 [N, 96, 128, 3] in 0..1 -> boxes [N, 1, 4] (x1, y1, x2, y2 in pixels), scores [N, 1, 1]."""
    return save_bright_detector(tmp_path_factory.mktemp("models") / "bright", *SIZE)


def settings(detector: Path, sources: list, **more) -> dict:
    return {
        "device": "cpu",
        "sources": sources,
        "pipeline": {
            "model": {"path": str(detector)},
            "preprocess": {"scale": 1 / 255, "pad": 0, "interpolation": "area", **more.pop("preprocess", {})},
            "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
        },
        "runtime": {"batch_size": 4},
        **more,
    }


def records(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize(("width", "height"), [(256, 192), (320, 180)])
def test_boxes_lie_where_they_are_in_the_picture(tmp_path, detector, fit, width, height):
    clip = make_clip(tmp_path / "clip.mp4", width=width, height=height, frames=11, content="moving box")
    out = tmp_path / "out.jsonl"
    config = settings(detector, [str(clip)], preprocess={"fit": fit}, sinks=[{"type": "jsonl", "path": str(out)}])
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.DONE
    found = records(out)
    assert [r["frame"] for r in found] == list(range(11))
    # A pixel of the model's input is this many of the source; the codec adds a little.
    tolerance = 1.5 + max(width / SIZE[0], height / SIZE[1])
    # What `crop` cuts off on each side, of a picture that is wider than the model's input.
    cut = max(0, width - height * SIZE[0] / SIZE[1]) / 2 if fit == "crop" else 0
    for record in found:
        x1, y1, x2, y2 = box_of(record["frame"], width, height)
        seen = max(x1, cut), y1, min(x2, width - cut), y2
        assert (record["width"], record["height"]) == (width, height)
        (detection,) = record["detections"]
        assert detection["label"] == "box"
        assert np.abs(np.array(detection["box"]) - seen).max() <= tolerance


@pytest.mark.parametrize("rotation", [90, 180, 270])
def test_boxes_are_in_the_coordinates_a_person_sees(tmp_path, detector, rotation):
    width, height = 256, 192
    clip = make_clip(
        tmp_path / "clip.mp4", width=width, height=height, frames=5, content="moving box", rotation=rotation
    )
    for result in Pipeline.from_dict(settings(detector, [str(clip)])):
        x1, y1, x2, y2 = box_of(result.frame.index, width, height)
        # `rotation` turns the picture counter-clockwise for display.
        seen = {
            90: (y1, width - x2, y2, width - x1),
            180: (width - x2, height - y2, width - x1, height - y1),
            270: (height - y2, x1, height - y1, x2),
        }[rotation]
        upright = (height, width) if rotation in (90, 270) else (width, height)
        assert (result.frame.picture.width, result.frame.picture.height) == upright
        assert np.abs(result.detections.boxes[0] - seen).max() <= 5


def test_sample_aspect_ratio_is_honoured(tmp_path, detector):
    clip = make_clip(tmp_path / "clip.mp4", width=192, height=192, frames=5, content="moving box", sar=Fraction(4, 3))
    for result in Pipeline.from_dict(settings(detector, [str(clip)])):
        assert (result.frame.picture.width, result.frame.picture.height) == (256, 192)
        seen = np.array(box_of(result.frame.index, 192, 192)) * (4 / 3, 1, 4 / 3, 1)
        assert np.abs(result.detections.boxes[0] - seen).max() <= 5


def test_a_region_of_interest_limits_what_the_model_sees(tmp_path, detector):
    clip = make_clip(tmp_path / "clip.mp4", width=256, height=192, frames=8, content="moving box")
    left = {"path": str(clip), "id": "left", "roi": {"rect": [0, 0, 0.5, 1], "unit": "fraction"}}
    whole = {"path": str(clip), "id": "whole"}
    outside = {"path": str(clip), "id": "outside", "roi": {"rect": [300, 0, 400, 100]}}
    pipeline = Pipeline.from_dict(settings(detector, [left, whole, outside]))
    for result in pipeline:
        x1, y1, x2, y2 = box_of(result.frame.index, 256, 192)
        if result.frame.source_id == "whole":
            assert len(result.detections) == 1
        elif x1 < 120:
            assert np.abs(result.detections.boxes[0] - (x1, y1, min(x2, 128), y2)).max() <= 4
        elif x1 > 130:
            assert len(result.detections) == 0
    assert pipeline.status.sources["outside"].state is SourceState.FAILED
    assert pipeline.status.sources["whole"].results == 8


def test_many_sources_one_of_them_broken_into_all_kinds_of_files(tmp_path, detector):
    good = [
        make_clip(tmp_path / f"clip{i}.mp4", width=256, height=192, frames=7 + i, content="moving box")
        for i in range(3)
    ]
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(good[0].read_bytes()[:400])
    variable = make_clip(
        tmp_path / "variable.mp4",
        width=256,
        height=192,
        frames=6,
        content="moving box",
        pts=[0, 40, 50, 200, 1000, 1010],
        time_base=Fraction(1, 1000),
    )
    out = tmp_path / "out"
    config = settings(
        detector,
        [str(tmp_path), str(tmp_path / "missing.mp4")],
        sinks=[
            {"type": "jsonl", "path": str(out / "all.jsonl")},
            {"type": "csv", "path": str(out / "{source}.csv")},
            {"type": "video", "path": str(out / "{source}.mp4")},
        ],
        observe={"report": str(out / "report.json")},
    )
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED
    states = {name: source.state for name, source in status.sources.items()}
    assert states.pop("broken") is SourceState.FAILED
    assert states.pop("missing") is SourceState.FAILED
    assert set(states.values()) == {SourceState.DONE}
    assert "broken.mp4" in status.sources["broken"].error
    found = records(out / "all.jsonl")
    assert {name: [r["frame"] for r in found if r["source"] == name] for name in states} == {
        "clip0": list(range(7)),
        "clip1": list(range(8)),
        "clip2": list(range(9)),
        "variable": list(range(6)),
    }
    assert [r["pts_s"] for r in found if r["source"] == "variable"] == [0, 0.04, 0.05, 0.2, 1.0, 1.01]
    assert len((out / "clip2.csv").read_text().splitlines()) == 1 + 9
    with av.open(str(out / "variable.mp4")) as video:
        times = [float(frame.pts * frame.time_base) for frame in video.decode(video=0)]
    assert times == pytest.approx([0, 0.04, 0.05, 0.2, 1.0, 1.01], abs=1e-4)
    assert variable.exists()


def test_results_convert_to_supervision(tmp_path, detector):
    supervision = pytest.importorskip("supervision")
    clip = make_clip(tmp_path / "clip.mp4", width=256, height=192, frames=3, content="moving box")
    with Pipeline.from_dict(settings(detector, [str(clip)])) as pipeline:
        for result in pipeline:
            converted = result.detections.to_supervision()
            assert isinstance(converted, supervision.Detections)
            assert converted.data["class_name"].tolist() == ["box"]
            np.testing.assert_array_equal(converted.xyxy, result.detections.boxes)


def test_pixels_of_results_are_the_pictures(tmp_path, detector):
    from pipeline import to_rgb

    clip = make_clip(tmp_path / "clip.mp4", width=256, height=192, frames=3, content="moving box")
    for result in Pipeline.from_dict(settings(detector, [str(clip)])):
        rgb = to_rgb(result.frame.picture)
        x1, y1, x2, y2 = (round(v) for v in box_of(result.frame.index, 256, 192))
        assert rgb[y1 + 4 : y2 - 4, x1 + 4 : x2 - 4].min() > 230
        assert rgb[y2 + 4 :, :, 0].max() < 200


def test_an_output_that_exists_is_an_error_before_the_first_frame(tmp_path, detector):
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    out = tmp_path / "out.jsonl"
    out.write_text("precious")
    pipeline = Pipeline.from_dict(settings(detector, [str(clip)], sinks=[{"type": "jsonl", "path": str(out)}]))
    with pytest.raises(SinkError, match=r"out\.jsonl"):
        pipeline.run()
    assert out.read_text() == "precious"
    assert pipeline.status.results == 0


def test_a_model_that_does_not_fit_is_an_error_in_words(tmp_path, detector):
    clip = make_clip(tmp_path / "clip.mp4", frames=3)
    config = settings(detector, [str(clip)], preprocess={"size": [640, 640]})
    with pytest.raises(ModelError, match="640"):
        Pipeline.from_dict(config).run()
    with pytest.raises(ConfigError, match="did you mean 'letterbox'"):
        Pipeline.from_dict(settings(detector, [str(clip)], preprocess={"fit": "leterbox"}))


def test_interrupting_the_command_completes_the_outputs(tmp_path, detector):
    clip = make_clip(tmp_path / "clip.mp4", width=256, height=192, frames=150, content="moving box")
    out = tmp_path / "out.jsonl"
    config = settings(
        detector,
        [{"path": str(clip), "id": f"s{i}"} for i in range(100)],
        sinks=[{"type": "jsonl", "path": str(out)}],
        observe={"progress": "always", "progress_interval_s": 0.2},
    )
    file = tmp_path / "config.yaml"
    file.write_text(json.dumps(config))
    program = Path(__file__).parents[2] / "run_pipeline.py"
    process = subprocess.Popen(
        [sys.executable, str(program), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stderr is not None
    try:
        # A progress line with frames in it: the run is under way.
        for line in process.stderr:
            if re.search(r"\b[1-9][\d,]* of [\d,]+ frames", line):
                break
        else:
            pytest.fail("the run ended before it had begun")
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == ExitCode.INTERRUPTED, stderr
    assert "Traceback" not in stderr
    assert str(out) in stdout
    assert 0 < len(records(out)) < 100 * 150
