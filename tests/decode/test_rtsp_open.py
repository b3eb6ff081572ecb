"""Opening live streams: from a real RTSP server, from ones that misbehave, and over UDP."""

from __future__ import annotations

import contextlib
import shutil
import socket
import statistics
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import bad_servers
import pytest
from media_maker import make_clip, read_number
from rtsp import RtspServer, require_rtsp_server

from pipeline.config.sources import Source
from pipeline.decode._live import with_credentials
from pipeline.decode._open import open_container
from pipeline.decode._rtcp import capture_time_s
from pipeline.errors import SourceError, SourceErrorCode
from pipeline.sources import VideoSpec

pytestmark = pytest.mark.timeout(60)
Code = SourceErrorCode
PASSWORD = "hunter2:/@ ä"
FRAMES = 60
TIMEOUT_S = 1.0


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    kinds = {"h264": ("a.mp4", "libx264"), "hevc": ("b.mkv", "libx265"), "sound": ("c.ts", "libx264")}
    return {
        name: make_clip(folder / file, frames=FRAMES, width=160, height=96, gop=15, codec=codec, audio=name == "sound")
        for name, (file, codec) in kinds.items()
    }


@pytest.fixture(scope="module")
def cameras(clips: dict[str, Path]) -> Iterator[RtspServer]:
    with RtspServer(clips, loop=True) as server:
        yield server


@pytest.fixture(scope="module")
def guarded(clips: dict[str, Path]) -> Iterator[RtspServer]:
    with RtspServer({"cam": clips["h264"]}, loop=True, user="ad min", password=PASSWORD, auth="digest") as server:
        yield server


def _failure(open_video: Any, url: str, **settings: Any) -> SourceError:
    settings = {"timeout_s": TIMEOUT_S, **settings}
    with pytest.raises(SourceError) as caught:
        open_video(url, **settings).close()
    error = caught.value
    assert "hunter2" not in str(error) + repr(error) + "".join(traceback.format_exception(error))
    assert error.remedy is None or error.remedy[0].islower()
    return error


def _numbers(open_video: Any, url: str, count: int, **settings: Any) -> list[int]:
    decoder = open_video(url, max_frames=count, policy="fifo", **settings)
    return [read_number(frame.picture.planes[0]) for frame in decoder]


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize("name", ["h264", "hevc", "sound"])
def test_the_right_frames_come(cameras: RtspServer, open_video: Any, name: str, transport: str) -> None:
    decoder = open_video(cameras.url(name), transport=transport, max_frames=20, policy="fifo")
    assert (decoder.info.codec, decoder.info.width, decoder.info.height) == (name.replace("sound", "h264"), 160, 96)
    assert [read_number(frame.picture.planes[0]) for frame in decoder] == list(range(20))


def test_the_first_frame_comes_soon(tmp_path: Path, open_video: Any) -> None:
    """With FFmpeg's own settings it comes after 20 frames: here 4 s."""
    clip = make_clip(tmp_path / "slow.mp4", frames=30, rate=5, options={"bf": "0"})
    with RtspServer({"cam": clip}, loop=True) as server:
        started_s = time.monotonic()
        decoder = open_video(server.url("cam"), policy="fifo")
        assert time.monotonic() - started_s < 2
        assert read_number(next(iter(decoder)).picture.planes[0]) == 0
        decoder.close()


def test_only_the_video_is_asked_for(cameras: RtspServer) -> None:
    url = cameras.url("sound")
    with open_container(VideoSpec("cam", url, url, True, Source(url=url))) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_lost_packets_do_not_end_it(clips: dict[str, Path], open_video: Any) -> None:
    with RtspServer({"cam": clips["h264"]}, loop=True, drop=0.05) as server:
        decoder = open_video(server.url("cam"), max_frames=40, policy="fifo", corrupt_frames="keep")
        assert len(list(decoder)) == 40


