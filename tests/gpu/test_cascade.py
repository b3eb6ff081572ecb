"""Models on crops and side by side on the GPU: what is cut, what is found, and that nothing is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gpu_device import Device
from hypothesis import given, settings
from hypothesis import strategies as st
from surface_maker import assert_same, frame, make_picture, pictures, preprocesses

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.stages import Preprocess
from pipeline.errors import ExitCode
from pipeline.frames import Colour
from pipeline.preprocess.crops import ReferenceCropper
from pipeline.preprocess.fused_crops import FusedCropper

SAVED = {"nanodet": "nanodet", "coco-ssd": "coco_ssd_core", "emotion": "emotion", "movenet": "movenet-lightning"}


@pytest.fixture(scope="module")
def device() -> Device:
    return Device()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_crops_are_what_the_reference_cuts(device, data):
    preprocess = data.draw(preprocesses())
    drawn = data.draw(st.lists(pictures(), min_size=1, max_size=3))
    on_host, on_gpu, regions = [], [], []
    for i, (picture, how) in enumerate(drawn):
        surface = device.surface(picture, **how)
        for _ in range(data.draw(st.integers(1, 3))):
            x, y = data.draw(st.floats(0, 0.7)) * picture.width, data.draw(st.floats(0, 0.7)) * picture.height
            right = x + data.draw(st.floats(0.05, 1)) * (picture.width - x)
            bottom = y + data.draw(st.floats(0.05, 1)) * (picture.height - y)
            regions.append((x, y, right, bottom))
            on_host.append(frame(picture, f"s{i}"))
            on_gpu.append(frame(surface, f"s{i}"))
    corners, rows = np.array(regions), len(regions) + 1
    want = ReferenceCropper(preprocess)(on_host, corners, rows)
    got = FusedCropper(preprocess, stream=device, max_rows=rows)(on_gpu, corners, rows)
    assert_same(device.get(got.tensor), want.tensor, preprocess, (regions, drawn))
    np.testing.assert_array_equal(got.transforms, want.transforms)


def test_cutting_waits_for_nothing(device):
    """Behind 80 ms of work on the stream, several batches of crops are enqueued in much less."""
    import time

    preprocess = Preprocess(size=(224, 224), layout="nhwc", dtype="float16")
    cropper = FusedCropper(preprocess, stream=device, max_rows=64)
    picture = frame(device.surface(make_picture(1, 1920, 1080, Colour())))
    corners = np.array([(10 * i, 5 * i, 10 * i + 200, 5 * i + 300) for i in range(64)], np.float64)
    cropper([picture] * 64, corners, 64)
    device.cupy.synchronize()
    device.spin(80)
    start_s = time.perf_counter()
    for _ in range(2):
        cropper([picture] * 64, corners, 64)
    enqueued_ms = (time.perf_counter() - start_s) * 1e3
    assert not device.cupy.done
    device.cupy.synchronize()
    print(f"a batch of 64 crops of 224x224 takes the host {enqueued_ms / 2:.1f} ms")
    assert enqueued_ms < 60


def of_card(assets: Path, card: str, device: str, **post: Any) -> dict[str, Any]:
    known, path = load_model_card(card), assets / "models" / SAVED[card]
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return {
        "model": {"path": str(path), "name": card, "precision": "fp32", "xla": False},
        "preprocess": known.preprocess,
        "postprocess": {**known.postprocess, **post},
    }


def config_of(assets: Path, device: str, **stages: Any) -> dict[str, Any]:
    sources = [
        {"path": str(assets / "media" / f"vtest_{codec}.mp4"), "max_frames": 48, "id": codec}
        for codec in ("h264", "hevc")
    ]
    sources.append({"path": str(assets / "media" / "TUD-Stadtmitte.mp4"), "max_frames": 32, "id": "uploaded"})
    return {"device": device, "sources": sources, "pipeline": {**of_card(assets, "nanodet", device), **stages}}


def run(config: dict[str, Any], folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    """The records of a run in a process of its own: one process cannot have TensorFlow with and without its GPU."""
    out, file = folder / f"{config['device']}.jsonl", folder / f"{config['device']}.yaml"
    file.write_text(json.dumps({**config, "sinks": [{"type": "jsonl", "path": str(out)}]}))
    program = Path(__file__).parents[2] / "run_pipeline.py"
    done = subprocess.run(
        [sys.executable, str(program), str(file)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == ExitCode.DONE, done.stderr[-2000:]
    found = [json.loads(line) for line in out.read_text().splitlines()]
    return {(record["source"], record["frame"]): record for record in found}


def twins(cpu: list[dict[str, Any]], gpu: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Pairs of detections that are the same object: same label, boxes that overlap by 0.9 or more."""
    pairs = []
    for one in cpu:
        a = np.array(one["box"])
        for other in gpu:
            b = np.array(other["box"])
            both = np.prod(np.maximum(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0))
            union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - both
            if other["label"] == one["label"] and both / union >= 0.9:
                pairs.append((one, other))
                break
    return pairs


