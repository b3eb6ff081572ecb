"""How close the whole pipeline comes to what the hardware's parts can do alone, in one run on one GPU.

    python benchmarks/gpu_pipeline.py --model SAVED_MODEL --card coco-ssd VIDEO [VIDEO ...] [--sources 21] [--json FILE]

For every video it measures, one after another and a few seconds each: decoding alone, decoding and preprocessing, and the
full pipeline with its JSONL sink; and the model alone on a batch that is already there. A video is repeated as often as
it takes; a rate counts the frames between two moments in the middle of a run, when all sources are open. Printed: frames/s,
CPU milliseconds a frame, and the ratio of the full pipeline to the slower of decoding alone and the model alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@dataclass(frozen=True)
class Rate:
    """What was measured between two moments."""

    frames_per_s: float
    cpu_ms_per_frame: float

    @classmethod
    def of(cls, count: Callable[[], int], warm_s: float, measure_s: float) -> Rate:
        """Watches a counter that another thread advances."""
        time.sleep(warm_s)
        start, cpu, first = time.perf_counter(), time.process_time(), count()
        time.sleep(measure_s)
        frames = count() - first
        elapsed, busy = time.perf_counter() - start, time.process_time() - cpu
        return cls(frames / elapsed, 1e3 * busy / max(frames, 1))


def decode_alone(specs: list[Any], stages: Any, args: argparse.Namespace, *, preprocess: bool) -> Rate:
    """Decodes all sources at once and gives every frame back at once, or after it was preprocessed."""
    from pipeline.queues import BoundedQueue, Closed
    from pipeline.stages import DecodeStats

    stop = threading.Event()
    queue: BoundedQueue[Any] = BoundedQueue(2 * args.batch)
    done = itertools.count()
    total = [0]

    def work(spec: Any) -> None:
        while not stop.is_set():
            decoder = stages.open_decoder(spec, DecodeStats())
            try:
                for frame in decoder:
                    if stop.is_set():
                        return
                    if preprocess:
                        queue.put(frame)
                    else:
                        frame.picture.surface.release()
                        next(done)
            except Closed:
                return
            finally:
                decoder.close()

    def prepare() -> None:
        while not stop.is_set():
            try:
                frames = [queue.get() for _ in range(args.batch)]
            except Closed:
                return
            stages.preprocess(frames, args.batch)
            for frame in frames:
                frame.picture.surface.release()
            total[0] += len(frames)

    threads = [threading.Thread(target=work, args=(spec,), daemon=True) for spec in specs]
    if preprocess:
        threads.append(threading.Thread(target=prepare, daemon=True))
    for thread in threads:
        thread.start()
    counter = (lambda: total[0]) if preprocess else (lambda: int(repr(done)[6:-1]))
    rate = Rate.of(counter, args.warm, args.seconds)
    stop.set()
    queue.close(discard=True)
    for thread in threads:
        thread.join(20)
    return rate


def model_alone(stages: Any, stream: Any, args: argparse.Namespace) -> Rate:
    """Calls the model on a batch of noise in device memory; a few calls are in flight at a time."""
    import cupy

    model = stages.model
    shape = tuple(args.batch if d is None else d for d in model.input.shape)
    with stream.cupy:
        tensor = cupy.random.rand(*shape, dtype=cupy.float32).astype(model.input.dtype)
        events: list[Any] = []
        for _ in range(5):
            model(tensor)
        stream.cupy.synchronize()
        start, cpu, calls = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start < args.seconds:
            model(tensor)
            calls += 1
            event = cupy.cuda.Event(disable_timing=True)
            event.record(stream.cupy)
            events.append(event)
            if len(events) > 3:
                events.pop(0).synchronize()
        stream.cupy.synchronize()
        elapsed, busy = time.perf_counter() - start, time.process_time() - cpu
    frames = calls * shape[0]
    return Rate(frames / elapsed, 1e3 * busy / frames)


def full(config: dict[str, Any], args: argparse.Namespace) -> tuple[Rate, dict[str, float]]:
    """The product itself, with JSONL on."""
    from pipeline import Pipeline

    pipeline = Pipeline.from_dict(config)
    pipeline.prepare()
    runner = threading.Thread(target=pipeline.run)
    runner.start()
    while pipeline.status.results == 0 and runner.is_alive():
        time.sleep(0.01)
    rate = Rate.of(lambda: pipeline.status.results, args.warm, args.seconds)
    pipeline.stop()
    runner.join(60)
    return rate, {f"{name}_ms": round(t.ms_per_frame, 4) for name, t in pipeline.status.stages.items()}


def configuration(args: argparse.Namespace, video: Path, out: Path) -> dict[str, Any]:
    """`args.sources` sources at a time, each long enough for the whole measurement."""
    from pipeline.config.cards import load_model_card

    card = load_model_card(args.card)
    seconds = args.warm + args.seconds + 4
    repeats = int(seconds * 10_000 / args.sources / args.clip_frames) + 2
    return {
        "device": "cuda",
        "sources": [{"path": str(video), "id": f"v{i}"} for i in range(args.sources * repeats)],
        "pipeline": {
            "model": {"path": str(args.model), "precision": args.precision, "xla": args.xla},
            "preprocess": card.preprocess,
            "postprocess": card.postprocess,
        },
        "sinks": [{"type": "jsonl", "path": str(out), "overwrite": True}],
        "runtime": {"batch_size": args.batch, "open_sources": args.sources},
    }


def measure(video: Path, args: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """Everything for one video."""
    import av

    from pipeline.config.load import config_from_mapping
    from pipeline.inference.shared_stream import open_shared_stream
    from pipeline.observe.status import RunStatus
    from pipeline.runtime.engines import Job, cuda_stages
    from pipeline.runtime.outputs import Outputs
    from pipeline.sources import resolve

    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        args.clip_frames = stream.frames or 600
        yield (
            "clip",
            {
                "name": video.name,
                "codec": stream.codec_context.name,
                "width": stream.width,
                "height": stream.height,
                "frames": stream.frames,
                "bit_rate": container.bit_rate,
            },
        )
    with tempfile.TemporaryDirectory() as folder:
        config = configuration(args, video, Path(folder) / "out.jsonl")
        parsed = config_from_mapping(config)
        job = Job(parsed, args.model, args.card, {}, args.sources)
        start = time.perf_counter()
        stages = cuda_stages(job, Outputs([], RunStatus()))
        yield "load_s", round(time.perf_counter() - start, 1)
        specs = resolve(parsed.sources[: args.sources], Path)
        yield "decode_alone", decode_alone(specs, stages, args, preprocess=False)
        yield "decode_and_preprocess", decode_alone(specs, stages, args, preprocess=True)
        yield "model_alone", model_alone(stages, open_shared_stream(), args)
        stages.model.close()
        del stages
        rate, times = full(config, args)
        yield "full_pipeline", rate
        yield "stages", times


def main() -> None:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--model", type=Path, required=True, help="a SavedModel")
    parser.add_argument("--card", default="coco-ssd", help="whose preprocess and postprocess fit it")
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16"])
    parser.add_argument("--xla", action="store_true", help="let XLA compile the model")
    parser.add_argument("--sources", type=int, default=21)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--warm", type=float, default=1.5, help="seconds before a measurement")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a measurement")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import cupy
    import tensorflow as tf

    results = []
    for video in args.videos:
        found: dict[str, Any] = {"model": args.model.name, "precision": args.precision, "xla": args.xla}
        found |= {"batch": args.batch, "sources": args.sources}
        for name, value in measure(video, args):
            if isinstance(value, Rate):
                rate, cost = value.frames_per_s, value.cpu_ms_per_frame
                print(f"{video.name}: {name}: {rate:.0f} frames/s, {cost:.3f} CPU-ms/frame", flush=True)
                found[name] = {"frames_per_s": round(rate, 1), "cpu_ms_per_frame": round(cost, 4)}
            else:
                print(f"{video.name}: {name}: {value}", flush=True)
                found[name] = value
        ceiling = min(found["decode_alone"]["frames_per_s"], found["model_alone"]["frames_per_s"])
        found["ratio_to_ceiling"] = round(found["full_pipeline"]["frames_per_s"] / ceiling, 4)
        print(
            f"{video.name}: full pipeline / min(decode alone, model alone) = {found['ratio_to_ceiling']:.3f}",
            flush=True,
        )
        results.append(found)
    if args.json:
        gpu = cupy.cuda.runtime.getDeviceProperties(0)["name"].decode()
        versions = {"tensorflow": tf.__version__, "cupy": cupy.__version__, "python": platform.python_version()}
        report = {"benchmark": "gpu_pipeline", "gpu": gpu, "cores": os.cpu_count(), "versions": versions}
        args.json.write_text(json.dumps({**report, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
