"""How many live streams one machine keeps up with, and what hundreds of reconnects leave behind.

    python benchmarks/live_capacity.py VIDEO --model SAVED_MODEL --card coco-ssd [--device cuda] [--streams 16 32 64] [--json FILE]

Processes of their own send VIDEO (H.264 or HEVC) over and over as MPEG-TS to UDP ports of the loopback, each frame when it
is due (its key frames should be a second or so apart: a stream begins with one). For every number of streams the pipeline
runs for a while with its JSONL sink, and then says how many of the frames that came have no result, by cause, and p50/p99 of
the latency from packet to record. The last number of streams then goes through `--reconnects` forced reconnects, all streams
at a time, and what the process holds is noted after each round.

UDP loses what nobody reads in time; what was lost before it reached the program shows as a rate below the nominal one.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import json
import multiprocessing
import os
import platform
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

_DATAGRAM_BYTES = 7 * 188


def frames_of(video: Path) -> tuple[list[bytes], float]:
    """The MPEG-TS bytes of each frame, and how many seconds each lasts."""
    import av

    buffer, pieces = io.BytesIO(), []
    with av.open(str(video)) as source, av.open(buffer, "w", format="mpegts", options={"flush_packets": "1"}) as target:
        stream = source.streams.video[0]
        out = target.add_stream_from_template(stream)
        seconds = float(1 / stream.average_rate)
        for packet in source.demux(stream):
            if packet.size:
                packet.stream = out
                before = buffer.tell()
                target.mux(packet)
                pieces.append(buffer.getvalue()[before:])
    return [piece for piece in pieces if piece], seconds


def send(pieces: list[bytes], seconds: float, ports: list[int], ended: Any) -> None:
    """Sends the frames to every port, for ever; streams are spread over a frame's time."""
    out = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
    places = [i * len(pieces) // len(ports) for i in range(len(ports))]  # each stream is elsewhere in the clip
    start = time.monotonic()
    for number in itertools.count():
        for i, port in enumerate(ports):
            due = start + (number + i / len(ports)) * seconds
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(wait)
            piece = pieces[(places[i] + number) % len(pieces)]
            for at in range(0, len(piece), _DATAGRAM_BYTES):
                with contextlib.suppress(OSError):  # nobody listens yet
                    out.sendto(piece[at : at + _DATAGRAM_BYTES], ("127.0.0.1", port))
        if ended.is_set():
            return


@contextlib.contextmanager
def cameras(video: Path, count: int, processes: int) -> Iterator[list[int]]:
    """Ports on which `count` cameras send."""
    probes = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    pieces, seconds = frames_of(video)
    context = multiprocessing.get_context("spawn")
    ended = context.Event()
    workers = [
        context.Process(target=send, args=(pieces, seconds, ports[i::processes], ended), daemon=True)
        for i in range(min(processes, count))
    ]
    for worker in workers:
        worker.start()
    try:
        yield ports
    finally:
        ended.set()
        for worker in workers:
            worker.join(10)


def footprint() -> dict[str, float]:
    """What the process holds; GPU memory where there is a GPU."""
    found = {
        "rss_mb": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20,
        "threads": threading.active_count(),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }
    try:
        query = ["nvidia-smi", "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
        found["vram_mb"] = float(subprocess.run(query, capture_output=True, text=True, check=True).stdout.split()[0])
    except (OSError, subprocess.CalledProcessError, IndexError, ValueError):
        pass
    return found


def configuration(args: argparse.Namespace, ports: list[int], out: Path) -> dict[str, Any]:
    """All cameras, with the defaults of live streams."""
    from pipeline.config.cards import load_model_card

    card = load_model_card(args.card)
    return {
        "device": args.device,
        "sources": [{"url": f"udp://127.0.0.1:{port}", "id": f"cam{i}"} for i, port in enumerate(ports)],
        "pipeline": {
            "model": {"path": str(args.model), "precision": args.precision, "xla": args.xla},
            "preprocess": card.preprocess,
            "postprocess": card.postprocess,
        },
        "sinks": [{"type": "jsonl", "path": str(out), "overwrite": True}],
        "runtime": {"batch_size": args.batch, "max_connects": 64},
    }


def totals(status: Any) -> dict[str, int]:
    """Frames received, with results, and dropped by cause, over all streams."""
    sources = list(status.sources.values())
    found = {"received": sum(s.totals.packets for s in sources), "results": sum(s.results for s in sources)}
    for source in sources:
        for cause, number in source.dropped.items():
            found[cause.value] = found.get(cause.value, 0) + number
    return found


def run(
    args: argparse.Namespace, count: int, kept: Any, *, reconnects: int, note: Callable[[dict[str, Any]], None]
) -> None:
    """One number of streams; `kept` is a `KeptModel`, and `note` is told what is known as soon as it is."""
    from pipeline import Pipeline
    from pipeline.config.load import config_from_mapping
    from pipeline.observe.status import SourceState

    with tempfile.TemporaryDirectory() as folder, cameras(args.video, count, args.senders) as ports:
        config = config_from_mapping(configuration(args, ports, Path(folder) / "out.jsonl"))
        pipeline = Pipeline(config, build=kept.build)
        pipeline.prepare()
        runner = threading.Thread(target=pipeline.run)
        runner.start()
        status = pipeline.status
        end = time.monotonic() + 60
        while time.monotonic() < end and any(s.state is not SourceState.RUNNING for s in list(status.sources.values())):
            time.sleep(0.05)
        time.sleep(args.warm)
        for source in status.sources.values():  # what the start cost is left out
            source.latency.update({name: type(h)() for name, h in source.latency.items()})
        first, cpu, start = totals(status), time.process_time(), time.monotonic()
        time.sleep(args.seconds)
        last, elapsed = totals(status), time.monotonic() - start
        busy = time.process_time() - cpu
        delta = {name: last.get(name, 0) - first.get(name, 0) for name in last}
        worst = [s.latency["total"] for s in status.sources.values()]
        result: dict[str, Any] = {
            "streams": count,
            "running": sum(s.state is SourceState.RUNNING for s in status.sources.values()),
            "received_per_s_per_stream": delta["received"] / elapsed / count,
            "results_per_s": delta["results"] / elapsed,
            "dropped": {k: v for k, v in delta.items() if k not in ("received", "results") and v},
            "cpu_ms_per_frame": 1e3 * busy / max(delta["results"], 1),
            "p50_ms": 1e3 * max(h.quantile(0.5) or 0 for h in worst),
            "p99_ms": 1e3 * max(h.quantile(0.99) or 0 for h in worst),
        }
        note(result)
        if reconnects:
            for found in reconnect(pipeline, reconnects):
                result["reconnects"] = found
                note(result)
        pipeline.stop()
        runner.join(60)
        result["in_flight_at_the_end"] = sum(s.in_flight for s in status.sources.values())
        note(result)


def reconnect(pipeline: Any, count: int) -> Iterator[dict[str, Any]]:
    """Forces so many reconnects, all streams at a time.

    Yields, after each round when all run again, how many there were and what the process held after each.
    """
    from pipeline.observe.status import SourceState

    sources = list(pipeline.status.sources.values())
    before = sum(s.reconnects for s in sources)
    held, start = [footprint()], time.monotonic()
    for _ in range(-(-count // len(sources))):
        wanted = {source.source_id: source.connects + 1 for source in sources}
        for source in sources:
            pipeline.restart_source(source.source_id)
        end = time.monotonic() + 60
        while time.monotonic() < end and any(
            s.connects < wanted[s.source_id] or s.state is not SourceState.RUNNING for s in sources
        ):
            time.sleep(0.02)
        time.sleep(1)  # let the old connections' memory come back
        held.append(footprint())
        yield {
            "count": sum(s.reconnects for s in sources) - before,
            "running": sum(s.state is SourceState.RUNNING for s in sources),
            "seconds": time.monotonic() - start,
            "after_each_round": held,
        }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--card", required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--streams", type=int, nargs="+", default=[16, 32, 64, 96, 128])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--precision", default="fp16", choices=["fp32", "fp16", "auto"])
    parser.add_argument("--xla", action="store_true", help="let XLA compile the model")
    parser.add_argument("--senders", type=int, default=4)
    parser.add_argument("--warm", type=float, default=4.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--reconnects", type=int, default=500)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import av
    import tensorflow as tf

    import pipeline
    from pipeline.bench.run import KeptModel

    report: dict[str, Any] = {
        "versions": {
            "python": platform.python_version(),
            "av": av.__version__,
            "tensorflow": tf.__version__,
            "vramline": pipeline.__version__,
        },
        "gpu": [
            tf.config.experimental.get_device_details(d).get("device_name")
            for d in tf.config.list_physical_devices("GPU")
        ],
        "cores": os.cpu_count(),
        "video": args.video.name,
        "model": args.model.name,
        "device": args.device,
        "results": [],
    }

    def note(result: dict[str, Any]) -> None:
        if not report["results"] or report["results"][-1]["streams"] != result["streams"]:
            report["results"].append(result)
        if args.json:
            args.json.write_text(json.dumps(report, indent=2) + "\n")

    kept = KeptModel()
    for count in args.streams:
        run(args, count, kept, reconnects=args.reconnects if count == args.streams[-1] else 0, note=note)
        print(json.dumps(report["results"][-1]), flush=True)
    kept.close()


if __name__ == "__main__":
    main()
