"""How many frames a second a model makes on this GPU, and how long each call keeps the host.

    python benchmarks/gpu_inference.py                                         # the detector of networks.py
    python benchmarks/gpu_inference.py --model savedmodels/coco_ssd_core --batch 8 32 64 --json inference.json

runs every model in float16 and float32, as a plain graph and compiled by XLA, with each batch size: the time of the model
alone, with a few batches in flight, as in a pipeline, and three inputs that take turns. One line per case; `--json` keeps
them all, with the GPU and the versions, and is written after each. Compiling takes longer than measuring: a case that would begin
more than `--within` seconds after the start is left out, and named.
"""

from __future__ import annotations

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import deque
from pathlib import Path
from typing import Any

import gpu_report
import numpy as np
from networks import save_detector

from pipeline.config.stages import ModelSource, Preprocess
from pipeline.errors import VramlineError
from pipeline.inference import describe_model, load_model
from pipeline.inference.shared_stream import SharedStream, open_shared_stream

IN_FLIGHT = 4
INPUTS = 3


def measure(
    stream: SharedStream,
    path: Path,
    *,
    batch: int,
    precision: str,
    xla: bool,
    seconds: float,
    size: tuple[int, int] | None,
) -> dict[str, Any]:
    """One case: loads the model and runs it for some seconds."""
    import cupy

    start = time.perf_counter()
    model: Any = load_model(
        path,
        ModelSource(path=str(path), precision=precision, xla=xla),
        name=path.name,
        batch_size=batch,
        preprocess=Preprocess(size=size, scale=1 / 255) if size else None,
        device="cuda",
        stream=stream,
    )
    load_s = time.perf_counter() - start
    shape = (model.batch_size, *model.input.shape[1:])
    dtype = model.input.dtype
    with stream.cupy:
        largest = 255 if dtype == "uint8" else 1
        inputs = [(cupy.random.random(shape, np.float32) * largest).astype(dtype) for _ in range(INPUTS)]
    events: deque[Any] = deque()
    calls, host_s, started = 0, 0.0, 0.0
    end = time.perf_counter() + 0.3 * seconds
    while True:
        now = time.perf_counter()
        if now >= end:
            if started:
                break
            stream.cupy.synchronize()  # So far it was the run-up.
            events.clear()
            calls, host_s, started = 0, 0.0, time.perf_counter()
            end = started + seconds
            now = started
        model(inputs[calls % INPUTS])
        host_s += time.perf_counter() - now
        calls += 1
        events.append(cupy.cuda.Event(disable_timing=True))
        events[-1].record(stream.cupy)
        if len(events) > IN_FLIGHT:
            events.popleft().synchronize()
    stream.cupy.synchronize()
    took_s = time.perf_counter() - started
    case = {
        "model": path.name,
        "precision": model.precision,
        "xla": model.xla,
        "batch": model.batch_size,
        "input_dtype": dtype,
        "frames_per_s": round(calls * model.batch_size / took_s),
        "ms_per_batch": round(took_s / calls * 1e3, 3),
        "host_us_per_call": round(host_s / calls * 1e6),
        "load_s": round(load_s, 1),
    }
    model.close()
    return case


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, action="append", default=[], help="a SavedModel; may be repeated")
    parser.add_argument("--batch", type=int, nargs="+", default=[32], help="default: %(default)s")
    parser.add_argument("--precision", nargs="+", choices=["fp32", "fp16"], default=["fp16", "fp32"])
    parser.add_argument("--graph", nargs="+", choices=["plain", "xla"], default=["plain", "xla"])
    parser.add_argument("--size", type=int, nargs=2, metavar=("WIDTH", "HEIGHT"), help="of models that leave it open")
    parser.add_argument("--seconds", type=float, default=2.0, help="of each case (default: %(default)s)")
    parser.add_argument("--within", type=float, default=45.0, help="begin no case later (default: %(default)s s)")
    parser.add_argument(
        "--memory-gib", type=float, help="TensorFlow's share of the GPU (default: 60 %% of what is free)"
    )
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    options = parser.parse_args()
    try:
        stream = open_shared_stream(int(options.memory_gib * 2**30) if options.memory_gib else None)
    except VramlineError as e:
        print(e, file=sys.stderr)
        return int(e.exit_code)
    begin_s = time.monotonic()
    found: dict[str, Any] = {"cases": []}
    with tempfile.TemporaryDirectory() as folder:
        models = options.model
        if not models:
            models = [Path(folder) / "detector640"]
            found["gflop_per_frame"] = round(save_detector(stream.tf, models[0]), 2)
        wanted = itertools.product(models, options.graph, options.precision, options.batch)
        for path, graph, precision, batch in wanted:
            case = {"model": path.name, "precision": precision, "xla": graph == "xla", "batch": batch}
            if time.monotonic() - begin_s > options.within:
                case["left_out"] = f"{options.within:g} s were over"
            else:
                shape = describe_model(path).inputs[0].shape
                size = tuple(options.size) if options.size and shape and None in shape[1:] else None
                try:
                    case |= measure(
                        stream,
                        path,
                        batch=batch,
                        precision=precision,
                        xla=graph == "xla",
                        seconds=options.seconds,
                        size=size,
                    )
                except VramlineError as e:
                    case["error"] = str(e)
            found["cases"].append(case)
            print(json.dumps(case), flush=True)
            gpu_report.write(options.json, "gpu_inference", **found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
