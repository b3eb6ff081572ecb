"""The tracer on a CUPTI that is made of NVIDIA's header and records what is known beforehand; no GPU is needed."""

from __future__ import annotations

import ctypes
import importlib.util
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import DeviceError
from pipeline.inference import shared_stream
from pipeline.observe.trace.cupti import CuptiTracer, load_cupti
from pipeline.observe.trace.records import Call, Copy, Direction, Launch, Wait

pytestmark = pytest.mark.skipif(not shutil.which("g++"), reason="there is no g++")

BUFFERS = Path(shared_stream.__file__).with_name("activity_buffers.cc")


def compiled(folder: Path, source: Path, *includes: Path) -> Any:
    out = folder / f"{source.stem}.so"
    flags = [f"-I{include}" for include in includes]
    command = ["g++", "-std=c++17", "-O1", "-fPIC", "-shared", "-pthread", *flags, str(source), "-o", str(out)]
    subprocess.run(command, check=True, timeout=120)
    return ctypes.CDLL(str(out))


@pytest.fixture(scope="module")
def buffers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return compiled(tmp_path_factory.mktemp("buffers"), BUFFERS)


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Any:
    spec = importlib.util.find_spec("tensorflow")
    assert spec is not None and spec.origin is not None
    cuda = Path(spec.origin).parent / "include" / "third_party" / "gpus" / "cuda"
    cupti = cuda / "extras" / "CUPTI" / "include"
    if not (cupti / "cupti.h").is_file():
        pytest.skip("this TensorFlow has no CUPTI header")
    return compiled(
        tmp_path_factory.mktemp("cupti"), Path(__file__).with_name("fake_cupti.cc"), cupti, cuda / "include"
    )


@pytest.fixture
def cupti(library: Any) -> Iterator[Any]:
    result = ctypes.c_int.in_dll(library, "fake_result")
    yield library
    result.value = 0
    library.fake_drop(ctypes.c_size_t(0))


def test_records_are_read_as_the_header_lays_them_out(cupti: Any, buffers: Any) -> None:
    tracer = CuptiTracer(cupti, lambda: buffers)
    tracer.start()
    assert cupti.fake_enabled() == 6
    tracer.begin()
    tracer.end()
    trace = tracer.stop()
    assert cupti.fake_enabled() == 0
    assert trace.end_ns == trace.start_ns + 1 > 5_000_000_000_000_000_000
    assert trace.calls == [Call("cudaMemcpyAsync", 4242, 100, 105, 1), Call("cuLaunchKernel", 4242, 200, 205, 2)]
    assert trace.copies == [
        Copy(Direction.UP, 7_000_000_000, 1001, 1),
        Copy(Direction.DEVICE, 55, 4003, 3),
        Copy(Direction.DOWN, 12, 1004, 4, is_pageable=True),
        Copy(Direction.DEVICE, 13, 1005, 5),
    ]
    assert trace.launches == [Launch(3002, 2)]
    assert trace.waits == [Wait("event", 2007, 7), Wait("device", 2008, 8)]
    assert trace.dropped == 0
    data, size = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t()
    assert buffers.vramline_activity_take(ctypes.byref(data), ctypes.byref(size)) == 0  # all were fetched


def test_lost_records_are_counted(cupti: Any, buffers: Any) -> None:
    cupti.fake_drop(ctypes.c_size_t(31))
    tracer = CuptiTracer(cupti, lambda: buffers)
    tracer.start()
    assert tracer.stop().dropped == 31


@pytest.mark.parametrize(
    ("result", "reason", "remedy"),
    [
        (39, "another profiler is attached", "without nsys"),
        (36, "another profiler is attached", "without nsys"),
        (35, "does not permit profiling", "NVreg_RestrictProfilingToAdminUsers=0"),
        (40, "a virtual one", "vGPU"),
        (15, "does not work with this driver", "update the driver"),
        (999, "CUPTI_ERROR_SOMETHING", None),
    ],
)
def test_what_stands_in_the_way_is_said_with_its_remedy(
    cupti: Any, buffers: Any, result: int, reason: str, remedy: str | None
) -> None:
    ctypes.c_int.in_dll(cupti, "fake_result").value = result
    with pytest.raises(DeviceError, match=reason) as caught:
        CuptiTracer(cupti, lambda: buffers).start()
    assert (remedy is None) == (caught.value.remedy is None)
    assert remedy is None or remedy in (caught.value.remedy or "")


def test_a_machine_without_cupti() -> None:
    tried: list[str] = []

    def load(name: str) -> Any:
        tried.append(name)
        raise OSError("no such file")

    with pytest.raises(DeviceError, match=r"CUPTI.* is not there") as caught:
        load_cupti(load, lambda: [])
    assert "nvidia-cuda-cupti-cu12" in (caught.value.remedy or "")
    assert "libcupti.so.12" in tried


def test_the_wheels_library_comes_first(tmp_path: Path) -> None:
    (tmp_path / "libcupti.so.12").write_bytes(b"")
    assert load_cupti(lambda name: name, lambda: [tmp_path]) == str(tmp_path / "libcupti.so.12")


def test_buffers_are_asked_for_and_returned_by_many_threads(buffers: Any) -> None:
    """Each buffer comes back once, whoever filled it, and no two are the same memory."""
    threads, each = 8, 50

    def work() -> None:
        for _ in range(each):
            data, size, most = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t(), ctypes.c_size_t(1)
            buffers.vramline_activity_request(ctypes.byref(data), ctypes.byref(size), ctypes.byref(most))
            assert size.value >= 1 << 16
            assert most.value == 0
            address = ctypes.cast(data, ctypes.c_void_p).value
            assert address is not None and address % 8 == 0
            data[0] = 1
            buffers.vramline_activity_complete(None, 0, data, size, ctypes.c_size_t(address & 0xFFFF_FFFF))

    running = [threading.Thread(target=work) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(60)
    found = []
    data, size = ctypes.POINTER(ctypes.c_uint8)(), ctypes.c_size_t()
    while buffers.vramline_activity_take(ctypes.byref(data), ctypes.byref(size)):
        address = ctypes.cast(data, ctypes.c_void_p).value
        assert address is not None and size.value == address & 0xFFFF_FFFF
        found.append(address)
        data = ctypes.POINTER(ctypes.c_uint8)()
    assert len(found) == len(set(found)) == threads * each
    for address in found:
        buffers.vramline_activity_free(ctypes.c_void_p(address))
