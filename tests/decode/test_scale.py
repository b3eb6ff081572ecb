"""Pictures that the decoder makes smaller, on a fake PyNvVideoCodec: less to read, and everything else as it was."""

from __future__ import annotations

import ctypes
import gc
import logging
import sys
from pathlib import Path
from typing import Any

import host_kernel
import numpy as np
import pytest
from fake_nvcodec import FakeNvCodec, FakeStream
from media_maker import make_clip

from pipeline.config.sources import Roi, Source
from pipeline.config.stages import Decode, Preprocess
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.memory import SurfaceMemory
from pipeline.decode.nvdec import NvdecDecoder, open_nvdec
from pipeline.frames import Picture
from pipeline.preprocess import kernels
from pipeline.preprocess.decode_scale import DecodeScale
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats
from pipeline.vram import Allowance


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_kernel.build(tmp_path_factory.mktemp("kernel"))


def spec_of(path: Path) -> VideoSpec:
    return VideoSpec("cam", str(path), str(path), False, Source(path=str(path)))


def open_scaled(path: Path, scale: Any) -> NvdecDecoder:
    return open_nvdec(spec_of(path), Decode(threads=2), stream=FakeStream(), ring=4, scale=scale)


def halved(picture: Picture, source_id: str) -> tuple[int, int]:
    assert source_id == "cam"
    return tuple(side // 4 * 2 for side in picture.coded_size)  # type: ignore[return-value]


def facts_of(decoder: Any) -> list[tuple[Any, ...]]:
    found = []
    for frame in decoder:
        p = frame.picture
        found.append((frame.index, frame.pts_s, p.width, p.height, p.rotation, p.mirror, p.sar))
        if p.surface is not None:
            p.surface.release()
    return found


def test_nothing_but_the_surfaces_changes(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4", width=160, height=96, frames=40, rotation=90, options={"bf": "2"})
    assert facts_of(open_scaled(path, halved)) == facts_of(FfmpegDecoder(spec_of(path), Decode()))
    for frame in open_scaled(path, halved):
        layout = frame.picture.surface.layout
        assert (layout.width, layout.height, layout.pitch_bytes, layout.chroma_offset_bytes) == (80, 48, 80, 80 * 48)
        assert frame.picture.coded_size == (80, 48)
        assert frame.picture.colour.siting == "center"
        frame.picture.surface.release()


def test_another_size_is_scaled_anew(tmp_path: Path, nvc: FakeNvCodec) -> None:
    sizes = [(160, 96), (320, 192), (64, 48)]
    parts = [make_clip(tmp_path / f"{w}.ts", width=w, height=h, frames=12).read_bytes() for w, h in sizes]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    found = []
    for frame in open_scaled(path, halved):
        found.append((frame.picture.width, frame.picture.height, *frame.picture.coded_size))
        frame.picture.surface.release()
    assert found == [(w, h, w // 2, h // 2) for w, h in sizes for _ in range(12)]
    assert nvc.most == [(160, 96), (320, 192), (64, 64)]


def test_only_who_scales_is_told_of_the_largest_size(tmp_path: Path, nvc: FakeNvCodec) -> None:
    path = make_clip(tmp_path / "a.mp4", width=160, height=96)
    facts_of(open_scaled(path, None))
    facts_of(open_scaled(path, lambda picture, source_id: None))
    facts_of(open_scaled(path, halved))
    assert nvc.most == [(0, 0), (0, 0), (160, 96)]


@pytest.mark.parametrize("scaling", ["refused", "fails"])
def test_a_video_that_is_not_scaled_still_comes_from_nvdec(
    tmp_path: Path, nvc: FakeNvCodec, caplog: pytest.LogCaptureFixture, scaling: str
) -> None:
    """In its own size, whole, and asked for once."""
    sizes = [(160, 96), (320, 192)]
    parts = [make_clip(tmp_path / f"{w}.ts", width=w, height=h, frames=12).read_bytes() for w, h in sizes]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    nvc.scaling = scaling
    allowance = Allowance()
    caplog.set_level(logging.INFO)
    stats = DecodeStats()
    decoder = open_nvdec(
        spec_of(path), Decode(), stats, stream=FakeStream(), ring=4, memory=SurfaceMemory(allowance), scale=halved
    )
    found = []
    for frame in decoder:
        picture = frame.picture
        found.append((frame.index, frame.pts_s, *picture.coded_size, picture.colour))
        assert not picture.surface.uploaded
        picture.surface.release()
    wanted = [
        (f.index, f.pts_s, *f.picture.coded_size, f.picture.colour) for f in FfmpegDecoder(spec_of(path), Decode())
    ]
    assert found == wanted
    assert len(found) == 24
    assert (stats.uploaded, stats.errors) == (0, 0)
    assert nvc.most == [(160, 96), (0, 0), (0, 0)]
    assert [r.message.partition(": ")[2] for r in caplog.records if r.name == "pipeline.decode.nvdec"] == [
        "is decoded in its own size: NVDEC does not scale it: "
        + {
            "refused": "Resize dimensions must be lower than max width and height, please recreate decoder instance",
            "fails": "NVDEC fails: HandleVideoSequence : the fake fails",
        }[scaling]
    ]
    decoder.close()
    del decoder, frame, picture
    gc.collect()
    assert allowance.taken_bytes == 0


@pytest.mark.parametrize("pix_fmt", ["yuv444p", "yuv422p"])
def test_other_samplings_and_what_the_cpu_decodes_stay_as_they_are(
    tmp_path: Path, nvc: FakeNvCodec, pix_fmt: str
) -> None:
    path = make_clip(tmp_path / "a.mp4", codec="libx265", pix_fmt=pix_fmt, width=160, height=96)
    for frame in open_scaled(path, halved):
        assert frame.picture.coded_size == (160, 96)
        frame.picture.surface.release()


CLIPS: dict[str, dict[str, Any]] = {
    "plain": {},
    "turned": {"rotation": 90, "hflip": True},
    "upside down": {"rotation": 180},
    "ten bits": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "full range": {"colour": ("bt709", "full")},
}


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("name", CLIPS)
def test_the_model_sees_the_same_picture(
    tmp_path: Path, nvc: FakeNvCodec, library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, name: str, fit: Any
) -> None:
    """The scaler's filter is another; where things are, and their colours, must not be."""
    options = {"width": 640, "height": 360, "frames": 3, "content": "gradient", "numbered": False, **CLIPS[name]}
    path = make_clip(tmp_path / "a.mp4", **options)
    settings = Preprocess(size=(96, 80), fit=fit, interpolation="area", layout="nhwc", dtype="float32")
    roi = {"cam": Roi(polygon=[(0.02, 0), (1, 0.05), (0.9, 1)], unit="fraction")}
    stream = host_kernel.Stream()
    for rois in ({}, roi):
        reference = ReferencePreprocessor(settings, rois)
        frames = iter(open_scaled(path, DecodeScale(settings, rois)))
        monkeypatch.setitem(sys.modules, "cupy", host_kernel.Cupy(library, stream))
        kernels.fused_kernel.cache_clear()
        engine = FusedPreprocessor(settings, rois, stream=stream, max_rows=1)
        for frame, original in zip(frames, FfmpegDecoder(spec_of(path), Decode()), strict=True):
            assert min(frame.picture.coded_size) < 200
            got, want = engine([frame], 1), reference([original], 1)
            np.testing.assert_array_equal(got.transforms, want.transforms)
            off = np.asarray(got.tensor) - want.tensor
            frame.picture.surface.release()
            # Colours change from pixel to pixel by 3: half a sample of chroma to the side is 0.35 on the whole.
            assert np.abs(off.mean((0, 1, 2))).max() < 0.2
            # Where blue wraps around the filters differ.
            assert np.quantile(np.abs(off), 0.95) < 3
    kernels.fused_kernel.cache_clear()
