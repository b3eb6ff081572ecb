"""Made clips: every frame once, in order, with its time; what is wrong with others, in words."""

from __future__ import annotations

import gc
import os
import re
import shutil
import subprocess
import threading
import time
import weakref
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from media_maker import ffprobe_pts, make_clip, picture, read_number

from pipeline.errors import SourceError, SourceErrorCode
from pipeline.frames import Frame

needs_ffmpeg = pytest.mark.skipif(not shutil.which("ffprobe"), reason="ffprobe is not installed")
RAW_NOISE = re.compile(r"Errno|\d{6,}|avcodec|<")


def numbers(frames: list[Frame]) -> list[int]:
    return [read_number(f.picture.planes[0], (1 << f.picture.colour.bit_depth) - 1) for f in frames]


CLIPS: dict[str, dict[str, Any]] = {
    "h264_bframes.mp4": {"frames": 70, "gop": 25, "options": {"bf": "3"}},
    "hevc_10bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj422p"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "vp8.webm": {"codec": "libvpx"},
    "av1.mp4": {"codec": "libsvtav1"},
    "ffv1_16bit.mkv": {"codec": "ffv1", "pix_fmt": "yuv444p16le"},
    "grey.mkv": {"codec": "ffv1", "pix_fmt": "gray"},
    "nv12.mkv": {"codec": "rawvideo", "pix_fmt": "nv12"},
    "rgb.avi": {"codec": "rawvideo", "pix_fmt": "bgr24"},
    "with_sound.mp4": {"audio": True},
    "fragmented.mp4": {"format_options": {"movflags": "frag_keyframe+empty_moov"}, "frames": 30},
    "vfr.mp4": {"pts": [0, 3, 5, 20, 21, 22, 30, 31, 40, 90], "time_base": Fraction(1, 100)},
    "odd_size.mp4": {"width": 67, "height": 51, "pix_fmt": "yuv444p"},
    "one_frame.mp4": {"frames": 1},
}


@needs_ffmpeg
@pytest.mark.parametrize("name", CLIPS)
@pytest.mark.parametrize("threads", [1, 7])
def test_every_frame_once_in_order_with_its_time(tmp_path: Path, open_video: Any, name: str, threads: int) -> None:
    path = make_clip(tmp_path / name, **CLIPS[name])
    decoder = open_video(path, threads=threads)
    frames = list(decoder)
    count = CLIPS[name].get("frames", 10)
    assert numbers(frames) == [f.index for f in frames] == list(range(count))
    times = [f.pts_s for f in frames]
    stated = list(ffprobe_pts(path))  # old containers leave some out; those are filled in
    assert [t for t, s in zip(times, stated, strict=True) if s is not None] == pytest.approx(
        [s for s in stated if s is not None], abs=1e-6
    )
    assert times == sorted(set(times))
    assert all(abs(f.time_s - time.time()) < 60 and f.source_id == "cam" for f in frames)
    assert (decoder.stats.frames, decoder.stats.errors, decoder.stats.corrupt) == (count, 0, 0)


def test_what_is_known_of_the_stream(tmp_path: Path, open_video: Any) -> None:
    info = open_video(make_clip(tmp_path / "a.mp4", frames=15, rate=Fraction(30000, 1001))).info
    assert (info.codec, info.width, info.height) == ("h264", 64, 48)
    assert (info.frame_rate, info.frame_count) == (Fraction(30000, 1001), 15)
    assert info.duration_s == pytest.approx(0.5005, abs=1e-3)
    assert open_video(make_clip(tmp_path / "a.mkv", codec="libsvtav1", frames=15)).info.codec == "av1"


