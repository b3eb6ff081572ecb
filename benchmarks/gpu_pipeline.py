"""How close the whole pipeline comes to what its parts can do alone: models x clips x sources in one run on one GPU.

    python benchmarks/networks.py build/yolov8n                     # once, on any machine; random weights, for speed only
    python benchmarks/gpu_pipeline.py --model coco-ssd=models/coco_ssd_core --model yolov8n=build/yolov8n \
        H264.mp4 HEVC.mp4 [--sources 1,7,21,64] [--json benchmarks/results/gpu_pipeline_h200.json]

Each cell is what `vramline bench` measures, with JSONL on. A model is loaded once, and a part whose conditions are those of an
earlier cell is not measured again: decoding alone belongs to clip and sources, the model alone to model and clip. `--json` is
written after every cell; models, clips and sources may be divided among several runs.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.bench import Report, bench
from pipeline.bench.meter import Measurement, Timing
from pipeline.bench.run import KeptModel
from pipeline.config.cards import load_model_card
from pipeline.config.load import config_from_mapping
from pipeline.errors import VramlineError

# What the network of networks.py takes and gives.
YOLO = {
    "preprocess": {"size": [640, 640], "fit": "letterbox", "scale": 1 / 255},
    "postprocess": {"family": "yolo", "labels": "coco80", "score_threshold": 0.5},
}
XLA: dict[str, Any] = {"auto": "auto", "true": True, "false": False}
# Which parts of an earlier cell hold for a later one, by what they depend on.
OF_CLIP_AND_SOURCES = ("decode",)
OF_MODEL_AND_CLIP = ("model", "preprocess", "postprocess")


def stages_of(name: str) -> dict[str, Any]:
    """Preprocess and postprocess of a model: a card's, or those of the YOLO network."""
    if name.startswith("yolo"):
        return YOLO
    card = load_model_card(name)
    return {"preprocess": card.preprocess, "postprocess": card.postprocess}


def configuration(name: str, model: Path, clip: Path, args: argparse.Namespace) -> Any:
    """The pipeline of a cell."""
    return config_from_mapping(
        {
            "device": args.device,
            "sources": [str(clip)],
            "pipeline": {
                "decode": {"scale": args.scale},
                "model": {"path": str(model), "precision": args.precision, "xla": XLA[args.xla]},
                **stages_of(name),
            },
            "sinks": [{"type": "jsonl", "path": "records.jsonl"}],
            "runtime": {"batch_size": args.batch},
        }
    )


def show(name: str, clip: Path, sources: int, report: Report) -> None:
    """One line for a cell."""
    rates = {part: measured.frames_per_s for part, measured in report.parts.items()}
    whole, latency = report.whole.measured, report.whole.latency
    gpu = whole.gpu
    busy = f"GPU {gpu.gpu_percent:.0f} %, NVDEC {gpu.nvdec_percent or 0:.0f} %" if gpu else "GPU unknown"
    for what, part, clock in (("SM", "model", "sm_clock_mhz"), ("NVDEC", "decode", "video_clock_mhz")):
        here, alone = getattr(gpu, clock, None), getattr(report.parts[part].gpu, clock, None)
        if here and alone:
            busy += f", {what} {here:.0f} MHz ({part} alone {alone:.0f})"
    p50, p99 = (latency.p50_ms, latency.p99_ms) if latency else (0.0, 0.0)
    print(
        f"{name:10} {clip.name:28} {sources:3} sources: decode {rates['decode']:6.0f}, + preprocess"
        f" {rates['decode_and_preprocess']:6.0f}, model {rates['model']:6.0f}, full {whole.frames_per_s:6.0f} frames/s ="
        f" {whole.frames_per_s / report.ceiling_per_s:.3f} of the ceiling; {whole.cpu_ms_per_frame:.3f} CPU-ms/frame;"
        f" {busy}; p50 {p50:.0f} ms, p99 {p99:.0f} ms; limit: {report.limit.by}",
        flush=True,
    )


def cell_of(name: str, args: argparse.Namespace, report: Report) -> dict[str, Any]:
    """What the JSON holds of a cell: the report without what is the same for all."""
    found = report.as_dict()
    for key in (
        "config",
        "device",
        "device_reason",
        "machine",
        "versions",
        "timing",
        "left_out",
        "gpu_reason",
        "report",
    ):
        del found[key]
    return {"network": name, "precision": args.precision, "xla": args.xla, "scale": args.scale, **found}


def common_of(report: Report) -> dict[str, Any]:
    """What is the same for all cells."""
    found = report.as_dict()
    return {key: found[key] for key in ("report", "device", "machine", "gpu_reason", "versions", "timing")}


def main() -> int:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument(
        "--model",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help="a SavedModel; NAME is a card whose preprocess and postprocess fit it, or yolo...; may be repeated",
    )
    parser.add_argument("--sources", default="1,7,21,64", help="how many at a time, one after another (%(default)s)")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16"])
    parser.add_argument("--xla", default="auto", choices=list(XLA), help="as `pipeline.model.xla` (%(default)s)")
    parser.add_argument(
        "--scale", default="off", choices=["off", "auto"], help="as `pipeline.decode.scale` (%(default)s)"
    )
    parser.add_argument("--batch", type=int, help="as `runtime.batch_size`, and by default its default")
    parser.add_argument("--warm", type=float, default=1.0, help="seconds before a measurement (%(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a measurement (%(default)s)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try it out")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    models = [(name, Path(path)) for name, _, path in (text.partition("=") for text in args.model)]
    for name, path in models:
        if not path.exists():
            parser.error(f"--model {name}: there is no {path}")

    begin_s = time.monotonic()
    common: dict[str, Any] = {}
    cells: list[dict[str, Any]] = []
    known: dict[tuple[Any, ...], Measurement] = {}
    for name, path in models:
        kept = KeptModel()
        for clip, sources in itertools.product(args.clips, map(int, args.sources.split(","))):
            places = {part: (part, clip, sources) for part in OF_CLIP_AND_SOURCES}
            places |= {part: (part, clip, name) for part in OF_MODEL_AND_CLIP}
            try:
                report = bench(
                    configuration(name, path, clip, args),
                    name=f"{name} {clip.name}",
                    timing=Timing(args.warm, args.seconds),
                    sources=sources,
                    build=kept.build,
                    known={part: known[place] for part, place in places.items() if place in known},
                )
            except VramlineError as e:
                print(f"{name} {clip.name} {sources} sources: {e}", file=sys.stderr, flush=True)
                cells.append({"network": name, "clip": clip.name, "sources": sources, "error": str(e)})
            else:
                known |= {place: report.parts[part] for part, place in places.items()}
                common = common_of(report)
                show(name, clip, sources, report)
                cells.append(cell_of(name, args, report))
            if args.json:
                found = {"benchmark": "gpu_pipeline", **common, "results": cells}
                args.json.write_text(json.dumps(found, indent=2) + "\n")
        kept.close()
    print(f"{len(cells)} cells in {time.monotonic() - begin_s:.0f} s")
    return int(any("error" in cell for cell in cells))


if __name__ == "__main__":
    sys.exit(main())
