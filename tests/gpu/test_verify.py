"""`vramline verify` on a GPU: a pipeline that keeps its frames there passes, and one that does not is found out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from media_maker import make_clip

from pipeline.config.cards import load_model_card
from pipeline.errors import ExitCode

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 1920, 1080

pytestmark = pytest.mark.assets


def configuration(
    assets: Path, folder: Path, *sinks: dict[str, Any], sources: list[Any] | None = None, xla: Any = False
) -> Path:
    """Of a run without XLA unless it is asked for: compiling takes longer than a test."""
    card = load_model_card("coco-ssd")
    clip = str(assets / "media" / "motorway_1080p60_h264.mp4")
    content = {
        "device": "cuda",
        "sources": sources or [{"path": clip, "id": f"s{i}"} for i in range(3)],
        "pipeline": {
            "model": {"path": str(assets / "models" / "coco_ssd_core"), "precision": "fp16", "xla": xla},
            "preprocess": card.preprocess,
            "postprocess": card.postprocess,
        },
        "sinks": [{"type": "jsonl", "path": str(folder / "mine" / "out.jsonl")}, *sinks],
        "runtime": {"batch_size": 8},
    }
    path = folder / "pipeline.yaml"
    path.write_text(json.dumps(content))
    return path


def vramline(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """In a process of its own: CUPTI and TensorFlow's memory limit are a process's."""
    command = [sys.executable, str(ROOT / "run_pipeline.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    print(done.stdout, done.stderr[-3000:])
    return done


def verify(config: Path, folder: Path, *options: str) -> tuple[int, dict[str, Any], str]:
    """The exit code, the account, and what was printed."""
    found = folder / "found.json"
    done = vramline("verify", config, "--batches", "30", "--json", found, *options)
    assert found.is_file(), done.stderr[-3000:]
    return done.returncode, json.loads(found.read_text()), done.stdout


def test_a_pipeline_that_keeps_its_frames_on_the_gpu(assets: Path, tmp_path: Path) -> None:
    code, found, text = verify(configuration(assets, tmp_path, xla="auto"), tmp_path)
    assert code == ExitCode.DONE, text
    assert found["passed"] is True
    assert 30 <= found["batches"] <= 45
    assert found["frames_per_batch"] > 6
    stages = found["stages"]
    decode, post = stages["decode"], stages["postprocess"]
    # NVDEC's own copy of each picture, and nothing else of its size.
    assert decode["device_bytes_per_frame"] == pytest.approx(WIDTH * HEIGHT * 1.5, rel=0.01)
    assert 1000 < decode["packet_bytes_per_frame"] < 100_000
    assert 0 < post["down_bytes_per_frame"] <= 4096
    assert stages["results"]["waits_per_batch"] == pytest.approx(1)
    assert stages["infer"]["launches_per_batch"] > 50
    assert stages["preprocess"]["launches_per_batch"] >= 1
    for name, stage in stages.items():
        assert stage["largest_up_bytes"] < WIDTH * HEIGHT, name
        assert name == "postprocess" or not stage["down_bytes_per_frame"], name
    elsewhere = stages.get("elsewhere", {"launches_per_batch": 0, "waits_per_batch": 0})
    assert elsewhere["launches_per_batch"] < 1 and not elsewhere["waits_per_batch"]
    assert not (tmp_path / "mine").exists()  # the user's outputs are left alone


def test_limits_that_are_exceeded(assets: Path, tmp_path: Path) -> None:
    limits = ["--max-down-bytes-per-frame", "16", "--max-waits-per-batch", "0.5"]
    code, found, text = verify(configuration(assets, tmp_path), tmp_path, *limits)
    assert code == ExitCode.NOT_VERIFIED
    failed = [v["check"] for v in found["verdicts"] if not v["passed"]]
    assert failed == ["down_bytes_per_frame", "waits_per_batch"]
    assert text.count("\nFAIL  ") == 2


def test_a_video_sink_brings_every_frame_down(assets: Path, tmp_path: Path) -> None:
    config = configuration(assets, tmp_path, {"type": "video", "path": str(tmp_path / "mine" / "{source}.mp4")})
    code, found, text = verify(config, tmp_path)
    assert code == ExitCode.NOT_VERIFIED
    assert found["stages"]["download"]["down_bytes_per_frame"] == pytest.approx(WIDTH * HEIGHT * 1.5, rel=0.01)
    assert "because sinks[1] (video) draws on them" in text
    assert not (tmp_path / "mine").exists()


def test_a_video_that_the_gpu_cannot_decode_goes_up(assets: Path, tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "b.mp4", width=640, height=368, frames=120, pix_fmt="yuv422p")
    config = configuration(assets, tmp_path, sources=[{"path": str(clip), "id": "odd"}])
    code, found, text = verify(config, tmp_path)
    assert code == ExitCode.NOT_VERIFIED
    assert found["stages"]["decode"]["largest_up_bytes"] == 640 * 368 * 2
    assert "raw frames crossed: decode" in text
    assert "because the GPU cannot decode odd" in text


def test_a_run_with_nvtx_ranges(assets: Path, tmp_path: Path) -> None:
    """Nobody listens; under Nsight Systems they show."""
    config = configuration(assets, tmp_path, sources=[str(assets / "media" / "vtest_h264.mp4")])
    done = vramline("run", config, "--set", "runtime.nvtx=true", "--max-frames", "64")
    assert done.returncode == ExitCode.DONE
    assert len((tmp_path / "mine" / "out.jsonl").read_text().splitlines()) == 64
