"""GPU tests skip themselves, with the reason, on a machine without a usable GPU."""

from __future__ import annotations

import ctypes
import importlib

import pytest


def why_not() -> str | None:
    """Why GPU tests cannot run here; None if they can."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "no NVIDIA driver: libcuda.so.1 is not there"
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return "no NVIDIA GPU"
    for module in ("cupy", "cvcuda", "PyNvVideoCodec", "tensorflow"):
        try:
            importlib.import_module(module)
        except (ImportError, RuntimeError) as e:
            return f"{module} cannot be imported: {e}"
    return None


_REASON = why_not()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in this folder is marked `gpu`; without a GPU it is skipped."""
    for item in items:
        if "tests/gpu" in item.path.as_posix():
            item.add_marker(pytest.mark.gpu)
            if _REASON:
                item.add_marker(pytest.mark.skip(reason=_REASON))