def test_the_server_dies_and_comes_back(clips: dict[str, Path], open_video: Any) -> None:
    with RtspServer({"cam": clips["h264"]}, loop=True) as server:
        decoder = open_video(server.url("cam"), policy="fifo")
        server.kill()
        with pytest.raises(SourceError) as caught:
            list(decoder)
        assert caught.value.code in (Code.NETWORK, Code.ENDED)
        assert _failure(open_video, server.url("cam")).code is Code.NETWORK
        server.restart()
        assert _numbers(open_video, server.url("cam"), 5) == list(range(5))


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_server_freezes(clips: dict[str, Path], open_video: Any, transport: str) -> None:
    with RtspServer({"cam": clips["h264"]}, loop=True) as server:
        decoder = open_video(server.url("cam"), transport=transport, policy="fifo", timeout_s=TIMEOUT_S)
        server.freeze()
        started_s = time.monotonic()
        with pytest.raises(SourceError) as caught:
            list(decoder)
        assert caught.value.code in (Code.TIMEOUT, Code.STALLED)
        assert time.monotonic() - started_s < 3 * TIMEOUT_S + 1
        assert _failure(open_video, server.url("cam"), transport=transport).code is Code.TIMEOUT


# ------------------------------------------------------------------------------------------------- user and password


def test_credentials_in_the_url(guarded: RtspServer, open_video: Any) -> None:
    assert _numbers(open_video, guarded.url("cam", ("ad min", PASSWORD)), 3) == [0, 1, 2]


def test_credentials_in_the_settings(guarded: RtspServer, open_video: Any) -> None:
    assert _numbers(open_video, guarded.url("cam"), 3, username="ad min", password=PASSWORD) == [0, 1, 2]


def test_basic_authentication(clips: dict[str, Path], open_video: Any) -> None:
    with RtspServer({"cam": clips["hevc"]}, user="admin", password=PASSWORD) as server:
        assert _numbers(open_video, server.url("cam"), 3, username="admin", password=PASSWORD) == [0, 1, 2]
        assert _failure(open_video, server.url("cam", ("admin", "hunter2"))).code is Code.UNAUTHORIZED


@pytest.mark.parametrize("where", ["url", "settings", "nowhere"])
def test_refused_credentials(guarded: RtspServer, open_video: Any, where: str) -> None:
    url = guarded.url("cam", ("ad min", "hunter2") if where == "url" else None)
    settings = {"username": "ad min", "password": "hunter2"} if where == "settings" else {}
    error = _failure(open_video, url, **settings)
    assert (error.code, error.remedy) == (Code.UNAUTHORIZED, "check username and password")
    assert "the camera asks for a user and password (RTSP 401)" in error.message


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("rtsp://host/cam", "rtsp://a%20b:p%40%3A%2F@host/cam"),
        ("rtsp://host:554/cam?x=a@b", "rtsp://a%20b:p%40%3A%2F@host:554/cam?x=a@b"),
        ("rtsp://host?x=a", "rtsp://a%20b:p%40%3A%2F@host?x=a"),
        ("rtsp://root@host/cam", "rtsp://root@host/cam"),
    ],
)
def test_where_the_credentials_go(url: str, expected: str) -> None:
    assert with_credentials(url, Source(url=url, username="a b", password="p@:/")) == expected
    assert with_credentials(url, Source(url=url)) == url


def test_a_user_without_a_password() -> None:
    assert with_credentials("rtsp://host/", Source(url="rtsp://host/", username="me")) == "rtsp://me@host/"


# ------------------------------------------------------------------------------------------------------- misbehaviour


@pytest.mark.parametrize("transport", ["tcp", "udp"])
@pytest.mark.parametrize(
    ("server", "code", "words"),
    [
        (bad_servers.silent, Code.TIMEOUT, "is silent"),
        (bad_servers.slow_loris, Code.TIMEOUT, "is silent"),
        (bad_servers.stops_midway, Code.TIMEOUT, "is silent"),
        (bad_servers.garbage, Code.NETWORK, "breaks off or does not send a video"),
        (bad_servers.closes, Code.NETWORK, "breaks off or does not send a video"),
        (bad_servers.refused, Code.NETWORK, "refuses the connection"),
    ],
)
def test_a_bad_server(
    open_video: Any, server: Callable[[], Any], code: SourceErrorCode, words: str, transport: str
) -> None:
    with server() as port:
        started_s = time.monotonic()
        error = _failure(open_video, f"rtsp://admin:hunter2@127.0.0.1:{port}/cam", transport=transport)
        assert time.monotonic() - started_s < TIMEOUT_S + 1
    assert (error.code, words in error.message) == (code, True), error
    assert not error.code.is_permanent
    assert error.message.startswith("rtsp://***@127.0.0.1:")


