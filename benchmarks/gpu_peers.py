"""vramline against torchcodec (NVDEC) with torch.compile, on the same clip with the same network, in one run on one GPU.

    python benchmarks/networks.py build/yolov8n                     # once, on any machine; random weights, for speed only
    python benchmarks/gpu_peers.py --model build/yolov8n H264.mp4 HEVC.mp4 [--threads 7,14,28] [--sources 7,21,64]
        [--peer-python PYTHON] [--json FILE]

The other program is what a PyTorch user would write for speed: a thread and a CUDA stream for each video, frames decoded in
chunks on the GPU, letterbox and network compiled and in half precision, the hundred best boxes of each frame brought to the host
two batches late. It does less than the pipeline, which also suppresses overlapping boxes and writes records. Each has the number of
threads, or videos, that suits it best. Processes of their own, one after another; `--peer-python` is an interpreter that has torch
and torchcodec (with FFmpeg's libraries), by default this one.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from queue import Queue
from typing import Any

_HERE = Path(__file__).resolve().parent
_SIZE = 640
_KEPT = 100


# ------------------------------------------------------------------------------------------------------ the other program


def torchcodec(clip: str, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """Frames per second of that many threads, each with the clip over and over."""
    sys.path.insert(0, str(_HERE))
    import torch
    import torch.nn.functional as f
    import torchcodec as library
    from torch_network import Detector
    from torchcodec.decoders import VideoDecoder

    on_gpu = args.device == "cuda"
    dtype = torch.float16 if on_gpu else torch.float32
    torch.backends.cudnn.benchmark = True
    network = Detector().to(args.device, dtype).eval()

    def letterbox(pixels: Any) -> Any:
        height, width = pixels.shape[2:]
        scale = min(_SIZE / width, _SIZE / height)
        rows, columns = round(height * scale), round(width * scale)
        top, left = (_SIZE - rows) // 2, (_SIZE - columns) // 2
        small = f.interpolate(pixels.to(dtype), (rows, columns), mode="bilinear", align_corners=False)
        return f.pad(small, (left, _SIZE - columns - left, top, _SIZE - rows - top), value=114.0) / 255

    def detect(pixels: Any) -> Any:
        found = network(pixels)
        scores, classes = found[..., 4:].max(2)
        best, rows = scores.topk(_KEPT, 1)
        boxes = found[..., :4].gather(1, rows[..., None].expand(-1, -1, 4))
        return torch.cat([boxes, best[..., None], classes.gather(1, rows)[..., None].to(dtype)], 2)

    if args.compile:
        letterbox, detect = torch.compile(letterbox, dynamic=False), torch.compile(detect, dynamic=False)
    ready: Queue[Any] = Queue(2 * threads)
    stopping = threading.Event()

    def decode() -> None:
        try:
            stream = torch.cuda.Stream() if on_gpu else None
            with torch.no_grad(), torch.cuda.stream(stream):
                while not stopping.is_set():
                    decoder = VideoDecoder(clip, device=args.device, seek_mode="approximate")
                    # Whole batches: one compiled shape.
                    for first in range(0, len(decoder) - args.batch + 1, args.batch):
                        pixels = letterbox(decoder.get_frames_in_range(first, first + args.batch).data)
                        event = None if stream is None else torch.cuda.Event()
                        if event is not None:
                            event.record(stream)
                        ready.put((pixels, event))
                        if stopping.is_set():
                            return
        except BaseException as e:
            ready.put((e, None))

    pending: list[tuple[Any, Any]] = []

    def take() -> int:
        """Enqueues a batch; how many frames are done by then."""
        pixels, event = ready.get()
        if isinstance(pixels, BaseException):
            raise pixels
        if event is not None:
            torch.cuda.current_stream().wait_event(event)
            pixels.record_stream(torch.cuda.current_stream())
        found = detect(pixels)
        if on_gpu:
            host = torch.empty(found.shape, dtype=found.dtype, pin_memory=True)
            host.copy_(found, non_blocking=True)
            done = torch.cuda.Event()
            done.record()
            pending.append((host, done))
            if len(pending) <= 2:
                return 0
            found, done = pending.pop(0)
            done.synchronize()
        float(found.double().sum())
        return len(found)

    workers = [threading.Thread(target=decode, daemon=True) for _ in range(threads)]
    with torch.no_grad():
        # Compiled here, for the shape and the order in memory that the threads will have.
        first = VideoDecoder(clip, device=args.device, seek_mode="approximate").get_frames_in_range(0, args.batch)
        detect(letterbox(first.data))
        for worker in workers:
            worker.start()
        warm_until_s = time.perf_counter() + args.warm
        while time.perf_counter() < warm_until_s or ready.empty():
            take()
        start_s, start_cpu_s, frames = time.perf_counter(), time.process_time(), 0
        while time.perf_counter() - start_s < args.seconds:
            frames += take()
        seconds, cpu_s = time.perf_counter() - start_s, time.process_time() - start_cpu_s
    stopping.set()
    versions = {"torch": torch.__version__, "torchcodec": library.__version__}
    return {
        "frames_per_s": frames / seconds,
        "cores_busy": cpu_s / seconds,
        "cpu_ms_per_frame": 1e3 * cpu_s / max(frames, 1),
        "versions": versions,
    }


# ---------------------------------------------------------------------------------------------------------------- the run


def run_peer(clip: Path, threads: int, args: argparse.Namespace) -> dict[str, Any]:
    """The other program in a process of its own."""
    command = [args.peer_python, str(Path(__file__).resolve()), "--worker", str(threads), str(clip)]
    command += [*_shared(args), *(() if args.compile else ("--no-compile",))]
    try:
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=args.timeout, check=False)
    except subprocess.TimeoutExpired:
        return {"error": f"did not end within {args.timeout:g} s"}
    if done.returncode:
        return {"error": f"ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def run_ours(clip: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What gpu_pipeline.py finds, as far as it comes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "found.json"
        command = [sys.executable, str(_HERE / "gpu_pipeline.py"), str(clip), "--sources", args.sources]
        command += ["--precision", "fp16" if args.device == "cuda" else "fp32", "--json", str(path)]
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run([*command, *_shared(args)], stdout=sys.stderr, timeout=args.timeout, check=False)
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"results": []}
    return found


def _shared(args: argparse.Namespace) -> list[str]:
    """Options that both programs take."""
    numbers = {"--batch": args.batch, "--warm": args.warm, "--seconds": args.seconds}
    options = {"--model": f"yolov8n={args.model}", "--device": args.device, **numbers}
    return [str(part) for option in options.items() for part in option]


def show(who: str, number: int, found: dict[str, Any]) -> None:
    """A line for a measurement."""
    if "error" in found:
        print(f"  {who:10} {number:3}: {found['error']}", flush=True)
        return
    rate, cost = found["frames_per_s"], found["cpu_ms_per_frame"]
    print(
        f"  {who:10} {number:3}: {rate:7,.0f} frames/s, {found['cores_busy']:.1f} cores, {cost:.2f} CPU-ms a frame",
        flush=True,
    )


def best_of(found: dict[int, dict[str, Any]]) -> float:
    """The highest rate; 0 if there is none."""
    return max((one["frames_per_s"] for one in found.values() if "error" not in one), default=0.0)


def main() -> int:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clips", nargs="+", type=Path)
    parser.add_argument("--model", required=True, help="the SavedModel that networks.py wrote")
    parser.add_argument("--threads", default="7,14,28", help="of the other program, one after another (%(default)s)")
    parser.add_argument("--sources", default="7,21,64", help="videos of the pipeline at a time (%(default)s)")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter with torch and torchcodec")
    parser.add_argument(
        "--no-compile", dest="compile", action="store_false", help="the other program without torch.compile"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--warm", type=float, default=2.0, help="seconds before a measurement (%(default)s)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of a measurement (%(default)s)")
    parser.add_argument("--timeout", type=float, default=600.0, help="seconds that a process may take (%(default)s)")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"], help="cpu: to try it out")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(torchcodec(str(args.clips[0]), args.worker, args)), flush=True)
        os._exit(0)  # decoding threads may be in the middle of a call

    results = []
    for clip in args.clips:
        print(clip.name, flush=True)
        peers = {}
        for threads in map(int, args.threads.split(",")):
            peers[threads] = run_peer(clip, threads, args)
            show("torchcodec", threads, peers[threads])
        report = run_ours(clip, args)
        ours = {cell["sources"]: cell.get("pipeline", cell) for cell in report.pop("results")}
        for sources, found in ours.items():
            show("vramline", sources, found)
        theirs, own = best_of(peers), best_of(ours)
        ratio = own / theirs if theirs else None
        print(f"  best against best: {'unknown' if ratio is None else f'{ratio:.2f} x'}", flush=True)
        report |= {"benchmark": "gpu_peers", "batch": args.batch}
        results.append({"clip": clip.name, "torchcodec": peers, "vramline": ours, "ratio": ratio})
        if args.json:
            args.json.write_text(json.dumps({**report, "results": results}, indent=2) + "\n")
    return int(any(result["ratio"] is None for result in results))


if __name__ == "__main__":
    sys.exit(main())
