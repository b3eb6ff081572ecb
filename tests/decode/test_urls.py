"""Videos over HTTP, from a server of our own that can also misbehave."""

from __future__ import annotations

import functools
import http.server
import socket
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from media_maker import make_clip, read_number

from pipeline.errors import SourceError, SourceErrorCode

pytestmark = pytest.mark.timeout(60)
CREDENTIALS = "admin:hunter2@"


class _Handler(http.server.SimpleHTTPRequestHandler):
    """Serves files; /cut/NAME sends half of one, /stall/NAME half and then nothing, /status/N that status."""

    def log_message(self, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        kind, _, name = self.path.lstrip("/").partition("/")
        if kind == "status":
            self.send_response(int(name.partition("?")[0]))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif kind in ("cut", "stall"):
            content = Path(self.directory, name).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2])
            if kind == "stall":
                self.server.released.wait(30)  # type: ignore[attr-defined]
        else:
            super().do_GET()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    big = {"frames": 150, "width": 160, "height": 96, "options": {"crf": "4"}}
    make_clip(folder / "a.mp4", format_options={"movflags": "faststart"}, **big)
    make_clip(folder / "a.ts", **big)
    make_clip(folder / "a.mkv", **big)
    hls = {"hls_time": "0.3", "hls_list_size": "0"}
    make_clip(folder / "live.m3u8", frames=60, gop=10, format_name="hls", format_options=hls)
    (folder / "page.html").write_text("<html><body>Please log in</body></html>")
    return folder


@pytest.fixture(scope="module")
def base(folder: Path) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Handler, directory=str(folder))
    ) as server:
        server.daemon_threads = True
        server.released = threading.Event()  # type: ignore[attr-defined]
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://{CREDENTIALS}127.0.0.1:{server.server_port}/"
        server.released.set()  # type: ignore[attr-defined]
        server.shutdown()


def _failure(open_video: Any, url: str, timeout_s: float = 5) -> tuple[SourceError, int]:
    count = 0
    with pytest.raises(SourceError) as caught:
        for _ in open_video(url, timeout_s=timeout_s):
            count += 1
    error = caught.value
    assert "hunter2" not in str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert error.message.startswith("http://")
    return error, count


@pytest.mark.parametrize(("name", "count"), [("a.mp4", 150), ("a.ts", 150), ("a.mkv", 150), ("live.m3u8", 60)])
def test_every_frame_comes_over_http(base: str, open_video: Any, name: str, count: int) -> None:
    assert [read_number(f.picture.planes[0]) for f in open_video(base + name)] == list(range(count))


def test_options_reach_ffmpeg(base: str, open_video: Any) -> None:
    with pytest.raises(SourceError):
        open_video(base + "live.m3u8", options={"allowed_extensions": "mp3", "allowed_segment_extensions": "mp3"})


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (404, SourceErrorCode.NOT_FOUND, "no such file"),
        (401, SourceErrorCode.UNAUTHORIZED, "asks for a user and password"),
        (403, SourceErrorCode.UNAUTHORIZED, "refuses access"),
        (410, SourceErrorCode.NETWORK, "refuses the request"),
        (503, SourceErrorCode.NETWORK, "the server failed"),
    ],
)
def test_the_server_refuses(base: str, open_video: Any, status: int, code: SourceErrorCode, words: str) -> None:
    error, _ = _failure(open_video, f"{base}status/{status}?token=hunter2")
    assert (error.code, words in error.message) == (code, True)


def test_something_else_than_a_video(base: str, open_video: Any) -> None:
    assert _failure(open_video, base + "page.html")[0].code is SourceErrorCode.NOT_A_VIDEO


def test_nobody_listens(open_video: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    error, _ = _failure(open_video, f"http://{CREDENTIALS}127.0.0.1:{port}/a.mp4")
    assert (error.code, "refuses the connection" in error.message) == (SourceErrorCode.NETWORK, True)


def test_a_server_that_accepts_and_says_nothing(open_video: Any) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        started_s = time.monotonic()
        error, _ = _failure(open_video, f"http://{CREDENTIALS}127.0.0.1:{server.getsockname()[1]}/a.mp4", timeout_s=0.7)
    assert (error.code, "silent" in error.message) == (SourceErrorCode.TIMEOUT, True)
    assert 0.6 < time.monotonic() - started_s < 10


@pytest.mark.parametrize("name", ["a.mp4", "a.ts", "a.mkv"])
def test_the_connection_is_cut(base: str, open_video: Any, name: str) -> None:
    error, count = _failure(open_video, f"{base}cut/{name}")
    assert error.code is SourceErrorCode.NETWORK
    assert 30 <= count <= 120 and f"after {count} frames" in error.message


def test_the_server_falls_silent(base: str, open_video: Any) -> None:
    error, count = _failure(open_video, f"{base}stall/a.ts", timeout_s=0.7)
    assert (error.code, count >= 30) == (SourceErrorCode.TIMEOUT, True)


@pytest.mark.parametrize("line", ["file://{path}", "{path}", "concat:{path}|{path}", "subfile,,start,0,end,0,,:{path}"])
def test_a_playlist_cannot_read_local_files(
    base: str, folder: Path, tmp_path: Path, open_video: Any, line: str
) -> None:
    secret = make_clip(tmp_path / "secret.ts", frames=5)
    entry = line.format(path=secret)
    (folder / "evil.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{entry}\n#EXT-X-ENDLIST\n")
    _, count = _failure(open_video, base + "evil.m3u8")
    assert count == 0


def test_a_local_playlist_reaches_no_server(base: str, folder: Path, open_video: Any) -> None:
    content = f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{base}a.ts\n#EXT-X-ENDLIST\n"
    (folder / "phones_home.m3u8").write_text(content)
    with pytest.raises(SourceError):
        open_video(folder / "phones_home.m3u8")


def test_a_local_playlist_reads_the_files_beside_it(folder: Path, open_video: Any) -> None:
    assert len(list(open_video(folder / "live.m3u8"))) == 60


def test_close_while_the_server_is_silent(base: str, open_video: Any) -> None:
    decoder = open_video(f"{base}stall/a.ts", timeout_s=1.5)
    ended = threading.Event()
    thread = threading.Thread(target=lambda: (list(decoder), ended.set()), daemon=True)
    thread.start()
    while decoder.stats.frames < 30 and not ended.wait(0.005):
        pass
    decoder.close()  # does not wait itself
    assert ended.wait(10)
    thread.join(10)
