"""How much memory the GPUs have and how much of it is free, asked of NVML: without a CUDA context, which takes some itself."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_BUS_ID_BYTES = 32


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


@dataclass(frozen=True, slots=True)
class DeviceMemory:
    """Of one GPU."""

    total_bytes: int
    free_bytes: int


def device_memory(load: Callable[[str], Any] = ctypes.CDLL) -> list[DeviceMemory]:
    """Of the GPUs that this process may use, in CUDA's order; none where they cannot be asked."""
    try:
        cuda, nvml = load("libcuda.so.1"), load("libnvidia-ml.so.1")
    except OSError:
        return []
    number = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(number)) or nvml.nvmlInit_v2():
        return []
    try:
        found = [_memory(cuda, nvml, index) for index in range(number.value)]
    finally:
        nvml.nvmlShutdown()
    return [] if None in found else [memory for memory in found if memory is not None]


def _memory(cuda: Any, nvml: Any, index: int) -> DeviceMemory | None:
    device, bus_id, handle, memory = (
        ctypes.c_int(),
        ctypes.create_string_buffer(_BUS_ID_BYTES),
        ctypes.c_void_p(),
        _Memory(),
    )
    if (
        cuda.cuDeviceGet(ctypes.byref(device), index)
        # NVML counts all GPUs of the machine, CUDA those that are visible: the bus tells which is which.
        or cuda.cuDeviceGetPCIBusId(bus_id, _BUS_ID_BYTES, device)
        or nvml.nvmlDeviceGetHandleByPciBusId_v2(bus_id, ctypes.byref(handle))
        or nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
    ):
        return None
    return DeviceMemory(memory.total, memory.free)
