"""What postprocessing costs on a GPU: microseconds of the device and of the host per batch, for every kind of head.

    python benchmarks/gpu_postprocess.py [--frames 32] [--rounds 200] [--json FILE]

The outputs are those of pictures with twenty objects each, over a low background; `crowded` has a threshold so low that
more candidates reach it than are kept between the kernels. Device time: events around 50 batches that are enqueued behind a
kernel which keeps the stream busy, so that gaps of the host do not count; the least of several rounds, and the median.
Host time: the call, and `result()` after the device is done; medians. A device time in brackets is none: the host was slower
than the kernel that should have kept the stream busy. `--json` is written after every case.
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

sys.path[:0] = [str(Path(__file__).parents[1]), str(Path(__file__).parents[1] / "tests")]

import gpu_report  # noqa: E402
from postprocess_cases import Case, head_case, make_batch  # noqa: E402

from pipeline.postprocess.cuda import build_cuda_postprocessor  # noqa: E402

BUSY = r"""
extern "C" __global__ void busy(long long nanoseconds) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now));
  while (now - start < nanoseconds);
}
"""
BATCHES = 50


def cases(frames: int) -> dict[str, Case]:
    """By name."""
    rng = np.random.default_rng(0)
    found = {
        f"{family} {dtype}": head_case(family, 1, frames, dtype=dtype)
        for family in ("ssd", "yolo", "gfl")
        for dtype in ("float32", "float16")
    }
    found["ssd threshold 0.05"] = head_case("ssd", 1, frames, threshold=0.05)
    softmax = head_case("ssd", 1, frames)
    logits = np.log(np.clip(softmax.outputs["scores"], 1e-4, 1 - 1e-4)).astype(np.float32)
    found["ssd softmax"] = Case(
        softmax.fields | {"activation": "softmax"}, softmax.outputs | {"scores": logits}, softmax.batch
    )
    crowded = head_case("gfl", 1, frames)
    crowded.outputs["out"][..., :80] = rng.random((frames, crowded.outputs["out"].shape[1], 80), np.float32)
    found["gfl crowded"] = crowded
    logits = rng.normal(0, 3, (frames, 1000)).astype(np.float32)
    found["classify 1000"] = Case({"family": "classify"}, {"out": logits}, make_batch(rng, frames, frames))
    return found


def measure(case: Case, stream: Any, rounds: int) -> dict[str, Any]:
    """Microseconds per batch."""
    import cupy

    frames = len(case.batch.frames)
    post = build_cuda_postprocessor(
        case.config, case.infos, model_size=case.batch.model_size, stream=stream, max_frames=frames
    )
    with stream.cupy:
        outputs = {name: cupy.asarray(value) for name, value in case.outputs.items()}
    busy = cupy.RawKernel(BUSY, "busy")
    for _ in range(5):
        post(outputs, case.batch).result()
    begin, end = cupy.cuda.Event(), cupy.cuda.Event()
    device: list[float] = []
    was_ahead = False  # at least once, which the least of the times is of
    for _ in range(7):
        with stream.cupy:
            busy((1,), (1,), (np.int64(30_000_000),))
        begin.record(stream.cupy)
        pending = [post(outputs, case.batch) for _ in range(BATCHES)]
        end.record(stream.cupy)
        was_ahead = was_ahead or not begin.done
        end.synchronize()
        del pending
        device.append(1000 * cupy.cuda.get_elapsed_time(begin, end) / BATCHES)
    calls, results = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        one = post(outputs, case.batch)
        calls.append(time.perf_counter() - start)
        stream.cupy.synchronize()
        start = time.perf_counter()
        one.result()
        results.append(time.perf_counter() - start)
    return {
        "device_us": min(device),
        "device_median_us": statistics.median(device),
        "host_call_us": 1e6 * statistics.median(calls),
        "host_result_us": 1e6 * statistics.median(results),
        "device_is_exact": was_ahead,
        "copied_bytes": post.downloads.copied_bytes / (5 + 7 * BATCHES + rounds),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    import cupy

    inner = cupy.cuda.Stream(non_blocking=True)
    stream = SimpleNamespace(handle=inner.ptr, cupy=inner, ordinal=cupy.cuda.Device().id)
    device = cupy.cuda.runtime.getDeviceProperties(stream.ordinal)["name"].decode()
    print(f"{device}, batch of {options.frames}, us per batch")
    print(f"{'outputs':22}{'device':>10}{'median':>10}{'call':>10}{'result':>10}{'bytes':>12}")
    found: dict[str, dict[str, Any]] = {}
    for name, case in cases(options.frames).items():
        try:
            figures = found[name] = measure(case, stream, options.rounds)
        except Exception as e:  # one case's error belongs into the report
            found[name] = {"error": f"{type(e).__name__}: {e}"}
            print(f"{name:22}{found[name]['error']}", flush=True)
        else:
            times = [figures[key] for key in ("device_us", "device_median_us", "host_call_us", "host_result_us")]
            shown = [
                f"{value:.0f}" if i or figures["device_is_exact"] else f"({value:.0f})" for i, value in enumerate(times)
            ]
            print(f"{name:22}{''.join(f'{text:>10}' for text in shown)}{figures['copied_bytes']:12.0f}", flush=True)
        gpu_report.write(options.json, "gpu_postprocess", frames=options.frames, us_per_batch=found)


if __name__ == "__main__":
    main()
