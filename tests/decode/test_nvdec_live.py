"""Live streams on a fake NVDEC against FFmpeg's decoder: the same frames and drops, and every surface comes back."""

from __future__ import annotations

import itertools
import time
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvcodec import FakeNvCodec, FakeStream, planes_at
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode import _video, nvdec
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.nvdec import open_nvdec
from pipeline.errors import SourceError
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats, DropCause

SIZE = {"width": 320, "height": 240, "frames": 60, "gop": 15}
CLIPS: dict[str, dict[str, Any]] = {
    "plain.ts": {"options": {"bf": "0"}},
    "bframes.ts": {"options": {"bf": "2"}},
    "bframes.mp4": {"options": {"bf": "2"}},
    "open_gop.ts": {"options": {"bf": "3", "x264-params": "open-gop=1"}},
    "hevc.ts": {"codec": "libx265"},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_clip(folder / name, **{**SIZE, **options}) for name, options in CLIPS.items()}


class Line:
    """The way from a camera: packets that get lost on it, and the time at which each arrives."""

    def __init__(self, container: Any, lost: set[int], arrives_s: Callable[[int], float], clock: Clock) -> None:
        self._container, self._lost, self._arrives_s, self._clock = container, lost, arrives_s, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._container, name)

    def demux(self, stream: Any) -> Iterator[Any]:
        numbers = itertools.count()
        for packet in self._container.demux(stream):
            if packet.size:
                number = next(numbers)
                if number in self._lost:
                    continue
                self._clock.now_s = self._arrives_s(number)
            yield packet


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def camera(monkeypatch: pytest.MonkeyPatch) -> Callable[..., VideoSpec]:
    """camera(path, lost=..., late_s=..., **settings): a live stream of a clip, 30 frames/s."""
    original = _video.open_container

    def make(path: Path, lost: set[int] = frozenset(), late_s: Any = None, **settings: Any) -> VideoSpec:  # type: ignore[assignment]
        def opened(spec: VideoSpec) -> Line:
            clock = Clock()
            monkeypatch.setattr(_video, "time", types.SimpleNamespace(monotonic=clock.monotonic, time=time.time))
            late = late_s or (lambda number: 0.0)
            return Line(original(spec), lost, lambda number: 1000 + number / 30 + late(number), clock)

        monkeypatch.setattr(_video, "open_container", opened)
        return VideoSpec("cam", str(path), str(path), False, Source(url="rtsp://camera/x", id="cam", **settings))

    return make


def cpu(spec: VideoSpec) -> tuple[list[Any], DecodeStats]:
    stats, found = DecodeStats(), []
    with pytest.raises(SourceError, match="ended the stream"):
        for frame in FfmpegDecoder(spec, Decode(), stats):
            found.append((frame.index, frame.pts_s, frame.received_s, hash(b"".join(map(bytes, frame.picture.planes)))))
    return found, stats


def gpu(spec: VideoSpec, fallback: str = "cpu", hold: int = 1) -> tuple[list[Any], DecodeStats]:
    stats, found, held = DecodeStats(), [], []

    def read() -> None:
        frame = held.pop(0)
        surface = frame.picture.surface
        planes = planes_at(surface.pointer, surface.layout, frame.picture.chroma_shift)
        found.append((frame.index, frame.pts_s, frame.received_s, hash(b"".join(p.tobytes() for p in planes))))
        surface.release()

    with pytest.raises(SourceError, match="ended the stream"):
        for frame in open_nvdec(spec, Decode(fallback=fallback), stats, stream=FakeStream(), ring=4):
            held.append(frame)
            if len(held) > hold:
                read()
    while held:
        read()
    return found, stats


def counts(stats: DecodeStats) -> tuple[Any, ...]:
    return stats.packets, stats.decoded, stats.frames, stats.corrupt, stats.dropped, stats.drops


SETTINGS: dict[str, dict[str, Any]] = {
    "latest": {},
    "fifo": {"policy": "fifo"},
    "keyframes": {"policy": "keyframes"},
    "slow": {"max_fps": 7},
}


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("name", CLIPS)
def test_the_same_as_on_the_cpu(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], name: str, settings: str
) -> None:
    spec = camera(clips[name], **SETTINGS[settings])
    want, expected = cpu(spec)
    got, stats = gpu(spec)
    assert got == want
    assert counts(stats) == counts(expected)
    assert nvc.alive() == 0


