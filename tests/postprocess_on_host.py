"""The postprocessing kernels compiled for the host, and a stand-in for CuPy that runs them as a GPU would: later.

What is put on the stream is only done when somebody waits for an event behind it; so a test sees what happens if the host
looks too early, or if memory is used again too soon.
"""

from __future__ import annotations

import ctypes
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from host_compiler import compile_for_host
from postprocess_cases import Case

from pipeline.postprocess.cuda import build_cuda_postprocessor, layout
from pipeline.postprocess.cuda.layout import BATCH, MAPS, SOURCE

SHIMS = r"""
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#define __device__
#define __global__
#define __shared__ static
#define __forceinline__ inline
#define __grid_constant__
#define __launch_bounds__(threads)
using std::fmax; using std::fmin; using std::rint;
struct Index { unsigned x, y; };
static Index blockIdx, gridDim, blockDim;
static float __uint_as_float(unsigned bits) { float x; std::memcpy(&x, &bits, 4); return x; }
static unsigned __float_as_uint(float x) { unsigned bits; std::memcpy(&bits, &x, 4); return bits; }
static unsigned atomicAdd(unsigned* address, unsigned value) { const unsigned old = *address; *address += value; return old; }
static unsigned atomicMax(unsigned* address, unsigned value) {
  const unsigned old = *address;
  if (value > old) *address = value;
  return old;
}
// Threads in an order that is neither the natural one nor always the same.
static unsigned turn;
template <typename F> static void for_all(F f) {
  const unsigned threads = blockDim.x, start = turn++ * 37;
  for (unsigned i = 0; i < threads; i++) f((start + i * 5) % threads, threads);
}
"""

DRIVER = r"""
extern "C" {
void run(int kernel, const void* parameters, unsigned x, unsigned y, unsigned threads) {
  const Batch* batch = static_cast<const Batch*>(parameters);
  gridDim = {x, y};
  blockDim = {threads, 1};
  for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
    for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
      if (kernel == 3) segment(*static_cast<const Maps*>(parameters));
      else (kernel == 0 ? collect : kernel == 1 ? finish : classify)(*batch);
}
float convert_half(unsigned short bits) { return half_to_float(bits); }
int sizes[] = {sizeof(Tensor), sizeof(Level), sizeof(View), sizeof(Tally), sizeof(Kept), sizeof(Header), sizeof(Row),
  sizeof(ClassRow), sizeof(Batch), sizeof(Maps)};
int constants[] = {kMaxFrames, kMaxLevels, kCollectThreads, kFinishThreads, int(kChunk), sizeof(Work)};
int offsets[] = {OFFSETS};
int map_offsets[] = {MAP_OFFSETS};
}
"""
KERNELS = ("collect", "finish", "classify", "segment")
FIELDS = [name for name in BATCH.names or () if name != "__"]


def build(folder: Path) -> ctypes.CDLL:
    """Compiles the kernels with g++; skips the test without it."""
    offsets = ", ".join(f"offsetof(Batch, {name})" for name in FIELDS)
    of_maps = ", ".join(f"offsetof(Maps, {name})" for name in MAPS.names or ())
    driver = DRIVER.replace("MAP_OFFSETS", of_maps).replace("OFFSETS", offsets)
    library = compile_for_host(SHIMS + SOURCE.read_text() + driver, folder, "-O2")
    library.convert_half.restype = ctypes.c_float
    return library


def check_layouts(library: ctypes.CDLL) -> None:
    """The structs are laid out the same in C++ and in NumPy."""

    def numbers(name: str, count: int) -> list[int]:
        return list((ctypes.c_int * count).in_dll(library, name))

    kinds = ("TENSOR", "LEVEL", "VIEW", "TALLY", "KEPT", "HEADER", "ROW", "CLASS_ROW", "BATCH", "MAPS")
    assert numbers("sizes", len(kinds)) == [getattr(layout, kind).itemsize for kind in kinds]
    assert dict(zip(FIELDS, numbers("offsets", len(FIELDS)), strict=True)) == {
        name: layout.offset_of(BATCH, name) for name in FIELDS
    }
    names = MAPS.names or ()
    assert numbers("map_offsets", len(names)) == [layout.offset_of(MAPS, name) for name in names]
    *constants, _, shared_bytes = numbers("constants", 6)
    assert constants == [layout.MAX_FRAMES, layout.MAX_LEVELS, layout.COLLECT_THREADS, layout.FINISH_THREADS]
    assert BATCH.itemsize <= 4096, "kernel parameters"
    assert shared_bytes <= 48 * 1024 - 64, "static shared memory of a block"


