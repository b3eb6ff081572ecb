"""What `pipeline.decode.scale: auto` costs in accuracy and brings in speed and memory, on one GPU.

    python benchmarks/gpu_decode_scale.py VIDEO [VIDEO ...] [--model SAVED_MODEL --card coco-ssd --truth gt.txt] [--json FILE]

For every video and a number of scale factors, with a model's input so much smaller than the picture: how far what the model
sees is from the reference on the CPU, with NVDEC's scaling and without, in 255ths (mean and 99th percentile over `--frames` frames,
for `area` and for `bilinear`); then frames/s of `--decoders` decoders at a time, and bytes of a surface. With a model: its detections in the
first video with scaling and without, as average precision of `--label` where there is `--truth`, and how many have their twin. Here a
picture is scaled however little there is to gain, since clips with known boxes are small.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

FACTORS = (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0)


def pixels(path: Path, factor: float, interpolation: str, stream: Any, frames: int) -> dict[str, Any]:
    """Differences from the reference, with and without scaling in the decoder."""
    from pipeline.config.sources import Source
    from pipeline.config.stages import Decode, Preprocess
    from pipeline.decode.ffmpeg import FfmpegDecoder
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.preprocess.decode_scale import DecodeScale
    from pipeline.preprocess.fused import FusedPreprocessor
    from pipeline.preprocess.reference import ReferencePreprocessor
    from pipeline.sources import VideoSpec

    spec = VideoSpec("v", str(path), path.name, False, Source(path=str(path), max_frames=frames))
    decoder = FfmpegDecoder(spec, Decode())
    size = round(decoder.info.width / factor), round(decoder.info.height / factor)
    given = {"size": size, "fit": "stretch", "interpolation": interpolation, "layout": "nhwc", "dtype": "float32"}
    settings = Preprocess.model_validate(given)
    reference = ReferencePreprocessor(settings)
    wanted = [reference([frame], 1).tensor for _, frame in zip(range(frames), decoder, strict=False)]
    decoder.close()
    found: dict[str, Any] = {"factor": factor, "interpolation": interpolation, "size": size}
    for name, scale in (("whole", None), ("scaled", DecodeScale(settings, least_reduction=1.0))):
        engine, off = FusedPreprocessor(settings, stream=stream, max_rows=1), []
        gpu = open_nvdec(spec, Decode(), stream=stream, ring=4, scale=scale)
        for want, frame in zip(wanted, gpu, strict=False):
            got = engine([frame], 1).tensor.get(stream=stream.cupy)
            found[f"{name}_surface_bytes"] = (
                frame.picture.surface.layout.pitch_bytes * frame.picture.coded_size[1] * 3 // 2
            )
            frame.picture.surface.release()
            off.append(np.abs(got - want))
        gpu.close()
        found[f"{name}_mean"] = round(float(np.mean(off)), 3)
        found[f"{name}_p99"] = round(float(np.quantile(off, 0.99)), 2)
    return found


def speed(path: Path, stream: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Frames/s of many decoders, whole and scaled to 640 columns."""
    import gpu_decode

    from pipeline.config.sources import Source
    from pipeline.config.stages import Decode
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.sources import VideoSpec

    def frames_of(scale: Any, clip: Any, stream: Any, ring: int) -> Iterator[Any]:
        spec = VideoSpec("v", str(clip.path), str(clip.path), False, Source(path=str(clip.path)))
        while True:
            for frame in open_nvdec(spec, Decode(), stream=stream, ring=ring, scale=scale):
                yield frame.picture.surface

    clip, found = gpu_decode.Clip(path), {}
    size = 640, 2 * round(320 * clip.size[1] / clip.size[0])
    for name, scale in (("whole", None), ("scaled", lambda picture, source_id: size)):
        found[name] = gpu_decode.measure(partial(frames_of, scale), clip, stream, args.decoders, args)
    return {"size": size, **found}


