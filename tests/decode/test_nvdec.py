"""The decoder of the `cuda` engine on a fake PyNvVideoCodec, against the `cpu` engine's: the same frames, times and pixels."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from fake_nvcodec import FakeCupy, FakeNvCodec, FakeStream, planes_at
from media_maker import make_clip

from pipeline.config.models import Decode, Source
from pipeline.decode import _nvcodec
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.nvdec import NvdecDecoder, open_nvdec
from pipeline.errors import SourceError
from pipeline.observe.machine import Driver, Gpu
from pipeline.redact import redact
from pipeline.sources import VideoSpec


@pytest.fixture
def nvc(monkeypatch: Any) -> FakeNvCodec:
    fake = FakeNvCodec()
    monkeypatch.setitem(sys.modules, "PyNvVideoCodec", fake)
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    monkeypatch.setattr(_nvcodec, "driver", lambda: Driver((13, 0), (Gpu("a GPU", 1),)))
    monkeypatch.setattr(_nvcodec, "has_library", lambda name: True)
    _nvcodec.gpu_capabilities.cache_clear()
    yield fake
    _nvcodec.gpu_capabilities.cache_clear()


def spec_of(path: Path | str, **settings: Any) -> VideoSpec:
    is_url = isinstance(path, str) and "://" in path
    source = Source(**{"url" if is_url else "path": str(path)}, **settings)
    return VideoSpec("cam", str(path), redact(str(path)), is_url, source)


def open_gpu(
    path: Path, *, ring: int = 4, fallback: str = "cpu", corrupt: str = "keep", **settings: Any
) -> NvdecDecoder:
    decode = Decode(threads=2, fallback=fallback, corrupt_frames=corrupt)
    return open_nvdec(spec_of(path, **settings), decode, stream=FakeStream(), ring=ring)


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
    "h264_bframes.mp4": {"frames": 70, "gop": 25, "options": {"bf": "3"}},
    "h264_open_gop.mp4": {"frames": 60, "gop": 12, "options": {"bf": "3", "x264-params": "open-gop=1:keyint=12"}},
    "h264.ts": {"frames": 40, "options": {"bf": "2"}},
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