@pytest.mark.parametrize("after", ["OPTIONS", "SETUP", "PLAY"])
def test_a_server_that_stops_later_or_sooner(open_video: Any, after: str) -> None:
    with bad_servers.stops_midway(after) as port:
        started_s = time.monotonic()
        error = _failure(open_video, f"rtsp://127.0.0.1:{port}/cam")
        # FFmpeg waits for the answer to PLAY and for the first packet one after the other.
        assert time.monotonic() - started_s < 2 * TIMEOUT_S + 1
    assert error.code is Code.TIMEOUT


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (401, Code.UNAUTHORIZED),
        (403, Code.UNAUTHORIZED),
        (404, Code.NOT_FOUND),
        (454, Code.NETWORK),
        (500, Code.NETWORK),
        (503, Code.NETWORK),
    ],
)
def test_the_camera_refuses(open_video: Any, status: int, code: SourceErrorCode) -> None:
    with bad_servers.status(status) as port:
        error = _failure(open_video, f"rtsp://admin:hunter2@127.0.0.1:{port}/cam?token=hunter2")
    assert (error.code, "the camera" in error.message) == (code, True)


def test_a_camera_without_that_stream(cameras: RtspServer, open_video: Any) -> None:
    error = _failure(open_video, cameras.url("nothing"))
    assert (error.code, "no such stream (RTSP 404)" in error.message) == (Code.NOT_FOUND, True)


def test_a_host_that_nobody_knows(open_video: Any) -> None:
    assert _failure(open_video, "rtsp://admin:hunter2@camera.invalid/cam").code is Code.NETWORK


# ---------------------------------------------------------------------------------------------------------------- TLS


def _certificate(folder: Path, name: str) -> tuple[Path, Path]:
    if shutil.which("openssl") is None:
        pytest.skip("there is no openssl to make a certificate with")
    paths = folder / f"{name}.crt", folder / f"{name}.key"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={name}"]
    subject = f"subjectAltName={'IP' if name[0].isdigit() else 'DNS'}:{name}"
    outputs = ["-addext", subject, "-out", str(paths[0]), "-keyout", str(paths[1])]
    subprocess.run([*command, *outputs], check=True, capture_output=True, timeout=60)
    return paths


def test_tls(clips: dict[str, Path], tmp_path: Path, open_video: Any) -> None:
    require_rtsp_server()
    good, other = _certificate(tmp_path, "127.0.0.1"), _certificate(tmp_path, "other.example")
    trusting = {"options": {"tls_verify": "1", "ca_file": str(good[0])}}
    with RtspServer({"cam": clips["h264"]}, tls=good) as server:
        url = server.url("cam")
        assert url.startswith("rtsps://")
        assert _numbers(open_video, url, 3) == [0, 1, 2]
        assert _numbers(open_video, url, 3, **trusting) == [0, 1, 2]
        error = _failure(open_video, url, options={"tls_verify": "1"}, username="admin", password="hunter2")
        assert (error.code, "its certificate is not trusted: self" in error.message) == (Code.TLS, True)
        error = _failure(open_video, url, options={"tls_verify": "1", "ca_file": str(tmp_path / "none")})
        assert (error.code, "no such ca_file" in error.message) == (Code.TLS, True)
        server.restart(tls=other)
        error = _failure(open_video, url, options={"tls_verify": "1", "ca_file": str(other[0])})
        assert (error.code, "not valid for '127.0.0.1'" in error.message) == (Code.TLS, True)
    assert _failure(open_video, url, **trusting).code is Code.NETWORK  # nobody there: no word about certificates


@pytest.mark.parametrize("server", [bad_servers.garbage, bad_servers.closes])
def test_a_broken_handshake_is_worth_another_attempt(open_video: Any, server: Callable[[], Any]) -> None:
    with server() as port:
        error = _failure(open_video, f"rtsps://admin:hunter2@127.0.0.1:{port}/cam", options={"tls_verify": "1"})
    assert error.code is Code.NETWORK


# ---------------------------------------------------------------------------------------------------------------- UDP


