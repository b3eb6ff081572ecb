"""A whole device on the host, that does what it is told later and in order: NVDEC, CuPy and all our kernels behind one queue.

Calls only put work into the queue; it is done when somebody waits for the device or for an event. Memory that is let go of is
given out again at once, as by pools that rely on the stream's order. So what does not keep to that order shows, here as there.
"""

from __future__ import annotations

import ctypes
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fake_cupy
import host_kernel
import numpy as np
import postprocess_on_host
from fake_nvcodec import FakeDecoder, FakeNvCodec

from pipeline.postprocess.cuda import layout
from pipeline.preprocess import kernels
from pipeline.preprocess.kernels import fused_name
from pipeline.stages import TensorInfo

POISON = 0xFF
Work = Callable[[], object]
Libraries = tuple[ctypes.CDLL, ctypes.CDLL]


class LateStream:
    """The stream, as `DeviceStream`: a queue of things to do, and a context. Any thread may put in, and wait."""

    handle, ordinal = 77, 0

    def __init__(self) -> None:
        self._queue: deque[Work] = deque()
        self._working = threading.Lock()
        self._current = threading.local()

    @property
    def cupy(self) -> LateStream:
        return self

    @property
    def is_current(self) -> bool:
        return getattr(self._current, "depth", 0) > 0

    def __enter__(self) -> LateStream:
        self._current.depth = getattr(self._current, "depth", 0) + 1
        return self

    def __exit__(self, *_: object) -> None:
        self._current.depth -= 1

    def put(self, work: Work) -> None:
        self._queue.append(work)

    def work_until(self, is_done: Callable[[], bool]) -> None:
        with self._working:
            while not is_done():
                self._queue.popleft()()

    def synchronize(self) -> None:
        done: list[bool] = []
        self.put(lambda: done.append(True))
        self.work_until(lambda: bool(done))