@pytest.mark.parametrize("lost", [{4}, {15}, {17, 31}, {7, 8, 9}], ids=str)
@pytest.mark.parametrize("name", [name for name in CLIPS if name != "hevc.ts"])
def test_what_follows_a_lost_reference_is_dropped_alike(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], name: str, lost: set[int]
) -> None:
    whole = {frame[1]: frame[3] for frame in cpu(camera(clips[name]))[0]}
    spec = camera(clips[name], lost=lost)
    want, expected = cpu(spec)
    got, stats = gpu(spec)
    assert all(whole[frame[1]] == frame[3] for frame in want)
    assert all(whole[frame[1]] == frame[3] for frame in got)
    if 15 in lost:
        # Frames behind a key frame that is lost are no frames to the decoder, and with them go those that were inside.
        assert [frame[1] for frame in got][-25:] == [frame[1] for frame in want][-25:]
        assert len(got) >= len(want) - 2
        assert stats.packets == expected.packets
    else:
        assert got == want
        assert counts(stats) == counts(expected)


@pytest.mark.parametrize("name", ["plain.ts", "bframes.ts", "open_gop.ts"])
def test_who_falls_behind_leaves_out_the_same(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], name: str
) -> None:
    spec = camera(
        clips[name],
        late_s=lambda number: 0.8 if 20 <= number < 35 else 0.3 if number > 50 else 0.0,
        max_staleness_ms=500,
    )
    want, expected = cpu(spec)
    got, stats = gpu(spec)
    assert expected.drops[DropCause.BEHIND] > 0
    assert got == want
    assert counts(stats) == counts(expected)


@pytest.mark.parametrize(
    ("name", "is_prompt"), [("plain.ts", True), ("bframes.ts", False), ("open_gop.ts", False), ("hevc.ts", False)]
)
def test_a_frame_comes_out_with_its_own_packet(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], name: str, is_prompt: bool
) -> None:
    """At 30 frames/s each frame that a decoder holds back is 33 ms of latency."""
    stats = DecodeStats()
    decoder = open_nvdec(camera(clips[name], policy="fifo"), Decode(), stats, stream=FakeStream(), ring=4)
    behind = []
    with pytest.raises(SourceError, match="ended the stream"):
        for number, frame in enumerate(decoder):
            behind.append(stats.packets - 1 - number)
            frame.picture.surface.release()
    assert len(behind) == 60
    assert nvc.latencies == ["LOW" if is_prompt else "NATIVE"]
    # The first one waits while the stream is opened; at the end all come out.
    assert (max(behind[1:50]) == 0) is is_prompt


def test_a_stream_that_is_reordered_though_its_headers_do_not_say_so(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvdec, "_is_shown_as_it_comes", lambda context: True)
    spec = camera(clips["bframes.ts"], policy="fifo")
    want, _ = cpu(spec)
    got, _ = gpu(spec)
    assert nvc.latencies == ["LOW", "NATIVE"], "from its second key frame on"
    assert got == want


@pytest.mark.parametrize(("back_s", "is_reordered"), [(0.1, True), (0.9, True), (1.1, False), (1000, False)])
def test_a_clock_that_is_set_back_is_no_reordering(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], back_s: float, is_reordered: bool
) -> None:
    decoder = open_nvdec(camera(clips["plain.ts"]), Decode(), stream=FakeStream(), ring=4)
    newest = 10_000_000
    decoder._watch_order(newest)
    decoder._watch_order(newest - round(back_s * 90_000))
    assert decoder._has_reordered is is_reordered
    decoder.close()


@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("engine", ["cpu", "cuda"])
def test_a_key_frame_comes_out_before_the_next_one_comes(
    nvc: FakeNvCodec, clips: dict[str, Path], camera: Callable[..., VideoSpec], name: str, engine: str
) -> None:
    spec = camera(clips[name], policy="keyframes")
    decoder: Any = (
        FfmpegDecoder(spec, Decode())
        if engine == "cpu"
        else open_nvdec(spec, Decode(), DecodeStats(), stream=FakeStream(), ring=4)
    )
    frames = []
    with pytest.raises(SourceError, match="ended the stream"):
        for frame in decoder:
            frames.append(frame)
            if frame.picture.surface is not None:
                frame.picture.surface.release()
    assert len(frames) == 4
    ages = [frame.decoded_s - frame.received_s for frame in frames]
    assert max(ages) < 0.1, ages
