"""What is not decoded: that it harms nothing else, and that it is what the policy says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import pytest
from media_maker import make_clip, read_number

from pipeline.config.sources import Source
from pipeline.decode._disposable import Disposables
from pipeline.decode._packet_gate import PacketGate
from pipeline.stages import DropCause

CLIPS: dict[str, dict[str, Any]] = {
    "b-frames.mp4": {"options": {"bf": "3", "x264-params": "b-adapt=0:b-pyramid=none"}},
    "b-pyramid.mkv": {"options": {"bf": "3", "x264-params": "b-adapt=0:b-pyramid=normal"}},
    "b-frames.ts": {"options": {"bf": "2", "x264-params": "b-adapt=0:b-pyramid=none"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=3:b-adapt=0:b-pyramid=0"}},
    "hevc-pyramid.ts": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:bframes=4:b-adapt=0:b-pyramid=1"},
    },
    "hevc-layers.mkv": {
        "codec": "libx265",
        "options": {"x265-params": "log-level=none:bframes=3:b-adapt=0:temporal-layers=3"},
    },
}


def decoded(path: Path, *, without_disposable: bool) -> tuple[dict[int, bytes], int]:
    """pts -> pixels, and how many packets were left out."""
    left_out, frames = 0, {}
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        disposables = Disposables(stream)
        for packet in container.demux(stream):
            if packet.size and without_disposable and packet in disposables:
                left_out += 1
                continue
            for frame in packet.decode():
                frames[frame.pts] = frame.to_ndarray().tobytes()
    return frames, left_out


@pytest.mark.parametrize("name", CLIPS)
def test_no_other_frame_changes_when_the_disposable_ones_are_left_out(tmp_path: Path, name: str) -> None:
    # Smaller pictures of this content are a new scene each, to x264.
    clip = make_clip(tmp_path / name, width=320, height=240, frames=60, gop=30, **CLIPS[name])
    whole, none = decoded(clip, without_disposable=False)
    rest, left_out = decoded(clip, without_disposable=True)
    assert none == 0
    assert left_out >= 10
    assert len(rest) == len(whole) - left_out
    assert all(whole[pts] == pixels for pts, pixels in rest.items())


def test_every_frame_of_a_stream_in_which_each_refers_to_the_one_before_is_kept(tmp_path: Path) -> None:
    clip = make_clip(tmp_path / "p.mp4", frames=20, gop=20, options={"bf": "0"})
    assert decoded(clip, without_disposable=True)[1] == 0


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_policy_keyframes_decodes_key_frames_alone(tmp_path: Path, open_video: Any, name: str) -> None:
    clip = make_clip(tmp_path / name, frames=50, gop=10, options={"bf": "2", "x264-params": "scenecut=0:keyint=10"})
    video = open_video(clip, policy="keyframes")
    assert [read_number(frame.picture.planes[0]) for frame in video] == [0, 10, 20, 30, 40]
    assert video.stats.drops[DropCause.NON_KEY] == 45
    assert (video.stats.packets, video.stats.decoded) == (50, 5)


class Packets:
    """A live stream's packets, read at a time of our choosing."""

    def __init__(self, path: Path) -> None:
        with av.open(str(path)) as container:
            self.stream = container.streams.video[0]
            self.packets = [p for p in container.demux(self.stream) if p.size]
            self.gate = PacketGate(self.stream, Source(url="rtsp://camera/1", max_staleness_ms=1000))

    def causes(self, delays_s: list[float]) -> list[DropCause | None]:
        """The gate's answers; the n-th packet is read so much later than its time."""
        start_s = 50.0
        return [
            self.gate.cause(p, start_s + float(p.dts * p.time_base) + delay_s, 0.0)
            for p, delay_s in zip(self.packets, delays_s, strict=False)
        ]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    options = {"bf": "1", "x264-params": "scenecut=0:keyint=10:min-keyint=10:b-pyramid=none:b-adapt=0"}
    return make_clip(tmp_path_factory.mktemp("gate") / "a.mp4", frames=60, gop=10, options=options)


def test_a_reader_in_time_decodes_everything(clip: Path) -> None:
    assert set(Packets(clip).causes([0.02, 0.0, 0.1, 0.05] * 15)) == {None}


def test_a_reader_that_falls_behind_leaves_out_what_nothing_refers_to_then_all_up_to_a_key_frame(clip: Path) -> None:
    packets = Packets(clip)
    causes = packets.causes([0.0] * 10 + [0.7] * 20 + [1.5] * 10 + [0.0] * 20)
    disposables = Disposables(packets.stream)
    assert set(causes[:10]) == {None}
    late = list(zip(packets.packets[10:30], causes[10:30], strict=True))
    assert {c for p, c in late if p in disposables} == {DropCause.BEHIND}
    assert {c for p, c in late if p not in disposables} == {None}
    very_late = list(zip(packets.packets[30:40], causes[30:40], strict=True))
    assert [c for p, c in very_late if p.is_keyframe] == [None]
    assert {c for p, c in very_late if not p.is_keyframe} == {DropCause.BEHIND}
    back = causes[40:]
    key = next(i for i, p in enumerate(packets.packets[40:]) if p.is_keyframe)
    assert set(back[key:]) == {None}


def test_a_rate_limit_spares_the_decoder_frames_of_streams_that_are_not_reordered(clip: Path) -> None:
    """Here they are reordered, so that nothing can be told before decoding."""
    packets = Packets(clip)
    gate = PacketGate(packets.stream, Source(path=str(clip), max_fps=5))
    assert gate.is_open
