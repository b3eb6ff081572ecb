"""The command in this process, with a fake pipeline: options, exit codes, what is printed where."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_fakes import FakePipeline

from pipeline.cli.main import main
from pipeline.errors import DeviceError, DeviceLostError, ModelError, SinkError, SourceErrorCode
from pipeline.observe.status import RunStatus, SourceState

WriteConfig = Callable[..., Path]
UsePipeline = Callable[[type], None]


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_run_prints_its_summary_and_ends_with_0(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pipeline(FakePipeline)
    assert exit_code("run", write_config()) == 0
    out, err = capsys.readouterr()
    assert out.startswith("Done: 100 frames in ")
    assert "  written\n    out.jsonl\n" in out
    assert "fetching mine: done, 25.0 MB" in err
    assert "Done:" not in err


def test_options_reach_the_pipeline(write_config: WriteConfig, use_pipeline: UsePipeline) -> None:
    made: list[FakePipeline] = []

    class Noted(FakePipeline):
        def __init__(self, config: object, **options: object) -> None:
            super().__init__(config, **options)  # type: ignore[arg-type]
            made.append(self)

    use_pipeline(Noted)
    config = write_config(sources="[a.mp4, {path: b.mp4, max_frames: 5}, {path: c.mp4, max_frames: 50}]")
    assert exit_code("run", config, "--set", "runtime.batch_size=3", "--device", "cpu", "--max-frames", "20") == 0
    found = made[0].config
    assert (found.device, found.runtime.batch_size) == ("cpu", 3)
    assert [source.max_frames for source in found.sources] == [20, 5, 20]
    assert made[0].status.results == 20


def test_the_device_option_wins_over_file_and_set(write_config: WriteConfig, use_pipeline: UsePipeline) -> None:
    devices: list[str] = []

    class Noted(FakePipeline):
        def prepare(self) -> None:
            devices.append(self.config.device)
            super().prepare()

    use_pipeline(Noted)
    config = write_config("device: cuda\n")
    for options in ([], ["--set", "device=auto"], ["--set", "device=auto", "--device", "cpu"]):
        assert exit_code("run", config, *options) == 0
    assert devices == ["cuda", "auto", "cpu"]


def test_a_dry_run_processes_nothing_and_says_what_it_would(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    class NoRun(FakePipeline):
        def run(self) -> RunStatus:
            raise AssertionError("a dry run ran")

    use_pipeline(NoRun)
    assert exit_code("run", write_config(), "--dry-run") == 0
    out = capsys.readouterr().out
    assert out.startswith("Ready to run; nothing was processed\n")
    assert "mine@0123456789ab" in out
    assert "    jsonl: out.jsonl\n" in out


class OneFailed(FakePipeline):
    """Some sources failed; with `frames = 0`, all that there were."""

    def run(self) -> RunStatus:
        status = super().run()
        source = status.sources["a"]
        source.state, source.error, source.error_code = SourceState.FAILED, "it broke", SourceErrorCode.DAMAGED
        return status


def test_some_sources_failed_is_1(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pipeline(OneFailed)
    assert exit_code("run", write_config()) == 1
    assert "a: it broke [damaged]" in capsys.readouterr().out


def test_a_wrong_configuration_is_2(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config("observe: {progres: never, log_level: loud}\n")
    assert exit_code("run", config) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.startswith(f"error: {config}:7:") for line in err.splitlines()] == [True, True]


def test_a_wrong_command_line_is_2(write_config: WriteConfig, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code("run", write_config(), "--max-frames", "0") == 2
    assert exit_code("run", write_config(), "--device", "tpu") == 2
    assert exit_code("run", write_config(), "--set", "nothing") == 2
    assert exit_code("run") == 2
    assert exit_code("walk") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_no_source_could_run_is_3(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pipeline(type("AllFailed", (OneFailed,), {"frames": 0}))
    assert exit_code("run", write_config()) == 3
    assert capsys.readouterr().out.startswith("Nothing could run: no results")


@pytest.mark.parametrize("error", [ModelError, SinkError, DeviceError])
def test_what_stops_a_run_before_it_starts_is_3_and_one_message(
    error: type[ModelError], write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    class Fails(FakePipeline):
        def prepare(self) -> None:
            raise error("models/mine: no such folder", remedy="check pipeline.model.path")

    use_pipeline(Fails)
    assert exit_code("run", write_config()) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: models/mine: no such folder\n       check pipeline.model.path\n"


def test_what_stops_a_run_in_its_middle_still_has_a_summary_and_a_report(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class Fails(FakePipeline):
        def run(self) -> RunStatus:
            status = super().run()
            status.errors.append("out.jsonl: no space left on device")
            raise SinkError("out.jsonl: no space left on device")

    use_pipeline(Fails)
    report = tmp_path / "report.json"
    assert exit_code("run", write_config(f"observe: {{report: {report}}}\n")) == 3
    out, err = capsys.readouterr()
    assert out.startswith("Done, with errors: 100 frames")
    assert err.endswith("error: out.jsonl: no space left on device\n")
    assert json.loads(report.read_text())["errors"] == ["out.jsonl: no space left on device"]


def test_after_the_gpu_is_lost_nothing_is_waited_for(
    write_config: WriteConfig,
    use_pipeline: UsePipeline,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Fails(FakePipeline):
        def run(self) -> RunStatus:
            super().run()
            raise DeviceLostError("the GPU cannot be used any more: an illegal memory access", remedy="start again")

    def leave(code: int) -> None:
        raise SystemExit(f"left with {code}")  # the real one runs nothing that Python does at its end

    use_pipeline(Fails)
    monkeypatch.setattr("os._exit", leave)
    with pytest.raises(SystemExit, match="left with 3"):
        main(["run", str(write_config())])
    out, err = capsys.readouterr()
    assert "100 frames" in out  # the summary comes first
    assert err.endswith("error: the GPU cannot be used any more: an illegal memory access\n       start again\n")


def test_a_bug_keeps_its_traceback_without_the_password(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    class Buggy(FakePipeline):
        def run(self) -> RunStatus:
            raise KeyError("rtsp://admin:hunter2@10.0.0.7/live")

    use_pipeline(Buggy)
    assert exit_code("run", write_config()) == 70
    err = capsys.readouterr().err
    assert "Traceback (most recent call last)" in err
    assert "KeyError" in err
    assert "hunter2" not in err


def test_summary_and_progress_can_be_turned_off(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str]
) -> None:
    use_pipeline(FakePipeline)
    assert exit_code("run", write_config("observe: {summary: false, progress: never}\n")) == 0
    assert capsys.readouterr() == ("", "")


def test_a_report_that_cannot_be_written_is_told_before_the_run(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    class NoRun(FakePipeline):
        def prepare(self) -> None:
            raise AssertionError("prepared")

    use_pipeline(NoRun)
    assert exit_code("run", write_config(f"observe: {{report: {tmp_path}}}\n")) == 3
    assert "error: observe.report:" in capsys.readouterr().err


def test_no_password_in_anything_that_is_shown_or_written(
    write_config: WriteConfig, use_pipeline: UsePipeline, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    secret = "rtsp://admin:hunter2@10.0.0.7/live"

    class Talkative(FakePipeline):
        def run(self) -> RunStatus:
            log = logging.getLogger("pipeline.decode")
            log.warning("cannot open %s", secret)
            try:
                raise OSError(f"{secret}: refused")
            except OSError:
                log.exception("cannot open %s", secret)
            status = super().run()
            source = status.sources["a"]
            source.location = source.error = source.decode.last_error = secret
            source.state = SourceState.FAILED
            status.errors.append(secret)
            raise SinkError(f"{secret} cannot be written", remedy=f"look at {secret}")

    use_pipeline(Talkative)
    report = tmp_path / "report.json"
    assert exit_code("run", write_config(f"observe: {{report: {report}}}\n")) == 3
    out, err = capsys.readouterr()
    for text in (out, err, report.read_text()):
        assert "rtsp://***@10.0.0.7/live" in text
        assert "hunter2" not in text
        assert "admin" not in text