def scores_of(attribute: dict[str, Any]) -> np.ndarray:
    scores = np.zeros(7)
    for found in attribute["classes"]:
        scores[found["class_id"]] = found["score"]
    return scores


@pytest.mark.assets
def test_attributes_are_those_of_the_cpu(assets, tmp_path):
    """A box differs by a part of a pixel between the engines, and so does its crop: scores are near, the best class agrees."""

    def config(device: str) -> dict[str, Any]:
        rules = {"classes": ["person"], "min_size_px": 20, "margin": 0.1, "aspect": 1.0}
        return config_of(
            assets, device, cascade=[{"name": "emotion", **of_card(assets, "emotion", device, top_k=7), **rules}]
        )

    cpu, gpu = run(config("cpu"), tmp_path), run(config("cuda"), tmp_path)
    assert cpu.keys() == gpu.keys()
    differences, agree, only_one = [], 0, 0
    for key, record in cpu.items():
        for one, other in twins(record["detections"], gpu[key]["detections"]):
            both = [d.get("attributes", {}).get("emotion") for d in (one, other)]
            if None in both:
                only_one += both[0] is not both[1]  # a box of 20 pixels, give or take
                continue
            a, b = map(scores_of, both)
            differences.append(np.abs(a - b).max())
            agree += int(a.argmax() == b.argmax())
    count = len(differences)
    print(
        f"{count} crops: {agree} best classes agree, scores differ by {np.mean(differences):.4f} on average, "
        f"99 % by less than {np.quantile(differences, 0.99):.4f}; {only_one} were looked at by one engine only"
    )
    assert count > 400
    assert agree >= 0.97 * count
    assert np.quantile(differences, 0.95) < 0.05
    assert only_one <= 0.02 * count


@pytest.mark.assets
def test_a_chain_with_tracks_is_that_of_the_cpu(assets, tmp_path):
    """Detections in the crops of persons, attributes of these, and results that are kept between the looks at a track."""

    def config(device: str) -> dict[str, Any]:
        cascade = [
            {
                "name": "again",
                **of_card(assets, "coco-ssd", device),
                "classes": ["person"],
                "margin": 0.3,
                "batch_size": 16,
            },
            {"name": "deep", **of_card(assets, "emotion", device), "of": "again", "classes": ["person"]},
            {"name": "kept", **of_card(assets, "emotion", device), "classes": ["person"], "every": 4},
        ]
        return config_of(assets, device, tracker="bytetrack", cascade=cascade)

    cpu, gpu = run(config("cpu"), tmp_path), run(config("cuda"), tmp_path)
    assert cpu.keys() == gpu.keys()
    found = same = attributes = kept = 0
    for key, record in cpu.items():
        other = gpu[key]
        parts = [r["cascade"]["again"]["detections"] for r in (record, other)]
        found += max(map(len, parts))
        same += len(twins(*parts))
        for part in parts[1]:
            assert 0 <= part["parent"] < len(other["detections"])
            attributes += "deep" in part.get("attributes", {})
        kept += sum("frame" in d.get("attributes", {}).get("kept", {}) for d in other["detections"])
    print(f"{same} of {found} detections in crops have their twin; {attributes} attributes, {kept} kept")
    assert found > 300
    assert same >= 0.93 * found
    assert attributes > 100
    assert kept > 100


