"""Pictures that the CPU decoded, on their way to the device: pinned staging memory, and device memory of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from pipeline.decode._surface_ring import Loan, SurfaceRing
from pipeline.frames import Picture, Surface, SurfaceLayout
from pipeline.stages import DeviceStream
from pipeline.vram import Reservation


class _Buffer:
    """A picture's memory on both sides, and when the last copy between them is done."""

    def __init__(self, cupy: Any, size: int, memory: Reservation) -> None:
        self.size = size
        self.pinned = cupy.cuda.alloc_pinned_memory(size)
        self.staging = np.frombuffer(self.pinned, np.uint8, size)
        self.device = cupy.cuda.alloc(size)
        self.copied = cupy.cuda.Event(disable_timing=True)
        self.memory = memory  # of all buffers of this size; given back behind the last of them


class PictureUpload:
    """Copies pictures up on the stream; the decoding thread waits only for its own earlier copies, and for the ring.

    Device memory is written again once its loan is back. That is in order: whatever reads it was enqueued before. Staging
    memory is not: CuPy gives what is let go of to the next who asks, whose pictures would overtake the copies under way. So
    they are waited for first, also at the end, by `finish`.
    """

    def __init__(self, stream: DeviceStream, ring: SurfaceRing, reserve: Callable[[int], Reservation]) -> None:
        """`reserve` takes the memory for as many pictures of so many bytes as the ring holds, or raises."""
        import cupy

        self._cupy = cupy
        self._stream = stream
        self._ring = ring
        self._reserve = reserve
        self._memory: tuple[int, Reservation] | None = None  # bytes of a picture, and what was taken for such
        self._free: deque[_Buffer] = deque()
        self._out: dict[int, _Buffer] = {}
        self._last: _Buffer | None = None

    def __call__(self, picture: Picture) -> Picture | None:
        """The picture with a surface in place of its planes; None if the ring was closed. Raises what `reserve` does."""
        layout, size = planar_layout(picture)
        if self._memory is None or self._memory[0] != size:
            self._memory = None
            self._memory = size, self._reserve(size)
        if not self._ring.take():
            return None
        with self._cupy.cuda.Device(self._stream.ordinal), self._stream.cupy:
            buffer = self._buffer(size)
            _copy_planes(picture, layout, buffer.staging)
            runtime = self._cupy.cuda.runtime
            source = buffer.staging.ctypes.data
            runtime.memcpyAsync(buffer.device.ptr, source, size, runtime.memcpyHostToDevice, self._stream.handle)
            buffer.copied.record(self._stream.cupy)
        self._last = buffer
        pointer = buffer.device.ptr
        self._out[pointer] = buffer
        surface = Surface(pointer, layout, Loan(self._came_back, pointer, self._ring), uploaded=True)
        return replace(picture, planes=(), owner=None, surface=surface)

    def finish(self) -> None:
        """Waits for the copies under way; to be called before this is let go of. Surfaces stay."""
        if self._last is not None:
            self._last.copied.synchronize()  # the others come before it

    def _came_back(self, pointer: int) -> None:
        self._free.append(self._out.pop(pointer))

    def _buffer(self, size: int) -> _Buffer:
        while self._free:
            buffer = self._free.popleft()
            buffer.copied.synchronize()
            if buffer.size == size:
                return buffer
        assert self._memory is not None
        return _Buffer(self._cupy, size, self._memory[1])  # the ring bounds how many there are


def planar_layout(picture: Picture) -> tuple[SurfaceLayout, int]:
    """Planes one after another, rows without gaps; and how many bytes that is."""
    first = picture.planes[0]
    sample = first.itemsize
    height, width = first.shape
    if len(picture.planes) == 1:
        return SurfaceLayout(width, height, width * sample, 0, 0, 0, 0, sample), first.size * sample
    rows, columns = picture.planes[1].shape
    luma, chroma = height * width * sample, rows * columns * sample
    layout = SurfaceLayout(width, height, width * sample, luma, chroma, columns * sample, sample, sample)
    return layout, luma + 2 * chroma


def _copy_planes(picture: Picture, layout: SurfaceLayout, staging: Any) -> None:
    start = 0
    for plane in picture.planes:
        size = plane.size * layout.sample_bytes
        np.copyto(staging[start : start + size].view(plane.dtype).reshape(plane.shape), plane)
        start += size
