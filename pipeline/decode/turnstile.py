"""A turnstile: how many threads may do something at the same moment, first come, first served."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.sources import VideoSpec

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

    def of(self, spec: VideoSpec) -> DecodeTurns:
        """Those that this video takes part in. What comes over a network takes as long as it takes."""
        if spec.settings.is_live:
            return DecodeTurns(handling=self.handling)
        return DecodeTurns() if spec.is_url else DecodeTurns(self.reading, self.decoding)


class Turn:
    """One thread's place: in one turnstile or in none, and never in two, so that no two threads wait for each other."""

    def __init__(self) -> None:
        self._turnstile: Turnstile | None = None
        self._turn: object = None

    def take(self, turnstile: Turnstile | None) -> None:
        """Leaves where it is and waits for a turn there; None: goes on without one. Does nothing where it is there already."""
        if turnstile is self._turnstile:
            return
        if self._turnstile is not None:
            held, self._turnstile = self._turnstile, None
            held.leave(self._turn)
        if turnstile is not None:
            self._turn, self._turnstile = turnstile.enter(), turnstile