def test_raw_streams_have_no_times_but_a_rate(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.h264", frames=40, rate=12)
    frames = list(open_video(path))
    assert numbers(frames) == list(range(40))
    assert [f.pts_s for f in frames] == pytest.approx([i / 12 for i in range(40)])


def test_frame_limit(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=20)
    assert len(list(open_video(path, max_frames=7))) == 7
    assert len(list(open_video(path, max_frames=1))) == 1
    assert len(list(open_video(path, max_frames=99))) == 20


def test_resolution_and_colour_may_change_on_the_way(tmp_path: Path, open_video: Any) -> None:
    small = make_clip(tmp_path / "small.ts", frames=12, colour=("bt601", "limited"))
    large = make_clip(tmp_path / "large.ts", frames=12, width=160, height=96, colour=("bt709", "full"))
    (tmp_path / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    frames = list(open_video(tmp_path / "both.ts"))
    assert numbers(frames) == [*range(12), *range(12)]
    assert [f.picture.coded_size for f in frames] == [(64, 48)] * 12 + [(160, 96)] * 12
    assert [(f.picture.width, f.picture.height) for f in frames] == [(64, 48)] * 12 + [(160, 96)] * 12
    assert [(f.picture.colour.matrix, f.picture.colour.full_range) for f in frames] == [("bt601", False)] * 12 + [
        ("bt709", True)
    ] * 12


def _cover_art(path: Path, *, with_video: bool) -> Path:
    cover = picture("gradient", 0, 32, 32)
    with av.open(str(path), "w") as container:
        streams = [container.add_stream("mjpeg", rate=1)]
        streams[0].disposition = av.stream.Disposition.attached_pic.value
        if with_video:
            streams.append(container.add_stream("libx264", rate=30))
        else:
            sound = container.add_stream("aac", rate=48000, layout="mono")
        for stream in streams:
            stream.width, stream.height, stream.pix_fmt = 32, 32, "yuvj420p" if stream is streams[0] else "yuv420p"
        container.mux(streams[0].encode(av.VideoFrame.from_ndarray(cover).reformat(format="yuvj420p")))
        container.mux(streams[0].encode(None))
        if with_video:
            for i in range(5):
                container.mux(streams[1].encode(av.VideoFrame.from_ndarray(picture("testsrc", i, 32, 32))))
            container.mux(streams[1].encode(None))
        else:
            silence = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
            silence.sample_rate = 48000
            container.mux([*sound.encode(silence), *sound.encode(None)])
    return path


def test_a_cover_picture_is_no_video(tmp_path: Path, open_video: Any) -> None:
    assert len(list(open_video(_cover_art(tmp_path / "a.mp4", with_video=True)))) == 5
    with pytest.raises(SourceError, match="only a cover picture") as caught:
        open_video(_cover_art(tmp_path / "b.mp4", with_video=False))
    assert caught.value.code is SourceErrorCode.NO_VIDEO_STREAM


def test_a_name_that_looks_like_a_protocol(tmp_path: Path, open_video: Any, monkeypatch: Any) -> None:
    path = make_clip(tmp_path / "plain.mp4")
    odd = path.rename(tmp_path / "concat:a|b%03d.mp4")
    monkeypatch.chdir(tmp_path)
    assert len(list(open_video(Path(odd.name)))) == 10


# ------------------------------------------------------------------------------------------------------------ errors


def _failure(open_video: Any, path: Path, **options: Any) -> tuple[SourceError, list[Frame]]:
    frames: list[Frame] = []
    with pytest.raises(SourceError) as caught:
        for frame in open_video(path, **options):
            frames.append(frame)
    assert caught.value.source_id == "cam"
    assert str(path) in caught.value.message
    assert not RAW_NOISE.search(str(caught.value).replace(str(path), ""))
    return caught.value, frames


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", SourceErrorCode.NOT_A_VIDEO, "the file is empty"),
        (b"just some words\n", SourceErrorCode.NOT_A_VIDEO, "it is a text file"),
        (bytes(range(256)) * 99, SourceErrorCode.NOT_A_VIDEO, "no demuxer recognises it"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + b"\0" * 999, SourceErrorCode.DAMAGED, "its index .* is missing"),
    ],
)
def test_files_that_are_no_video(tmp_path: Path, open_video: Any, content: bytes, code: Any, words: str) -> None:
    path = tmp_path / "x.mp4"
    path.write_bytes(content)
    error, frames = _failure(open_video, path)
    assert (error.code, frames) == (code, [])
    assert re.search(words, error.message)


def test_paths_that_are_no_file(tmp_path: Path, open_video: Any) -> None:
    assert _failure(open_video, tmp_path / "none.mp4")[0].code is SourceErrorCode.NOT_FOUND
    assert "is a directory" in _failure(open_video, tmp_path)[0].message
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for a writer
    assert _failure(open_video, tmp_path / "pipe.mp4")[0].code is SourceErrorCode.NOT_READABLE


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "x.mp4")
    path.chmod(0)
    assert _failure(open_video, path)[0].code is SourceErrorCode.NOT_READABLE


