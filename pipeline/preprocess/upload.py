"""Small constant data to the device, now and then, in the middle of a run, without the host waiting for it."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.stages import DeviceStream

# Room for some hundred plans at once; a plan without a mask is some 50 KiB.
_STAGING_BYTES = 4 << 20


class Uploader:
    """Copies from pinned memory, a ring of it: a part is written again once the copy from it is done.

    Allocating pinned memory can make the host wait for the device, so it is done once, here. For device memory CuPy's pool
    is filled beforehand for the same reason. What the pool gets back it hands out again on the same stream only, so memory
    may be let go of as soon as the last kernel that reads it has been enqueued. Calls come from one thread.
    """

    def __init__(self, stream: DeviceStream, staging_bytes: int = _STAGING_BYTES) -> None:
        import cupy

        self._cupy = cupy
        self._stream = stream
        self._busy: deque[tuple[int, int, Any]] = deque()
        self._reserve(staging_bytes)
        with stream.cupy:
            cupy.cuda.alloc(staging_bytes)

    def upload(self, data: npt.NDArray[np.uint8]) -> Any:
        """Enqueues the copy; call it with the stream current.

        Args:
            data: (n,) bytes; may be changed afterwards.

        Returns:
            CuPy's pointer to n bytes of device memory, which owns them; `ptr` is the address.
        """
        start = self._room_for(len(data))
        self._staging[start : start + len(data)] = data
        memory = self._cupy.cuda.alloc(len(data))
        source = self._staging.ctypes.data + start
        runtime = self._cupy.cuda.runtime
        runtime.memcpyAsync(memory.ptr, source, len(data), runtime.memcpyHostToDevice, self._stream.handle)
        done = self._cupy.cuda.Event(disable_timing=True)
        done.record()
        self._busy.append((start, start + len(data), done))
        return memory

    def _reserve(self, size: int) -> None:
        self._pinned = self._cupy.cuda.alloc_pinned_memory(size)
        self._staging = np.frombuffer(self._pinned, np.uint8, size)
        self._next = 0

    def _room_for(self, size: int) -> int:
        """Where `size` bytes of the ring are free."""
        if size > len(self._staging):
            # A plan of this size is a mask or tables of many megapixels: waiting once is all right.
            while self._busy:
                self._busy.popleft()[2].synchronize()
            self._reserve(2 * size)
        if self._next + size > len(self._staging):
            self._next = 0
        start, stop = self._next, self._next + size
        # Only where the whole ring has been written to since; then the copy is done as a rule.
        while any(start < busy_stop and busy_start < stop for busy_start, busy_stop, _ in self._busy):
            self._busy.popleft()[2].synchronize()
        self._next = stop
        return start
