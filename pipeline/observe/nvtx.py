"""NVTX ranges: the names of the stages on the time line of a profiler such as Nsight Systems."""

from __future__ import annotations

from collections.abc import Callable, Sized
from typing import Any

from pipeline.errors import DeviceError


class _NvtxRange:
    """One stage's range, in the thread that enters it. It holds nothing, so one serves all threads."""

    __slots__ = ("_name", "_pop", "_push")

    def __init__(self, nvtx: Any, stage: str) -> None:
        self._push, self._pop, self._name = nvtx.RangePush, nvtx.RangePop, f"vramline {stage}"

    def __enter__(self) -> None:
        self._push(self._name)

    def __exit__(self, *_: object) -> None:
        self._pop()


def nvtx_ranges() -> Callable[[str, Sized], _NvtxRange]:
    """What opens ranges as `pipeline.runtime.ranges` asks for them; through CuPy, which the cuda engine has anyway.

    Raises:
        DeviceError: this CuPy has no NVTX.
    """
    try:
        from cupy.cuda import nvtx
    except ImportError as e:
        raise DeviceError(f"runtime.nvtx: CuPy cannot be used: {e}", remedy="see vramline doctor") from e
    if not getattr(nvtx, "available", True):
        raise DeviceError("runtime.nvtx: this build of CuPy has no NVTX", remedy="leave runtime.nvtx at false")
    known: dict[str, _NvtxRange] = {}

    def open_range(stage: str, _frames: Sized) -> _NvtxRange:
        found = known.get(stage)
        if found is None:
            found = known[stage] = _NvtxRange(nvtx, stage)
        return found

    return open_range