@contextlib.contextmanager
def _sent(path: Path, url: str, format_name: str) -> Iterator[None]:
    """Sends a clip over and over while the block runs."""
    ended = threading.Event()

    def send() -> None:
        with av.open(url, "w", format=format_name) as out:
            target, base_s = None, time.monotonic()
            shift = 0
            while not ended.is_set():
                with av.open(str(path)) as source:
                    stream = source.streams.video[0]
                    target = target or out.add_stream_from_template(stream)
                    for packet in source.demux(stream):
                        if not packet.size or packet.dts is None or ended.is_set():
                            continue
                        packet.pts, packet.dts = (packet.pts or 0) + shift, packet.dts + shift
                        ended.wait(max(0, float(packet.dts * packet.time_base) - (time.monotonic() - base_s)))
                        packet.stream = target
                        out.mux(packet)
                    shift += stream.duration or 0

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(10)


def _free_port() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.parametrize(("scheme", "format_name"), [("udp", "mpegts"), ("rtp", "rtp_mpegts")])
def test_mpeg_ts_over_udp(clips: dict[str, Path], open_video: Any, scheme: str, format_name: str) -> None:
    url = f"{scheme}://127.0.0.1:{_free_port()}"
    with _sent(clips["h264"], f"{url}?pkt_size=1316", format_name):
        numbers = _numbers(open_video, url, 30, timeout_s=10)
    assert [(n - numbers[0]) % FRAMES for n in numbers] == list(range(30))


@pytest.mark.parametrize("scheme", ["udp", "rtp"])
def test_nobody_sends(open_video: Any, scheme: str) -> None:
    started_s = time.monotonic()
    error = _failure(open_video, f"{scheme}://127.0.0.1:{_free_port()}")
    assert (error.code, time.monotonic() - started_s < TIMEOUT_S + 1) == (Code.TIMEOUT, True)


def test_a_file_leads_to_no_camera(cameras: RtspServer, tmp_path: Path, open_video: Any) -> None:
    playlist = tmp_path / "evil.m3u8"
    playlist.write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{cameras.url('h264')}\n#EXT-X-ENDLIST\n")
    with pytest.raises(SourceError):
        open_video(playlist)


# -------------------------------------------------------------------------------------------------------------- clock


@pytest.mark.parametrize("transport", ["tcp", "udp"])
def test_the_cameras_clock(cameras: RtspServer, transport: str) -> None:
    url = cameras.url("h264")
    spec = VideoSpec("cam", url, url, True, Source(url=url, transport=transport))
    ages_s, offsets_s = [], []
    with open_container(spec) as container:
        deadline_s = time.monotonic() + 15  # the first sender report comes within some seconds
        for packet in container.demux(video=0):
            captured_s = capture_time_s(packet)
            if captured_s is not None and packet.pts is not None:
                ages_s.append(time.time() - captured_s)
                offsets_s.append(captured_s - float(packet.pts * packet.time_base))
            if len(ages_s) == 30 or time.monotonic() > deadline_s:
                break
    assert len(ages_s) == 30
    assert abs(statistics.median(ages_s)) < 0.1  # single ones lie apart: it sends in decoding order
    if av.library_versions["libavformat"] >= (62, 12):  # FFmpeg 8.0 gives each packet the time of the next
        assert max(offsets_s) - min(offsets_s) < 0.01  # one clock: every picture's time fits its timestamp


def test_no_clock() -> None:
    def packet(**kinds: bytes) -> Any:
        return SimpleNamespace(has_sidedata=kinds.__contains__, get_sidedata=kinds.__getitem__)

    def refuse(kind: str) -> bool:
        raise ValueError(f"{kind} is not in list")

    time_ = (1_700_000_000_250_000).to_bytes(8, "little") + bytes(8)
    assert capture_time_s(packet(prft=time_)) == 1_700_000_000.25
    assert capture_time_s(packet(prft=time_, rtcp_sr=b"")) is None
    assert capture_time_s(packet(prft=(-5).to_bytes(8, "little", signed=True) + bytes(8))) is None
    assert capture_time_s(packet(prft=b"short")) is None
    assert capture_time_s(packet()) is None
    unknown: Any = SimpleNamespace(has_sidedata=refuse)
    assert capture_time_s(unknown) is None
    older: Any = SimpleNamespace()
    assert capture_time_s(older) is None
