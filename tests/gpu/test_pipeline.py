"""The whole pipeline on the GPU against the whole pipeline on the CPU: the same records, and nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.errors import ExitCode
from pipeline.observe.status import SourceState

MODELS = {"coco-ssd": "coco_ssd_core", "nanodet": "nanodet"}


def settings(
    assets: Path, card: str, sources: list, *, device: str, precision: str = "fp32", xla: bool = False, **more
) -> dict:
    known = load_model_card(card)
    return {
        "device": device,
        "sources": sources,
        "pipeline": {
            "model": {"path": str(assets / "models" / MODELS[card]), "precision": precision, "xla": xla},
            "preprocess": known.preprocess,
            "postprocess": {**known.postprocess, **more.pop("postprocess", {})},
        },
        **more,
    }


def run(config: dict, folder: Path) -> dict[tuple[str, int], tuple]:
    """The records of a run in a process of its own: one process cannot have TensorFlow with and without its GPU."""
    out = folder / f"{config['device']}.jsonl"
    file = folder / f"{config['device']}.yaml"
    file.write_text(json.dumps({**config, "sinks": [{"type": "jsonl", "path": str(out)}]}))
    program = Path(__file__).parents[2] / "run_pipeline.py"
    done = subprocess.run(
        [sys.executable, str(program), str(file)], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == ExitCode.DONE, done.stderr[-2000:]
    found = {}
    for line in out.read_text().splitlines():
        record = json.loads(line)
        boxes = record["detections"]
        found[record["source"], record["frame"]] = (
            record["pts_s"],
            np.array([b["box"] for b in boxes], float).reshape(-1, 4),
            np.array([b["score"] for b in boxes], float),
            np.array([b["class_id"] for b in boxes], int),
        )
    return found


def iou(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    low, high = np.maximum(a[:, None, :2], b[None, :, :2]), np.minimum(a[:, None, 2:], b[None, :, 2:])
    both = np.prod(np.maximum(high - low, 0), -1)
    areas = [np.prod(x[:, 2:] - x[:, :2], -1) for x in (a, b)]
    return both / (areas[0][:, None] + areas[1][None] - both)


@pytest.mark.assets
@pytest.mark.parametrize("card", ["coco-ssd", "nanodet"])
@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.985), ("fp16", 0.95)])
def test_detections_are_those_of_the_cpu(assets, tmp_path, card, precision, least):
    """A detection near the threshold may fall on either side; nearly all have their twin."""
    sources = [{"path": str(assets / "media" / f"vtest_{codec}.mp4"), "max_frames": 64} for codec in ("h264", "hevc")]
    cpu = run(settings(assets, card, sources, device="cpu"), tmp_path)
    gpu = run(settings(assets, card, sources, device="cuda", precision=precision), tmp_path)
    assert cpu.keys() == gpu.keys()
    matched = total = 0
    for key, (pts_s, boxes, scores, ids) in cpu.items():
        gpu_pts_s, gpu_boxes, gpu_scores, gpu_ids = gpu[key]
        assert pts_s == gpu_pts_s
        total += max(len(boxes), len(gpu_boxes))
        if len(boxes) and len(gpu_boxes):
            overlap = iou(boxes, gpu_boxes) * (ids[:, None] == gpu_ids[None])
            best = overlap.argmax(1)
            near = np.abs(scores - gpu_scores[best]) < 0.05
            matched += int(((overlap.max(1) > 0.9) & near).sum())
    print(f"{card} {precision}: {matched} of {total} detections have their twin")
    assert total > 100
    assert matched / total >= least


@pytest.mark.assets
def test_average_precision_on_the_gpu(assets):
    sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
    from accuracy import measure

    from pipeline.config.load import config_from_mapping

    truth = assets / "ground_truth" / "PETS09-S2L1" / "gt.txt"
    video = [str(assets / "media" / "vtest_h264.mp4")]
    found = {}
    for card, least in (("coco-ssd", 0.67), ("nanodet", 0.89)):
        for precision, xla in (("fp32", False), ("fp16", False), ("fp16", True)):
            post = {"score_threshold": 0.01, "classes": ["person"]}
            config = settings(assets, card, video, device="cuda", precision=precision, xla=xla, postprocess=post)
            measured = measure(config_from_mapping(config), truth)
            assert measured.frames == 795
            found[card, precision, xla] = measured.average_precision
            print(f"{card} {precision}, xla {xla}: AP50 {measured.average_precision:.4f}")
            assert measured.average_precision >= least - (0.005 if precision == "fp16" else 0)
        for xla in (False, True):
            assert abs(found[card, "fp32", False] - found[card, "fp16", xla]) <= 0.005


@pytest.mark.assets
def test_sinks_with_pixels_work_on_the_gpu(assets, tmp_path):
    import av

    config = settings(
        assets,
        "coco-ssd",
        [{"path": str(assets / "media" / "vtest_h264.mp4"), "max_frames": 40}],
        device="cuda",
        sinks=[
            {"type": "jsonl", "path": str(tmp_path / "out.jsonl")},
            {"type": "video", "path": str(tmp_path / "out.mp4"), "labels": False, "caption": False},
        ],
    )
    status = Pipeline.from_dict(config).run()
    assert status.device == "cuda"
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 40
    with av.open(str(tmp_path / "out.mp4")) as out, av.open(str(assets / "media" / "vtest_h264.mp4")) as original:
        pairs = list(zip(out.decode(video=0), original.decode(video=0), strict=False))
    assert len(pairs) == 40
    difference = [
        np.abs(a.to_ndarray(format="gray").astype(int) - b.to_ndarray(format="gray")).mean() for a, b in pairs
    ]
    print(f"mean luma difference {max(difference):.2f}")
    assert max(difference) < 4


@pytest.mark.assets
def test_many_sources_and_a_broken_one(assets, tmp_path):
    broken = tmp_path / "broken.mp4"
    broken.write_bytes((assets / "media" / "vtest_h264.mp4").read_bytes()[:2000])
    sources = [
        {"path": str(assets / "media" / "motorway_1080p60_h264.mp4"), "max_frames": 50, "id": f"s{i}"}
        for i in range(24)
    ]
    config = settings(assets, "coco-ssd", [*sources, str(broken)], device="cuda", precision="fp16")
    status = Pipeline.from_dict(config).run()
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED
    assert {s.state for s in status.sources.values()} == {SourceState.DONE, SourceState.FAILED}
    assert [s.results for s in status.sources.values()] == [50] * 24 + [0]


@pytest.mark.assets
def test_repeated_runs_leave_no_device_memory_behind(assets):
    import cupy

    config = settings(
        assets,
        "coco-ssd",
        [{"path": str(assets / "media" / "motorway_1080p60_h264.mp4"), "max_frames": 40}],
        device="cuda",
        precision="fp16",
    )
    free = []
    for _ in range(6):
        Pipeline.from_dict(config).run()
        free.append(cupy.cuda.Device().mem_info[0])
    print("free MB after each run", [round(f / 1e6) for f in free])
    assert free[2] - free[-1] < 64e6
