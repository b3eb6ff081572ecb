"""The doctor's report about machines that are not here."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from os import terminal_size
from pathlib import Path

import pytest

from pipeline.cli.main import main
from pipeline.observe.checks import CORE_PACKAGES
from pipeline.observe.facts import CODECS, GPU_PACKAGES, Facts
from pipeline.observe.machine import Driver, Gpu, Trial

CPU_ONLY = Facts(
    python=(3, 11, 7),
    packages=dict.fromkeys(CORE_PACKAGES, "1.0"),
    tensorflow=Trial({"version": "2.21.0", "gpus": [], "cuda": True}),
    av=Trial({"version": "18.1.0", "ffmpeg": "8.1", "decoders": list(CODECS), "x264": True}),
    driver=Driver(problem="no NVIDIA driver"),
    nvidia_hardware=False,
    nvdec_library=False,
    gpu_packages=GPU_PACKAGES,
    compiler=None,
    npm=None,
    cache=Path("/home/ann/.cache/vramline"),
    cache_writable=True,
    free_bytes=50 * 10**9,
    cores=8,
    terminal=False,
)
WITH_GPU = replace(
    CPU_ONLY, driver=Driver((13, 0), (Gpu("NVIDIA H100", 80 * 2**30),)), nvidia_hardware=True, nvdec_library=True
)


@pytest.fixture(autouse=True)
def width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: terminal_size((80, 24)))


def doctor(facts: Facts, monkeypatch: pytest.MonkeyPatch, *options: str) -> int:
    monkeypatch.setattr("pipeline.observe.facts.gather", lambda _cache: facts)
    with pytest.raises(SystemExit) as end:
        main(["doctor", *options])
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_machine_without_gpu(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(CPU_ONLY, monkeypatch) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "  ok       TensorFlow      2.21.0\n" in out
    assert "  missing  NVIDIA driver   no NVIDIA driver, and no NVIDIA GPU in this machine\n" in out
    assert "           -> pip install 'vramline[models]'\n" in out
    assert out.endswith("device: auto takes cpu (no NVIDIA driver).\n")
    assert max(map(len, out.splitlines())) <= 80


def test_a_machine_with_a_gpu_says_what_is_missing_there(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(WITH_GPU, monkeypatch) == 0
    out = capsys.readouterr().out
    assert "  ok       NVIDIA driver   CUDA 13.0; NVIDIA H100 (80 GiB)\n" in out
    assert "  problem  TensorFlow GPU  TensorFlow sees no GPU" in out
    assert "           -> pip install 'vramline[cuda12]'\n" in out
    assert out.endswith("device: auto takes cpu (not installed: cupy, PyNvVideoCodec).\n")


def test_a_machine_that_can_run_nothing_is_3(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = replace(CPU_ONLY, tensorflow=Trial(problem="ModuleNotFoundError: No module named 'tensorflow'"))
    assert doctor(broken, monkeypatch) == 3
    out = capsys.readouterr().out
    assert "problem  TensorFlow      cannot be used: ModuleNotFoundError" in out
    assert "Nothing can run here yet:" in out


def test_json_for_programs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert doctor(WITH_GPU, monkeypatch, "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["auto"] == {"engine": "cpu", "reason": "not installed: cupy, PyNvVideoCodec"}
    assert {"group", "name", "level", "detail", "remedy"} == set(report["checks"][0])
    levels = {check["name"]: check["level"] for check in report["checks"]}
    assert (levels["NVIDIA driver"], levels["cupy"], levels["TensorFlow GPU"]) == ("ok", "missing", "problem")


def test_json_of_a_machine_that_can_run_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert doctor(replace(CPU_ONLY, python=(3, 9, 0)), monkeypatch, "--json") == 3
    assert json.loads(capsys.readouterr().out)["auto"]["engine"] is None


def test_a_command_is_never_broken_across_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: terminal_size((40, 24)))
    assert doctor(replace(WITH_GPU, nvdec_library=False), monkeypatch) == 0
    assert "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,video,utility" in capsys.readouterr().out
