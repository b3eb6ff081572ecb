"""How busy the GPU and its video decoders are, from NVIDIA's management library."""

from __future__ import annotations

import importlib
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
    """

    gpu_percent: float
    nvdec_percent: float | None
    memory_bytes: int


class GpuSampler:
    """Asks the driver about one GPU; in use from `start` on."""

    def __init__(self, nvml: Any, handle: Any) -> None:
        self._nvml, self._handle = nvml, handle
        self._gpu: list[float] = []
        self._nvdec: list[float] = []
        self._memory: list[int] = []

    def start(self) -> None:
        """Forgets what was sampled before."""
        self._gpu, self._nvdec, self._memory = [], [], []

    def sample(self) -> None:
        """Looks once; what the driver does not tell is left out."""
        nvml, handle = self._nvml, self._handle
        try:
            self._memory.append(int(nvml.nvmlDeviceGetMemoryInfo(handle).used))
            self._gpu.append(float(nvml.nvmlDeviceGetUtilizationRates(handle).gpu))
            self._nvdec.append(float(nvml.nvmlDeviceGetDecoderUtilization(handle)[0]))
        except nvml.NVMLError:
            pass

    def use(self) -> GpuUse | None:
        """Since `start`; None if the driver told nothing."""
        if not self._gpu:
            return None
        nvdec = sum(self._nvdec) / len(self._nvdec) if self._nvdec else None
        return GpuUse(sum(self._gpu) / len(self._gpu), nvdec, max(self._memory))


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
