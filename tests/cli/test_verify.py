"""`vramline verify` in this process: options, what is printed where, exit codes. The verifier is fake."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.cli.main import main
from pipeline.errors import DeviceError, SourceError, SourceErrorCode
from pipeline.observe.status import RunStatus, SourceStatus
from pipeline.observe.trace.account import Account, StageAccount
from pipeline.observe.trace.verdict import Setting, verdicts
from pipeline.runtime import verify as runtime
from pipeline.runtime.verify import Plan, Verification

WriteConfig = Callable[..., Path]


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert isinstance(end.value.code, int)
    return end.value.code


@pytest.fixture
def verifier(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Puts one in the place of the real one that finds 2,416 bytes a frame and one wait a batch; returns those made."""
    made: list[Any] = []

    class FakeVerifier:
        status = RunStatus()
        outcome: Any = "found"

        def __init__(self, config: Any, plan: Plan, open_tracer: Any, *, progress: Any) -> None:
            self.config, self.plan = config, plan
            made.append(self)

        def interrupt(self) -> None: ...

        def __call__(self) -> Verification | None:
            if isinstance(self.outcome, Exception):
                raise self.outcome
            if self.outcome is None:
                return None
            post = StageAccount(
                "postprocess", 50, 400, 50, down_bytes=400 * 2416, largest_down_bytes=19_328, launches=99
            )
            wait = StageAccount("results", 50, 400, 50, waits=50, waited_for={"cudaEventSynchronize": 50})
            opened = StageAccount("open", 1, 1, 1, waits=7)
            account = Account({s.stage: s for s in (opened, post, wait)}, 50, 8.0, 0.5, 200)
            judged = verdicts(account, self.plan.limits, Setting(10**6, uncounted=("open",)))
            return Verification(account, judged, self.status, self.plan)

    made.append(FakeVerifier)
    monkeypatch.setattr(runtime, "Verifier", FakeVerifier)
    return made


def test_a_verified_run_ends_with_0(
    write_config: WriteConfig, verifier: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("verify", write_config()) == 0
    out, err = capsys.readouterr()
    assert "50 batches of 8 frames" in out
    assert out.count("\npass  ") == 3
    assert "FAIL" not in out
    assert "open" not in out.partition(" on GPU: ")[2]  # in front of that stands the configuration's path
    assert err == ""


def test_a_limit_that_is_exceeded_ends_with_4(
    write_config: WriteConfig, verifier: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("verify", write_config(), "--max-down-bytes-per-frame", "2415") == 4
    assert "FAIL  2,416 B a frame go down to the host; the limit is 2,415 B: postprocess" in capsys.readouterr().out
    assert exit_code("verify", write_config(), "--max-waits-per-batch", "0.5") == 4


def test_options_reach_the_verifier(write_config: WriteConfig, verifier: list[Any]) -> None:
    options = [
        "--batches",
        "7",
        "--warm-up",
        "2",
        "--allow-drawing",
        "--device",
        "cuda",
        "--set",
        "runtime.batch_size=3",
    ]
    assert exit_code("verify", write_config(), *options) == 0
    plan, config = verifier[-1].plan, verifier[-1].config
    assert (plan.batches, plan.warm_up, plan.allow_drawing) == (7, 2, True)
    assert (plan.limits.down_bytes_per_frame, plan.limits.waits_per_batch) == (4096, 1.0)
    assert (config.device, config.runtime.batch_size) == ("cuda", 3)


def test_json_for_programs(
    write_config: WriteConfig, verifier: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("verify", write_config(), "--json", tmp_path / "found.json") == 0
    assert "batches of" in capsys.readouterr().out
    content = json.loads((tmp_path / "found.json").read_text())
    assert content["passed"] is True
    assert content["stages"]["postprocess"]["down_bytes_per_frame"] == 2416
    assert exit_code("verify", write_config(), "--json", "-", "--max-down-bytes-per-frame", "1") == 4
    assert json.loads(capsys.readouterr().out)["passed"] is False


def test_json_that_cannot_be_written(
    write_config: WriteConfig, verifier: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_code("verify", write_config(), "--json", tmp_path / "no" / "found.json") == 3
    assert "--json: cannot write" in capsys.readouterr().err


def test_a_failed_source_is_told_and_ends_with_1(
    write_config: WriteConfig, verifier: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    source = SourceStatus("a", "a.mp4")
    source.fail(SourceError("a.mp4: damaged", source_id="a", code=SourceErrorCode.DAMAGED))
    verifier[0].status.sources["a"] = source
    assert exit_code("verify", write_config()) == 1
    assert "Failed: a: a.mp4: damaged" in capsys.readouterr().err


def test_an_interruption_ends_with_130(
    write_config: WriteConfig, verifier: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    verifier[0].outcome = None
    assert exit_code("verify", write_config()) == 130
    assert "nothing was verified" in capsys.readouterr().err


def test_an_error_names_its_remedy(
    write_config: WriteConfig, verifier: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    verifier[0].outcome = DeviceError("another profiler is attached", remedy="run it without nsys")
    assert exit_code("verify", write_config()) == 3
    err = capsys.readouterr().err
    assert "error: another profiler is attached" in err
    assert "run it without nsys" in err


def test_without_a_gpu(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    """The real one."""
    assert exit_code("verify", write_config(), "--device", "cpu") == 3
    err = capsys.readouterr().err
    assert "there is nothing to verify without a GPU" in err
    assert "device: cpu" in err


def test_a_mistake_in_the_file_ends_with_2(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("verify", write_config("runtime: {nvtx: maybe}\n")) == 2
    assert "runtime.nvtx" in capsys.readouterr().err
