"""Lost packets of real H.264 streams: each that others build on is noticed, no other is, and nothing wrong comes out."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import av.error
import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode import _video
from pipeline.decode._continuity import Continuity, _Bits
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.errors import SourceError
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats, DropCause

SIZE = {"width": 320, "height": 240, "frames": 46, "gop": 20}
CLIPS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"options": {"bf": "0"}},
    "plain.ts": {"options": {"bf": "0"}},
    "bframes.mp4": {"options": {"bf": "3"}},
    "bframes.ts": {"options": {"bf": "3"}},
    "fragmented.mp4": {"options": {"bf": "2"}, "format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "pyramid.ts": {"options": {"bf": "5", "x264-params": "b-pyramid=normal:b-adapt=0"}},
    "slices.ts": {"options": {"bf": "2", "x264-params": "slices=4"}},
    "open_gop.ts": {"options": {"bf": "3", "x264-params": "open-gop=1"}},
    "references.ts": {"options": {"bf": "3", "x264-params": "ref=6:b-adapt=0"}},
    "interlaced.ts": {"options": {"bf": "2", "x264-params": "tff=1:interlaced=1"}},
    "intra_refresh.ts": {"options": {"bf": "0", "x264-params": "intra-refresh=1"}, "frames": 66},
    "444.ts": {"pix_fmt": "yuv444p", "options": {"bf": "2"}},
    "10_bit.mkv": {"pix_fmt": "yuv420p10le", "options": {"bf": "2"}},
    "matrices.ts": {"options": {"bf": "2", "x264-params": "cqm=jvt"}},
    # frame_num has 4 bits: behind 50 reference frames it is where a key frame would have set it.
    "50_frames.ts": {"options": {"bf": "0"}, "gop": 50, "frames": 106},
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("clips")
    return {name: make_clip(folder / name, **{**SIZE, **options}) for name, options in CLIPS.items()}


def packets_of(path: Path, lost: Collection[int] = ()) -> Iterator[tuple[int, Any, Any]]:
    """(number, packet, stream) of the packets that arrive."""
    with av.open(str(path)) as container:
        stream = next(iter(container.streams.video), None)
        if stream is None or stream.codec_context is None:
            return
        packets = (packet for packet in container.demux(stream) if packet.size)
        for number, packet in enumerate(packets):
            if number not in lost:
                yield number, packet, stream


def gaps(path: Path, lost: Collection[int] = ()) -> list[int]:
    """Numbers of the packets in front of which some are missing."""
    continuity, found = None, []
    for number, packet, stream in packets_of(path, lost):
        continuity = continuity or Continuity(stream)
        if continuity.has_gap(packet):
            found.append(number)
    return found


def pictures(path: Path, lost: Collection[int] = ()) -> dict[int, int]:
    """What FFmpeg makes of what arrives: the pictures' hashes by their time."""
    found: dict[int, int] = {}
    context = None

    def decode(packet: Any) -> None:
        with contextlib.suppress(av.error.FFmpegError):
            found.update({frame.pts: hash(frame.to_ndarray().tobytes()) for frame in context.decode(packet)})

    for _, packet, stream in packets_of(path, lost):
        if context is None:
            context = stream.codec_context
            context.thread_count = 1
        decode(packet)
    decode(None)
    return found


@pytest.mark.parametrize("name", CLIPS)
def test_a_packet_that_others_build_on_is_missed_and_no_other_is(clips: dict[str, Path], name: str) -> None:
    path = clips[name]
    assert gaps(path) == []
    whole = pictures(path)
    order = [packet.pts for _, packet, _ in packets_of(path)]
    assert len(order) == len(whole) == {**SIZE, **CLIPS[name]}["frames"]
    kinds = set()
    for lost in range(1, len(order) - 1):
        found = pictures(path, {lost})
        changed = [number for number in range(lost + 1, len(order)) if found.get(order[number]) != whole[order[number]]]
        noticed = gaps(path, {lost})
        kinds.add(bool(changed))
        if changed:
            assert noticed, f"packet {lost}: nothing is noticed, though {changed} change"
            assert noticed[0] <= changed[0]
        else:
            assert noticed == [], f"packet {lost}: nothing changes"
    assert True in kinds
    if "bf" in str(CLIPS[name]) and name.startswith("bframes"):
        assert False in kinds, "there are frames that no other builds on"


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[dict[float, int], DecodeStats]]:
    """live(path, lost): what a live stream gives, and its counters."""
    original = _video.open_container

    class Line:
        def __init__(self, container: Any, lost: Collection[int]) -> None:
            self._container, self._lost = container, lost

        def __getattr__(self, name: str) -> Any:
            return getattr(self._container, name)

        def demux(self, stream: Any) -> Iterator[Any]:
            number = -1
            for packet in self._container.demux(stream):
                number += bool(packet.size)
                if not packet.size or number not in self._lost:
                    yield packet

    def decode(path: Path, lost: Collection[int] = ()) -> tuple[dict[float, int], DecodeStats]:
        monkeypatch.setattr(_video, "open_container", lambda spec: Line(original(spec), lost))
        settings = Source(url="rtsp://camera/x", max_staleness_ms=3_600_000)
        stats, found = DecodeStats(), {}
        with pytest.raises(SourceError, match="ended the stream"):
            for frame in FfmpegDecoder(VideoSpec("cam", str(path), str(path), False, settings), Decode(), stats):
                assert frame.pts_s is not None
                found[frame.pts_s] = hash(b"".join(plane.tobytes() for plane in frame.picture.planes))
        return found, stats

    return decode