class Pool:
    """Memory of the device. What is let go of is given out again, poisoned in the stream's order."""

    def __init__(self, stream: LateStream) -> None:
        self.reused = 0
        self.free: dict[int, list[np.ndarray]] = {}
        self.blocks: list[np.ndarray] = []  # for good: what is enqueued may still use it
        self._stream = stream

    def alloc(self, size: int) -> Block:
        free = self.free.setdefault(size, [])
        try:
            memory = free.pop()
            self.reused += 1
        except IndexError:
            memory = np.zeros(size + 512, np.uint8)
            memory = memory[-memory.ctypes.data % 512 :][:size]
            self.blocks.append(memory)
        self._stream.put(lambda: memory.fill(POISON))
        return Block(self, memory)

    def array(self, shape: Any, dtype: Any) -> Any:
        """An array that is let go of with the last view of it."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        block = self.alloc(size)
        memory = fake_cupy.UnownedMemory(block.ptr, size, block, 0)
        return fake_cupy.ndarray(shape, dtype, fake_cupy.MemoryPointer(memory, 0))


class Block:
    def __init__(self, pool: Pool, memory: np.ndarray) -> None:
        self.ptr = memory.ctypes.data
        self._pool, self._memory = pool, memory

    def __del__(self) -> None:
        self._pool.free[len(self._memory)].append(self._memory)


class LateCupy(ModuleType):
    """`sys.modules["cupy"]`, as far as decoding, preprocessing and postprocessing go."""

    def __init__(self, stream: LateStream, preprocess: ctypes.CDLL, postprocess: ctypes.CDLL) -> None:
        super().__init__("cupy")
        self.pool = pool = Pool(stream)
        self._stream = stream

        class Event:
            def __init__(self, block: bool = False, disable_timing: bool = False) -> None:
                assert disable_timing
                self.left = 0

            def record(self, on: object = None) -> None:
                assert stream.is_current if on is None else on is stream
                self.left += 1
                stream.put(self._happen)

            def _happen(self) -> None:
                self.left -= 1

            def synchronize(self) -> None:
                stream.work_until(lambda: not self.left)

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...] = ()) -> None:
                self.is_fused = bool(name_expressions)

            def get_function(self, name: str) -> Callable[[Any, Any, Any], None]:
                run = _fused(preprocess, name) if self.is_fused else _postprocessing(postprocess, name)

                def launch(grid: Any, block: Any, parameters: Any) -> None:
                    assert stream.is_current
                    (batch,) = parameters
                    copy = batch.copy()  # by value
                    stream.put(lambda: run(copy.ctypes.data, grid, block))

                return launch

        def copy(to: int, source: int, size: int, kind: int, on: int) -> None:
            assert on == stream.handle
            stream.put(lambda: ctypes.memmove(to, source, size))

        pinned: list[np.ndarray] = []  # for good, as what is let go of may still be copied from or to

        def alloc_pinned(size: int) -> np.ndarray:
            """What is let go of is poisoned at once, as if somebody else had got it."""
            pinned.append(memory := np.zeros(size, np.uint8))
            weakref.finalize(view := memory[:], memory.fill, POISON)
            return view

        self.RawModule = RawModule
        self.ascontiguousarray = np.ascontiguousarray
        self.cuda = SimpleNamespace(
            alloc=pool.alloc,
            alloc_pinned_memory=alloc_pinned,
            Event=Event,
            Device=lambda ordinal: LateStream(),
            runtime=SimpleNamespace(memcpyAsync=copy, memcpyHostToDevice=1, memcpyDeviceToHost=2),
        )

    def empty(self, shape: Any, dtype: Any) -> Any:
        assert self._stream.is_current
        return self.pool.array(shape, dtype)

    def zeros(self, shape: Any, dtype: Any) -> Any:
        array = self.empty(shape, dtype)
        self._stream.put(lambda: array.fill(0))
        return array

    def asarray(self, values: np.ndarray) -> Any:
        array, copy = self.empty(values.shape, values.dtype), values.copy()
        self._stream.put(lambda: np.copyto(array, copy))
        return array


def _fused(library: ctypes.CDLL, name: str) -> Callable[[int, Any, Any], None]:
    number = next(i for i, variant in enumerate(host_kernel.VARIANTS) if fused_name(*variant) == name)
    function = getattr(library, f"run_{number}")
    return lambda parameters, grid, block: function(ctypes.c_void_p(parameters), *grid)


def _postprocessing(library: ctypes.CDLL, name: str) -> Callable[[int, Any, Any], None]:
    number = postprocess_on_host.KERNELS.index(name)

    def run(parameters: int, grid: Any, block: Any) -> None:
        x, y = (*grid, 1)[:2]
        library.run(number, ctypes.c_void_p(parameters), x, y, *block)

    return run


class LateModel:
    """A model that is as sensitive as can be: a box per cell of the input, its score and place from the sum of the cell's pixels.

    What it makes of a picture depends neither on its row nor on the other rows.
    """

    name = "late@0"
    outputs = (TensorInfo("boxes", "float32", (None, 64, 4)), TensorInfo("scores", "float32", (None, 64, 2)))

    def __init__(self, stream: LateStream, pool: Pool, batch_size: int) -> None:
        self.batch_size = batch_size
        self.input = TensorInfo("image", "float32", (None, 32, 32, 3))
        self._stream, self._pool = stream, pool

    def rows(self, frames: int) -> int:
        return self.batch_size

    def __call__(self, tensor: Any) -> Mapping[str, Any]:
        shape, address = tensor.shape, tensor.ctypes.data
        arrays = {o.name: self._pool.array((shape[0], *o.shape[1:]), o.dtype) for o in self.outputs if o.shape}
        targets = {name: (array.ctypes.data, array.shape) for name, array in arrays.items()}

        def work() -> None:
            pixels = _view(address, shape)
            boxes, scores = (_view(*targets[name]) for name in ("boxes", "scores"))
            corners = np.stack(np.meshgrid(np.arange(8), np.arange(8)), -1).reshape(64, 2) * 4
            for row in range(shape[0]):
                sums = pixels[row].reshape(8, 4, 8, 4, 3).sum((1, 3, 4)).reshape(64, 1)
                boxes[row, :, :2] = corners
                boxes[row, :, 2:] = corners + 4 + sums % 7
                scores[row] = sums * np.array([0.173, 0.0511], np.float32) % 1

        self._stream.put(work)
        return arrays

    def close(self) -> None:
        pass


class LateNvCodec(FakeNvCodec):
    """Decoders that write their pictures on the stream."""

    def __init__(self, stream: LateStream) -> None:
        super().__init__()
        memories: dict[int, np.ndarray] = {}  # freeing waits for what is enqueued

        class LateDecoder(FakeDecoder):
            def _write(self, memory: Any, data: Any) -> None:
                memories[id(memory)] = memory
                stream.put(lambda: memory.__setitem__(slice(None), data))

        self.decoder = LateDecoder


class LateDevice:
    """All of it, and what `races.Device` asks for."""

    def __init__(self, libraries: Libraries, patch: Any) -> None:
        """`patch` is pytest's; it takes the place of CuPy and PyNvVideoCodec until that is undone."""
        self.stream = LateStream()
        self.cupy = LateCupy(self.stream, *libraries)
        self.codec = LateNvCodec(self.stream)
        self._prints: dict[int, int] = {}
        self._count = 0
        patch.setitem(sys.modules, "cupy", self.cupy)
        patch.setitem(sys.modules, "PyNvVideoCodec", self.codec)
        forget_kernels()

    def fill(self, address: int, size: int, *, in_order: bool = True, stream: int | None = None) -> None:
        if in_order:
            self.stream.put(lambda: ctypes.memset(address, POISON, size))
        else:
            ctypes.memset(address, POISON, size)

    def fingerprint(self, address: int, size: int) -> int:
        self._count += 1
        number = self._count
        self.stream.put(lambda: self._prints.update({number: hash(ctypes.string_at(address, size))}))
        return number

    def fingerprints(self) -> Mapping[int, int]:
        self.synchronize()
        return self._prints

    def synchronize(self) -> None:
        self.stream.synchronize()


def build_kernels(folder: Path) -> Libraries:
    """Preprocessing and postprocessing, compiled for the host; skips the test without g++."""
    for name in ("preprocess", "postprocess"):
        (folder / name).mkdir()
    return host_kernel.build(folder / "preprocess"), postprocess_on_host.build(folder / "postprocess")


def forget_kernels() -> None:
    """Kernels are compiled once a process; what another CuPy compiled is of no use."""
    kernels.fused_kernel.cache_clear()
    layout.kernel.cache_clear()
    layout._module.cache_clear()


def _view(address: int, shape: tuple[int, ...]) -> Any:
    size = int(np.prod(shape))
    return np.frombuffer((ctypes.c_float * size).from_address(address), np.float32).reshape(shape)
