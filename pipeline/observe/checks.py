"""What `vramline doctor` says: what is there, what is missing, and how to get it."""

from __future__ import annotations

import enum
import platform
import signal
from dataclasses import dataclass

from pipeline.observe import machine
from pipeline.observe.facts import CODECS, Facts, GpuPackage
from pipeline.observe.machine import CONTAINER, GPU_EXTRA
from pipeline.observe.text import count, size
from pipeline.vram import MIB

CORE_PACKAGES = ("av", "numpy", "orjson", "pillow", "pydantic", "pyyaml", "rich", "typer")
SMALL_DISK_BYTES = 1_000_000_000
SMALL_GPU_BYTES = 1024 * MIB


class Level(str, enum.Enum):
    """How a check ended."""

    OK = "ok"
    MISSING = "missing"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the doctor's report.

    Attributes:
        group: What it is needed for: `cpu engine`, `cuda engine`, `models` or `machine`.
        name: What was looked at.
        level: How it ended.
        detail: What was found.
        remedy: What to do, a command where there is one; None where nothing needs doing.
    """

    group: str
    name: str
    level: Level
    detail: str
    remedy: str | None = None


def checks(facts: Facts) -> list[Check]:
    """All lines of the report, in order."""
    return [
        _python(facts),
        _packages(facts),
        _ffmpeg(facts),
        _tensorflow(facts),
        _driver(facts),
        *_gpu_memory(facts),
        _nvdec(facts),
        _tensorflow_gpu(facts),
        *(_gpu_package(package, facts) for package in facts.gpu_packages),
        _management(facts),
        _compiler(facts),
        _npm(facts),
        _cache(facts),
        Check("machine", "system", Level.OK, f"{platform.system()} {platform.machine()}, {count(facts.cores, 'core')}"),
        Check("machine", "terminal", Level.OK, "live display" if facts.terminal else "none: progress as log lines"),
    ]


def cpu_engine_works(found: list[Check]) -> bool:
    """Whether at least the cpu engine can run."""
    return all(check.level is Level.OK for check in found if check.group == "cpu engine")


def _python(facts: Facts) -> Check:
    version = ".".join(map(str, facts.python))
    if (3, 10) <= facts.python < (3, 14):
        return Check("cpu engine", "Python", Level.OK, version)
    return Check("cpu engine", "Python", Level.PROBLEM, f"{version} is not supported", "use Python 3.10 to 3.13")


def _packages(facts: Facts) -> Check:
    missing = [name for name in CORE_PACKAGES if name not in facts.packages]
    if missing:
        return Check("cpu engine", "packages", Level.MISSING, ", ".join(missing), "pip install vramline")
    found = ", ".join(f"{name} {facts.packages[name]}" for name in CORE_PACKAGES)
    return Check("cpu engine", "packages", Level.OK, found)


def _ffmpeg(facts: Facts) -> Check:
    if facts.av.problem:
        remedy = "pip install --force-reinstall av"
        return Check("cpu engine", "FFmpeg", Level.PROBLEM, f"PyAV cannot be used: {facts.av.problem}", remedy)
    found = facts.av.value
    lacking = [codec for codec in CODECS if codec not in found["decoders"]]
    detail = f"{found['ffmpeg']} in PyAV {found['version']}; decodes {', '.join(found['decoders'])}"
    if lacking or not found["x264"]:
        lacks = [*(f"decoder {codec}" for codec in lacking), *([] if found["x264"] else ["encoder libx264"])]
        detail += f"; lacks {', '.join(lacks)}"
        return Check("cpu engine", "FFmpeg", Level.PROBLEM, detail, "pip install --only-binary av --force-reinstall av")
    return Check("cpu engine", "FFmpeg", Level.OK, f"{detail}; encodes h264")


def _tensorflow(facts: Facts) -> Check:
    trial = facts.tensorflow
    if not trial.problem:
        return Check("cpu engine", "TensorFlow", Level.OK, str(trial.value["version"]))
    if trial.ended_by == signal.SIGILL:
        remedy = "TensorFlow's wheels need a CPU with AVX: use another machine, or a build for this one"
    else:
        remedy = "pip install --force-reinstall tensorflow"
    return Check("cpu engine", "TensorFlow", Level.PROBLEM, f"cannot be used: {trial.problem}", remedy)


def _driver(facts: Facts) -> Check:
    found = facts.driver
    if not found.problem:
        gpus = ", ".join(f"{gpu.name} ({gpu.memory_bytes / 2**30:.0f} GiB)" for gpu in found.gpus)
        version = ".".join(map(str, found.cuda_version or ()))
        if found.cuda_version and found.cuda_version < (machine.CUDA_MAJOR, 0):
            detail = f"supports CUDA {version} at most; {gpus}"
            return Check("cuda engine", "NVIDIA driver", Level.PROBLEM, detail, machine.NEWER_DRIVER)
        return Check("cuda engine", "NVIDIA driver", Level.OK, f"CUDA {version}; {gpus}")
    if found.cuda_version or facts.nvidia_hardware:
        there = " (an NVIDIA GPU is in this machine)" if facts.nvidia_hardware else ""
        remedy = f"install NVIDIA's driver; in a container: {CONTAINER} ..."
        return Check("cuda engine", "NVIDIA driver", Level.PROBLEM, f"{found.problem}{there}", remedy)
    return Check("cuda engine", "NVIDIA driver", Level.MISSING, "no NVIDIA driver, and no NVIDIA GPU in this machine")


def _gpu_memory(facts: Facts) -> list[Check]:
    if not facts.gpu_memory:
        return []
    parts = [f"{m.free_bytes // MIB:,} of {m.total_bytes // MIB:,} MB free" for m in facts.gpu_memory]
    # The first one is the one that is used.
    if facts.gpu_memory[0].free_bytes < SMALL_GPU_BYTES:
        remedy = "end what else uses the GPU: nvidia-smi shows it"
        return [Check("cuda engine", "GPU memory", Level.PROBLEM, "; ".join(parts), remedy)]
    return [Check("cuda engine", "GPU memory", Level.OK, "; ".join(parts))]


def _nvdec(facts: Facts) -> Check:
    if facts.nvdec_library:
        return Check("cuda engine", "NVDEC", Level.OK, "libnvcuvid.so.1")
    if facts.driver.problem:
        return Check("cuda engine", "NVDEC", Level.MISSING, "comes with the driver")
    remedy = f"install the driver's libnvcuvid; in a container: {CONTAINER} ..."
    return Check("cuda engine", "NVDEC", Level.PROBLEM, "the driver's video decoding library is not here", remedy)


def _tensorflow_gpu(facts: Facts) -> Check:
    name, value = "TensorFlow GPU", facts.tensorflow.value
    if facts.tensorflow.problem:
        return Check("cuda engine", name, Level.MISSING, "TensorFlow cannot be used")
    if value["gpus"]:
        return Check("cuda engine", name, Level.OK, f"TensorFlow sees {count(len(value['gpus']), 'GPU')}")
    if facts.driver.problem:
        return Check("cuda engine", name, Level.MISSING, "nothing to see without a GPU")
    why = "its CUDA libraries are not here" if value["cuda"] else "this build has no CUDA"
    return Check("cuda engine", name, Level.PROBLEM, f"TensorFlow sees no GPU: {why}", GPU_EXTRA)


def _gpu_package(package: GpuPackage, facts: Facts) -> Check:
    # Without a GPU there is nothing to gain from installing anything.
    install = None if facts.driver.problem else GPU_EXTRA
    if not package.distributions:
        return Check("cuda engine", package.module, Level.MISSING, "not installed", install)
    wrong = machine.wrong_cuda_major(package.distributions, package.base)
    if wrong:
        detail = f"{', '.join(wrong)} is for another CUDA than TensorFlow's {machine.CUDA_MAJOR}"
        remedy = f"pip uninstall {' '.join(package.distributions)} && {GPU_EXTRA}"
        return Check("cuda engine", package.module, Level.PROBLEM, detail, remedy)
    versions = ", ".join(f"{name} {facts.packages.get(name, '')}".strip() for name in package.distributions)
    if len(package.distributions) > 1:
        remedy = f"pip uninstall {' '.join(package.distributions)} && {GPU_EXTRA}"
        detail = f"{versions} overwrite each other's files"
        return Check("cuda engine", package.module, Level.PROBLEM, detail, remedy)
    if package.trial.problem:
        detail = f"{versions} cannot be used: {package.trial.problem}"
        # Some of these need a driver to be imported at all.
        level = Level.MISSING if facts.driver.problem else Level.PROBLEM
        return Check("cuda engine", package.module, level, detail, install and f"{install} --force-reinstall")
    return Check("cuda engine", package.module, Level.OK, versions)


def _management(facts: Facts) -> Check:
    name = "nvidia-ml-py"
    if name in facts.packages:
        return Check("cuda engine", name, Level.OK, facts.packages[name])
    remedy = None if facts.driver.problem else GPU_EXTRA
    return Check(
        "cuda engine", name, Level.MISSING, "without it vramline bench tells nothing of the GPU's load", remedy
    )


def _compiler(facts: Facts) -> Check:
    if facts.compiler:
        return Check("cuda engine", "C++ compiler", Level.OK, facts.compiler)
    remedy = None if facts.driver.problem else "apt install g++"
    return Check("cuda engine", "C++ compiler", Level.MISSING, "no g++: it builds the op that shares a stream", remedy)


def _npm(facts: Facts) -> Check:
    if facts.npm:
        return Check("models", "npm", Level.OK, facts.npm)
    detail = "fetches the models that cards describe"
    return Check("models", "npm", Level.MISSING, detail, "pip install 'vramline[models]'")


def _cache(facts: Facts) -> Check:
    detail = f"{facts.cache}, {size(facts.free_bytes)} free"
    if not facts.cache_writable:
        return Check("models", "cache", Level.PROBLEM, f"{facts.cache} cannot be written", "make it writable")
    if facts.free_bytes < SMALL_DISK_BYTES:
        return Check("models", "cache", Level.PROBLEM, detail, f"free at least {size(SMALL_DISK_BYTES)} there")
    return Check("models", "cache", Level.OK, detail)
