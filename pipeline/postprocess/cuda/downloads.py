"""Results on their way to the host: pinned memory that takes turns, and one event per batch."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ModelError
from pipeline.frames import Predictions
from pipeline.stages import DeviceStream

Bytes = npt.NDArray[np.uint8]
Unpack = Callable[[Bytes], Predictions]


class _Slot:
    """Pinned memory for one batch, and the event that tells when it is written."""

    def __init__(self, cupy: Any, size: int) -> None:
        # A thread that waits for it sleeps, instead of keeping a core busy.
        self.event = cupy.cuda.Event(block=True, disable_timing=True)
        self.bytes: Bytes = np.frombuffer(cupy.cuda.alloc_pinned_memory(max(size, 1)), np.uint8, max(size, 1))
        self.address = self.bytes.ctypes.data


class Pending:
    """The results of one batch; see `pipeline.stages.PendingPredictions`. One thread at a time may ask for them."""

    def __init__(self, slot: _Slot, unpack: Unpack, give_back: Callable[[_Slot], None]) -> None:
        self._slot: _Slot | None = slot
        self._unpack = unpack
        self._give_back = give_back
        self._outcome: Predictions | ModelError | None = None

    def result(self) -> Predictions:
        """Waits for the results; asked again, gives the same ones.

        Raises:
            ModelError: the model's numbers are not what the family needs.
        """
        if self._slot is not None:
            self._slot.event.synchronize()
            try:
                self._outcome = self._unpack(self._slot.bytes)
            except ModelError as e:
                self._outcome = e
            self._release()
        if isinstance(self._outcome, ModelError):
            raise self._outcome
        assert self._outcome is not None
        return self._outcome

    def _release(self) -> None:
        slot, self._slot = self._slot, None
        if slot is not None:
            self._give_back(slot)

    def __del__(self) -> None:
        # Results that nobody asked for: whatever is still to be copied into the slot comes before what its next user
        # enqueues, on the one stream.
        self._release()


class Downloads:
    """Copies from the device behind all that was enqueued before, each of which becomes a `Pending`.

    Slots of pinned memory take turns; as many as `slots` exist from the start. With more batches in flight than slots
    there are, another slot is made, which may make the host wait once; so there never are more than batches in flight
    at the same time, which the runtime bounds.

    Attributes:
        copied_bytes: What has been copied so far.
    """

    def __init__(self, stream: DeviceStream, slot_bytes: int, slots: int = 4) -> None:
        import cupy

        self._cupy = cupy
        self._stream = stream
        self._slot_bytes = slot_bytes
        self._free: deque[_Slot] = deque(_Slot(cupy, slot_bytes) for _ in range(slots))
        self.copied_bytes = 0

    def start(self, parts: Sequence[tuple[int, int]], unpack: Unpack) -> Pending:
        """Enqueues copies of (device address, size in bytes), one behind another into one slot.

        Args:
            parts: What to copy.
            unpack: Makes predictions of the slot's bytes; must copy what it keeps.
        """
        size = sum(part_size for _, part_size in parts)
        slot = self._take(size)
        runtime = self._cupy.cuda.runtime
        to = slot.address
        for address, part_size in parts:
            if part_size:
                runtime.memcpyAsync(to, address, part_size, runtime.memcpyDeviceToHost, self._stream.handle)
            to += part_size
        slot.event.record(self._stream.cupy)
        self.copied_bytes += size
        return Pending(slot, unpack, self._free.append)

    def _take(self, size: int) -> _Slot:
        self._slot_bytes = max(self._slot_bytes, size)
        slot = self._free.popleft() if self._free else None
        if slot is None or slot.bytes.size < size:
            return _Slot(self._cupy, self._slot_bytes)
        return slot
