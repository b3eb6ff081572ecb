"""Analytics in whole pipelines: real video, a detector whose answer is known, the pipeline's own tracker; and real traffic."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from bright_detector import save_bright_detector
from media_maker import box_of, make_clip

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.errors import ExitCode, StreamStateError
from pipeline.observe.status import SourceState

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "event.schema.json").read_text())
WIDTH, HEIGHT = 256, 192


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel: image float32 [N, 96, 128, 3] in 0..1 -> the box of the bright pixels, in pixels."""
    return save_bright_detector(tmp_path_factory.mktemp("models") / "bright", 128, 96)


def config(detector: Path, sources: list, **more) -> dict:
    return {
        "device": "cpu",
        "sources": sources,
        "pipeline": {
            "model": {"path": str(detector)},
            "preprocess": {"scale": 1 / 255, "pad": 0, "interpolation": "area"},
            "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
            "tracker": {"type": "iou", "min_hits": 1},
        },
        "runtime": {"batch_size": 4},
        **more,
    }


# The box of "moving box" is 48 px wide and goes 2 px to the right a frame; its middle is at 24 + 2 i.
ANALYTICS = {
    "lines": [{"name": "gate", "points": [[128, 0], [128, 192]], "hysteresis": 4, "directions": ["left", "right"]}],
    "zones": [
        {"name": "hall", "polygon": [[0.25, 0], [0.5, 0], [0.5, 1], [0.25, 1]], "hysteresis": 0},
        {"name": "end", "circle": {"center": [200, 144], "radius": 30}},
    ],
}
FRACTIONS = {
    "unit": "fraction",
    "lines": [{"name": "gate", "points": [[0.5, 0], [0.5, 1]], "hysteresis": 4 / 192, "directions": ["left", "right"]}],
    "zones": ANALYTICS["zones"][:1],
}
PIXELS = {
    "lines": ANALYTICS["lines"],
    "zones": [{**ANALYTICS["zones"][0], "polygon": [[64, 0], [128, 0], [128, 192], [64, 192]]}, ANALYTICS["zones"][1]],
}


def test_events_of_real_video_reach_the_sinks_and_the_api(tmp_path, detector) -> None:
    frames = 95
    clip = make_clip(
        tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, frames=frames, rate=25, content="moving box", numbered=False
    )
    sources = [
        {
            "path": str(clip),
            "id": "pixels",
            "analytics": {**PIXELS, "heatmap": {"path": str(tmp_path / "{source}.png")}},
        },
        {"path": str(clip), "id": "fractions", "analytics": FRACTIONS},
        {"path": str(clip), "id": "plain"},
        {"path": str(clip), "id": "outside", "analytics": {"lines": [{"name": "g", "points": [[300, 0], [300, 9]]}]}},
    ]
    sinks = [
        {"type": "jsonl", "path": str(tmp_path / "all.jsonl")},
        {"type": "jsonl", "path": str(tmp_path / "{source}.jsonl")},
        {"type": "csv", "path": str(tmp_path / "all.csv")},
        {"type": "video", "path": str(tmp_path / "{source}.mp4")},
    ]
    pipeline = Pipeline.from_dict(config(detector, sources, sinks=sinks))
    results = list(pipeline)
    events = {
        name: [e for r in results if r.frame.source_id == name for e in r.events]
        + [e for e in pipeline.late_events if e.source_id == name]
        for name in ("pixels", "fractions", "plain")
    }
    assert pipeline.status.sources["outside"].state is SourceState.FAILED
    assert (
        "analytics.lines[0].points ('g') lies outside the picture, which is 256x192"
        in pipeline.status.sources["outside"].error
    )
    assert pipeline.status.exit_code is ExitCode.SOME_SOURCES_FAILED
    assert events["plain"] == []

    told = {name: [(e.kind.value, e.name, e.direction, e.frame) for e in own] for name, own in events.items()}
    # One frame of tolerance: 2 px is what a pixel of the model's input is in the clip.
    expected = [
        ("zone_entered", "hall", None, 20),
        ("zone_left", "hall", None, 52),
        ("line_crossed", "gate", "right", 55),
        ("zone_entered", "end", None, 73),
        ("zone_left", "end", None, frames - 1),
    ]
    assert [one[:3] for one in told["pixels"]] == [one[:3] for one in expected]
    assert all(abs(a[3] - b[3]) <= 1 for a, b in zip(told["pixels"], expected, strict=True))
    assert told["fractions"] == [one for one in told["pixels"] if one[1] != "end"]
    left = next(e for e in events["pixels"] if e.kind.value == "zone_left")
    assert left.values["dwell_s"] == pytest.approx(32 / 25, abs=2 / 25)
    assert [e.name for e in pipeline.late_events] == ["end"]
    assert pipeline.late_events[0].values["reason"] == "source_ended"
    last = max((r for r in results if r.frame.source_id == "pixels"), key=lambda r: r.frame.index)
    assert last.scene.crossed == ((0, 1),)
    assert last.scene.occupancy == (0, 1)

    records = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    written = [r for r in records if r.get("type") == "event"]
    for record in written:
        jsonschema.validate(record, SCHEMA)
    assert len(written) == len(events["pixels"]) + len(events["fractions"])
    assert sum(r["schema"] == "vramline.frame/1" for r in records) == 3 * frames
    own = [json.loads(line) for line in (tmp_path / "pixels.jsonl").read_text().splitlines()]
    assert own == [r for r in records if r["source"] == "pixels"]
    # An event stands right behind the frame that brought it.
    place = next(i for i, r in enumerate(own) if r.get("event") == "line_crossed")
    before = next(r for r in reversed(own[:place]) if "type" not in r)
    assert before["frame"] == own[place]["frame"]
    assert "line_crossed" not in (tmp_path / "all.csv").read_text()
    for name in ("pixels.mp4", "pixels.png", "pixels.npz"):
        assert (tmp_path / name) in pipeline.status.outputs
    seconds = np.load(tmp_path / "pixels.npz")["seconds"]
    assert seconds.sum() == pytest.approx((frames - 1) / 25, abs=0.05)
    _, y1, _, y2 = box_of(0, WIDTH, HEIGHT)
    assert set(np.nonzero(seconds)[0] * 8) <= set(range(y2 - 8, y2 + 8)), (y1, y2)


