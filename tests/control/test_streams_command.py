"""`vramline streams`, in this process against the real server."""

from __future__ import annotations

import http.server
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from control_fakes import LIMIT_S, TOKEN, FakeControl, add_live

from pipeline.cli.main import main
from pipeline.config.sources import Source
from pipeline.control.http import HttpServer
from pipeline.errors import SourceError, SourceErrorCode, StreamStateError
from pipeline.observe.status import SourceStatus


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The token, no address, and a proxy that must not be asked."""
    monkeypatch.setenv("VRAMLINE_TOKEN", TOKEN)
    monkeypatch.delenv("VRAMLINE_URL", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


def run(*arguments: str) -> int:
    try:
        main(["streams", *arguments])
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    raise AssertionError("the program did not end")


@pytest.fixture
def streams(server: HttpServer, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """`streams(...)` runs a command towards the server; returns the exit code."""
    monkeypatch.setenv("VRAMLINE_URL", f"http://127.0.0.1:{server.port}")
    return run


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Some other server; yields its address and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join(LIMIT_S)
        server.server_close()


def test_list_is_a_table(control: FakeControl, streams: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert streams("list") == 0
    assert capsys.readouterr().out == "ID  STATE  FPS  RESULTS  DROPPED  P95  LAST ERROR\n"
    door = add_live(control.status, "door")
    door.results = 12345
    now_s = time.monotonic()
    for number in range(1000):  # 20 a second until now
        door.rate.add(now_s - 50 + number / 20)
    for _ in range(10):
        door.latency["total"].add(0.1)
    file = control.status.sources["hall/left"] = SourceStatus("hall/left", "left.mp4")
    file.fail(SourceError("left.mp4:\x1b[31m broken", source_id="hall/left", code=SourceErrorCode.DAMAGED))
    assert streams("list") == 0
    out, err = capsys.readouterr()
    assert err == ""
    head, first, second = out.splitlines()
    assert first.split()[:2] == ["door", "running"]
    assert float(first.split()[2]) == pytest.approx(20, abs=1)
    assert first.split()[3:7] == ["12,345", "9", "100", "ms"]
    assert first.endswith("the server ended it")
    assert second.split()[:6] == ["hall/left", "failed", "-", "0", "0", "-"]
    assert second.endswith(r"left.mp4:\x1b[31m broken")
    assert "\x1b" not in out
    column = head.index("LAST ERROR")
    assert first[column:] == "the server ended it"
    assert second[column - 2 : column] == "  "
    assert head.index("STATE") == first.index("running") == second.index("failed")


def test_list_and_show_as_json(
    control: FakeControl, streams: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    add_live(control.status, "hall/left")
    assert streams("list", "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert streams("show", "hall/left", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert listed | {"state_s": 0, "results_per_s": 0} == shown | {"state_s": 0, "results_per_s": 0}
    assert shown["counters"]["packets"] == 120


def test_show_is_for_people(
    control: FakeControl, streams: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    add_live(control.status, "door").latency["emit"].add(0.05)
    assert streams("show", "door") == 0
    out = capsys.readouterr().out
    for words in (
        "door\n",
        "running for 4",
        "rtsp://***@camera.example/1",
        "h264, 1920 x 1080, 29.97 frames/s",
        "9 (2 corrupt, 7 superseded)",
        "the server ended it",
    ):
        assert words in out
    assert "emit" in out
    assert "max 50.0 ms" in out


@pytest.mark.parametrize(
    ("arguments", "call", "said"),
    [
        (["remove", "hall/left"], ("remove_source", "hall/left"), "hall/left is being removed\n"),
        (["pause", "hall/left"], ("pause_source", "hall/left"), "hall/left is being paused\n"),
        (["resume", "hall/left"], ("resume_source", "hall/left"), "hall/left is being resumed\n"),
        (["restart", "hall/left"], ("restart_source", "hall/left"), "hall/left is being restarted\n"),
        (["priority", "hall/left", "9"], ("set_priority", "hall/left", 9), "hall/left has priority 9\n"),
        (["stop"], ("stop",), "the run is being stopped\n"),
    ],
)
def test_actions(
    arguments: list[str],
    call: tuple[object, ...],
    said: str,
    control: FakeControl,
    streams: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    add_live(control.status, "hall/left")
    assert streams(*arguments) == 0
    assert control.calls == [call]
    assert capsys.readouterr() == (said, "")


@pytest.mark.parametrize(
    ("arguments", "source"),
    [
        (["rtsp://camera/1"], Source(url="rtsp://camera/1")),
        (["clips"], Source(path="clips")),
        (["media:bikes"], Source(media="bikes")),
        (["--set", "url=rtsp://camera/1"], Source(url="rtsp://camera/1")),
        (
            ["rtsp://camera/1", "--set", "id=door", "--set", "priority=4", "--set", "roi.rect=[0, 0, 640, 360]"],
            Source.model_validate(
                {"url": "rtsp://camera/1", "id": "door", "priority": 4, "roi": {"rect": [0, 0, 640, 360]}}
            ),
        ),
        (
            ["rtsp://u:${CAMERA_PASSWORD}@camera/1", "--set", "options.user_agent=x"],
            Source(url="rtsp://u:hunter2@camera/1", options={"user_agent": "x"}),
        ),
        (
            ["rtsp://camera/1", "--set", "username=u", "--set", "password=${CAMERA_PASSWORD}"],
            Source.model_validate({"url": "rtsp://camera/1", "username": "u", "password": "hunter2"}),
        ),
    ],
)
def test_add(
    arguments: list[str],
    source: Source,
    control: FakeControl,
    streams: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("CAMERA_PASSWORD", "hunter2")
    assert streams("add", *arguments) == 0
    assert control.calls == [("add_source", source)]
    assert capsys.readouterr() == (f"{source.id or 'new'}\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["nothing to add"]),
        (["rtsp://camera/1", "--set", "priority"], ["not of the form KEY=VALUE"]),
        (["rtsp://camera/1", "--set", "priority=many"], ["priority: "]),
        (["rtsp://camera/1", "--set", "priority=0", "--set", "colour.range=wide"], ["priority: ", "colour.range: "]),
        (["rtsp://u:${NOT_SET_HERE}@camera/1"], ["NOT_SET_HERE is not set"]),
        (["rtsp://camera/1", "--set", "url.x=1"], ["url is not a mapping"]),
    ],
)
def test_a_wrong_source_is_a_wrong_command_line(
    arguments: list[str],
    words: list[str],
    control: FakeControl,
    streams: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert streams("add", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert len(err.splitlines()) == len(words)
    for word in words:
        assert word in err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert control.calls == []


def test_refusals_are_one_message(
    control: FakeControl, streams: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    add_live(control.status)
    assert streams("pause", "window") == 3
    assert capsys.readouterr().err.startswith("error: there is no stream 'window'\n       ")
    control.raises["pause_source"] = StreamStateError("door has ended", remedy="restart it")
    assert streams("pause", "door") == 3
    assert capsys.readouterr().err == "error: door has ended\n       restart it\n"
    control.raises["add_source"] = SourceError(
        "rtsp://u:hunter2@c: no", source_id="c", code=SourceErrorCode.UNSUPPORTED
    )
    assert streams("add", "rtsp://u:hunter2@c") == 3
    assert capsys.readouterr().err == "error: rtsp://***@c: no\n"
    control.raises["stop"] = RuntimeError("a bug")
    assert streams("stop") == 3
    assert capsys.readouterr().err.startswith("error: internal error")


def test_a_wrong_token(
    streams: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRAMLINE_TOKEN", "another-token-0123456789")
    assert streams("list") == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert "the token was refused" in err
    assert "another-token" not in err


def test_the_token_comes_from_a_file_or_the_environment(
    streams: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    file = tmp_path / "token"
    file.write_text(f"{TOKEN}\n")
    monkeypatch.setenv("VRAMLINE_TOKEN", "wrong-0123456789")
    assert streams("list", "--token-file", str(file)) == 0
    monkeypatch.delenv("VRAMLINE_TOKEN")
    assert streams("list", "--token-file", str(file)) == 0
    capsys.readouterr()
    assert streams("list") == 2
    assert "VRAMLINE_TOKEN is not set" in capsys.readouterr().err
    for content, words in ((b"", "is empty"), (b"\xff", "is not text"), (b"a\nb", "one line"), ("ü".encode(), "ASCII")):
        file.write_bytes(content)
        assert streams("list", "--token-file", str(file)) == 2
        assert words in capsys.readouterr().err
    assert streams("list", "--token-file", str(tmp_path / "none")) == 2
    assert "cannot be read" in capsys.readouterr().err


def test_a_server_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
    assert run("list", "--url", url) == 3
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {url} cannot be reached: connection refused\n       ")


def test_a_server_that_says_nothing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.control.client._TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert run("list", "--url", f"http://127.0.0.1:{silent.getsockname()[1]}") == 3
    assert "no answer within" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("status", "body"), [(200, b"<html>"), (404, b"nope"), (500, b"[]"), (404, b'{"detail": "x"}'), (200, b"\xff")]
)
def test_another_server(status: int, body: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    with answering(status, body) as (url, asked):
        assert run("show", "door", "--url", f"{url}/") == 3
    assert asked == ["/streams/door"]
    assert "is not the HTTP interface of vramline" in capsys.readouterr().err


def test_the_token_does_not_follow_a_redirect(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b'{"streams": []}') as (elsewhere, asked), answering(302, b"", Location=elsewhere) as (url, _):
        assert run("list", "--url", url) == 3
    assert asked == []
    assert capsys.readouterr().err.startswith("error: ")


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "127.0.0.1:8800",
        "file:///etc/passwd",
        "http://",
        "http://u:hunter2@x",
        "http://x:99999",
        "http://x?a=b",
    ],
)
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", "--url", url) == 2
    err = capsys.readouterr().err
    assert "--url" in err
    assert "hunter2" not in err


@pytest.mark.parametrize("arguments", [["priority", "door", "0"], ["priority", "door", "x"], ["show"], ["nonsense"]])
def test_a_wrong_command_line(arguments: list[str], streams: Callable[..., int], control: FakeControl) -> None:
    assert streams(*arguments) == 2
    assert control.calls == []
