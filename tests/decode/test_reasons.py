from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av.error
import pytest
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.decode._complete import Progress
from pipeline.decode._reasons import reason_of
from pipeline.errors import SourceError, SourceErrorCode
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats

Code = SourceErrorCode


def ffmpeg_error(name: str) -> Exception:
    kind = getattr(av.error, name)
    return kind(1094995529, "Invalid argument", "http://user:hunter2@host/")


@pytest.mark.parametrize("is_url", [False, True])
@pytest.mark.parametrize("is_open", [False, True])
def test_every_ffmpeg_error_becomes_words(is_url: bool, is_open: bool) -> None:
    kinds = [k for k in vars(av.error).values() if isinstance(k, type) and issubclass(k, av.error.FFmpegError)]
    assert len(kinds) > 30
    for kind in kinds:
        reason = reason_of(kind(1094995529, "Some Reason", "http://user:hunter2@host/"), is_url=is_url, is_open=is_open)
        words = f"{reason.text} {reason.remedy}"
        assert "hunter2" not in words and "1094995529" not in words and "Errno" not in words


@pytest.mark.parametrize(
    ("name", "is_url", "code"),
    [
        ("FileNotFoundError", False, Code.NOT_FOUND),
        ("PermissionError", False, Code.NOT_READABLE),
        ("OSError", False, Code.NOT_READABLE),
        ("MemoryError", False, Code.DAMAGED),
        ("DecoderNotFoundError", False, Code.UNSUPPORTED),
        ("PatchWelcomeError", True, Code.UNSUPPORTED),
        ("HTTPNotFoundError", True, Code.NOT_FOUND),
        ("ConnectionResetError", True, Code.NETWORK),
        ("TimeoutError", True, Code.TIMEOUT),
        ("ExitError", True, Code.TIMEOUT),
        ("OSError", True, Code.NETWORK),
    ],
)
def test_codes(name: str, is_url: bool, code: SourceErrorCode) -> None:
    assert reason_of(ffmpeg_error(name), is_url=is_url).code is code


@pytest.mark.parametrize("is_open", [False, True])
@pytest.mark.parametrize("is_camera", [False, True])
def test_live_streams_have_words_of_their_own(is_open: bool, is_camera: bool) -> None:
    kinds = [k for k in vars(av.error).values() if isinstance(k, type) and issubclass(k, av.error.FFmpegError)]
    for kind in kinds:
        error = kind(1094995529, "Some Reason", "rtsp://user:hunter2@host/")
        reason = reason_of(error, is_url=True, is_open=is_open, is_live=True, is_camera=is_camera)
        assert "hunter2" not in reason.text and "{" not in reason.text
        assert not is_camera or ("server" not in reason.text and "HTTP" not in reason.text)


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        ("HTTPUnauthorizedError", Code.UNAUTHORIZED, "camera asks for a user and password (RTSP 401)"),
        ("HTTPNotFoundError", Code.NOT_FOUND, "camera has no such stream (RTSP 404)"),
        ("HTTPOtherClientError", Code.NETWORK, "camera refuses the request (RTSP 4xx)"),
        ("HTTPServerError", Code.NETWORK, "camera failed (RTSP 5xx)"),
        ("InvalidDataError", Code.NETWORK, "camera breaks off or does not send a video"),
        ("EOFError", Code.NETWORK, "camera ends the stream"),
        ("PermissionError", Code.NETWORK, "camera does not start the stream"),
        ("ExitError", Code.TIMEOUT, "camera is silent"),
        ("DecoderNotFoundError", Code.UNSUPPORTED, "no decoder"),
        ("OSError", Code.NETWORK, "camera cannot be reached"),
    ],
)
def test_codes_of_cameras(name: str, code: SourceErrorCode, words: str) -> None:
    reason = reason_of(ffmpeg_error(name), is_url=True, is_live=True, is_camera=True)
    assert (reason.code, words in reason.text) == (code, True), reason


def _progress(declared_s: float, times_s: list[float], duration: int = 1) -> Progress:
    stream: Any = SimpleNamespace(duration=int(declared_s * 100), time_base=0.01, start_time=0, metadata={})
    container: Any = SimpleNamespace(format=SimpleNamespace(name="mov"))
    progress = Progress(container, stream, VideoSpec("cam", "a.mp4", "a.mp4", False, Source(path="a.mp4")))
    for time_s in times_s:
        packet: Any = SimpleNamespace(pts=round(time_s * 100), duration=duration, time_base=0.01, is_corrupt=False)
        progress.read(packet)
        progress.decoded += 1
    return progress


def test_a_long_last_frame_is_no_damage() -> None:
    """Recorded slides: the container's end lies behind the last change of the picture."""
    _progress(30, [0, 4, 10, 13]).check(0, DecodeStats())
    with pytest.raises(SourceError, match=r"ends 16.99 s|ends 17.0 s early, after 301 frames"):
        _progress(20, [i / 100 for i in range(301)]).check(0, DecodeStats())


def test_a_clip_that_starts_late_is_whole(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.mkv", pts=[600 + i for i in range(10)])
    assert [f.pts_s for f in open_video(path)] == pytest.approx([20 + i / 30 for i in range(10)], abs=2e-3)
