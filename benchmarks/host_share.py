"""What the host does for each frame of the `cuda` engine, without a GPU: NVDEC and the GPU are clocks, all around them is real.

    python benchmarks/host_share.py CLIP.mp4 [--videos 7] [--boxes 20]

Decoders, threads, queues, preprocessing's and postprocessing's host side, and the JSONL sink are those of a run; kernels, the
model and NVDEC take their time and do nothing. Prints the rate as a share of what the clocks allow, and the CPU time of
each kind of thread for a frame. Machines whose speed varies make both vary: compare by turns.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import subprocess
import sys
import tempfile
import threading
import time
import types
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

ENGINES = 7
BATCH = 64
SIZE = 640
# What enqueueing a model takes, with the interpreter's lock.
ENQUEUE_S = 300e-6


class Gpu:
    """When all that has been enqueued will be done."""

    def __init__(self) -> None:
        self.free_s = 0.0

    def take(self, seconds: float) -> None:
        """Enqueues something that takes so long."""
        self.free_s = max(time.perf_counter(), self.free_s) + seconds


class Nvdec:
    """Seven engines, each of which decodes so many pictures a second."""

    def __init__(self, pictures_per_s: float, unit_types: tuple[int, int, range]) -> None:
        """`unit_types`: shift, mask and the types of a unit's first byte that are a picture; a picture is one unit."""
        self._interval_s, self._types = 1 / pictures_per_s, unit_types
        self._lock = threading.Lock()
        self._free_s = [0.0] * ENGINES
        self._counts: dict[int, int] = {}
        self._made = itertools.count()

    def decoder(self) -> SimpleNamespace:
        """One of PyNvVideoCodec's."""
        engine, pointers = next(self._made) % ENGINES, itertools.cycle(range(1 << 28, 200 << 28, 1 << 28))
        return SimpleNamespace(
            GetNumDecodedFrame=lambda packet: self._decode(engine, packet),
            GetLockedFrame=lambda: next(pointers),
            UnlockFrame=lambda pointer: None,
        )

    def _decode(self, engine: int, packet: Any) -> int:
        if not packet.bsl:
            return 0
        count = self._counts.get(packet.bsl)  # of the same clip again and again
        if count is None:
            shift, mask, wanted = self._types
            units = ctypes.string_at(packet.bsl_data, packet.bsl).split(b"\0\0\0\1")[1:]
            count = self._counts[packet.bsl] = sum((unit[0] >> shift & mask) in wanted for unit in units)
        with self._lock:
            now_s = time.perf_counter()
            self._free_s[engine] = max(now_s, self._free_s[engine]) + count * self._interval_s
            wait_s = self._free_s[engine] - self._interval_s - now_s  # the last one goes on meanwhile
        if wait_s > 0:
            time.sleep(wait_s)
        return count


def fake_cupy(gpu: Gpu) -> types.ModuleType:
    """As much of CuPy as is used, whose events are done when the GPU's clock says so."""

    class Stream:
        ptr = 1

        def __init__(self, **_: Any) -> None:
            pass

        def __enter__(self) -> Stream:
            return self

        def __exit__(self, *_: object) -> None:
            pass

        def wait_event(self, event: Any) -> None:
            pass

    class Event:
        def __init__(self, **_: Any) -> None:
            self._done_s = 0.0

        def record(self, stream: Any) -> None:
            self._done_s = gpu.free_s

        @property
        def done(self) -> bool:
            return time.perf_counter() >= self._done_s

        def synchronize(self) -> None:
            time.sleep(max(0.0, self._done_s - time.perf_counter()))

    class Array:
        data, nbytes = SimpleNamespace(ptr=4096), BATCH << 12

        def __init__(self, shape: Any, dtype: Any = "u1") -> None:
            self.shape, self.dtype = shape if isinstance(shape, tuple) else (shape,), np.dtype(dtype)

        def __getitem__(self, key: Any) -> Array:
            return self

        def __len__(self) -> int:
            return int(self.shape[0])

    found = types.ModuleType("cupy")
    runtime = SimpleNamespace(memcpyAsync=lambda *_: None, memcpyDeviceToHost=2, memcpyHostToDevice=1)
    vars(found).update(
        cuda=SimpleNamespace(
            Event=Event, Stream=Stream, Device=lambda number: Stream(), alloc_pinned_memory=bytearray, runtime=runtime
        ),
        empty=Array,
        zeros=Array,
        asarray=lambda values: Array(values.shape, values.dtype),
    )
    return found


