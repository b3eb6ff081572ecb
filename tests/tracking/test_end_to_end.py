"""Tracking in a whole run: real video, a detector whose answer is known, records in files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from bright_detector import save_bright_detector
from media_maker import box_of, make_clip

from pipeline import Pipeline
from pipeline.errors import ExitCode

WIDTH, HEIGHT = 128, 96
SURE_UNTIL_X = 24


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel that finds the box of the bright pixels; it is sure of it (0.9) on the left only, then hardly (0.3)."""
    import tensorflow as tf

    return save_bright_detector(
        tmp_path_factory.mktemp("models") / "bright",
        WIDTH,
        HEIGHT,
        score_of=lambda x1: tf.where(x1 < SURE_UNTIL_X, 0.9, 0.3),
    )


def run(folder: Path, detector: Path, tracker: str | dict | None) -> dict[str, list[list[dict]]]:
    """Source -> the detections of each of its frames, of two clips that share batches."""
    clips = [
        make_clip(
            folder / f"{name}.mp4", width=WIDTH, height=HEIGHT, frames=frames, content="moving box", numbered=False
        )
        for name, frames in (("a", 25), ("b", 19))
    ]
    out = folder / "out.jsonl"
    stages = {
        "model": {"path": str(detector)},
        "preprocess": {"scale": 1 / 255, "pad": 0},
        "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "labels": ["box"]},
    }
    config = {
        "device": "cpu",
        "sources": [{"path": str(clip), "id": clip.stem} for clip in clips],
        "pipeline": {**stages, "tracker": tracker} if tracker else stages,
        "sinks": [{"type": "jsonl", "path": str(out)}],
        "runtime": {"batch_size": 6},
    }
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.DONE
    assert ("track" in status.stages) is (tracker is not None)
    assert status.labels.total() == sum(len(json.loads(line)["detections"]) for line in out.read_text().splitlines())
    frames: dict[str, list[list[dict]]] = {}
    for line in out.read_text().splitlines():
        record = json.loads(line)
        assert record["frame"] == len(frames.setdefault(record["source"], []))
        frames[record["source"]].append(record["detections"])
    return frames


def sure(frame: int) -> bool:
    return box_of(frame, WIDTH, HEIGHT)[0] < SURE_UNTIL_X


def test_without_a_tracker(tmp_path, detector):
    for frames in run(tmp_path, detector, None).values():
        assert [len(own) for own in frames] == [int(sure(i)) for i in range(len(frames))]
        assert all("track_id" not in found for own in frames for found in own)


def test_bytetrack(tmp_path, detector):
    """The id comes with the second frame, and stays when the model becomes unsure."""
    frames = run(tmp_path, detector, "bytetrack")
    assert {source: len(own) for source, own in frames.items()} == {"a": 25, "b": 19}
    for own in frames.values():
        assert [[found.get("track_id") for found in frame] for frame in own] == [[None]] + [[1]] * (len(own) - 1)
        assert {found["score"] for frame in own for found in frame} == {0.9, 0.3}


def test_iou(tmp_path, detector):
    for own in run(tmp_path, detector, {"type": "iou", "output": "tracked"}).values():
        expected = [[1] if sure(i) and i > 0 else [] for i in range(len(own))]
        assert [[found["track_id"] for found in frame] for frame in own] == expected
