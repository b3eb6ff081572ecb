from __future__ import annotations

import ctypes
import signal
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DeviceError
from pipeline.observe import machine
from pipeline.observe.machine import Driver, Gpu, GpuSetup


class FakeCuda:
    """libcuda as ctypes shows it: results are written through pointers."""

    def __init__(self, version: int = 13000, gpus: tuple[tuple[str, int], ...] = (), status: int = 0) -> None:
        self.version, self.gpus, self.status = version, gpus, status

    def cuInit(self, _flags: int) -> int:
        return self.status

    def cuDriverGetVersion(self, version: Any) -> int:
        version._obj.value = self.version
        return 0

    def cuDeviceGetCount(self, count: Any) -> int:
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, _length: int, device: ctypes.c_int) -> int:
        name.value = self.gpus[device.value][0].encode()
        return 0

    def cuDeviceTotalMem_v2(self, memory: Any, device: ctypes.c_int) -> int:
        memory._obj.value = self.gpus[device.value][1]
        return 0

    def cuGetErrorString(self, status: int, text: Any) -> int:
        text._obj.value = b"no CUDA-capable device is detected" if status == 100 else None
        return 0


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def test_gpus_are_told_by_the_driver() -> None:
    cuda = FakeCuda(13020, (("NVIDIA H100 80GB HBM3", 85 * 10**9), ("NVIDIA L4", 24 * 10**9)))
    assert machine.driver(lambda _: cuda) == Driver(
        (13, 2), (Gpu("NVIDIA H100 80GB HBM3", 85 * 10**9), Gpu("NVIDIA L4", 24 * 10**9))
    )


def test_no_driver() -> None:
    assert machine.driver(no_library) == Driver(problem="no NVIDIA driver")


def test_a_driver_without_a_gpu_says_why() -> None:
    found = machine.driver(lambda _: FakeCuda(12080, status=100))
    assert found.cuda_version == (12, 8)
    assert found.problem == "the NVIDIA driver shows no GPU (no CUDA-capable device is detected)"
    assert "CUDA error 999" in str(machine.driver(lambda _: FakeCuda(status=999)).problem)
    assert machine.driver(lambda _: FakeCuda()).problem == "the NVIDIA driver shows no GPU"


def test_libraries_are_found_by_the_dynamic_linker() -> None:
    assert machine.has_library("libc.so.6")
    assert not machine.has_library("libnvcuvid-that-nobody-has.so.1")


def test_nvidia_hardware_is_seen_on_the_bus(tmp_path: Path) -> None:
    for name, vendor, kind in (("a", "0x8086", "0x030000"), ("b", "0x10de", "0x040300")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "vendor").write_text(f"{vendor}\n")
        (tmp_path / name / "class").write_text(f"{kind}\n")
    (tmp_path / "broken").mkdir()
    assert not machine.has_nvidia_hardware(tmp_path)  # a graphics chip of another maker, and NVIDIA's audio
    (tmp_path / "b" / "class").write_text("0x030200\n")
    assert machine.has_nvidia_hardware(tmp_path)


def test_a_build_for_another_cuda_that_is_hidden_does_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder, name in (("first", "cupy-cuda12x"), ("second", "cupy_cuda13x"), ("second", "cvcuda-cu13")):
        info = tmp_path / folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    monkeypatch.setattr("sys.path", [str(tmp_path / "first"), str(tmp_path / "second")])
    assert machine.distributions() == {"cupy-cuda12x": "1.0", "cvcuda-cu13": "1.0"}
    monkeypatch.setattr("sys.path", [str(tmp_path / "second"), str(tmp_path / "first")])
    assert machine.distributions() == {"cupy-cuda13x": "1.0", "cvcuda-cu13": "1.0"}


def test_installed_distributions_have_normalised_names() -> None:
    found = machine.distributions()
    assert found["numpy"].split(".")[0] in ("1", "2")
    assert all(name == name.lower() and "_" not in name for name in found)


def test_python_that_answers() -> None:
    assert machine.try_python("print('noise'); print('{\"a\": 1}')").value == {"a": 1}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("raise RuntimeError('no driver')", "RuntimeError: no driver"),
        ("raise SystemExit(7)", "exit code 7"),
        ("import os; os.abort()", "the process was ended by SIGABRT"),
        ("pass", "it printed nothing that can be read"),
    ],
)
def test_python_that_fails_is_a_finding(code: str, problem: str) -> None:
    assert machine.try_python(code).problem == problem


