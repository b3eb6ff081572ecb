"""The decoder of the `cuda` engine on a fake PyNvVideoCodec, against the `cpu` engine's: the same frames, times and pixels."""

from __future__ import annotations

import contextlib
import gc
import itertools
import logging
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fake_nvcodec import FakeDecoder, FakeNvCodec, FakeStream, PacketData, planes_at
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode import capabilities, nvdec
from pipeline.decode._session import PACKETS_AT_ONCE
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.nvdec import NvdecDecoder, open_nvdec
from pipeline.errors import DeviceError, SourceError, SourceErrorCode
from pipeline.observe.machine import Driver
from pipeline.redact import redact
from pipeline.sources import VideoSpec

IS_AHEAD = [False]


@pytest.fixture(autouse=True, params=[False, True], ids=["", "ahead"])
def is_ahead(request: Any) -> bool:
    """Whether the decoder is called by a thread of its own, one call ahead of who hands the frames out."""
    IS_AHEAD[0] = request.param
    return IS_AHEAD[0]


def spec_of(path: Path | str, **settings: Any) -> VideoSpec:
    is_url = isinstance(path, str) and "://" in path
    source = Source(**{"url" if is_url else "path": str(path)}, **settings)
    return VideoSpec("cam", str(path), redact(str(path)), is_url, source)


def open_gpu(
    path: Path, *, ring: int = 4, fallback: str = "cpu", corrupt: str = "keep", **settings: Any
) -> NvdecDecoder:
    decode = Decode(threads=2, fallback=fallback, corrupt_frames=corrupt)
    return open_nvdec(spec_of(path, **settings), decode, stream=FakeStream(), ring=ring, is_ahead=IS_AHEAD[0])


Known = list[tuple[Any, ...]]


def facts_of(frame: Any, planes: list[Any]) -> tuple[Any, ...]:
    p = frame.picture
    about = (p.coded_size, p.chroma_shift, p.colour, p.rotation, p.mirror, p.sar, p.width, p.height)
    return frame.index, frame.pts_s, about, [hash(plane.tobytes()) for plane in planes]


def on_gpu(path: Path, hold: int = 2, **options: Any) -> tuple[Known, NvdecDecoder, SourceError | None]:
    """All that the frames are, read while some are held as a batch holds them; pixels are read when they are released."""
    decoder, error, known, held = None, None, [], []

    def release() -> None:
        frame = held.pop(0)
        surface = frame.picture.surface
        assert frame.picture.planes == ()
        known.append(facts_of(frame, planes_at(surface.pointer, surface.layout, frame.picture.chroma_shift)))
        surface.release()

    try:
        decoder = open_gpu(path, **options)
        for frame in decoder:
            held.append(frame)
            if len(held) > hold:
                release()
    except SourceError as e:
        error = e
    while held:
        release()
    return known, decoder, error


def on_cpu(path: Path, **settings: Any) -> tuple[Known, FfmpegDecoder, SourceError | None]:
    decoder, error, known = None, None, []
    try:
        decoder = FfmpegDecoder(spec_of(path, **settings), Decode(threads=2))
        known += [facts_of(frame, list(frame.picture.planes)) for frame in decoder]
    except SourceError as e:
        error = e
    return known, decoder, error


def assert_same(got: Known, want: Known) -> None:
    assert [g[:3] for g in got] == [w[:3] for w in want]
    assert [g[0] for g, w in zip(got, want, strict=True) if g[3] != w[3]] == []


