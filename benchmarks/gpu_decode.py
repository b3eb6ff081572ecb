"""How many frames/s NVDEC decodes through this project's session, and what the decoding threads cost.

    python benchmarks/gpu_decode.py VIDEO [VIDEO ...] [--decoders 1,7,14,21,28] [--seconds 1.5] [--ring 8] [--json FILE]

The packets are read once and lie in memory; every decoder goes round them in a thread of its own, and all share one CUDA
stream. Surfaces are held for a while, as a batch holds them, and given back unread. Counted: frames that came out from a second
after all decoders had given one. With `--whole` the packets come from the file instead, through the decoder that the pipeline
uses: demuxing, frames and timestamps included. A point takes a second, `--seconds` and what opening the decoders takes; `--json` is
written after each.
"""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gpu_report

from pipeline.bench.meter import Meter, Timing
from pipeline.bench.parts import Workers

WARM_S = 1.0


class Stream:
    """A stream of our own, as `DeviceStream`."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy.cuda.Stream(non_blocking=True)
        self.handle, self.ordinal = self.cupy.ptr, 0


class Clip:
    """A video's packets as NVDEC takes them."""

    def __init__(self, path: Path) -> None:
        import av

        from pipeline.decode._packets import ForNvdec
        from pipeline.decode._session import surface_layout

        self.path = path
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            context = stream.codec_context
            self.codec = context.codec.canonical_name
            self.size = context.width, context.height
            self.bit_rate = container.bit_rate
            self.layout = surface_layout(*self.size, context.pix_fmt)
            nvdec = ForNvdec(stream)
            self.packets = [bytes(unit) for p in container.demux(stream) if p.size for unit in nvdec.convert(p)]


def session_frames(clip: Clip, stream: Stream, ring: int) -> Iterator[Any]:
    """Surfaces without end."""
    from pipeline.decode._session import NvdecSession
    from pipeline.decode._surface_ring import SurfaceRing
    from pipeline.decode.capabilities import load_nvcodec

    slots = SurfaceRing(ring)
    session = NvdecSession(load_nvcodec(), stream, clip.codec, clip.layout, slots)
    while True:
        for packet in clip.packets:
            for _ in range(session.decode(packet)):
                slots.take()
                yield session.surface()


def decoder_frames(clip: Clip, stream: Stream, ring: int) -> Iterator[Any]:
    """The same through the pipeline's decoder, which plays the file in a loop."""
    from pipeline.config.sources import Source
    from pipeline.config.stages import Decode
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.sources import VideoSpec

    spec = VideoSpec("v", str(clip.path), str(clip.path), False, Source(path=str(clip.path), loop=True))
    for frame in open_nvdec(spec, Decode(fallback="error"), stream=stream, ring=ring):
        yield frame.picture.surface


def measure(
    frames_of: Callable[..., Iterator[Any]], clip: Clip, stream: Stream, decoders: int, args: argparse.Namespace
) -> dict[str, Any]:
    """One point: frames/s of all decoders together."""
    counts = [0] * decoders

    def work(number: int, workers: Workers) -> None:
        held: deque[Any] = deque()
        try:
            for surface in frames_of(clip, stream, args.ring):
                held.append(surface)
                if len(held) >= args.ring - 1:
                    held.popleft().release()
                counts[number] += 1
                if workers.is_stopping:
                    return
        finally:
            while held:
                held.popleft().release()

    with Workers(f"{decoders} decoders", [partial(work, i) for i in range(decoders)]) as workers:
        measured, start, end = Meter(Timing(WARM_S, args.seconds)).watch(
            workers.what,
            lambda: sum(counts),
            note=lambda: list(counts),
            is_ready=lambda: all(counts),
            check=workers.check,
        )
    per_decoder = [(b - a) / measured.seconds for a, b in zip(start.note, end.note, strict=True)]
    return {
        "decoders": decoders,
        "frames_per_s": round(measured.frames_per_s, 1),
        "slowest_per_s": round(min(per_decoder), 1),
        "fastest_per_s": round(max(per_decoder), 1),
        "cpu_cores": round(measured.cores_busy, 2),
        "cpu_us_per_frame": round(1e3 * measured.cpu_ms_per_frame, 1),
    }


def main() -> None:
    """Measures, prints, and writes JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--decoders", default="1,7,14,21,28", help="how many at a time, one after another")
    parser.add_argument("--seconds", type=float, default=1.5, help="of a measurement")
    parser.add_argument("--ring", type=int, default=8, help="surfaces that a decoder may have out")
    parser.add_argument(
        "--whole", action="store_true", help="the pipeline's decoder on the file, not packets in memory"
    )
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    stream = Stream()
    frames_of = decoder_frames if args.whole else session_frames
    source = "file" if args.whole else "packets in memory"
    results: list[dict[str, Any]] = []
    for path in args.videos:
        clip = Clip(path)
        points: list[dict[str, Any]] = []
        about = {"name": path.name, "codec": clip.codec, "width": clip.size[0], "height": clip.size[1]}
        results.append({"clip": {**about, "bit_rate": clip.bit_rate}, "points": points})
        for decoders in (int(n) for n in args.decoders.split(",")):
            try:
                point = measure(frames_of, clip, stream, decoders, args)
            except Exception as e:  # one point's error belongs into the report
                point = {"decoders": decoders, "error": f"{type(e).__name__}: {e}"}
            print(f"{path.name}: {point}", flush=True)
            points.append(point)
            gpu_report.write(args.json, "gpu_decode", source=source, ring=args.ring, results=results)


if __name__ == "__main__":
    main()
