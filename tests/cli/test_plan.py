"""`vramline plan`, on a machine without a GPU and on one that says it has some."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from bright_detector import save_bright_detector
from media_maker import make_clip

from pipeline.cli.main import main
from pipeline.observe.gpu_memory import DeviceMemory
from pipeline.observe.machine import Driver
from pipeline.vram import MIB


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan")
    save_bright_detector(folder / "bright", 128, 96)
    make_clip(folder / "a.mp4", width=640, height=480)
    make_clip(folder / "b.mp4", width=320, height=240)
    config = {
        "sources": [str(folder / "a.mp4"), str(folder / "b.mp4"), "rtsp://ann:hunter2@cam.example/1"],
        "pipeline": {
            "model": {"path": str(folder / "bright")},
            "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores"},
        },
        "runtime": {"open_sources": 1, "batch_size": 8},
    }
    (folder / "run.yaml").write_text(json.dumps(config))
    return folder


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.observe.machine.driver", lambda: Driver(problem="no NVIDIA driver"))
    memory(monkeypatch)


def memory(monkeypatch: pytest.MonkeyPatch, *found: DeviceMemory) -> None:
    monkeypatch.setattr("pipeline.observe.gpu_memory.device_memory", lambda: list(found))


def plan(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        main(["plan", *map(str, arguments)])
    out, err = capsys.readouterr()
    assert "hunter2" not in out + err
    assert isinstance(end.value.code, int)
    return end.value.code, out, err


def as_json(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> dict[str, Any]:
    code, out, _ = plan(capsys, *arguments, "--json")
    found: dict[str, Any] = json.loads(out)
    assert (code == 2) == (found["problem"] is not None)
    return found


def test_without_a_gpu(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, folder / "run.yaml")
    assert code == 0
    assert out.startswith("device  cpu (no NVIDIA driver)\n\n3 sources\n")
    assert "3 inputs of 8x128x96" in out  # the model's own size
    assert "free" in out
    assert "unknown  there is no GPU to ask" in out
    assert "1 of 3 sources count as h264 640x480" in out
    assert err == ""


def test_numbers_for_programs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, folder / "run.yaml")
    assert (found["engine"], found["open_sources"], found["batch_size"]) == ("cpu", 2, 8)
    parts = {part["name"]: part["size_bytes"] for part in found["memory"]["parts"]}
    # A camera and a video at a time, both counted as 640x480; 12 frames for each, and those of seven batches together.
    assert parts["decoded frames"] == 2 * (20 + 7 * 8 // 2) * 640 * 480 * 3 // 2
    assert parts["preprocessing"] == 3 * 8 * 128 * 96 * 3 * 4 + 8 * MIB
    assert found["memory"]["free_bytes"] is None
    assert [source["source"] for source in found["sources"]][:2] == ["a", "b"]


def test_with_a_gpu(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    memory(monkeypatch, DeviceMemory(143_000 * MIB, 100_000 * MIB), DeviceMemory(1, 1))
    found = as_json(capsys, folder / "run.yaml")["memory"]
    assert found["budget_bytes"] == 95_000 * MIB
    assert found["fits"] is True


def test_a_budget_that_is_too_small_is_2_and_says_what_to_do(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, folder / "run.yaml", "--set", "runtime.vram_budget_mb=300")
    assert code == 2
    assert "does NOT fit" in out
    assert "error: runtime.vram_budget_mb: the run needs at least" in err
    assert "raise it to" in err
    assert as_json(capsys, folder / "run.yaml", "--set", "runtime.vram_budget_mb=300")["problem"]


def test_cuda_that_cannot_be_had_still_has_a_plan(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = as_json(capsys, folder / "run.yaml", "--set", "device=cuda")
    assert found["engine"] is None
    assert "no NVIDIA driver" in found["reason"]
    assert found["memory"]["total_bytes"] > 0


def test_a_model_that_is_not_there_is_3(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = plan(capsys, folder / "run.yaml", "--set", f"pipeline.model.path={folder / 'brigth'}")
    assert (code, out) == (3, "")
    assert "brigth: no such model" in err
    assert "did you mean" in err