CLIPS: dict[str, dict[str, Any]] = {
    "h264_bframes.mp4": {"width": 320, "height": 240, "frames": 70, "gop": 25, "options": {"bf": "3"}},
    "h264_open_gop.mp4": {
        "width": 320,
        "height": 240,
        "frames": 60,
        "gop": 12,
        "options": {"bf": "3", "x264-params": "open-gop=1:keyint=12"},
    },
    "h264.ts": {"width": 320, "height": 240, "frames": 40, "options": {"bf": "2"}},
    "h264_intra.mp4": {"gop": 1},
    "hevc.mp4": {"codec": "libx265", "frames": 30},
    "hevc_10bit.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "hevc_444.mp4": {"codec": "libx265", "pix_fmt": "yuv444p", "width": 67, "height": 51},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "frames": 25},
    "mpeg4.mp4": {"codec": "mpeg4", "frames": 25},
    "mpeg2.ts": {"codec": "mpeg2video", "options": {"bf": "2"}, "frames": 25},
    "mpeg1.mpg": {"codec": "mpeg1video"},
    "mjpeg.avi": {"codec": "mjpeg", "pix_fmt": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "frames": 30},
    "vp9_odd.webm": {"codec": "libvpx-vp9", "width": 67, "height": 51},
    "vp8.webm": {"codec": "libvpx", "frames": 60, "gop": 30, "options": {"auto-alt-ref": "1", "lag-in-frames": "8"}},
    "av1.mp4": {"codec": "libsvtav1", "frames": 15},
    "fragmented.mp4": {"format_options": {"movflags": "frag_keyframe+empty_moov"}, "frames": 30},
    "vfr.mp4": {"pts": [0, 3, 5, 20, 21, 22, 30, 31, 40, 90], "time_base": Fraction(1, 100)},
    "raw.h264": {"frames": 40, "rate": 12, "options": {"bf": "2"}},
    "raw.hevc": {"codec": "libx265", "frames": 20, "format_name": "hevc"},
    "rotated.mp4": {"rotation": 90, "hflip": True},
    "sar_and_colour.mp4": {"sar": Fraction(4, 3), "colour": ("bt709", "full")},
    "one_frame.mp4": {"frames": 1},
}


@pytest.mark.parametrize("name", CLIPS)
def test_the_same_frames_as_on_the_cpu(tmp_path: Path, nvc: FakeNvCodec, name: str) -> None:
    path = make_clip(tmp_path / name, **CLIPS[name])
    want, reference, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert_same(got, want)
    assert decoder.info == reference.info
    assert decoder.stats == reference.stats
    assert (nvc.created, decoder.stats.uploaded) == (1, 0)


@pytest.mark.parametrize("name", CLIPS)
def test_a_loop_gives_the_same_frames_as_on_the_cpu(tmp_path: Path, nvc: FakeNvCodec, name: str) -> None:
    path = make_clip(tmp_path / name, **CLIPS[name])
    want, reference, _ = on_cpu(path, loop=3)
    got, decoder, error = on_gpu(path, loop=3)
    assert error is None
    assert_same(got, want)
    assert decoder.info == reference.info
    assert decoder.stats == reference.stats
    # A decoder goes on where a round begins with a key frame that nothing is shown before.
    assert nvc.created == (1 if decoder.info.codec not in ("mpeg1video", "mpeg2video", "mpeg4") else 3)
    assert decoder.stats.uploaded == 0