def test_a_crash_names_its_signal() -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGILL)"
    assert machine.try_python(code).ended_by == signal.SIGILL


def test_a_hang_is_a_finding() -> None:
    code = "import threading; threading.Event().wait()"
    assert machine.try_python(code, timeout_s=0.5).problem == "no answer in 0.5 s"


def test_a_python_that_cannot_be_started_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    assert "cannot start Python" in str(machine.try_python("pass").problem)


@pytest.mark.parametrize(
    ("installed", "base", "wrong"),
    [
        (["cupy-cuda12x"], "cupy", []),
        (["cupy-cuda13x", "cupy-cuda12x"], "cupy", ["cupy-cuda13x"]),
        (["cupy-cuda11x"], "cupy", ["cupy-cuda11x"]),
        (["cvcuda-cu12"], "cvcuda", []),
        (["cvcuda-cu13"], "cvcuda", ["cvcuda-cu13"]),
        (["cupy"], "cupy", []),
        (["cupy-cuda13x"], "cvcuda", []),
    ],
)
def test_the_cuda_that_a_package_is_built_for_stands_in_its_name(
    installed: list[str], base: str, wrong: list[str]
) -> None:
    assert machine.wrong_cuda_major(installed, base) == wrong


GPU = Driver((13, 0), (Gpu("NVIDIA H100", 85 * 10**9),))


PACKAGES = {"cupy-cuda12x": "14.2.0", "cvcuda-cu12": "0.19.0", "pynvvideocodec": "2.2.4"}
READY = GpuSetup(GPU, True, PACKAGES)


def test_cpu_is_taken_without_asking_for_a_driver() -> None:
    def forbidden() -> GpuSetup:
        raise AssertionError("asked for the driver")

    assert machine.choose_device("cpu", forbidden) == ("cpu", "as asked for")


@pytest.mark.parametrize("requested", ["auto", "cuda"])
def test_a_gpu_with_all_that_it_needs_is_taken(requested: str) -> None:
    assert machine.choose_device(requested, lambda: READY) == ("cuda", "NVIDIA H100")


@pytest.mark.parametrize(
    ("setup", "why_not", "remedy"),
    [
        (GpuSetup(machine.driver(no_library), False, {}), "no NVIDIA driver", "install NVIDIA's driver"),
        (GpuSetup(GPU, False, PACKAGES), "libnvcuvid, is not here", "DRIVER_CAPABILITIES=compute,video,utility"),
        (GpuSetup(GPU, True, {}), "not installed: cupy, PyNvVideoCodec", "pip install 'vramline[cuda12]'"),
        (
            GpuSetup(Driver((11, 8), GPU.gpus), True, PACKAGES),
            "supports CUDA 11.8 at most, and 12 is needed",
            "install driver 525 or newer",
        ),
        (
            GpuSetup(GPU, True, {**PACKAGES, "cupy-cuda13x": "14.2.0"}),  # they overwrite each other's files
            "cupy-cuda13x is not built for CUDA 12",
            "pip uninstall cupy-cuda13x",
        ),
        (GpuSetup(GPU, True, PACKAGES, False), "TensorFlow finds no GPU", "pip install 'vramline[cuda12]'"),
        (
            GpuSetup(GPU, True, {"pynvvideocodec": "2.2.4", "cupy-cuda13x": "14.2.0"}),
            "cupy-cuda13x is not built for CUDA 12",
            "pip uninstall cupy-cuda13x",
        ),
    ],
)
def test_what_is_in_the_way_of_the_cuda_engine_is_said_with_the_remedy(
    setup: GpuSetup, why_not: str, remedy: str
) -> None:
    engine, reason = machine.choose_device("auto", lambda: setup)
    assert engine == "cpu"
    assert why_not in reason
    with pytest.raises(DeviceError) as caught:
        machine.choose_device("cuda", lambda: setup)
    assert why_not in caught.value.message
    assert remedy in (caught.value.remedy or "")
    assert caught.value.exit_code == 3
