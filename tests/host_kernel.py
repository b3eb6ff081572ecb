"""The CUDA kernel compiled for the host, and a stand-in for CuPy that runs it: device memory is the host's."""

from __future__ import annotations

import contextlib
import ctypes
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from host_compiler import compile_for_host

from pipeline.preprocess import kernels
from pipeline.preprocess.kernels import SOURCE, fused_name
from pipeline.preprocess.packing import BATCH, PLAN, ROW

SHIMS = r"""
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
using std::fmax; using std::fmin;
struct Index { unsigned x, y, z; };
static thread_local Index blockIdx, threadIdx;
template <typename T> static T __ldg(const T* address) { return *address; }
struct __half { std::uint16_t bits; };
// IEEE 754 binary32 -> binary16, to nearest even.
static __half __float2half_rn(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  const std::uint16_t sign = bits >> 16 & 0x8000;
  const float size = std::fabs(value);
  if (!(size < 65520.f)) return {std::uint16_t(sign | (size != size ? 0x7e00 : 0x7c00))};
  int exponent;
  std::frexp(size, &exponent);
  if (size < 6.103515625e-5f) return {std::uint16_t(sign | std::uint16_t(std::nearbyint(size * 16777216.f)))};
  const float scaled = std::nearbyint(std::ldexp(size, 11 - exponent));
  return {std::uint16_t(sign | std::uint16_t((exponent + 14) * 1024 + int(scaled) - 1024))};
}
"""

DRIVER = r"""
template <void (*Kernel)(const Batch)>
static void run(const Batch* batch, unsigned x, unsigned y, unsigned z) {
  for (blockIdx.z = 0; blockIdx.z < z; blockIdx.z++)
    for (blockIdx.y = 0; blockIdx.y < y; blockIdx.y++)
      for (blockIdx.x = 0; blockIdx.x < x; blockIdx.x++)
        for (threadIdx.y = 0; threadIdx.y < kBlockRows; threadIdx.y++)
          for (threadIdx.x = 0; threadIdx.x < kBlockColumns; threadIdx.x++) Kernel(*batch);
}
extern "C" {
int plan_layout[] = {sizeof(Plan), alignof(Plan), offsetof(Plan, left), offsetof(Plan, height), offsetof(Plan, luma),
  offsetof(Plan, chroma), offsetof(Plan, cb), offsetof(Plan, cr), offsetof(Plan, shift), offsetof(Plan, variant),
  offsetof(Plan, hidden), offsetof(Plan, map), offsetof(Plan, limits), sizeof(Tap), offsetof(Tap, weight),
  offsetof(Tables, rows), offsetof(Tables, column_taps), offsetof(Tables, row_taps)};
int batch_layout[] = {sizeof(Batch), offsetof(Batch, width), offsetof(Batch, height), offsetof(Batch, rows), sizeof(Row),
  offsetof(Row, plan), kMaxRows, kBlockColumns, kBlockRows, kRowsPerThread};
WRAPPERS
}
"""

VARIANTS = [
    (dtype, last, channels)
    for dtype in ("float32", "float16", "uint8")
    for last in (True, False)
    for channels in (3, 1)
]


def build(folder: Path) -> ctypes.CDLL:
    """Compiles the kernel with g++; skips the test without it."""
    wrappers = "".join(
        f"void run_{i}(const Batch* b, unsigned x, unsigned y, unsigned z) {{ run<{fused_name(*v)}>(b, x, y, z); }}\n"
        for i, v in enumerate(VARIANTS)
    )
    return compile_for_host(SHIMS + SOURCE.read_text() + DRIVER.replace("WRAPPERS", wrappers), folder, "-O1")


class Memory:
    """What CuPy's allocators return: `ptr`, and for pinned memory the buffer protocol through `numpy`."""

    def __init__(self, size: int) -> None:
        self._raw = np.full(size + 512, 0xCD, np.uint8)
        self.ptr = self._raw.ctypes.data + (-self._raw.ctypes.data) % 512


class Tensor(np.ndarray):
    """A NumPy array that has CuPy's `data.ptr`."""

    @property
    def data(self):  # type: ignore[override]
        return SimpleNamespace(ptr=self.ctypes.data)