def test_a_loop_of_what_the_gpu_cannot_decode(tmp_path: Path, nvc: FakeNvCodec, caplog: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", pix_fmt="yuv422p")
    want, _, _ = on_cpu(path, loop=3)
    got, decoder, _ = on_gpu(path, loop=3)
    assert_same(got, want)
    assert decoder.stats.uploaded == 30
    assert len([r for r in caplog.records if "decoded on the CPU" in r.message]) == 1


# ------------------------------------------------------------------------------------------------------ odd streams


def joined(tmp_path: Path, name: str, *clips: dict[str, Any]) -> Path:
    """Transport streams one after another, as a channel that changes its format."""
    parts = [make_clip(tmp_path / f"part{i}.ts", **clip).read_bytes() for i, clip in enumerate(clips)]
    (tmp_path / name).write_bytes(b"".join(parts))
    return tmp_path / name


LARGE = {"frames": 24, "width": 160, "height": 96, "options": {"bf": "2"}}
SMALL = {"frames": 24, "width": 64, "height": 48, "options": {"bf": "2"}}


@pytest.mark.parametrize("codec", ["libx264", "libx265", "mpeg2video"])
@pytest.mark.parametrize("order", ["shrinks", "grows"])
def test_another_size_gets_another_decoder(tmp_path: Path, nvc: FakeNvCodec, codec: str, order: str) -> None:
    clips = [{**clip, "codec": codec} for clip in ((LARGE, SMALL) if order == "shrinks" else (SMALL, LARGE))]
    path = joined(tmp_path, "both.ts", *clips)
    want, _, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert len(got) == 48
    if codec == "mpeg2video":  # FFmpeg keeps the last frame before the change to itself
        del got[23]
        got[23:] = [(g[0] - 1, *g[1:]) for g in got[23:]]
    assert_same(got, want)
    assert (nvc.created, decoder.stats.errors) == (2, 0)


def test_another_colour_or_the_same_headers_again(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = joined(tmp_path, "a.ts", {**SMALL, "colour": ("bt601", "limited")}, {**SMALL, "colour": ("bt709", "full")})
    assert_same(on_gpu(path)[0], on_cpu(path)[0])
    assert nvc.created == 2
    path = joined(tmp_path, "b.ts", SMALL, SMALL, SMALL)
    assert_same(on_gpu(path)[0], on_cpu(path)[0])
    assert nvc.created == 3, "the same format again needs no new decoder"


def test_a_format_that_the_gpu_does_not_know_on_the_way(tmp_path: Path, nvc: FakeNvCodec, caplog: Any) -> None:
    path = joined(tmp_path, "a.ts", SMALL, {**SMALL, "pix_fmt": "yuv422p"}, SMALL)
    want, _, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert_same(got, want)
    assert decoder.stats.uploaded == 48, "from there on"
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        f"{path}: is decoded on the CPU and uploaded: NVDEC does not give out 4:2:2 chroma"
    ]


def test_packets_before_the_first_key_frame_are_passed_over(tmp_path: Path, nvc: FakeNvCodec) -> None:
    data = make_clip(tmp_path / "whole.ts", frames=30, gop=10, options={"bf": "2"}).read_bytes()
    second_key = 188 * (len(data) // 188 // 4)
    path = tmp_path / "late.ts"
    path.write_bytes(data[: 188 * 3] + data[second_key:])  # the tables, then the middle of a group
    want, _, _ = on_cpu(path)
    got, _, error = on_gpu(path)
    assert error is None
    assert_same(got, want)
    assert 5 < len(got) < 30


@pytest.mark.assets
@pytest.mark.parametrize(
    "name",
    [
        "made/edit_list_cut.mp4",
        "others/discard_first_keyframe.mp4",
        "made/ts_restart_pts.ts",
        "made/ts_jump_1000s.ts",
        "made/starts_mid_gop.ts",
        "made/res_change.264",
        "made/two_video_streams.mkv",
        "made/rot270.mp4",
        "made/sar_4_3.mp4",
        "made/cropped_636x358.mp4",
        "made/lost_packets.mp4",
        "made/vfr.mp4",
        "others/test_res_change.h264",
        "others/test_multires.mkv",
        "others/bt2020_10bit.mp4",
        "others/testsrc2_odd_height_and_width_vp9_10bit.mp4",
        "others/testsrc2_444_12bit_hevc.mp4",
        "others/test_non_zero_start.mp4",
    ],
)
def test_odd_media(assets: Path, nvc: FakeNvCodec, name: str) -> None:
    path = assets / "odd_media" / name
    want, _, failure = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert str(error) == str(failure)
    assert_same(got, want)
    assert decoder.stats.uploaded == 0


@pytest.mark.assets
@pytest.mark.parametrize("name", ["no_keyframes.mp4", "random.mp4", "audio_only.mp4", "empty.mp4", "trunc_no_moov.mp4"])
def test_what_no_engine_can_decode(assets: Path, nvc: FakeNvCodec, name: str) -> None:
    path = assets / "odd_media" / "made" / name
    _, _, want = on_cpu(path)
    assert str(on_gpu(path)[2]) == str(want) != "None"


@pytest.mark.assets
def test_a_codec_change_is_an_error_on_both(assets: Path, nvc: FakeNvCodec) -> None:
    got, decoder, error = on_gpu(assets / "odd_media" / "made" / "codec_change.ts")
    assert len(got) >= 88
    assert error is not None and error.code is SourceErrorCode.DAMAGED
    assert decoder is not None and decoder.stats.errors >= 80


# --------------------------------------------------------------------------------------------------------- fallback


@pytest.mark.parametrize(
    ("name", "clip", "reason"),
    [
        ("a.mp4", {"pix_fmt": "yuv422p"}, "NVDEC does not give out 4:2:2 chroma"),
        ("a.mp4", {"pix_fmt": "yuv420p10le"}, "this GPU does not decode H.264 with 4:2:0 chroma and 10 bits"),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv444p16le"}, "this GPU does not decode ffv1"),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "gray"}, "this GPU does not decode ffv1"),
        ("a.avi", {"codec": "rawvideo", "pix_fmt": "bgr24"}, "this GPU does not decode rawvideo"),
        ("a.mp4", {"width": 32, "height": 32}, "32x32 is below the least that this GPU decodes, 48x16"),
        ("a.mkv", {"codec": "ffv1", "pix_fmt": "yuv420p", "width": 67, "height": 51}, "does not decode ffv1"),
    ],
)
def test_what_the_gpu_cannot_decode_is_uploaded(
    tmp_path: Path, nvc: FakeNvCodec, caplog: Any, name: str, clip: dict[str, Any], reason: str
) -> None:
    path = make_clip(tmp_path / name, **clip)
    want, reference, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert_same(got, want)
    assert decoder.info == reference.info
    assert (decoder.stats.uploaded, nvc.created) == (10, 0)
    assert reason in caplog.text
    assert sys.modules["cupy"].allocated <= 4, "one buffer for each frame that is out"
    with pytest.raises(SourceError, match="the GPU cannot decode it") as caught:
        open_gpu(path, fallback="error")
    assert caught.value.code is SourceErrorCode.UNSUPPORTED
    assert reason in caught.value.message
    assert "fallback" in str(caught.value.remedy)


@pytest.mark.parametrize("width", [321, 320])
def test_mpeg2_of_an_odd_width_stays_as_it_is(tmp_path: Path, nvc: FakeNvCodec, caplog: Any, width: int) -> None:
    path = make_clip(tmp_path / "a.mpg", codec="mpeg2video", width=width, height=241, frames=10)
    got, decoder, _ = on_gpu(path)
    assert decoder.stats.uploaded == (10 if width % 2 else 0)
    assert ("width of 321 is odd" in caplog.text) == (width == 321)
    if width % 2:
        assert_same(got, on_cpu(path)[0])


def test_interlaced_video_stays_as_it_is(tmp_path: Path, nvc: FakeNvCodec, caplog: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", options={"x264-params": "tff=1"})
    assert_same(on_gpu(path)[0], on_cpu(path)[0])
    assert "interlaced" in caplog.text


# --------------------------------------------------------------------------------------------------------- failures


def test_a_decoder_that_never_gives_a_frame(tmp_path: Path, nvc: FakeNvCodec, caplog: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=30, options={"bf": "2"})
    nvc.fail_at = {2}
    want, _, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert_same(got, want)
    assert (decoder.stats.uploaded, decoder.stats.errors) == (30, 0)
    assert "NVDEC fails: HandleVideoSequence : the fake fails" in caplog.text


def test_a_decoder_that_breaks_is_replaced_at_the_next_key_frame(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=40, gop=10, options={"bf": "0", "x264-params": "scenecut=0"})
    nvc.fail_at = {15}
    want, _, _ = on_cpu(path)
    got, decoder, error = on_gpu(path)
    assert error is None
    assert nvc.created == 2
    first = [g for g in got if g[1] < 20 / 30]
    assert [g[1] for g in got if g not in first] == [w[1] for w in want[20:]]
    assert [g[3] for g in got if g not in first] == [w[3] for w in want[20:]]
    assert [g[1:] for g in first] == [w[1:] for w in want[: len(first)]]
    assert 8 <= len(first) < 15
    assert decoder.stats.errors == 9, "the eight that went in together, and the one up to the key frame"
    assert "the fake fails" in decoder.stats.last_error


@pytest.mark.parametrize("bframes", [0, 2])
@pytest.mark.parametrize("frames", [36, 41], ids=["", "a key frame is the last"])
def test_wherever_a_decoder_breaks_all_is_there_from_the_next_key_frame_on(
    tmp_path: Path, nvc: FakeNvCodec, frames: int, bframes: int
) -> None:
    options = {"bf": str(bframes), "x264-params": "scenecut=0"}
    path = make_clip(tmp_path / "a.mp4", frames=frames, gop=10, options=options)
    want, _, _ = on_cpu(path)
    for broken in range(6, frames + 1):
        nvc.pictures, nvc.fail_at, nvc.created = 0, {broken}, 0
        got, decoder, error = on_gpu(path)
        assert error is None
        key = 10 * ((broken - 1) // 10 + 1)
        assert (nvc.created, decoder.stats.uploaded) == (2 if key < frames else 1, 0)
        end_s = want[key][1] if key < frames else float("inf")
        before = [g for g in got if g[1] < end_s]
        assert [g[1:] for g in got if g[1] >= end_s] == [w[1:] for w in want[key:]]
        assert [g[1:] for g in before] == [w[1:] for w in want[: len(before)]]
        assert decoder.stats.errors >= 1
        assert decoder.stats.packets == frames


def test_times_are_right_again_after_frames_were_lost(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=100, gop=20, options={"bf": "2", "x264-params": "scenecut=0"})
    want, _, _ = on_cpu(path)
    nvc.lose_at = {28}
    got, _, error = on_gpu(path)
    assert error is None
    assert len(got) == 99
    times = {w[3][0]: w[1] for w in want}
    wrong = [times.get(g[3][0]) for g in got if times.get(g[3][0]) != g[1]]
    assert wrong, "the frames behind the lost one have its time"
    tail = [w[1] for w in want[-40:]]
    assert [g[1] for g in got[-40:]] == tail, "from the second key frame on all is in order"


# ---------------------------------------------------------------------------------------------------- ring and ends


@pytest.mark.parametrize("clip", [{}, {"pix_fmt": "yuv422p"}], ids=["nvdec", "upload"])
def test_at_most_ring_frames_are_out(tmp_path: Path, nvc: FakeNvCodec, clip: dict[str, Any]) -> None:
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=40, **clip), ring=3)
    out: list[Any] = []
    ended = threading.Event()

    def run() -> None:
        for frame in decoder:
            out.append(frame)
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    for expected in range(3, 41):
        deadline = time.monotonic() + 20
        while len(out) < expected and time.monotonic() < deadline:
            time.sleep(0.001)
        assert len(out) == expected
        assert expected == 40 or not ended.wait(0.002)
        out[expected - 3].picture.surface.release()
        out[expected - 3].picture.surface.release()  # once is enough
    assert ended.wait(20)
    thread.join(20)


@pytest.mark.parametrize("clip", [{}, {"pix_fmt": "yuv422p"}], ids=["nvdec", "upload"])
def test_close_wakes_a_decoder_that_waits(tmp_path: Path, nvc: FakeNvCodec, clip: dict[str, Any]) -> None:
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=40, **clip), ring=2)
    out: list[Any] = []
    thread = threading.Thread(target=lambda: out.extend(decoder), daemon=True)
    thread.start()
    time.sleep(0.2)
    start = time.monotonic()
    decoder.close()
    thread.join(10)
    assert not thread.is_alive()
    assert time.monotonic() - start < 5
    decoder.close()