def test_sound_without_video(tmp_path: Path, open_video: Any) -> None:
    path = tmp_path / "a.wav"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        silence.sample_rate = 8000
        container.mux([*sound.encode(silence), *sound.encode(None)])
    error, _ = _failure(open_video, path)
    assert (error.code, "only audio" in error.message) == (SourceErrorCode.NO_VIDEO_STREAM, True)


def test_a_codec_that_nothing_decodes(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.avi", codec="mpeg4")
    path.write_bytes(path.read_bytes().replace(b"FMP4", b"ZZZZ"))
    assert _failure(open_video, path)[0].code is SourceErrorCode.UNSUPPORTED


def _cut(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@needs_ffmpeg
@pytest.mark.parametrize("threads", [1, 16])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.mp4", {"format_options": {"movflags": "faststart"}}),
        ("b.mp4", {"format_options": {"movflags": "frag_keyframe+empty_moov"}}),
        ("a.mkv", {}),
        ("a.avi", {"codec": "mpeg4"}),
        ("a.flv", {}),
    ],
)
def test_a_file_that_was_cut_off(tmp_path: Path, open_video: Any, name: str, options: Any, threads: int) -> None:
    path = _cut(make_clip(tmp_path / name, frames=120, gop=30, **options), 0.5)
    error, frames = _failure(open_video, path, threads=threads)
    assert error.code is SourceErrorCode.DAMAGED
    assert f"after {len(frames)} frames" in error.message
    assert len(frames) == len(list(ffprobe_pts(path)))
    assert numbers(frames[:-1]) == list(range(len(frames) - 1))  # of the last a part is missing


def test_a_transport_stream_may_end_anywhere(tmp_path: Path, open_video: Any) -> None:
    path = _cut(make_clip(tmp_path / "a.ts", frames=120, gop=30), 0.5)
    found = numbers(list(open_video(path)))
    assert found[:-1] == list(range(len(found) - 1)) and 30 <= len(found) <= 90


def _without_packets(path: Path, spoil: Any, out: Path) -> Path:
    """A copy with packets changed: `spoil(number, bytes)` -> the new bytes."""
    with av.open(str(path)) as source, av.open(str(out), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size:
                new = av.Packet(spoil(number, bytes(packet)))
                new.pts, new.dts, new.time_base, new.stream = packet.pts, packet.dts, packet.time_base, stream
                new.duration, new.is_keyframe = packet.duration, packet.is_keyframe
                target.mux(new)
    return out


@needs_ffmpeg
@pytest.mark.parametrize("threads", [1, 4, 16])
@pytest.mark.parametrize("spoilt", [{50}, {115}, {119}, {104, 108, 118}])
def test_spoilt_packets_are_counted_and_all_others_decoded(
    tmp_path: Path, open_video: Any, threads: int, spoilt: set[int]
) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=120, gop=40, options={"bf": "0"})
    path = _without_packets(
        clip, lambda n, data: b"\0\0\0\4\x7f\xff\xff\xff" if n in spoilt else data, tmp_path / "b.mp4"
    )
    decoder = open_video(path, threads=threads)
    frames = list(decoder)
    # By their times: what is predicted from a lost frame shows wrong numbers, or is lost, too.
    assert [f.pts_s for f in frames] == pytest.approx(list(ffprobe_pts(path)), abs=1e-6)
    assert [f.index for f in frames] == list(range(len(frames)))
    assert decoder.stats.errors == len(spoilt)
    assert decoder.stats.last_error == f"packet {max(spoilt)}: Invalid data found when processing input"


@pytest.mark.parametrize("threads", [1, 16])
def test_nothing_decodable_from_the_middle_on(tmp_path: Path, open_video: Any, threads: int) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=60, gop=20, options={"bf": "0"})
    path = _without_packets(clip, lambda n, data: b"\0\0\0\4\x7f\xff\xff\xff" if n >= 33 else data, tmp_path / "b.mp4")
    error, frames = _failure(open_video, path, threads=threads)
    assert numbers(frames) == list(range(33))
    assert (error.code, "after 33 frames" in error.message) == (SourceErrorCode.DAMAGED, True)
    assert "last 27 packets" in error.message


def test_no_frame_at_all(tmp_path: Path, open_video: Any) -> None:
    clip = make_clip(tmp_path / "a.mp4", frames=30)
    path = _without_packets(clip, lambda n, data: b"\0\0\0\4\x7f\xff\xff\xff", tmp_path / "b.mp4")
    error, _ = _failure(open_video, path)
    assert (error.code, "none of its 30 packets" in error.message) == (SourceErrorCode.NO_FRAMES, True)


