"""A turnstile: how many threads may do something at the same moment, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

# A turn that lasts longer is stuck: a file may lie on a server, or be a pipe.
_PATIENCE_S = 0.25


class Turnstile:
    """Hands a turn to who has waited longest; unlike with a semaphore nobody overtakes.

    It orders threads so that they do not get into each other's way; it protects nothing. A turn that takes too long while
    others wait is passed on, so that a thread whose work is stuck keeps nobody from his.
    """

    def __init__(
        self, number: int, patience_s: float = _PATIENCE_S, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`number` is how many turns there are at the same moment, at least 1; each is passed on after `patience_s`."""
        self._number = number
        self._patience_s = patience_s
        self._clock = clock
        self._begun_s: dict[object, float] = {}  # of each turn, the oldest first
        self._waiting: deque[tuple[threading.Lock, object]] = deque()
        self._lock = threading.Lock()

    def enter(self) -> object:
        """Waits for a turn; returns what `leave` takes."""
        turn = object()
        with self._lock:
            if len(self._begun_s) < self._number:
                self._begun_s[turn] = self._clock()
                return turn
            gate = threading.Lock()
            gate.acquire()
            self._waiting.append((gate, turn))
        while not gate.acquire(timeout=self._patience_s):
            with self._lock:
                self._pass_on_what_is_stuck()
        return turn

    def leave(self, turn: object) -> None:
        """The turn is over, unless it has been passed on; from any thread."""
        with self._lock:
            if self._begun_s.pop(turn, None) is not None:
                self._let_in()

    def _let_in(self) -> None:
        if self._waiting:
            gate, turn = self._waiting.popleft()
            self._begun_s[turn] = self._clock()
            gate.release()

    def _pass_on_what_is_stuck(self) -> None:
        now_s = self._clock()
        for turn, begun_s in list(self._begun_s.items()):
            if self._waiting and now_s - begun_s >= self._patience_s:
                del self._begun_s[turn]
                self._let_in()


@dataclass(frozen=True, slots=True)
class DecodeTurns:
    """What decoders take turns by; None: everybody at once.

    Attributes:
        reading: Reading the packets of files.
        decoding: Decoding them.
        handling: All that is done with a live stream's packet between reading and decoding it, and with what comes out.
    """

    reading: Turnstile | None = None
    decoding: Turnstile | None = None
    handling: Turnstile | None = None


class Turn:
    """One thread's place at a turnstile, or at none: what is called again, or before anything else, does nothing."""

    def __init__(self, turnstile: Turnstile | None) -> None:
        self._turnstile = turnstile
        self._turn: object = None

    def begin(self) -> None:
        """Waits for the turn, unless it has begun."""
        if self._turnstile is not None and self._turn is None:
            self._turn = self._turnstile.enter()

    def end(self) -> None:
        """Lets others have it."""
        if self._turnstile is not None and self._turn is not None:
            turn, self._turn = self._turn, None
            self._turnstile.leave(turn)