def test_memory_outlives_the_decoder_as_long_as_it_is_on_loan(tmp_path: Path, nvc: FakeNvCodec) -> None:
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=12), ring=12)
    frames = list(decoder)
    (inner,) = nvc.decoders
    decoder.close()
    assert (nvc.alive(), inner.locked) == (1, 12)
    for frame in frames[:-1]:
        frame.picture.surface.release()
    del inner
    assert nvc.alive() == 1
    pixels = planes_at(frames[-1].picture.surface.pointer, frames[-1].picture.surface.layout, (1, 1))[0]
    assert not (pixels == 0xAA).all()
    frames[-1].picture.surface.release()
    assert nvc.alive() == 0


def test_frames_that_are_forgotten_give_their_memory_back(tmp_path: Path, nvc: FakeNvCodec) -> None:
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=30), ring=2)
    assert sum(1 for _ in decoder) == 30
    del decoder
    assert nvc.alive() == 0


@pytest.mark.parametrize("ends", ["at its end", "early"])
def test_files_are_closed_with_the_decoder(tmp_path: Path, nvc: FakeNvCodec, ends: str) -> None:
    def files() -> int:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())

    path = make_clip(tmp_path / "a.mp4", frames=60)
    before = files()
    gc.disable()  # nothing is left to it
    try:
        decoder = open_gpu(path)
        assert files() > before + 1, "FFmpeg's and the one that is read by the index"
        for number, frame in enumerate(decoder):
            frame.picture.surface.release()
            if ends == "early" and number == 40:
                decoder.close()
        assert files() == before
    finally:
        gc.enable()