def test_corrupt_frames_are_counted_and_dropped_on_request(tmp_path: Path, open_video: Any) -> None:
    clip = make_clip(tmp_path / "a.mp4", width=160, height=96, frames=30, options={"bf": "0", "crf": "3"})

    def spoil(number: int, data: bytes) -> bytes:
        return data[: len(data) // 2] + bytes(len(data) - len(data) // 2) if number == 14 else data

    path = _without_packets(clip, spoil, tmp_path / "b.mp4")
    kept, dropped = open_video(path), open_video(path, corrupt_frames="drop")
    assert len(list(kept)) == 30
    left = list(dropped)
    assert kept.stats.corrupt == dropped.stats.corrupt == dropped.stats.dropped >= 1
    assert kept.stats.dropped == 0
    assert len(left) == dropped.stats.frames == 30 - dropped.stats.dropped
    assert [round(f.pts_s * 30) for f in left] == [f.index for f in left]  # counted among the decoded frames


# ------------------------------------------------------------------------------------------------ life and memory


def test_iterating_keeps_no_frames_alive(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=120)
    alive: set[int] = set()
    most = 0
    gc.collect()
    gc.disable()  # reference counts alone must do
    try:
        for frame in open_video(path, threads=4):
            for plane in frame.picture.planes:
                alive.add(id(plane))
                weakref.finalize(plane, alive.discard, id(plane))
            del plane
            most = max(most, len(alive))
            del frame
    finally:
        gc.enable()
    assert most <= 3 * 3


def test_planes_outlive_the_decoder_and_cannot_be_written(tmp_path: Path, open_video: Any) -> None:
    decoder = open_video(make_clip(tmp_path / "a.mp4"))
    frames = list(decoder)
    decoder.close()
    del decoder
    gc.collect()
    assert numbers(frames) == list(range(10))
    with pytest.raises(ValueError, match="read-only"):
        frames[0].picture.planes[0][0, 0] = 1


def test_close_ends_the_iteration_and_may_be_repeated(tmp_path: Path, open_video: Any) -> None:
    decoder = open_video(make_clip(tmp_path / "a.mp4", frames=50))
    frames = iter(decoder)
    assert next(frames).index == 0
    decoder.close()
    decoder.close()
    assert list(frames) == []
    assert list(decoder) == []


def test_close_from_another_thread(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=300)
    for after in (1, 3, 50):
        decoder = open_video(path, threads=2)
        reached, ended, seen = threading.Event(), threading.Event(), []

        def work(
            decoder: Any = decoder, seen: Any = seen, reached: Any = reached, ended: Any = ended, n: int = after
        ) -> None:
            for frame in decoder:
                seen.append(frame.index)
                if len(seen) == n:
                    reached.set()
            ended.set()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        assert reached.wait(10)
        decoder.close()
        assert ended.wait(10)
        thread.join(10)
        assert seen == list(range(len(seen)))


@needs_ffmpeg
@pytest.mark.assets
def test_vtest(assets: Path, open_video: Any) -> None:
    for name in ("vtest_h264.mp4", "vtest_hevc.mp4"):
        assert sum(1 for _ in open_video(assets / "media" / name)) == 795


@needs_ffmpeg
@pytest.mark.parametrize(
    "kind", [{"rotation": r, "hflip": h, "vflip": v} for r in (0, 90, 180, -90) for h in (0, 1) for v in (0, 1)]
)
def test_orientation_is_what_ffmpeg_shows(tmp_path: Path, open_video: Any, kind: dict[str, Any]) -> None:
    path = make_clip(tmp_path / "a.mp4", content="gradient", frames=1, pix_fmt="yuv444p", options={"crf": "0"}, **kind)
    [frame] = open_video(path)
    shown = frame.picture.planes[0]
    if frame.picture.mirror:
        shown = shown[:, ::-1]
    shown = np.rot90(shown, -frame.picture.rotation // 90)
    assert (frame.picture.width, frame.picture.height) == shown.shape[::-1]
    command = ["ffmpeg", "-v", "error", "-i", str(path), "-f", "rawvideo", "-pix_fmt", "yuv444p", "-"]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    expected = np.frombuffer(done.stdout, np.uint8).reshape(3, *shown.shape)[0]
    np.testing.assert_array_equal(shown, expected)
