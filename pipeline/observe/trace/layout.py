"""CUPTI's activity records as bytes -> our records. Only the front of each is read, which has been the same since CUDA 11."""

from __future__ import annotations

import struct
from collections.abc import Callable

from pipeline.observe.trace.records import Call, Copy, Direction, Launch, Trace, Wait

# CUpti_ActivityKind
MEMCPY, DRIVER, RUNTIME, KERNEL, MEMCPY_PEER, SYNCHRONIZATION = 1, 4, 5, 10, 22, 38
KINDS = (DRIVER, RUNTIME, MEMCPY, MEMCPY_PEER, KERNEL, SYNCHRONIZATION)

FRONT_BYTES = 96
"""How much of a record is read. Smaller ones are followed by others, or by the slack of their buffer."""

_KIND = struct.Struct("=I")
_API = struct.Struct("=4xIQQ4xII")  # callback id, start, end, (process,) thread, correlation
_MEMCPY = struct.Struct("=4xBBB1xQQ20xI")  # kind of copy, of source, of destination, bytes, start, (...,) correlation
_MEMCPY_PEER = struct.Struct("=8xQQ36xI")  # bytes, start, (...,) correlation
_KERNEL = struct.Struct("=16xQ68xI")  # start, (...,) correlation
_SYNCHRONIZATION = struct.Struct("=4xIQ8xI")  # type, start, (end,) correlation

# CUpti_ActivityMemcpyKind
_DIRECTIONS = {1: Direction.UP, 2: Direction.DOWN, 3: Direction.UP, 4: Direction.DOWN, 9: Direction.HOST}
_PAGEABLE = 1  # CUpti_ActivityMemoryKind
# CUpti_ActivitySynchronizationType; the other one, a stream that waits for an event, holds up no host.
_WAITS = {1: "event", 3: "stream", 4: "device"}


class Reader:
    """Adds records to a trace.

    Args:
        trace: Where to.
        call_name: (kind, callback id) -> the function's name.
    """

    def __init__(self, trace: Trace, call_name: Callable[[int, int], str]) -> None:
        self._trace = trace
        self._call_name = call_name

    def add(self, front: bytes) -> None:
        """Reads a record of one of `KINDS`; others are passed over.

        Args:
            front: Its first `FRONT_BYTES`.
        """
        trace = self._trace
        (kind,) = _KIND.unpack_from(front)
        if kind in (DRIVER, RUNTIME):
            number, start_ns, end_ns, thread, correlation = _API.unpack_from(front)
            trace.calls.append(Call(self._call_name(kind, number), thread, start_ns, end_ns, correlation))
        elif kind == MEMCPY:
            way, source, target, size, start_ns, correlation = _MEMCPY.unpack_from(front)
            direction = _DIRECTIONS.get(way, Direction.DEVICE)
            is_pageable = _PAGEABLE in (source, target)
            trace.copies.append(Copy(direction, size, start_ns, correlation, is_pageable))
        elif kind == MEMCPY_PEER:
            size, start_ns, correlation = _MEMCPY_PEER.unpack_from(front)
            trace.copies.append(Copy(Direction.DEVICE, size, start_ns, correlation))
        elif kind == KERNEL:
            trace.launches.append(Launch(*_KERNEL.unpack_from(front)))
        elif kind == SYNCHRONIZATION:
            what, start_ns, correlation = _SYNCHRONIZATION.unpack_from(front)
            if what in _WAITS:
                trace.waits.append(Wait(_WAITS[what], start_ns, correlation))
