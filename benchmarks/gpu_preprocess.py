"""Preprocessing on a GPU: time on the device per frame, and time of the host per batch.

    python benchmarks/gpu_preprocess.py [--batches 1,8,32,64] [--iterations 30] [--json results.json]

1080p NV12 surfaces, each in memory of its own as decoders hand them out, -> letterboxed 640x640 RGB, nhwc, scale 1/255.
Device time is measured by events behind a spinning kernel, so that all work is queued before the first of it starts and
the host cannot show through; where it cannot keep ahead, fewer calls are made, and where not even one is queued in time the
time is not known. Host time is that of the calls alone. Every figure is the median of 5 rounds. `--json`
is written after every case.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import gpu_report

from pipeline.config.stages import Preprocess
from pipeline.frames import Colour, Frame, Picture, Surface, SurfaceLayout
from pipeline.preprocess.cvcuda import CvCudaPreprocessor
from pipeline.preprocess.fused import FusedPreprocessor

WIDTH, HEIGHT = 1920, 1080
ROUNDS = 5
SPIN = r"""
extern "C" __global__ void spin(unsigned long long ns) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - start < ns);
}
"""


def make_frames(count: int, upload: Any) -> list[Frame]:
    """Frames of four different pictures, every one in memory of its own."""
    layout = SurfaceLayout(WIDTH, HEIGHT, WIDTH, WIDTH * HEIGHT, 1, WIDTH, 2, 1)
    y, x = np.mgrid[: HEIGHT * 3 // 2, :WIDTH]
    rng = np.random.default_rng(0)
    contents = [
        (126 + 80 * np.sin(x / 97 + i) * np.cos(y / 61) + rng.normal(0, 4, x.shape)).astype(np.uint8) for i in range(4)
    ]
    frames = []
    for i in range(count):
        memory = upload(contents[i % 4])
        surface = Surface(memory.data.ptr, layout, lambda: None)
        picture = Picture((), (1, 1), Colour(), WIDTH, HEIGHT, owner=memory, surface=surface)
        frames.append(Frame(f"s{i}", 0, 0.0, 0.0, picture))
    return frames


def main() -> None:
    """Runs the benchmark and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import cupy

    batches = [int(part) for part in options.batches.split(",")]

    stream = cupy.cuda.Stream(non_blocking=True)
    shared = SimpleNamespace(handle=stream.ptr, cupy=stream, ordinal=0)
    spin = cupy.RawModule(code=SPIN).get_function("spin")
    frames = make_frames(max(batches), cupy.asarray)
    cupy.cuda.runtime.deviceSynchronize()

    def one_round(engine: Any, count: int, calls: int) -> tuple[float | None, float]:
        """(us of the device per frame, None if the host was too slow; us of the host per batch)."""
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        with stream:
            spin((1,), (1,), (np.uint64(60_000_000),))
            start.record()
        began = time.perf_counter()
        for _ in range(calls):
            engine(frames[:count], count)
        host_us = (time.perf_counter() - began) / calls * 1e6
        with stream:
            stop.record()
        is_ahead = not start.done
        stop.synchronize()
        return cupy.cuda.get_elapsed_time(start, stop) * 1e3 / calls / count if is_ahead else None, host_us

    def measure(engine: Any, count: int) -> dict[str, Any]:
        for _ in range(3):
            engine(frames[:count], count)
        stream.synchronize()
        calls = options.iterations
        while calls > 1 and one_round(engine, count, calls)[0] is None:
            calls //= 2
        rounds = [one_round(engine, count, calls) for _ in range(ROUNDS)]
        device = [us for us, _ in rounds if us is not None]
        return {
            "device_us_frame": statistics.median(device) if device else None,
            "host_us_batch": statistics.median(us for _, us in rounds),
            "calls": calls,
        }

    print(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    print(f"{'engine':8} {'dtype':8} {'batch':>5} {'device us/frame':>16} {'host us/batch':>14}")
    results: list[dict[str, Any]] = []
    for kind, engine_class in (("fused", FusedPreprocessor), ("cvcuda", CvCudaPreprocessor)):
        for dtype in ("float32", "float16", "uint8"):
            scale = 1.0 if dtype == "uint8" else 1 / 255
            preprocess = Preprocess(size=(640, 640), layout="nhwc", dtype=dtype, scale=scale)
            for count in batches:
                case = {"engine": kind, "dtype": dtype, "batch": count}
                try:
                    case |= measure(engine_class(preprocess, stream=shared, max_rows=count), count)
                except Exception as e:  # one case's error belongs into the report
                    case |= {"error": f"{type(e).__name__}: {e}"}
                results.append(case)
                device_us = case.get("device_us_frame")
                shown = "unknown" if device_us is None else f"{device_us:.2f}"
                print(
                    f"{kind:8} {dtype:8} {count:5} {shown:>16} {case.get('host_us_batch', 0):14.1f} {case.get('error', '')}",
                    flush=True,
                )
                gpu_report.write(options.json, "gpu_preprocess", iterations=options.iterations, results=results)


if __name__ == "__main__":
    main()
