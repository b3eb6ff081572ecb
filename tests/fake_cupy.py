"""CuPy's names on NumPy, as far as the model's call uses them: everything but the device itself runs without a GPU."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np

_NOTHING = ctypes.c_ubyte()


class ndarray(np.ndarray):
    """A NumPy array that shows its address the way CuPy's does and takes CuPy's arguments."""

    def __new__(cls, shape: Any, dtype: Any = np.float32, memptr: Any = None) -> Any:
        kind = np.dtype(dtype)
        size = int(np.prod(shape)) * kind.itemsize
        if memptr is None:
            raw = np.zeros(size + 64, np.uint8)
            start = -raw.ctypes.data % 64
            return raw[start : start + size].view(kind).reshape(shape).view(cls)
        buffer: Any = (ctypes.c_ubyte * size).from_address(memptr.mem.ptr if size else ctypes.addressof(_NOTHING))
        buffer.owner = memptr.mem.owner  # Also for views, which NumPy bases on the buffer.
        array = np.frombuffer(buffer, kind, size // kind.itemsize).reshape(shape).view(cls)
        array.owner = memptr.mem.owner
        return array

    def __array_finalize__(self, parent: Any) -> None:
        self.owner = getattr(parent, "owner", None)

    @property
    def data(self) -> Any:
        return SimpleNamespace(ptr=self.ctypes.data)

    def __dlpack__(self, *, stream: int | None = None) -> Any:
        assert stream == -1, "any other stream would make somebody wait"
        return np.asarray(self).__dlpack__()


class UnownedMemory:
    def __init__(self, ptr: int, size: int, owner: object, device_id: int) -> None:
        self.ptr, self.size, self.owner, self.device_id = ptr, size, owner, device_id


class MemoryPointer:
    def __init__(self, mem: UnownedMemory, offset: int) -> None:
        assert offset == 0
        self.mem = mem


class Stream:
    """Counts how often it is waited for."""

    current: ClassVar[list[Stream]] = []

    def __init__(self, ptr: int) -> None:
        self.ptr, self.waits = ptr, 0

    @classmethod
    def from_external(cls, handle: Any) -> Stream:
        version, ptr = handle.__cuda_stream__()
        assert version == 0
        return cls(ptr)

    def __enter__(self) -> Stream:
        self.current.append(self)
        return self

    def __exit__(self, *_: object) -> None:
        self.current.pop()

    def synchronize(self) -> None:
        self.waits += 1


class OutOfMemoryError(MemoryError):
    """`cupy.cuda.memory.OutOfMemoryError`."""


class CUDARuntimeError(RuntimeError):
    """`cupy_backends.cuda.api.runtime.CUDARuntimeError`: its text is `name: words`."""


def empty(shape: Any, dtype: Any = np.float32) -> ndarray:
    assert Stream.current, "memory for TensorFlow is allocated with its stream current"
    return ndarray(shape, dtype)


zeros = empty

cuda = SimpleNamespace(UnownedMemory=UnownedMemory, MemoryPointer=MemoryPointer, Stream=Stream)
