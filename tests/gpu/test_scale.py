"""Pictures that NVDEC makes smaller: the right ones, in the right place, laid out as told. How close they are is printed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
from fake_nvcodec import box_filtered, planes_at
from media_maker import make_clip, read_number

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.sources import Source
from pipeline.config.stages import Decode, Preprocess
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.decode.nvdec import open_nvdec
from pipeline.errors import ExitCode
from pipeline.preprocess.decode_scale import DecodeScale
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.reference import ReferencePreprocessor
from pipeline.sources import VideoSpec

CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"bf": "2"}},
    "hevc.mp4": {"codec": "libx265"},
    "hevc_10.mkv": {"codec": "libx265", "pix_fmt": "yuv420p10le"},
    "turned.mp4": {"rotation": 90},
    "vp9.webm": {"codec": "libvpx-vp9"},
}


@pytest.fixture(scope="module")
def stream() -> Any:
    import cupy

    stream = cupy.cuda.Stream(non_blocking=True)
    return SimpleNamespace(handle=stream.ptr, cupy=stream, ordinal=cupy.cuda.Device().id)


def spec_of(path: Path) -> VideoSpec:
    return VideoSpec("cam", str(path), str(path), False, Source(path=str(path)))


def clip(folder: Path, name: str, **how: Any) -> Path:
    try:
        return make_clip(folder / name, **{"width": 1280, "height": 720, "frames": 24, **how, **CLIPS[name]})
    except (av.error.FFmpegError, ValueError) as e:
        pytest.skip(f"FFmpeg cannot encode it here: {e}")


@pytest.mark.parametrize("size", [(640, 360), (426, 240), (320, 180), (214, 120)])
@pytest.mark.parametrize("name", CLIPS)
def test_surfaces_hold_the_smaller_picture(tmp_path: Path, stream: Any, name: str, size: tuple[int, int]) -> None:
    import cupy

    def read(pointer: int, count: int) -> bytes:
        host = np.empty(count, np.uint8)
        cupy.cuda.runtime.memcpyAsync(host.ctypes.data, pointer, count, 2, stream.handle)
        stream.cupy.synchronize()
        return host.tobytes()

    path = clip(tmp_path, name, content="gradient")
    decoder = open_nvdec(spec_of(path), Decode(), stream=stream, ring=4, scale=lambda picture, source_id: size)
    numbers, means, most = [], [], []
    for frame, original in zip(decoder, FfmpegDecoder(spec_of(path), Decode()), strict=True):
        surface, shown = frame.picture.surface, original.picture
        assert frame.picture.coded_size == size
        assert (frame.picture.width, frame.picture.height) == (shown.width, shown.height)
        planes = planes_at(surface.pointer, surface.layout, (1, 1), read)
        surface.release()
        peak = 2**shown.colour.bit_depth - 1
        numbers.append(read_number(planes[0], peak))
        wanted = [box_filtered(plane, *part.shape[::-1]) for plane, part in zip(shown.planes, planes, strict=True)]
        off = [np.abs(part.astype(int) - want) * (255 / peak) for part, want in zip(planes, wanted, strict=True)]
        means.append([plane.mean() for plane in off])
        most.append([plane.max() for plane in off])
    print(f"{name} {size}: off by {np.mean(means, 0).round(2)} in the mean, {np.max(most, 0).round(1)} at most")
    assert numbers == list(range(24))
    assert np.max(means) < 4, "another filter is one thing, another layout another"


@pytest.mark.parametrize("fit", ["letterbox", "stretch", "crop"])
@pytest.mark.parametrize("name", CLIPS)
def test_the_model_sees_the_same_picture(tmp_path: Path, stream: Any, name: str, fit: Any) -> None:
    """Colours change by 2 a pixel of the model: what is off by the sign is off by a part of a pixel, or of a shade."""
    path = clip(tmp_path, name, content="gradient", numbered=False, frames=6)
    settings = Preprocess(size=(128, 96), fit=fit, interpolation="area", layout="nhwc", dtype="float32")
    engine = FusedPreprocessor(settings, stream=stream, max_rows=1)
    reference, found = ReferencePreprocessor(settings), []
    decoder = open_nvdec(spec_of(path), Decode(), stream=stream, ring=4, scale=DecodeScale(settings))
    for frame, original in zip(decoder, FfmpegDecoder(spec_of(path), Decode()), strict=True):
        assert frame.picture.coded_size != original.picture.coded_size
        got, want = engine([frame], 1), reference([original], 1)
        frame.picture.surface.release()
        np.testing.assert_array_equal(got.transforms, want.transforms)
        found.append(got.tensor.get(stream=stream.cupy) - want.tensor)
    off = np.concatenate(found)
    by_channel = off.mean((0, 1, 2))
    print(f"{name} {fit}: {np.abs(off).mean():.2f} in the mean, by channel {by_channel.round(2)}")
    # Of 8 bits its planes come out half a level too bright, or a little more, which colours double.
    assert np.abs(by_channel).max() < 2.5
    assert np.median(np.abs(off)) < 3


@pytest.mark.assets
def test_detections_are_nearly_those_of_the_whole_picture(assets: Path, tmp_path: Path) -> None:
    """How nearly, `benchmarks/gpu_decode_scale.py` measures; here, that boxes lie where they lay."""
    card, found = load_model_card("coco-ssd"), {}
    for scale in ("off", "auto"):
        out = tmp_path / f"{scale}.jsonl"
        config = {
            "device": "cuda",
            "sources": [{"path": str(assets / "media" / "motorway_1080p60_h264.mp4"), "max_frames": 60}],
            "pipeline": {
                "decode": {"scale": scale},
                "model": {"path": str(assets / "models" / "coco_ssd_core"), "precision": "fp32", "xla": False},
                "preprocess": card.preprocess,
                "postprocess": card.postprocess,
            },
            "sinks": [{"type": "jsonl", "path": str(out)}],
        }
        assert Pipeline.from_dict(config).run().exit_code is ExitCode.DONE
        found[scale] = [json.loads(line)["detections"] for line in out.read_text().splitlines()]
    total = matched = 0
    for whole, scaled in zip(found["off"], found["auto"], strict=True):
        total += max(len(whole), len(scaled))
        boxes = np.array([d["box"] for d in scaled]).reshape(-1, 4)
        for one in whole:
            box = np.array(one["box"])
            near = np.abs(boxes - box).max(1, initial=0) < 0.1 * max(box[2] - box[0], box[3] - box[1]) + 4
            matched += bool(near.any())
    print(f"{matched} of {total} detections have their twin")
    assert total > 60
    assert matched / total > 0.75
