"""What a trace holds, apart from who recorded it. All times are nanoseconds of the tracer's clock."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import NamedTuple


class Direction(str, enum.Enum):
    """Where the bytes of a copy went."""

    UP = "up"  # host -> device
    DOWN = "down"  # device -> host
    DEVICE = "device"  # on the device, or from one to another
    HOST = "host"


class Call(NamedTuple):
    """A call into CUDA.

    Attributes:
        name: The function's, such as `cuLaunchKernel`.
        thread: The operating system's number of the thread.
        start_ns: When it was called.
        end_ns: When it returned.
        correlation: What the work that it caused refers to it by.
    """

    name: str
    thread: int
    start_ns: int
    end_ns: int
    correlation: int


class Copy(NamedTuple):
    """A copy of memory.

    Attributes:
        direction: From where to where.
        size_bytes: How much.
        start_ns: When the device began it.
        correlation: Of the call that asked for it.
        is_pageable: Whether the host's memory is not pinned: then the host waits for a copy down.
    """

    direction: Direction
    size_bytes: int
    start_ns: int
    correlation: int
    is_pageable: bool = False


class Launch(NamedTuple):
    """A kernel that ran; `start_ns` and `correlation` as in `Copy`."""

    start_ns: int
    correlation: int


class Wait(NamedTuple):
    """The host waited for an event, a stream or the whole device, as `what` says, from `start_ns` on."""

    what: str
    start_ns: int
    correlation: int


class Window(NamedTuple):
    """A stage at work.

    Attributes:
        stage: Its name.
        thread: As in `Call`.
        start_ns: When it began.
        end_ns: When it was done.
        frames: How many frames it worked on; 0: not known.
    """

    stage: str
    thread: int
    start_ns: int
    end_ns: int
    frames: int


@dataclass(slots=True)
class Trace:
    """What was recorded around a measurement.

    Attributes:
        start_ns: When the measurement began; records may be older.
        end_ns: When it ended; records may be younger.
        calls: Calls into CUDA.
        copies: Copies of memory.
        waits: What the host waited for.
        launches: The kernels.
        dropped: How many records the tracer lost.
    """

    start_ns: int = 0
    end_ns: int = 0
    calls: list[Call] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    dropped: int = 0