def test_few_buffers_do_for_many_frames(tmp_path: Path, nvc: FakeNvCodec, is_ahead: bool) -> None:
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=200, options={"bf": "3"}), ring=3)
    pointers = set()
    for frame in decoder:
        pointers.add(frame.picture.surface.pointer)
        frame.picture.surface.release()
    assert len(pointers) <= 8 + (PACKETS_AT_ONCE if is_ahead else 0)


@pytest.mark.parametrize("ends", ["at its end", "early"])
def test_the_next_call_runs_while_frames_are_handed_out(
    tmp_path: Path, nvc: FakeNvCodec, is_ahead: bool, ends: str
) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=100, gop=100, options={"x264-params": "scenecut=0"})
    decoder = open_gpu(path, ring=60)
    handed_out = 0
    entered: list[str] = []

    @contextlib.contextmanager
    def noted() -> Iterator[None]:
        entered.append(threading.current_thread().name)
        yield

    decoder.open_aside = noted
    for number, group in enumerate(decoder.groups()):
        handed_out += len(group)
        if 0 < number < 4:
            deadline = time.monotonic() + 20
            while is_ahead and nvc.pictures < handed_out + PACKETS_AT_ONCE and time.monotonic() < deadline:
                time.sleep(0.001)
            assert (nvc.pictures >= handed_out + PACKETS_AT_ONCE) == is_ahead
        for frame in group:
            frame.picture.surface.release()
        if ends == "early" and number == 3:
            decoder.close()
    assert set(entered) == ({"nvdec cam"} if is_ahead else set())
    threads = [t for t in threading.enumerate() if t.name == "nvdec cam"]
    for thread in threads:
        thread.join(20)
    assert not any(thread.is_alive() for thread in threads)