class Stream:
    """The stream, as a context; counts how often it is entered."""

    handle = 77
    ordinal = 0

    def __init__(self) -> None:
        self.entered = self.depth = 0

    @property
    def cupy(self) -> Stream:
        return self

    def __enter__(self) -> Stream:
        self.entered += 1
        self.depth += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.depth -= 1


class Cupy:
    """As much of CuPy as preprocessing uses. `launches` holds (grid, block, parameters) of every launch."""

    def __init__(self, library: ctypes.CDLL, stream: Stream) -> None:
        self.launches: list[tuple[tuple[int, ...], tuple[int, ...], np.ndarray]] = []
        self.uploads: list[int] = []
        self.waits = 0
        outer = self

        class Event:
            def __init__(self, disable_timing: bool) -> None:
                assert disable_timing

            def record(self) -> None:
                assert stream.depth, "not on the stream"

            def synchronize(self) -> None:
                outer.waits += 1

        class RawModule:
            def __init__(self, code: str, options: tuple[str, ...], name_expressions: tuple[str, ...]) -> None:
                assert code == SOURCE.read_text()

            def get_function(self, name: str):
                number = next(i for i, v in enumerate(VARIANTS) if fused_name(*v) == name)
                function = getattr(library, f"run_{number}")

                def start(grid, block, parameters):
                    assert stream.depth, "not on the stream"
                    (batch,) = parameters
                    assert batch.dtype == BATCH and batch.size == 1
                    outer.launches.append((grid, block, batch.copy()))
                    function(ctypes.c_void_p(batch.ctypes.data), *grid)

                return start

        def copy(to: int, source: int, size: int, kind: int, on: int) -> None:
            assert (kind, on) == (1, stream.handle)
            outer.uploads.append(size)
            ctypes.memmove(to, source, size)

        self.RawModule = RawModule
        self.cuda = SimpleNamespace(
            alloc=Memory,
            alloc_pinned_memory=lambda size: np.full(size, 0xCD, np.uint8),
            Event=Event,
            runtime=SimpleNamespace(memcpyAsync=copy, memcpyHostToDevice=1),
        )

    def empty(self, shape: tuple[int, ...], dtype: str) -> Tensor:
        """Poisoned, so that what is not written shows."""
        tensor = np.empty(shape, dtype).view(Tensor)
        tensor[...] = 199 if dtype == "uint8" else np.nan
        return tensor


def check_layouts(library: ctypes.CDLL) -> None:
    """The structs are laid out the same in C++ and in NumPy."""
    from pipeline.preprocess import packing

    at = {name: PLAN.fields[name][1] for name in PLAN.names or ()}
    tap, tables = packing.TAP, packing._TABLES
    plan = [
        PLAN.itemsize,
        packing.ALIGNMENT,
        *(at[n] for n in ("left", "height", "luma", "chroma", "cb", "cr", "shift")),
    ]
    plan += [at["variant"], at["hidden"], at["map"], at["limits"], tap.itemsize, tap.fields["weight"][1]]
    plan += [tables.fields[n][1] for n in ("rows", "column_taps", "row_taps")]
    assert list((ctypes.c_int * len(plan)).in_dll(library, "plan_layout")) == plan
    batch = [BATCH.itemsize, *(BATCH.fields[n][1] for n in ("width", "height", "rows")), ROW.itemsize]
    batch += [ROW.fields["plan"][1], packing.MAX_ROWS, packing.BLOCK[0], packing.BLOCK[1]]
    batch += [packing.TILE[1] // packing.BLOCK[1]]
    assert list((ctypes.c_int * len(batch)).in_dll(library, "batch_layout")) == batch
    assert packing.TILE[0] == packing.BLOCK[0]
    assert BATCH.itemsize <= 4096


@contextlib.contextmanager
def installed(library: ctypes.CDLL, stream: Stream) -> Iterator[Cupy]:
    """In the place of CuPy."""
    fake = Cupy(library, stream)
    kernels.fused_kernel.cache_clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "cupy", fake)
        yield fake
    kernels.fused_kernel.cache_clear()
