"""How busy the GPU and its video decoders are, from NVIDIA's management library."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline.observe.machine import GPU_EXTRA


@dataclass(frozen=True, slots=True)
class GpuUse:
    """Means over a measurement.

    Attributes:
        gpu_percent: Share of the time in which a kernel ran.
        nvdec_percent: Of the video decoders, over all of them; None where the driver does not say.
        memory_bytes: Most that was in use, by all processes on the GPU.
        sm_clock_mhz: Of the multiprocessors, which the driver lowers where power or heat demand it: rates at different clocks
            are no measure of each other. None where the driver does not say.
        power_w: What the board drew; None where the driver does not say.
        video_clock_mhz: Of the video decoders; None where the driver does not say.
    """

    gpu_percent: float
    nvdec_percent: float | None
    memory_bytes: int
    sm_clock_mhz: float | None = None
    power_w: float | None = None
    video_clock_mhz: float | None = None


class GpuSampler:
    """Asks the driver about one GPU; in use from `start` on."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._error = nvml.NVMLError
        self._asked: dict[str, Callable[[], float]] = {
            "memory": lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used,
            "gpu": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
            "nvdec": lambda: nvml.nvmlDeviceGetDecoderUtilization(handle)[0],
            "sm_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "video_clock": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_VIDEO),
            "power": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
        }
        self._told: dict[str, list[float]] = {}

    def start(self) -> None:
        """Forgets what was sampled before."""
        self._told = {}

    def sample(self) -> None:
        """Looks once; what the driver does not tell is left out."""
        for what, ask in self._asked.items():
            with contextlib.suppress(self._error):
                self._told.setdefault(what, []).append(ask())

    def use(self) -> GpuUse | None:
        """Since `start`; None if the driver told nothing."""
        means = {what: sum(told) / len(told) for what, told in self._told.items() if told}
        if "gpu" not in means or "memory" not in means:
            return None
        return GpuUse(
            means["gpu"],
            means.get("nvdec"),
            int(max(self._told["memory"])),
            means.get("sm_clock"),
            means.get("power"),
            means.get("video_clock"),
        )


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """Which GPU is measured.

    Attributes:
        name: As the driver has it.
        driver: The driver's version.
        memory_bytes: All that it has.
    """

    name: str
    driver: str
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class GpuWatch:
    """The GPU that a pipeline runs on, or why nothing is known of it.

    Attributes:
        sampler: None without a GPU, or where it cannot be watched.
        facts: The same.
        reason: Why they are None, in words; None if they are not.
    """

    sampler: GpuSampler | None = None
    facts: GpuFacts | None = None
    reason: str | None = None


def watch_gpu(device: str) -> GpuWatch:
    """Of the engine `cpu` or `cuda`; never raises."""
    if device != "cuda":
        return GpuWatch(reason="the pipeline runs on the CPU")
    try:
        nvml: Any = importlib.import_module("pynvml")
    except ImportError:
        return GpuWatch(reason=f"nvidia-ml-py is not installed: {GPU_EXTRA}")
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByPciBusId(_bus_id())
        facts = GpuFacts(
            _text(nvml.nvmlDeviceGetName(handle)),
            _text(nvml.nvmlSystemGetDriverVersion()),
            int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        )
    except nvml.NVMLError as e:
        return GpuWatch(reason=f"NVIDIA's management library cannot be used: {e}")
    return GpuWatch(GpuSampler(nvml, handle), facts)


def _bus_id() -> str:
    """CUDA numbers the GPUs that this process may use; the bus tells which one the first of them is."""
    import cupy

    return str(cupy.cuda.runtime.deviceGetPCIBusId(0))


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