def fake_nvcodec(nvdec: Nvdec) -> types.ModuleType:
    """PyNvVideoCodec, which decodes H.264 and HEVC."""
    found = types.ModuleType("PyNvVideoCodec")
    caps = {"supported": 1, "num_decoder_engines": ENGINES, "width_min": 48, "height_min": 16}
    caps |= {"width_max": 4096, "height_max": 4096, "mb_num_max": 65536}
    names = ("H264", "HEVC", "VP9", "VP8", "MPEG1", "MPEG2", "MPEG4", "JPEG", "AV1")
    vars(found).update(
        PacketData=SimpleNamespace,
        PyNvVCException=type("PyNvVCException", (Exception,), {}),
        PyNvVCExceptionUnsupported=type("PyNvVCExceptionUnsupported", (Exception,), {}),
        cudaVideoCodec=SimpleNamespace(**{name: name for name in names}),
        cudaVideoChromaFormat=SimpleNamespace(**{"420": "420", "444": "444"}),
        GetDecoderCaps=lambda **_: caps,
        CreateDecoder=lambda **_: nvdec.decoder(),
    )
    return found


def native_texts(folder: Path) -> None:
    """Builds and loads what writes the text of detections; without g++ Python does."""
    from pipeline.inference import shared_stream
    from pipeline.sinks.native_texts import use_library

    source = Path(shared_stream.__file__).with_name("detection_texts.cc")
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", str(source), "-o", str(folder / "texts.so")]
    subprocess.run(command, check=True)
    use_library(folder / "texts.so")


class Threads:
    """CPU seconds by kind of thread."""

    def __init__(self) -> None:
        self.seen: list[dict[str, float]] = []

    def note(self, _cores: Any = None) -> None:
        """Looks at all threads."""
        names = {thread.native_id: thread.name for thread in threading.enumerate()}
        found: dict[str, float] = {}
        for task in Path("/proc/self/task").iterdir():
            name = names.get(int(task.name), "others")
            kind = next((kind for kind in ("source", "nvdec") if name.startswith(kind)), name)
            used_ns = int((task / "schedstat").read_text().split()[0])
            found[kind] = found.get(kind, 0.0) + used_ns / 1e9
        self.seen.append(found)

    def between(self) -> dict[str, float]:
        """From the first look to the last."""
        first, last = self.seen[0], self.seen[-1]
        return {kind: used_s - first.get(kind, 0.0) for kind, used_s in sorted(last.items())}


class Model:
    """Takes the GPU so long for a full batch."""

    name, batch_size, outputs, input = "clock@000000000000", BATCH, (), None

    def __init__(self, gpu: Gpu, frame_s: float) -> None:
        self._gpu, self._frame_s = gpu, frame_s
        self._output = SimpleNamespace(
            shape=(BATCH, 8400, 84),
            dtype=np.dtype("float32"),
            strides=(8400 * 84 * 4, 84 * 4, 4),
            data=SimpleNamespace(ptr=4096),
            flags=SimpleNamespace(c_contiguous=True),
        )

    def rows(self, frames: int) -> int:
        """Always all."""
        return BATCH

    def __call__(self, tensor: Any) -> dict[str, Any]:
        end_s = time.perf_counter() + ENQUEUE_S
        while time.perf_counter() < end_s:
            pass
        self._gpu.take(BATCH * self._frame_s)
        return {"detections": self._output}

    def close(self) -> None:
        """There is nothing to close."""


def fill(postprocess: Any, boxes: int) -> None:
    """So many boxes for each frame, in the memory that results are copied to."""
    rng = np.random.default_rng(0)
    for slot in postprocess.downloads._free:
        results = slot.bytes[: BATCH * postprocess._results.itemsize].view(postprocess._results)
        results["header"]["count"], results["header"]["largest"] = boxes, 0.9
        rows = results["rows"]
        rows["box"], rows["score"] = rng.random(rows["box"].shape) * 1000, rng.random(rows.shape)
        rows["class_id"] = rng.integers(0, 80, rows.shape)