@pytest.mark.assets
def test_models_side_by_side_are_those_of_the_cpu(assets, tmp_path):
    def config(device: str) -> dict[str, Any]:
        models = [
            {"name": "pose", **of_card(assets, "movenet", device)},  # one picture at a time
            {"name": "other", **of_card(assets, "coco-ssd", device)},
            {"name": "same", **of_card(assets, "nanodet", device)},  # takes the first one's tensor
        ]
        return config_of(assets, device, models=models)

    cpu, gpu = run(config("cpu"), tmp_path), run(config("cuda"), tmp_path)
    found = same = poses = 0
    for key, record in cpu.items():
        other = gpu[key]
        assert other["models"]["same"]["detections"] == other["detections"]
        pairs = [r["models"]["other"]["detections"] for r in (record, other)]
        found += max(map(len, pairs))
        same += len(twins(*pairs))
        poses += len(record["models"]["pose"]["poses"]) == len(other["models"]["pose"]["poses"])
    print(f"{same} of {found} detections have their twin, {poses} of {len(cpu)} frames as many persons")
    assert found > 200
    assert same >= 0.97 * found
    assert poses >= 0.9 * len(cpu)


@pytest.mark.assets
def test_many_sources_with_few_surfaces_each(assets, tmp_path):
    """28 videos at once, all their crops in shared batches, pixels downloaded besides: everything comes to its end."""
    sources = [{"path": str(assets / "media" / "vtest_h264.mp4"), "max_frames": 40, "id": f"s{i}"} for i in range(28)]
    cascade = [{"name": "emotion", **of_card(assets, "emotion", "cuda"), "classes": ["person"]}]
    config = {**config_of(assets, "cuda", cascade=cascade), "sources": sources}
    crops: dict[tuple[str, int], list[Any]] = {}
    pipeline = Pipeline.from_dict(config)
    for result in pipeline:
        assert result.frame.picture.planes
        found = result.crops["emotion"]
        crops[result.frame.source_id, result.frame.index] = [
            found.at(row).classes[0][:2] for row in found.parents.tolist()
        ]
    assert len(crops) == 28 * 40
    same = sum(crops[f"s{i}", n] == crops["s0", n] for i in range(28) for n in range(40))
    print(f"{same} of {28 * 40} frames have the same attributes as the first source's")
    assert same >= 0.97 * 28 * 40
    assert pipeline.status.models["emotion"].crops.crops == sum(map(len, crops.values()))


@pytest.mark.assets
def test_repeated_runs_and_broken_off_ones_leave_no_device_memory_behind(assets):
    import cupy

    cascade = [
        {"name": "again", **of_card(assets, "coco-ssd", "cuda"), "classes": ["person"], "batch_size": 4},
        {"name": "deep", **of_card(assets, "emotion", "cuda"), "of": "again", "batch_size": 4},
    ]
    config = {**config_of(assets, "cuda", cascade=cascade), "runtime": {"batch_size": 4}}
    free = []
    for number in range(5):
        with Pipeline.from_dict(config) as pipeline:
            for count, _ in enumerate(pipeline):
                if number % 2 and count == 40:
                    break
        free.append(cupy.cuda.Device().mem_info[0])
    print("free MB after each run", [round(f / 1e6) for f in free])
    assert free[1] - free[-1] < 64e6
