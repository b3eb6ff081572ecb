"""What this machine can do: probes that never raise, and the choice of the engine.

Packages are imported in processes of their own, so that a crash or a hang there stays there.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import DeviceError

CUDA_MAJOR = 12
"""The CUDA version that TensorFlow's wheels are built for; everything that shares memory with it must fit."""

GPU_EXTRA = "pip install 'vramline[cuda12]'"
NEWER_DRIVER = "install driver 525 or newer"
CONTAINER = "docker run --gpus all -e NVIDIA_DRIVER_CAPABILITIES=compute,video,utility"

LoadLibrary = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Gpu:
    """One GPU as the driver shows it."""

    name: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Driver:
    """NVIDIA's driver.

    Attributes:
        cuda_version: The newest CUDA that it supports, (major, minor); None without a driver.
        gpus: The GPUs that this process may use.
        problem: What is wrong, in a few words; None if GPUs can be used.
    """

    cuda_version: tuple[int, int] | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


def driver(load: LoadLibrary = ctypes.CDLL) -> Driver:
    """Asks libcuda itself; creates no context, so it costs no GPU memory."""
    try:
        cuda = load("libcuda.so.1")
    except OSError:
        return Driver(problem="no NVIDIA driver")
    version = ctypes.c_int()
    status = cuda.cuInit(0)
    cuda.cuDriverGetVersion(ctypes.byref(version))
    known = (version.value // 1000, version.value % 1000 // 10)
    if status:
        return Driver(known, problem=f"the NVIDIA driver shows no GPU ({_cuda_error(cuda, status)})")
    number = ctypes.c_int()
    cuda.cuDeviceGetCount(ctypes.byref(number))
    gpus = tuple(_gpu(cuda, i) for i in range(number.value))
    return Driver(known, gpus, None if gpus else "the NVIDIA driver shows no GPU")


def _gpu(cuda: Any, index: int) -> Gpu:
    device, name, memory = ctypes.c_int(), ctypes.create_string_buffer(256), ctypes.c_size_t()
    cuda.cuDeviceGet(ctypes.byref(device), index)
    cuda.cuDeviceGetName(name, 256, device)
    cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device)
    return Gpu(name.value.decode("utf-8", "replace"), memory.value)


def _cuda_error(cuda: Any, status: int) -> str:
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(status, ctypes.byref(text))
    return text.value.decode("utf-8", "replace") if text.value else f"CUDA error {status}"


def has_library(name: str, load: LoadLibrary = ctypes.CDLL) -> bool:
    """Whether the dynamic linker finds a shared library, such as `libnvcuvid.so.1`."""
    try:
        load(name)
    except OSError:
        return False
    return True


def has_nvidia_hardware(devices: Path = Path("/sys/bus/pci/devices")) -> bool:
    """Whether the PCI bus shows a display or compute device of NVIDIA's, driver or not."""
    for device in devices.glob("*"):
        try:
            vendor, kind = ((device / name).read_text().strip() for name in ("vendor", "class"))
        except OSError:
            continue
        if vendor == "0x10de" and kind.startswith("0x03"):
            return True
    return False


_BUILT_FOR_CUDA = re.compile(r"(?P<base>cupy|cvcuda)-cu(da)?\d+x?")


def distributions() -> dict[str, str]:
    """Installed distributions: normalised name -> version. Reads metadata only.

    Of the builds of a package for several CUDA versions those count that lie where Python imports it from: a system's own
    build is hidden by that of a virtual environment.
    """
    found: dict[str, str] = {}
    imported_from: dict[str, Path] = {}
    for distribution in importlib.metadata.distributions():  # in the order of sys.path
        name = distribution.metadata["Name"]
        if not name:
            continue
        name = name.lower().replace("_", "-")
        package = _BUILT_FOR_CUDA.fullmatch(name)
        folder = Path(str(distribution.locate_file("")))
        if package is None or imported_from.setdefault(package["base"], folder) == folder:
            found.setdefault(name, distribution.version)
    return found


@dataclass(frozen=True, slots=True)
class Trial:
    """What became of a piece of Python in a process of its own.

    Attributes:
        value: What it printed as JSON on its last line; None if it did not get there.
        problem: Why not: the last line of its errors, the signal that ended it, or the time limit.
        ended_by: The signal that ended it, if one did.
    """

    value: Any = None
    problem: str | None = None
    ended_by: int | None = None