def main() -> int:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clip", type=Path, help="an MP4 file of H.264 or HEVC, a slice a picture")
    parser.add_argument("--videos", type=int, default=7)
    parser.add_argument("--engine-rate", type=float, default=1280, help="pictures/s of an NVDEC engine (%(default)s)")
    parser.add_argument("--gpu-us", type=float, default=95, help="of the GPU for a frame (%(default)s)")
    parser.add_argument("--boxes", type=int, default=20, help="that are found in a frame (%(default)s)")
    parser.add_argument("--cpus", type=int, help="as `runtime.cpus`")
    parser.add_argument("--python-texts", action="store_true", help="the text of detections is written by Python")
    parser.add_argument("--seconds", type=float, default=4.0)
    args = parser.parse_args()

    import av

    with av.open(str(args.clip)) as container:
        codec = container.streams.video[0].codec_context.name
    gpu = Gpu()
    nvdec = Nvdec(args.engine_rate, (1, 0x3F, range(32)) if codec == "hevc" else (0, 0x1F, range(1, 6)))
    sys.modules["cupy"], sys.modules["PyNvVideoCodec"] = fake_cupy(gpu), fake_nvcodec(nvdec)

    from pipeline.bench import meter as meters
    from pipeline.bench.meter import Meter, Timing
    from pipeline.bench.plan import make_plan
    from pipeline.bench.whole import Counter, measure
    from pipeline.config.load import config_from_mapping
    from pipeline.decode import capabilities
    from pipeline.decode.apart import DecodeStream
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.decode.turnstile import DecodeTurns, Turnstile
    from pipeline.observe import machine
    from pipeline.observe.status import StageTimes
    from pipeline.postprocess.cuda import detection
    from pipeline.preprocess import device_plans, fused
    from pipeline.runtime import engines, vram
    from pipeline.runtime.build import find_videos
    from pipeline.runtime.outputs import Outputs
    from pipeline.runtime.pipeline import Pipeline
    from pipeline.runtime.steps import STAGES, Stages
    from pipeline.sinks.jsonl import jsonl_sink
    from pipeline.stages import TensorInfo

    driver = machine.Driver((13, 0), (machine.Gpu("a clock", 1),))
    threads = Threads()
    nothing = lambda *_: lambda *_: None  # noqa: E731
    stand_ins: list[tuple[Any, str, Any]] = [
        (capabilities, "driver", lambda: driver),
        (capabilities, "has_library", lambda name: True),
        (detection, "kernel", nothing),
        (fused, "fused_kernel", nothing),
        (device_plans, "Uploader", lambda stream: SimpleNamespace(upload=lambda data: SimpleNamespace(ptr=4096))),
        (meters, "machine_busy_s", threads.note),
    ]
    for module, name, stand_in in stand_ins:
        setattr(module, name, stand_in)

    counter = Counter()

    def build(config: Any, specs: Any, status: Any, _progress: object) -> Stages:
        stream: Any = SimpleNamespace(ordinal=0, cupy=sys.modules["cupy"].cuda.Stream(), handle=1)
        status.device, status.batch_size = "cuda", BATCH
        status.stages = {name: StageTimes() for name in STAGES}
        stages = config.pipeline
        postprocess = detection.CudaDetectionPostprocessor(
            stages.postprocess,
            (TensorInfo("detections", "float32", (None, 8400, 84)),),
            model_size=(SIZE, SIZE),
            stream=stream,
            max_frames=BATCH,
        )
        fill(postprocess, args.boxes)
        outputs = Outputs([jsonl_sink(config.sinks[0])], status)
        outputs.open()
        outputs.add(counter)
        decode_stream = DecodeStream(stream)
        turns = DecodeTurns(Turnstile(engines._READING_VIDEOS), Turnstile(engines._DECODING_VIDEOS))
        is_ahead = args.videos <= vram._VIDEOS_DECODED_AHEAD
        ring = vram._LEAST_SURFACES + 9 * BATCH // args.videos

        def open_decoder(spec: Any, stats: Any) -> Any:
            return open_nvdec(
                spec, stages.decode, stats, stream=decode_stream, ring=ring, turns=turns, is_ahead=is_ahead
            )

        return Stages(
            open_decoder=open_decoder,
            preprocess=fused.FusedPreprocessor(stages.preprocess, {}, stream=stream, max_rows=BATCH),
            model=Model(gpu, args.gpu_us / 1e6),  # type: ignore[arg-type]
            postprocess=postprocess,
            outputs=outputs,
            on_device=True,
            decode_stream=decode_stream,
        )

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if not args.python_texts:
            native_texts(folder)
        preprocess = {"size": [SIZE, SIZE], "scale": 1 / 255, "layout": "nhwc", "dtype": "float16"}
        config = config_from_mapping(
            {
                "device": "cuda",
                "sources": [str(args.clip)],
                "pipeline": {
                    "model": {"path": "clock"},
                    "preprocess": preprocess,
                    "postprocess": {"family": "yolo", "labels": "coco80", "score_threshold": 0.5},
                },
                "sinks": [{"type": "jsonl", "path": str(folder / "records.jsonl")}],
                "runtime": {"batch_size": BATCH, **({} if args.cpus is None else {"cpus": args.cpus})},
            }
        )
        plan = make_plan(config, find_videos(config.sources, None), args.videos, folder)
        with Pipeline(plan.config, build=build) as pipeline:
            pipeline.prepare()
            measured = measure(pipeline, counter, Meter(Timing(1.0, args.seconds))).measured
    most = min(min(args.videos, ENGINES) * args.engine_rate, 1e6 / args.gpu_us)
    print(
        f"{args.videos} x {args.clip.name}: {measured.frames_per_s:.0f} frames/s, {measured.frames_per_s / most:.3f} of {most:.0f}"
    )
    for kind, used_s in threads.between().items():
        share_us = 1e6 * used_s / measured.frames
        if share_us >= 0.5:
            print(f"  {kind:14} {share_us:6.1f} us of CPU a frame")
    sys.stdout.flush()
    os._exit(0)  # the clocks' threads have nothing to finish


if __name__ == "__main__":
    sys.exit(main())