def test_dropped_frames_do_not_change_the_counts(tmp_path, detector) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, frames=90, rate=25, content="moving box", numbered=False
    )
    out = tmp_path / "out.jsonl"
    source = {"path": str(clip), "every": 4, "analytics": PIXELS}
    status = Pipeline.from_dict(config(detector, [source], sinks=[{"type": "jsonl", "path": str(out)}])).run()
    assert status.exit_code is ExitCode.DONE
    events = [r for r in map(json.loads, out.read_text().splitlines()) if "type" in r]
    # Leaving the hall and crossing the gate, 3 frames later, fall into one of the frames that are kept.
    assert [(r["event"], r["name"]) for r in events] == [
        ("zone_entered", "hall"),
        ("line_crossed", "gate"),
        ("zone_left", "hall"),
        ("zone_entered", "end"),
        ("zone_left", "end"),
    ]
    assert events[2]["values"]["dwell_s"] == pytest.approx(32 / 25, abs=4 / 25)


def test_a_source_that_is_added_has_its_own_analytics(tmp_path, detector) -> None:
    clip = make_clip(
        tmp_path / "clip.mp4", width=WIDTH, height=HEIGHT, frames=60, rate=25, content="moving box", numbered=False
    )
    pipeline = Pipeline.from_dict(config(detector, [str(clip)]))
    events = []
    for result in pipeline:
        if result.frame.index == 0 and result.frame.source_id == "clip":
            pipeline.add_source({"path": str(clip), "id": "more", "analytics": PIXELS})
            with pytest.raises(StreamStateError, match="began with one"):
                pipeline.add_source({"path": str(clip), "analytics": {"heatmap": {"path": str(tmp_path / "h.png")}}})
        events += [(result.frame.source_id, e.kind.value) for e in result.events]
    assert events == [("more", "zone_entered"), ("more", "zone_left"), ("more", "line_crossed")]


# The traffic of motorway_1080p60_h264.mp4 (600 frames, one carriageway, all of it towards the camera), counted by eye: every
# 15th frame (0.25 s) was looked at with the line drawn over it, and each vehicle followed whose lower edge passes it. In which
# quarters of a second (frames) they pass the line from (450, 600) to (1700, 600):
NEAR = {
    "black hatchback": (45, 60),
    "silver hatchback": (60, 75),
    "dark grey hatchback": (120, 135),
    "red hatchback": (180, 195),
    "silver estate": (360, 375),
    "dark blue hatchback": (360, 375),
    "black saloon": (435, 450),
}
# A red one is 15 px short of it in the last frame. Nobody passes it away from the camera.
# The line further away from (300, 470) to (1500, 470) is passed by 8 in the same way: 6 cars, the motorcycle behind them (frame
# 540 to 555), which COCO-SSD does not find, and a van (570 to 585), whose lower edge is hidden by a car until right before.
FAR = 8


@pytest.mark.assets
def test_vehicles_on_a_motorway_are_counted_as_by_eye(assets, tmp_path) -> None:
    """The near line: the same vehicles in the same quarters of a second, give or take 8 frames for the hysteresis and the
    box. The far one, where vehicles hide each other: 2 fewer at most, none more, and none that goes the wrong way."""
    card = load_model_card("coco-ssd")
    directions = ["towards", "away"]
    analytics = {
        "classes": ["car", "truck", "bus", "motorcycle"],
        "lines": [
            {"name": "near", "points": [[450, 600], [1700, 600]], "directions": directions},
            {"name": "far", "points": [[300, 470], [1500, 470]], "directions": directions},
        ],
    }
    # Every third frame: 20 a second are plenty, and three times as quick.
    source = {"path": str(assets / "media" / "motorway_1080p60_h264.mp4"), "every": 3, "analytics": analytics}
    stages = {
        "model": {"path": str(assets / "models" / "coco_ssd_core")},
        "preprocess": card.preprocess,
        "postprocess": card.postprocess,
        "tracker": "bytetrack",
    }
    events = [
        event
        for result in Pipeline.from_dict({"device": "cpu", "sources": [source], "pipeline": stages})
        for event in result.events
    ]
    near = [event for event in events if event.name == "near"]
    far = [event for event in events if event.name == "far"]
    assert {event.direction for event in events} == {"towards"}
    assert len(near) == len(NEAR)
    assert len({event.track_id for event in near}) == len(NEAR)
    for event, (first, last) in zip(near, sorted(NEAR.values()), strict=True):
        assert first - 8 <= event.frame <= last + 8
    assert FAR - 2 <= len(far) <= FAR
