"""What a measurement depends on: machine, versions, clips."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import av
import av.error

from pipeline import __version__
from pipeline.bench.cpu import usable_cores
from pipeline.bench.gpu import GpuFacts
from pipeline.observe.machine import distributions
from pipeline.sources.resolve import VideoSpec

if TYPE_CHECKING:
    from av.video.stream import VideoStream

_PACKAGES = ("tensorflow", "av", "numpy", "cupy-cuda12x", "cvcuda-cu12", "pynvvideocodec", "nvidia-ml-py")


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it was measured.

    Attributes:
        system: Kernel and architecture.
        cpu: The processor's name.
        cores: That this process may use.
        gpu: None where none is used, or it cannot be watched.
    """

    system: str
    cpu: str
    cores: int
    gpu: GpuFacts | None


@dataclass(frozen=True, slots=True)
class Clip:
    """One of the videos, as its container states it.

    Attributes:
        name: The file's name.
        codec: FFmpeg's name of it.
        width: In pixels, as coded.
        height: The same.
        frame_rate: Frames/s of the video itself; None if unknown.
        frames: None if unknown.
        bit_rate: Bits/s of the whole file; None if unknown.
        used: How many of the sources play it.
    """

    name: str
    codec: str
    width: int
    height: int
    frame_rate: float | None
    frames: int | None
    bit_rate: int | None
    used: int


def machine(gpu: GpuFacts | None) -> Machine:
    """This one."""
    return Machine(f"{platform.system()} {platform.release()} {platform.machine()}", _cpu_name(), cores(), gpu)


def cores() -> int:
    """How many this process may use."""
    return len(usable_cores())


def versions() -> dict[str, str]:
    """Of vramline, Python, and the packages that do the work as far as they are installed."""
    found = distributions()
    packages = {name: found[name] for name in _PACKAGES if name in found}
    return {"vramline": __version__, "python": platform.python_version(), **packages}


def clips(specs: Sequence[VideoSpec]) -> list[Clip]:
    """The files of the sources, each once; one that cannot be opened is left out, who decodes it will say why."""
    used: dict[str, int] = {}
    for spec in specs:
        used[spec.location] = used.get(spec.location, 0) + 1
    return [clip for path, times in used.items() if (clip := _clip(path, times)) is not None]


def _clip(path: str, used: int) -> Clip | None:
    try:
        with av.open(f"file:{path}") as container:
            stream = cast("VideoStream | None", container.streams.best("video"))
            if stream is None:
                return None
            context, rate = stream.codec_context, stream.average_rate
            return Clip(
                Path(path).name,
                context.codec.canonical_name,
                context.width,
                context.height,
                float(rate) if rate else None,
                stream.frames or None,
                container.bit_rate or None,
                used,
            )
    except (av.error.FFmpegError, OSError):
        return None


def _cpu_name(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    try:
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"