def test_a_driver_that_hangs_keeps_nobody_who_closes(
    tmp_path: Path, nvc: FakeNvCodec, is_ahead: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not is_ahead:
        pytest.skip("no call runs while nobody iterates")
    monkeypatch.setattr(nvdec, "_MOST_CALL_S", 0.05)
    hangs, may_go_on = threading.Event(), threading.Event()
    decode, calls = FakeDecoder.GetNumDecodedFrame, [0]

    def hang(self: FakeDecoder, packet: PacketData) -> int:
        calls[0] += threading.current_thread().name == "nvdec cam"
        if calls[0] == 2:
            hangs.set()
            assert may_go_on.wait(60)
        return decode(self, packet)

    monkeypatch.setattr(FakeDecoder, "GetNumDecodedFrame", hang)
    decoder = open_gpu(make_clip(tmp_path / "a.mp4", frames=100, gop=100), ring=60)
    groups = decoder.groups()
    assert any(len(group) > 4 for group in groups), "what came of the first call aside; the second has begun"
    assert hangs.wait(20)
    start_s = time.monotonic()
    decoder.close()
    assert time.monotonic() - start_s < 10
    del decoder, groups
    may_go_on.set()
    deadline = time.monotonic() + 20
    while nvc.alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert nvc.alive() == 0, "the thread that was left behind keeps nothing once it is back"


def test_frame_limit_and_early_end(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=30)
    assert [g[0] for g in on_gpu(path, max_frames=7)[0]] == list(range(7))
    decoder = open_gpu(path)
    next(iter(decoder))
    decoder.close()
    assert list(decoder) == []
    del decoder
    gc.collect()
    assert nvc.alive() == 0


# ------------------------------------------------------------------------------------------------------ the machine


def test_the_gpu_is_asked_once(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4")
    on_gpu(path)
    asked = nvc.questions
    assert asked
    on_gpu(path)
    assert nvc.questions == asked


@pytest.mark.parametrize(
    ("found", "library", "module", "words", "remedy"),
    [
        (Driver(problem="no NVIDIA driver"), True, None, "no NVIDIA driver", "device: cpu"),
        (Driver((13, 0)), False, None, "libnvcuvid.so.1 is not there", "NVIDIA_DRIVER_CAPABILITIES"),
        (Driver((13, 0)), True, None, "PyNvVideoCodec is not installed", "pip install"),
        (Driver((13, 0)), True, "raise RuntimeError('no NVENC library\\nmore')", "no NVENC library", "update"),
    ],
)
def test_what_is_missing(
    tmp_path: Path, monkeypatch: Any, found: Driver, library: bool, module: str | None, words: str, remedy: str
) -> None:
    monkeypatch.setattr(capabilities, "driver", lambda: found)
    monkeypatch.setattr(capabilities, "has_library", lambda name: library)
    monkeypatch.delitem(sys.modules, "PyNvVideoCodec", raising=False)
    if module:
        (tmp_path / "PyNvVideoCodec.py").write_text(module)
        monkeypatch.syspath_prepend(tmp_path)
    else:
        monkeypatch.setattr(sys, "path", [p for p in sys.path if not (Path(p) / "PyNvVideoCodec").exists()])
    capabilities.gpu_capabilities.cache_clear()
    with pytest.raises(DeviceError, match=words) as caught:
        open_gpu(make_clip(tmp_path / "a.mp4"))
    assert remedy in str(caught.value.remedy)
    assert "\n" not in str(caught.value)


def test_importing_starts_nothing() -> None:
    code = (
        "import sys, pipeline.decode.nvdec; sys.exit(bool({'cupy', 'PyNvVideoCodec', 'tensorflow'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


@pytest.mark.parametrize("frames", [0, 5, None], ids=["unread", "broken off", "to the end"])
@pytest.mark.parametrize("engine", ["cpu", "cuda"])
@pytest.mark.parametrize("is_live", [False, True], ids=["file", "live"])
def test_a_decoder_that_was_closed_is_gone(
    nvc: FakeNvCodec, tmp_path: Path, engine: str, frames: int | None, is_live: bool
) -> None:
    """Without the collector's help, which comes so rarely that streams that reconnect would fill the memory."""
    path = make_clip(tmp_path / "a.mp4", width=320, height=240, frames=40)
    camera = Source(url="rtsp://camera/x") if is_live else Source(path=str(path))
    spec = VideoSpec("cam", str(path), str(path), False, camera)
    gc.collect()
    gc.disable()
    try:
        if engine == "cpu":
            decoder = FfmpegDecoder(spec, Decode())
        else:
            decoder = open_nvdec(spec, Decode(), stream=FakeStream(), ring=4)
        known = weakref.ref(decoder)
        try:
            for frame in itertools.islice(decoder, frames):
                if frame.picture.surface is not None:
                    frame.picture.surface.release()
                del frame
        except SourceError:
            assert is_live and frames is None
        decoder.close()
        del decoder
        assert known() is None
    finally:
        gc.enable()
