"""A live stream's read ends in time without the interpreter's lock, as it does by PyAV's own limit with it."""

from __future__ import annotations

import contextlib
import io
import itertools
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.container.core
import pytest
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode import _video
from pipeline.decode._read_limit import ReadLimit
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.errors import SourceError, SourceErrorCode
from pipeline.sources import VideoSpec

pytestmark = pytest.mark.timeout(60)
FRAMES = 60
# A packet of MPEG-TS that holds nothing: it fills gaps.
STUFFING = b"\x47\x1f\xff\x10" + b"\xff" * 184


@pytest.fixture(scope="module")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    """The bytes of each frame in MPEG-TS."""
    clip = make_clip(tmp_path_factory.mktemp("clips") / "a.mp4", frames=FRAMES, gop=15, options={"bf": "0"})
    buffer, found = io.BytesIO(), []
    options = {"flush_packets": "1"}
    with av.open(str(clip)) as source, av.open(buffer, "w", format="mpegts", options=options) as target:
        out = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                before, packet.stream = buffer.tell(), out
                target.mux(packet)
                found.append(buffer.getvalue()[before:])
    return found


@contextlib.contextmanager
def camera(pieces: list[bytes], *, stops: bool) -> Iterator[int]:
    """A port that is sent the frames, over and over; or, if it stops, once and then stuffing alone."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for number in itertools.count():
                piece = pieces[number % len(pieces)] if number < 4 * len(pieces) or not stops else STUFFING
                for start in range(0, len(piece), 1316):
                    with contextlib.suppress(OSError):  # nobody listens yet
                        out.sendto(piece[start : start + 1316], ("127.0.0.1", port))
                if ended.wait(0.005):
                    return

    sender = threading.Thread(target=send, daemon=True)
    sender.start()
    try:
        yield port
    finally:
        ended.set()
        sender.join(10)


def spec_of(port: int) -> VideoSpec:
    url = f"udp://127.0.0.1:{port}"
    return VideoSpec("cam", url, url, True, Source(url=url, id="cam", timeout_s=1))


@pytest.mark.parametrize("whose", ["ours", "PyAV's"])
def test_a_stream_in_which_only_stuffing_comes_is_silent(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes], whose: str
) -> None:
    if whose == "PyAV's":
        monkeypatch.setattr(_video, "ReadLimit", SimpleNamespace(of=lambda *_: None))
    with camera(pieces, stops=True) as port:
        decoder = FfmpegDecoder(spec_of(port), Decode())
        assert (decoder._read_limit is not None) == (whose == "ours")
        count = 0
        with pytest.raises(SourceError, match="does not answer, after") as caught:
            for _ in decoder:
                count += 1
    assert count
    assert caught.value.code is SourceErrorCode.TIMEOUT


def test_reading_a_packet_does_not_ask_for_the_interpreters_lock(
    monkeypatch: pytest.MonkeyPatch, pieces: list[bytes]
) -> None:
    """PyAV's answer looks at the clock with the lock; so does the beginning of each read."""
    looks = itertools.count()

    class Time:
        @staticmethod
        def monotonic() -> float:
            next(looks)
            return av_time.monotonic()

    av_time: Any = av.container.core.time
    with camera(pieces, stops=False) as port:
        decoder = FfmpegDecoder(spec_of(port), Decode())
        monkeypatch.setattr(av.container.core, "time", Time)
        first = next(looks)
        packets = decoder.stats.packets
        frames = decoder.groups()
        for _ in range(50):
            next(frames)
        assert next(looks) - first - 1 <= decoder.stats.packets - packets + 1
        decoder.close()
    assert decoder.stats.packets - packets >= 45


def test_what_is_no_container_of_pyavs_or_has_no_such_limit_is_left_alone(tmp_path: Path) -> None:
    assert ReadLimit.of(SimpleNamespace(), 1.0, 0.0, 1e9) is None  # type: ignore[arg-type]
    with av.open(str(make_clip(tmp_path / "a.mp4", frames=2))) as container:
        next(container.demux(video=0))
        assert ReadLimit.of(container, 1.0, 0.0, 1e9) is None