def try_python(code: str, timeout_s: float = 90.0, environment: Mapping[str, str] | None = None) -> Trial:
    """Runs `code` in a fresh interpreter; it prints one JSON value as its last line."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            timeout=timeout_s,
            env=environment,
            stdin=subprocess.DEVNULL,
            check=False,
            text=True,
            errors="replace",
        )
    except subprocess.TimeoutExpired:
        return Trial(problem=f"no answer in {timeout_s:g} s")
    except OSError as e:
        return Trial(problem=f"cannot start Python: {e}")
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return Trial(problem=f"the process was ended by {name}", ended_by=-done.returncode)
    if done.returncode:
        return Trial(problem=_last_line(done.stderr) or f"exit code {done.returncode}")
    try:
        return Trial(json.loads(done.stdout.strip().splitlines()[-1]))
    except (IndexError, ValueError):
        return Trial(problem="it printed nothing that can be read")


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def wrong_cuda_major(installed: Sequence[str], base: str) -> list[str]:
    """Which of the installed distributions of `base` (`cupy`, `cvcuda`) are built for another CUDA than TensorFlow.

    They carry the CUDA version in their names: `cupy-cuda12x`, `cvcuda-cu12`.
    """
    prefixes = (f"{base}-cuda", f"{base}-cu")
    fitting = {f"{base}-cuda{CUDA_MAJOR}x", f"{base}-cu{CUDA_MAJOR}"}
    return [name for name in installed if name.startswith(prefixes) and name not in fitting]


@dataclass(frozen=True, slots=True)
class GpuSetup:
    """What the `cuda` engine needs, as far as it can be known without importing anything.

    Attributes:
        driver: NVIDIA's.
        nvdec_library: Whether the driver's video decoding library is here.
        packages: Installed distributions: normalised name -> version.
        tensorflow_gpu: Whether TensorFlow finds a GPU; None: nobody has asked it.
    """

    driver: Driver
    nvdec_library: bool
    packages: Mapping[str, str]
    tensorflow_gpu: bool | None = None

    def why_not(self) -> tuple[str, str] | None:
        """Why the `cuda` engine cannot run, and the remedy; None if nothing is known to be in its way."""
        if self.driver.problem:
            return self.driver.problem, f"install NVIDIA's driver; in a container: {CONTAINER} ..."
        if self.driver.cuda_version and self.driver.cuda_version < (CUDA_MAJOR, 0):
            version = ".".join(map(str, self.driver.cuda_version))
            return f"the NVIDIA driver supports CUDA {version} at most, and {CUDA_MAJOR} is needed", NEWER_DRIVER
        if not self.nvdec_library:
            return "the driver's video decoding library, libnvcuvid, is not here", f"in a container: {CONTAINER} ..."
        needed = {"cupy": f"cupy-cuda{CUDA_MAJOR}x", "PyNvVideoCodec": "pynvvideocodec"}
        missing = [module for module, name in needed.items() if name not in self.packages]
        wrong = wrong_cuda_major(list(self.packages), "cupy")
        if wrong:
            return (
                f"{', '.join(wrong)} is not built for CUDA {CUDA_MAJOR}, which TensorFlow uses",
                f"pip uninstall {' '.join(wrong)} && {GPU_EXTRA}",
            )
        if missing:
            return f"not installed: {', '.join(missing)}", GPU_EXTRA
        no_gpu = "TensorFlow finds no GPU: its CUDA libraries are missing, or it is built without CUDA"
        return (no_gpu, GPU_EXTRA) if self.tensorflow_gpu is False else None


def gpu_setup() -> GpuSetup:
    """Of this machine."""
    return GpuSetup(driver(), has_library("libnvcuvid.so.1"), distributions())


def choose_device(requested: str, probe: Callable[[], GpuSetup] = gpu_setup) -> tuple[str, str]:
    """Which engine runs.

    Args:
        requested: `auto`, `cpu` or `cuda`, as the configuration has it.
        probe: Asks the machine.

    Returns:
        The engine, `cpu` or `cuda`, and why, in a few words.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
    """
    if requested == "cpu":
        return "cpu", "as asked for"
    setup = probe()
    problem = setup.why_not()
    if problem is None:
        return "cuda", setup.driver.gpus[0].name if setup.driver.gpus else "a GPU"
    why_not, remedy = problem
    if requested == "cuda":
        raise DeviceError(f"device: cuda cannot be used: {why_not}", remedy=f"{remedy}; or device: cpu")
    return "cpu", why_not
