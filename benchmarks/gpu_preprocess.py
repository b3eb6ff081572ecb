"""Preprocessing on a GPU: time on the device per frame, and time of the host per batch.

    python benchmarks/gpu_preprocess.py [--batches 1,8,32,64] [--iterations 30] [--json results.json]

1080p NV12 surfaces, each in memory of its own as decoders hand them out, -> letterboxed 640x640 RGB, nhwc, scale 1/255.
Device time is measured by events behind a spinning kernel, so that all work is queued before the first of it starts and
the host cannot show through. Host time is that of the calls alone. Every figure is the median of 5 rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.config.models import Preprocess
from pipeline.frames import Colour, Frame, Picture, Surface, SurfaceLayout
from pipeline.preprocess.cvcuda import CvCudaPreprocessor
from pipeline.preprocess.fused import FusedPreprocessor

WIDTH, HEIGHT = 1920, 1080
ROUNDS = 5
PACKAGES = ("cupy-cuda12x", "cvcuda-cu12", "numpy")
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
    import cupy

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", default="1,8,32,64")
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    batches = [int(part) for part in options.batches.split(",")]

    stream = cupy.cuda.Stream(non_blocking=True)
    shared = SimpleNamespace(handle=stream.ptr, cupy=stream, ordinal=0)
    spin = cupy.RawModule(code=SPIN).get_function("spin")
    frames = make_frames(max(batches), cupy.asarray)
    cupy.cuda.runtime.deviceSynchronize()

    def measure(engine: Any, count: int) -> tuple[float, float]:
        """(us of the device per frame, us of the host per batch)."""
        for _ in range(3):
            engine(frames[:count], count)
        stream.synchronize()
        device, host = [], []
        for _ in range(ROUNDS):
            start, stop = cupy.cuda.Event(), cupy.cuda.Event()
            with stream:
                spin((1,), (1,), (np.uint64(60_000_000),))
                start.record()
            began = time.perf_counter()
            for _ in range(options.iterations):
                engine(frames[:count], count)
            host.append((time.perf_counter() - began) / options.iterations * 1e6)
            with stream:
                stop.record()
            if start.done:
                raise SystemExit(
                    f"the host needed longer than the spin: use fewer than {options.iterations} iterations"
                )
            stop.synchronize()
            device.append(cupy.cuda.get_elapsed_time(start, stop) * 1e3 / options.iterations / count)
        return statistics.median(device), statistics.median(host)

    name = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
    versions = {package: version(package) for package in PACKAGES}
    print(name, versions)
    print(f"{'engine':8} {'dtype':8} {'batch':>5} {'device us/frame':>16} {'host us/batch':>14}")
    results = []
    for kind, engine_class in (("fused", FusedPreprocessor), ("cvcuda", CvCudaPreprocessor)):
        for dtype in ("float32", "float16", "uint8"):
            scale = 1.0 if dtype == "uint8" else 1 / 255
            preprocess = Preprocess(size=(640, 640), layout="nhwc", dtype=dtype, scale=scale)
            engine = engine_class(preprocess, stream=shared, max_rows=max(batches))
            for count in batches:
                device_us, host_us = measure(engine, count)
                results.append(
                    {
                        "engine": kind,
                        "dtype": dtype,
                        "batch": count,
                        "device_us_frame": device_us,
                        "host_us_batch": host_us,
                    }
                )
                print(f"{kind:8} {dtype:8} {count:5} {device_us:16.2f} {host_us:14.1f}")
    if options.json:
        report = {"gpu": name, "versions": versions, "iterations": options.iterations, "results": results}
        options.json.write_text(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