@pytest.mark.parametrize("name", CLIPS)
def test_no_wrong_picture_comes_out_and_key_frames_mend_the_stream(
    clips: dict[str, Path], live: Callable[..., tuple[dict[float, int], DecodeStats]], name: str
) -> None:
    path = clips[name]
    whole, stats = live(path)
    assert stats.drops[DropCause.CORRUPT] == 0
    rng = random.Random(name)
    losses = [{number} for number in range(1, stats.packets)]
    losses += [set(rng.sample(range(1, stats.packets), rng.randint(2, 8))) for _ in range(20)]
    for lost in losses:
        found, damaged = live(path, lost)
        wrong = [time_s for time_s, picture in found.items() if picture != whole.get(time_s)]
        assert wrong == [], f"packets {lost} lost"
        assert damaged.decoded == damaged.frames + damaged.drops[DropCause.CORRUPT]
    if name != "intra_refresh.ts":
        found, _ = live(path, {3})
        gop = {**SIZE, **CLIPS[name]}["gop"]
        assert len(found) >= len(whole) - gop - 4


def test_damaged_parameter_sets_and_noise_are_no_gap_and_no_error() -> None:
    def of(extradata: bytes) -> Continuity:
        context = SimpleNamespace(codec=SimpleNamespace(canonical_name="h264"), extradata=extradata)
        return Continuity(SimpleNamespace(codec_context=context))  # type: ignore[arg-type]

    for extradata in (
        b"",
        b"\0\0\0\1\x67",  # what becomes of `sprop-parameter-sets=Zw==`
        b"\0\0\1\x67\x64\0\x1f\0\0\1\x68",
        b"\1\x64\0\x1f\xff",
        b"\1\x64\0\x1f\xff\xe1\0\2\x67\x64\1\0\1\x68",
    ):
        of(extradata)
    rng = random.Random(1)
    continuity = of(b"")
    for _ in range(5000):
        unit = bytes([rng.choice([0x67, 0x68, 0x41, 0x65, 0x01, 0x06])]) + rng.randbytes(rng.randint(0, 60))
        assert continuity.has_gap(memoryview(b"\0\0\1" + unit)) in (True, False)  # type: ignore[arg-type]


def exp_golomb(value: int) -> str:
    """ITU-T H.264, 9.1: as many zeros as the number behind them has further digits."""
    digits = f"{value + 1:b}"
    return "0" * (len(digits) - 1) + digits


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**20)), max_size=20))
def test_bits_are_read_as_they_were_written(numbers: list[tuple[bool, int]]) -> None:
    written = "".join(exp_golomb(value) if is_golomb else f"{value:021b}" for is_golomb, value in numbers)
    data = int(written + "1" + "0" * (-(len(written) + 1) % 8), 2).to_bytes(len(written) // 8 + 1, "big")
    bits = _Bits(data.replace(b"\0\0", b"\0\0\3"))
    for is_golomb, value in numbers:
        assert (bits.ue() if is_golomb else bits.u(21)) == value
    bits.u(8 * len(data) - len(written))
    for read in (bits.ue, lambda: bits.u(1)):
        with pytest.raises(IndexError):
            read()


INTACT = [
    "h264.mp4",
    "h264.ts",
    "h264.264",
    "h264_interlaced.mp4",
    "long_gop_bframes.mp4",
    "res_change.ts",
    "res_change.264",
    "starts_mid_gop.ts",
    "ts_jump_1000s.ts",
    "ts_restart_pts.ts",
    "two_video_streams.mkv",
    "vfr.mp4",
    "codec_change.ts",
    "fragmented.mp4",
]


@pytest.mark.assets
@pytest.mark.parametrize("name", INTACT)
def test_intact_odd_media_have_no_gap(assets: Path, name: str) -> None:
    assert gaps(assets / "odd_media" / "made" / name) == []


@pytest.mark.assets
def test_whatever_lies_around_is_no_error_and_real_media_have_no_gap(assets: Path) -> None:
    checked = 0
    for path in sorted(path for path in assets.rglob("*") if path.suffix in (".mp4", ".ts", ".mkv", ".264", ".h264")):
        try:
            found = gaps(path)
        except av.error.FFmpegError:  # not a video, or none that can be read
            continue
        if path.parent == assets / "media":
            checked += 1
            assert found == [], path
    assert checked
