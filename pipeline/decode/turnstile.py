"""A turnstile: how many threads may do something at the same moment, first come, first served."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

# Longer than any turn takes that is not stuck (a file may lie on a server, or be a pipe).
_PATIENCE_S = 0.05


class Turnstile:
    """Hands a turn to who has waited longest; unlike with a semaphore nobody overtakes.

    It orders threads so that they do not get into each other's way; it protects nothing. Who has waited for too long goes on
    without a turn: a thread that keeps its turn, since what it does is stuck, slows the others down and does not stop them.
    """

    def __init__(self, number: int, patience_s: float = _PATIENCE_S) -> None:
        """`number` is how many turns there are at the same moment, at least 1; nobody waits longer than `patience_s`."""
        self._free = number
        self._patience_s = patience_s
        self._waiting: deque[threading.Lock] = deque()
        self._lock = threading.Lock()

    def enter(self) -> bool:
        """Waits for a turn; whether there was one, for `leave` to end."""
        with self._lock:
            if self._free:
                self._free -= 1
                return True
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append(gate)
        if gate.acquire(timeout=self._patience_s):
            return True
        with self._lock:
            if gate in self._waiting:
                self._waiting.remove(gate)
                return False
        return True  # it has been handed over just now

    def leave(self) -> None:
        """The turn is over; from any thread."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._free += 1


@dataclass(frozen=True, slots=True)
class DecodeTurns:
    """What the decoders of files take turns by: reading packets and, apart from that, decoding. None: everybody at once."""

    reading: Turnstile | None = None
    decoding: Turnstile | None = None


class Turn:
    """One thread's place at a turnstile, or at none: what is called again, or before anything else, does nothing."""

    def __init__(self, turnstile: Turnstile | None) -> None:
        self._turnstile = turnstile
        self._is_on = False  # or has gone on without one
        self._has_one = False

    def begin(self) -> None:
        """Waits for the turn, unless it has begun."""
        if self._turnstile is not None and not self._is_on:
            self._is_on = True
            self._has_one = self._turnstile.enter()

    def end(self) -> None:
        """Lets others have it."""
        self._is_on = False
        if self._turnstile is not None and self._has_one:
            self._has_one = False
            self._turnstile.leave()
