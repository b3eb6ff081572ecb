"""A real GPU for tests that need no TensorFlow: a stream, memory on it, and work that takes a known time."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from surface_maker import on_device

SPIN = r"""
extern "C" __global__ void spin(unsigned long long ns) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while (now - start < ns);
}
"""


class Device:
    """A stream of our own, and memory on it."""

    ordinal = 0

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self.cupy = cupy.cuda.Stream(non_blocking=True)
        self._spin = cupy.RawModule(code=SPIN).get_function("spin")
        self.spin(0)
        self.cupy.synchronize()

    @property
    def handle(self) -> int:
        return self.cupy.ptr

    def upload(self, data):
        with self.cupy:
            array = self._cupy.asarray(data)
        self.cupy.synchronize()
        return SimpleNamespace(ptr=array.data.ptr, array=array)

    def spin(self, ms: float) -> None:
        with self.cupy:
            self._spin((1,), (1,), (np.uint64(int(ms * 1e6)),))

    def get(self, array):
        with self.cupy:
            host = self._cupy.asnumpy(array)
        self.cupy.synchronize()
        return host

    def surface(self, picture, form="semiplanar", **how):
        return on_device(picture, form, self.upload, **how)
