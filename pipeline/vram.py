"""The device's memory: what a run plans to take of it, and who may take how much while it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

MIB = 1 << 20
_LOOK_S = 0.1


@dataclass(frozen=True, slots=True)
class Part:
    """What one user of the memory is planned to take.

    Attributes:
        name: Who.
        size_bytes: How much.
        detail: What that is made of, in a few words.
    """

    name: str
    size_bytes: int
    detail: str


@dataclass(frozen=True, slots=True)
class Shares:
    """How the budget is divided. CUDA's context and libraries come on top of it.

    Attributes:
        tensorflow_bytes: What TensorFlow may take at most.
        decoders_bytes: What all decoders together may take at most.
        source_bytes: What one of them may, however large its pictures.
        cupy_bytes: What CuPy's memory pool may take at most.
    """

    tensorflow_bytes: int
    decoders_bytes: int
    source_bytes: int
    cupy_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a run takes of the device's memory, as far as it can be known before.

    Attributes:
        parts: Everybody's, the least that they do with.
        budget_bytes: What the run may take; None where there is no GPU to ask and none is configured.
        free_bytes: What of the device's memory was free; None if unknown.
        shares: How the budget is divided; None without one, or if it is too small.
        notes: What was assumed.
        decodes_ahead: Whether there is memory for decoders that are called once ahead of who hands the pictures out.
    """

    parts: tuple[Part, ...]
    budget_bytes: int | None
    free_bytes: int | None
    shares: Shares | None
    notes: tuple[str, ...] = ()
    decodes_ahead: bool = False

    @property
    def total_bytes(self) -> int:
        """All parts together."""
        return sum(part.size_bytes for part in self.parts)

    @property
    def fits(self) -> bool:
        """Whether that is within the budget, as far as it is known."""
        return self.budget_bytes is None or self.total_bytes <= self.budget_bytes


class Allowance:
    """An amount of memory that several owners share: each takes what it needs before it allocates, and gives it back.

    Attributes:
        limit_bytes: The amount; None: no limit, only counted.
        taken_bytes: What is taken.
        high_water_bytes: The most that was.
    """

    def __init__(self, limit_bytes: int | None = None) -> None:
        self.limit_bytes = limit_bytes
        self.taken_bytes = self.high_water_bytes = 0
        # Reentrant: what is collected in the middle of a call may give back from there.
        self._given_back = threading.Condition()

    @property
    def left_bytes(self) -> int | None:
        """What could be taken now; None: anything."""
        return None if self.limit_bytes is None else max(0, self.limit_bytes - self.taken_bytes)

    def take(self, size_bytes: int, timeout_s: float = 0.0, gives_up: Callable[[], bool] = lambda: False) -> bool:
        """Takes an amount as a whole, waiting for others to give back; whether it could.

        Args:
            size_bytes: How much.
            timeout_s: How long to wait at most.
            gives_up: Looked at while waiting: whether nobody wants it any more.
        """
        end_s = time.monotonic() + timeout_s
        with self._given_back:
            while self.limit_bytes is not None and self.taken_bytes + size_bytes > self.limit_bytes:
                left_s = end_s - time.monotonic()
                if left_s <= 0 or size_bytes > self.limit_bytes or gives_up():
                    return False
                self._given_back.wait(min(left_s, _LOOK_S))
            self.taken_bytes += size_bytes
            self.high_water_bytes = max(self.high_water_bytes, self.taken_bytes)
            return True

    def give_back(self, size_bytes: int) -> None:
        """From any thread."""
        with self._given_back:
            self.taken_bytes -= size_bytes
            self._given_back.notify_all()


class Reservation:
    """What one owner has taken of an allowance; given back when it is let go of."""

    __slots__ = ("_allowance", "size_bytes")

    def __init__(self, allowance: Allowance, size_bytes: int) -> None:
        """`size_bytes` has been taken."""
        self._allowance, self.size_bytes = allowance, size_bytes

    def __del__(self) -> None:
        self._allowance.give_back(self.size_bytes)
