"""`vramline bench` as a command: what it prints where, how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from bright_detector import save_bright_detector
from cli_fakes import ROOT, environment
from media_maker import make_clip

from pipeline.cli.main import main


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    clip = make_clip(folder / "box.mp4", frames=20, content="moving box", numbered=False)
    model = save_bright_detector(folder / "bright", 64, 48)
    path = folder / "pipeline.yaml"
    path.write_text(
        f"device: cpu\nsources: [{clip}]\npipeline:\n  model: {{path: {model}}}\n"
        "  postprocess: {family: boxes, boxes: boxes, scores: scores, labels: [box]}\n"
        "sinks:\n  - {type: jsonl, path: out.jsonl}\n"
    )
    return path


def exit_code(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as end:
        main(list(map(str, arguments)))
    assert isinstance(end.value.code, int)
    return end.value.code


QUICK = ("--seconds", "0.3", "--warmup", "0")


def test_a_table_on_stdout_and_json_in_a_file(
    config: Path, tmp_path: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    report = tmp_path / "report.json"
    assert exit_code("bench", config, *QUICK, "--sources", "2", "--json", report, "--set", "runtime.batch_size=2") == 0
    out, err = capsys.readouterr()
    assert "full pipeline" in out
    assert "measuring decode ..." in err
    found = json.loads(report.read_text())
    assert (found["sources"], found["batch_size"], found["config"]) == (2, 2, str(config))
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


def test_json_on_stdout(config: Path, capsys: Any) -> None:
    assert exit_code("bench", config, *QUICK, "--json", "-") == 0
    assert json.loads(capsys.readouterr().out)["report"] == 1


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        (["--set", "sources=[rtsp://u:secret@camera/1]"], 3, "is a live stream"),
        (["--set", "sources=[nothing.mp4]"], 3, "nothing.mp4: there is no such file"),
        (["--set", "sinks=[{type: jsonl}]"], 2, "path"),
        (["--device", "cuda"], 3, "device: cuda cannot be used"),
        (["--json", "/nowhere/report.json"], 3, "--json: cannot write to the folder /nowhere"),
        (["--json", "/"], 3, "--json: / is a folder"),
    ],
)
def test_errors(config: Path, capsys: Any, options: list[str], code: int, words: str) -> None:
    if "cuda" in options and Path("/dev/nvidia0").exists():
        pytest.skip("there is a GPU")
    assert exit_code("bench", config, *QUICK, *options) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert words in err
    assert "secret" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize("at", ["loading the model", "measuring decode ", "measuring model", "measuring pipeline"])
def test_ctrl_c_ends_it(config: Path, tmp_path: Path, at: str) -> None:
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_pipeline.py"), "bench", str(config), "--seconds", "0.4", "--warmup", "0.1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=environment(TMPDIR=str(temporary)),
    )
    assert process.stderr is not None
    killer = threading.Timer(60, process.kill)
    killer.start()
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if line.startswith(at):
                os.kill(process.pid, signal.SIGINT)
                break
        rest = process.stderr.read()
        code = process.wait(60)
    finally:
        killer.cancel()
    assert code == 130, "".join(lines) + rest
    assert "Traceback" not in rest
    assert process.stdout is not None and process.stdout.read() == ""
    assert list(temporary.iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
