"""The program as a process of its own: signals, pipes, terminals, and what it imports."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli_fakes import ROOT, environment, program, run_python

WriteConfig = Callable[..., Path]
LIMIT_S = 60.0


def start(*arguments: str | Path, kind: str = "quick", **options: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        program(*arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(VRAMLINE_TEST_PIPELINE=kind),
        **options,  # type: ignore[call-overload]
    )


@contextmanager
def running(*arguments: str | Path, kind: str) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun: its first line on stderr has been read."""
    process = start(*arguments, kind=kind)
    try:
        assert process.stderr is not None
        ready, _, _ = select.select([process.stderr], [], [], LIMIT_S)
        assert ready, "no sign of life"
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for(process: subprocess.Popen[str], words: str) -> None:
    assert process.stderr is not None
    for line in process.stderr:  # ends with the process, which `LIMIT_S` ends at the latest
        if words in line:
            return
    raise AssertionError(f"{words!r} was never written")


FAST_LINES = "observe: {progress_interval_s: 0.05, report: report.json}\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_ends_a_run_with_what_there_is(
    number: signal.Signals, write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(write_config(FAST_LINES), kind="endless") as process:
        wait_for(process, "frames/s")
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert "Stopping; outputs keep what is done." in err
    assert out.startswith("Interrupted: ")
    assert "  written\n    out.jsonl" in out
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["interrupted"], report["exit_code"]) == (True, 130)
    assert report["results"] > 0


def test_the_second_ctrl_c_ends_at_once(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with running(write_config(FAST_LINES), kind="deaf") as process:
        wait_for(process, "frames/s")
        process.send_signal(signal.SIGINT)
        wait_for(process, "Stopping")
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == -signal.SIGINT  # a shell shows 130
    assert out == ""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", ["preparing", "compiling"])
def test_a_signal_before_the_first_frame_ends_quietly(
    number: signal.Signals, kind: str, write_config: WriteConfig
) -> None:
    """Also in a native call of half an hour."""
    with running(write_config(), kind=kind) as process:
        wait_for(process, kind)
        process.send_signal(number)
        out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 130
    assert (out, err) == ("", "")


def test_an_ignored_signal_stays_ignored(write_config: WriteConfig) -> None:
    code = "import signal, sys, runpy; signal.signal(signal.SIGTERM, signal.SIG_IGN); sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    process = subprocess.Popen(
        [sys.executable, "-c", code, *program(write_config("observe: {progress_interval_s: 0.05}\n"))[1:]],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**environment(VRAMLINE_TEST_PIPELINE="endless"), "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"},
    )
    try:
        wait_for(process, "frames/s")
        process.send_signal(signal.SIGTERM)
        wait_for(process, "frames/s")
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=LIMIT_S)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert err.count("Stopping") == 1


def test_without_a_terminal_there_are_no_escape_codes(write_config: WriteConfig) -> None:
    process = start(write_config())
    out, err = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert "Done: 100 frames" in out
    assert "fetching mine" in err
    assert "\x1b" not in out + err
    assert "\r" not in out + err


def test_a_reader_that_goes_away_is_no_reason_to_complain() -> None:
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "run_pipeline.py"), "schema"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    process.stdout.close()  # before anything can have been written
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.wait(LIMIT_S)
    process.stderr.close()


class Terminal:
    """A program on a terminal of 80 columns, and everything that it wrote there."""

    def __init__(self, arguments: list[str], **variables: str) -> None:
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            variables["TERM"] = "xterm-256color"
            os.execve(arguments[0], arguments, environment(**variables))
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        self.output = ""

    def read_until(self, pattern: str) -> None:
        end_s = time.monotonic() + LIMIT_S
        while not re.search(pattern, self.output):
            assert self._read(end_s), f"{pattern!r} never came; there was {self.output[-500:]!r}"

    def wait(self) -> int:
        end_s = time.monotonic() + LIMIT_S
        while self._read(end_s):
            pass
        os.close(self.fd)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def _read(self, end_s: float) -> bool:
        ready, _, _ = select.select([self.fd], [], [], max(end_s - time.monotonic(), 0))
        assert ready, f"nothing more came; there was {self.output[-500:]!r}"
        try:
            piece = os.read(self.fd, 65536)
        except OSError:  # how Linux says that the other side has closed
            return False
        self.output += piece.decode("utf-8", "replace")
        return bool(piece)


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]|\^C", "", text)


def test_a_terminal_gets_the_live_display_and_ctrl_c_works_there(
    write_config: WriteConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    terminal = Terminal(program(write_config()), VRAMLINE_TEST_PIPELINE="endless")
    terminal.read_until(r"mine@0123456789ab · on cpu · batches of 8")
    terminal.read_until(r"found: person")
    os.write(terminal.fd, b"\x03")
    assert terminal.wait() == 130
    output = terminal.output
    assert re.search(r"frames/s", output)
    assert output.count("\x1b[?25l") <= output.count("\x1b[?25h")  # the cursor is visible again
    assert max(map(len, re.split(r"[\r\n]+", plain(output)))) <= 80
    summary = plain(output)[plain(output).rindex("Interrupted: ") :]
    assert "  written\r\n    out.jsonl" in summary
    assert "\x1b[1mInterrupted\x1b[0m" in output


@pytest.mark.parametrize(
    "arguments", [["--help"], ["--version"], ["run", "--help"], ["schema"], ["validate", "quickstart"]]
)
def test_quick_commands_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom pipeline.cli.main import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    code = end.code\n"
        "heavy = {'tensorflow', 'av', 'PIL', 'numpy', 'rich'} & set(sys.modules)\n"
        "print(code, sorted(heavy), file=sys.stderr)"
    )
    done = run_python("-c", code, *arguments)
    assert done.stderr == "0 []\n"
    assert done.stdout


def test_the_script_runs_a_configuration_and_the_other_commands(write_config: WriteConfig, tmp_path: Path) -> None:
    script = str(ROOT / "run_pipeline.py")
    done = run_python(script, str(tmp_path / "nothing.yaml"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"error: {tmp_path}/nothing.yaml: no such file" in done.stderr
    assert run_python(script, "validate", str(write_config())).stdout == f"OK  {tmp_path}/pipeline.yaml\n"
    assert run_python(script, "--version").stdout.startswith("vramline ")
    assert "Usage: vramline run" in run_python(script, "run", "--help").stdout
    assert "Commands:" in run_python(script, "--help").stdout
    assert run_python(script).returncode == 2


def test_a_name_that_is_no_text_can_be_printed(write_config: WriteConfig, tmp_path: Path) -> None:
    odd = write_config().rename(tmp_path / os.fsdecode(b"\xff.yaml"))
    done = run_python(str(ROOT / "run_pipeline.py"), "validate", str(odd), PYTHONUTF8="1")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"OK  {tmp_path}/\\udcff.yaml\n"
