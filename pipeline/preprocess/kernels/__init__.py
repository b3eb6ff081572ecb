"""The CUDA source of preprocessing, as package data, and its compilation."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).parent / "fused.cu"

_OUTPUTS = {"float32": "float", "float16": "__half", "uint8": "unsigned char"}


def fused_name(dtype: str, channels_last: bool, channels: int) -> str:
    """The kernel's C++ name for outputs of this kind."""
    return f"fused<{_OUTPUTS[dtype]}, {'true' if channels_last else 'false'}, {channels}>"


@lru_cache(maxsize=32)
def fused_kernel(ordinal: int, dtype: str, channels_last: bool, channels: int) -> Any:
    """The compiled kernel; `ordinal` must be the current device.

    Args:
        ordinal: The device's number.
        dtype: Of the output: float32, float16 or uint8.
        channels_last: Whether the output is nhwc, else nchw.
        channels: 3, or 1 for grey.
    """
    import cupy

    name = fused_name(dtype, channels_last, channels)
    module = cupy.RawModule(code=SOURCE.read_text(encoding="utf-8"), options=("-std=c++17",), name_expressions=(name,))
    return module.get_function(name)
