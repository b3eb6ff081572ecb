from __future__ import annotations

from typing import Any, ClassVar

import pytest

from pipeline.observe.gpu_memory import DeviceMemory, device_memory


class FakeCuda:
    """Two GPUs of a machine of three: CUDA's first is NVML's last."""

    bus = ("00000000:C1:00.0", "00000000:41:00.0")

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, number: Any) -> int:
        number._obj.value = len(self.bus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetPCIBusId(self, text: Any, length: int, device: Any) -> int:
        text.value = self.bus[device.value].encode()
        assert len(self.bus[device.value]) < length
        return 0


class FakeNvml:
    memory: ClassVar = {b"00000000:41:00.0": (100, 60), b"00000000:81:00.0": (7, 7), b"00000000:C1:00.0": (200, 150)}

    def __init__(self, status: int = 0) -> None:
        self.status, self.closed = status, False

    def nvmlInit_v2(self) -> int:
        return 0

    def nvmlDeviceGetHandleByPciBusId_v2(self, bus: Any, handle: Any) -> int:
        handle._obj.value = 1 + sorted(self.memory).index(bus.value)
        return 0

    def nvmlDeviceGetMemoryInfo(self, handle: Any, memory: Any) -> int:
        found = memory._obj
        found.total, found.free = self.memory[sorted(self.memory)[handle.value - 1]]
        return self.status

    def nvmlShutdown(self) -> int:
        self.closed = True
        return 0


def test_gpus_are_found_by_their_place_on_the_bus() -> None:
    nvml = FakeNvml()
    libraries = {"libcuda.so.1": FakeCuda(), "libnvidia-ml.so.1": nvml}
    assert device_memory(libraries.__getitem__) == [DeviceMemory(200, 150), DeviceMemory(100, 60)]
    assert nvml.closed


def test_where_it_cannot_be_asked_nothing_is_known() -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    assert device_memory(missing) == []
    assert device_memory({"libcuda.so.1": FakeCuda(100), "libnvidia-ml.so.1": FakeNvml()}.__getitem__) == []
    refuses = FakeNvml(3)  # as of a part of a GPU
    assert device_memory({"libcuda.so.1": FakeCuda(), "libnvidia-ml.so.1": refuses}.__getitem__) == []
    assert refuses.closed


def test_this_machine_answers() -> None:
    found = device_memory()
    if not found:
        pytest.skip("no NVIDIA GPU")
    assert all(0 <= memory.free_bytes <= memory.total_bytes for memory in found)
