"""NVTX ranges through CuPy, which is replaced by something that notes what it is told."""

from __future__ import annotations

import builtins
import sys
import types
from typing import Any

import pytest

from pipeline.errors import DeviceError
from pipeline.observe.nvtx import nvtx_ranges


def with_nvtx(monkeypatch: pytest.MonkeyPatch, nvtx: Any) -> None:
    cupy, cuda = types.ModuleType("cupy"), types.ModuleType("cupy.cuda")
    cuda.nvtx = nvtx  # type: ignore[attr-defined]
    cupy.cuda = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    monkeypatch.setitem(sys.modules, "cupy.cuda", cuda)


def test_ranges_are_pushed_and_popped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    nvtx = types.SimpleNamespace(available=True, RangePush=told.append, RangePop=lambda: told.append("pop"))
    with_nvtx(monkeypatch, nvtx)
    open_range = nvtx_ranges()
    with open_range("decode", "a"), open_range("infer", "abcdefgh"):
        told.append("work")
    with pytest.raises(ValueError, match="broke"), open_range("sinks", ()):
        raise ValueError("broke")
    assert told == ["vramline decode", "vramline infer", "work", "pop", "pop", "vramline sinks", "pop"]


def test_a_cupy_without_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    with_nvtx(monkeypatch, types.SimpleNamespace(available=False))
    with pytest.raises(DeviceError, match=r"runtime\.nvtx: .*no NVTX"):
        nvtx_ranges()


def test_no_cupy(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_cupy(name: str, *more: Any) -> Any:
        if name.startswith("cupy"):
            raise ImportError("No module named 'cupy'")
        return real(name, *more)

    monkeypatch.setattr(builtins, "__import__", no_cupy)
    with pytest.raises(DeviceError, match="No module named 'cupy'"):
        nvtx_ranges()