def detections(video: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Of the whole pipeline, with and without scaling."""
    from average_precision import average_precision, load_mot_boxes

    from pipeline import Pipeline
    from pipeline.config.cards import load_model_card
    from pipeline.preprocess import decode_scale

    decode_scale.DecodeScale = partial(decode_scale.DecodeScale, least_reduction=1.0)  # type: ignore[misc]
    card, records, found = load_model_card(args.card), {}, {}
    for scale in ("off", "auto"):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "out.jsonl"
            config = {
                "device": "cuda",
                "sources": [str(video)],
                "pipeline": {
                    "decode": {"scale": scale},
                    "model": {"path": str(args.model), "precision": args.precision, "xla": False},
                    "preprocess": card.preprocess,
                    "postprocess": {**card.postprocess, "score_threshold": 0.01, "classes": [args.label]},
                },
                "sinks": [{"type": "jsonl", "path": str(out)}],
            }
            Pipeline.from_dict(config).run()
            records[scale] = [json.loads(line) for line in out.read_text().splitlines()]
    for scale, lines in records.items():
        frames = np.array([r["frame"] for r in lines for _ in r["detections"]], int)
        boxes = np.array([d["box"] for r in lines for d in r["detections"]], float).reshape(-1, 4)
        scores = np.array([d["score"] for r in lines for d in r["detections"]], float)
        if args.truth:
            truth = {f: b for f, b in load_mot_boxes(args.truth).items() if f < len(lines)}
            found[f"ap50_{scale}"] = round(average_precision(truth, frames, boxes, scores), 4)
        found[f"above_half_{scale}"] = int((scores >= 0.5).sum())
    return {"video": video.name, "card": args.card, "precision": args.precision, **found, "twins": _twins(records)}


def _twins(records: dict[str, list[dict[str, Any]]]) -> str:
    """Detections with a score of at least 0.5 in one run that overlap one of at least 0.4 in the other."""
    from average_precision import _iou

    total = matched = 0
    for one, other in (("off", "auto"), ("auto", "off")):
        for a, b in zip(records[one], records[other], strict=True):
            near = np.array([d["box"] for d in b["detections"] if d["score"] >= 0.4], float).reshape(-1, 4)
            for found in (d for d in a["detections"] if d["score"] >= 0.5):
                total += 1
                matched += bool((_iou(np.array(found["box"], float), near) > 0.8).any())
    return f"{matched} of {total}"


def main() -> None:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, help="a SavedModel")
    parser.add_argument("--card", default="coco-ssd", help="whose preprocess and postprocess fit it")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16"])
    parser.add_argument("--truth", type=Path, help="a MOT Challenge gt.txt for the first video")
    parser.add_argument("--label", default="person")
    parser.add_argument("--frames", type=int, default=12, help="that are compared")
    parser.add_argument("--decoders", type=int, default=21)
    parser.add_argument("--seconds", type=float, default=2.0, help="of a measurement of speed")
    parser.add_argument("--ring", type=int, default=8)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    report: dict[str, Any] = {"benchmark": "gpu_decode_scale", "pixels": [], "speed": []}
    if args.model:  # first: TensorFlow is to have the device as a pipeline gives it
        report["detections"] = detections(args.videos[0], args)
        print(report["detections"], flush=True)

    import cupy
    import gpu_decode

    stream = gpu_decode.Stream()
    for path in args.videos:
        for interpolation in ("area", "bilinear"):
            for factor in FACTORS:
                found = {"video": path.name, **pixels(path, factor, interpolation, stream, args.frames)}
                print(found, flush=True)
                report["pixels"].append(found)
        found = {"video": path.name, **speed(path, stream, args)}
        print(found, flush=True)
        report["speed"].append(found)
    if args.json:
        packages = ("av", "cupy-cuda12x", "PyNvVideoCodec", "tensorflow")
        versions = {name: importlib.metadata.version(name) for name in packages}
        report["gpu"] = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        report |= {"cores": os.cpu_count(), "versions": {**versions, "python": platform.python_version()}}
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