class Stream:
    """The stream: a queue of things to do, and a context."""

    handle = 77
    ordinal = 0

    def __init__(self) -> None:
        self.queue: deque[Callable[[], None]] = deque()
        self.depth = self.waits = 0

    @property
    def cupy(self) -> Stream:
        return self

    def put(self, work: Callable[[], None]) -> None:
        assert self.depth, "not on the stream"
        self.queue.append(work)

    def __enter__(self) -> Stream:
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


class Array(np.ndarray):
    """Device memory: what CuPy's arrays have and no way to look at it by mistake."""

    @property
    def data(self):  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)

    def get(self):
        raise AssertionError("a wait for the device")


def on_device(outputs: dict[str, Any]) -> dict[str, Array]:
    """Copies of NumPy arrays as `Array`s."""
    return {name: np.array(value, order="C").view(Array) for name, value in outputs.items()}


class Cupy:
    """As much of CuPy as postprocessing uses. `launches` counts by kernel, `copies` holds sizes, `pinned` blocks."""

    def __init__(self, library: ctypes.CDLL, stream: Stream) -> None:
        self.launches: dict[str, int] = dict.fromkeys(KERNELS, 0)
        self.copies: list[int] = []
        self.pinned: list[np.ndarray] = []
        self._stream = stream
        self._arrays: list[np.ndarray] = []
        outer = self

        class Event:
            def __init__(self, block: bool, disable_timing: bool) -> None:
                assert block
                assert disable_timing
                self.happened = True

            def record(self, on: object) -> None:
                assert on is stream
                self.happened = False
                self.mark = mark = object()
                stream.put(lambda: self._happen(mark))

            def _happen(self, mark: object) -> None:
                self.happened = self.happened or mark is self.mark

            def synchronize(self) -> None:
                assert not stream.depth, "a wait while work is being put on the stream"
                stream.waits += 1
                while not self.happened:
                    stream.queue.popleft()()

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...]) -> None:
                assert code == SOURCE.read_text()
                assert "-fmad=false" in options

            def get_function(self, name: str):
                number = KERNELS.index(name)

                def start(grid, block, parameters):
                    (batch,) = parameters
                    assert batch.dtype == (MAPS if name == "segment" else BATCH)
                    assert batch.size == 1
                    assert min(grid) > 0
                    outer.launches[name] += 1
                    copy = batch.copy()
                    x, y = (*grid, 1)[:2]
                    stream.put(lambda: library.run(number, ctypes.c_void_p(copy.ctypes.data), x, y, *block))

                return start

        def copy(to: int, source: int, size: int, kind: int, on: int) -> None:
            assert (kind, on) == (2, stream.handle)
            outer.copies.append(size)
            stream.put(lambda: ctypes.memmove(to, source, size) and None)

        def alloc_pinned_memory(size: int) -> np.ndarray:
            memory = np.full(size, 0xCD, np.uint8)
            outer.pinned.append(memory)
            return memory

        self.RawModule = RawModule
        self.cuda = SimpleNamespace(
            alloc_pinned_memory=alloc_pinned_memory,
            Event=Event,
            runtime=SimpleNamespace(memcpyAsync=copy, memcpyDeviceToHost=2),
        )

    def empty(self, size: int, dtype: str) -> Array:
        """Poisoned, so that what is not written shows."""
        return self._array(np.full(size, 0xCD, dtype))

    def zeros(self, size: int, dtype: str) -> Array:
        return self._array(np.zeros(size, dtype))

    def asarray(self, values: np.ndarray) -> Array:
        return self._array(values.copy())

    def ascontiguousarray(self, values: Array) -> Array:
        return values if values.flags.c_contiguous else self._array(np.array(values, order="C"))

    def _array(self, values: np.ndarray) -> Array:
        """Kept for good: memory that is let go of stays what it is for what is enqueued already, as in CuPy's pool."""
        assert self._stream.depth, "not on the stream"
        self._arrays.append(values)
        return values.view(Array)


class Device:
    """A device that lives on the host."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.stream = Stream()
        self.cupy = Cupy(library, self.stream)

    def build(self, case: Case, max_frames: int = 80) -> Any:
        sys.modules["cupy"] = self.cupy  # type: ignore[assignment]
        layout.kernel.cache_clear()
        layout._module.cache_clear()
        try:
            return build_cuda_postprocessor(
                case.config, case.infos, model_size=case.batch.model_size, stream=self.stream, max_frames=max_frames
            )
        finally:
            del sys.modules["cupy"]

    def run(self, case: Case) -> Any:
        outputs = on_device(case.outputs)
        return self.build(case)(outputs, case.batch).result()
