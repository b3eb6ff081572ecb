"""How long FFmpeg may read for one packet of a live stream, without the interpreter's lock.

FFmpeg asks in every wait, and for every datagram or RTP packet, whether to go on: some twenty times a frame. PyAV's answer
takes the interpreter's lock to look at the clock, and with dozens of streams its threads then do little but hand that lock
around. PyAV answers without it while its limit is negative. So that is what the limit is while packets flow, and a thread that
looks at all streams a few times a second lets it run out where a read takes too long.
"""

from __future__ import annotations

import ctypes
import threading
import time

from av.container import InputContainer

# A read may take this much longer than it is allowed to.
_LOOK_S = 0.2
_NONE = -1.0
_OVER = 0.0


class ReadLimit:
    """Of one container. One thread reads.

    Attributes:
        asked_s: `time.monotonic()` when the read began that goes on; None while nothing is read. Set by the reader. Who is
            interrupted has been reading for longer than the limit.
    """

    def __init__(self, container: InputContainer, limit: ctypes.c_double, limit_s: float) -> None:
        """`limit` is PyAV's own; see `of`, which finds it."""
        self.asked_s: float | None = None
        self._container = container  # in whose memory the limit lies
        self._limit = limit
        self._limit_s = limit_s
        limit.value = _NONE
        _watch.add(self)

    @classmethod
    def of(cls, container: InputContainer, limit_s: float, asked_s: float, received_s: float) -> ReadLimit | None:
        """Takes the place of the limit that PyAV has been given for reading.

        PyAV offers no way to change it, but keeps it in the container next to when the read began: two doubles that are
        known, so that they can be told from everything else there.

        Args:
            container: From which the first packet has just been read.
            limit_s: The limit that it was opened with.
            asked_s: `time.monotonic()` right before that packet was read.
            received_s: The same right behind it.

        Returns:
            None if there are no such two, or several: then PyAV's limit is left as it is.
        """
        if not isinstance(container, InputContainer):
            return None
        words = (ctypes.c_double * (type(container).__basicsize__ // ctypes.sizeof(ctypes.c_double))).from_address(
            id(container)
        )
        found = [i for i in range(1, len(words)) if words[i] == limit_s and asked_s <= words[i - 1] <= received_s]
        if len(found) != 1:
            return None
        offset = found[0] * ctypes.sizeof(ctypes.c_double)
        return cls(container, ctypes.c_double.from_address(id(container) + offset), limit_s)

    def look(self, now_s: float) -> None:
        """Interrupts a read that has taken too long."""
        asked_s = self.asked_s
        if asked_s is not None and now_s - asked_s > self._limit_s:
            self._limit.value = _OVER

    def close(self) -> None:
        """Nothing more will be read."""
        _watch.discard(self)


class _Watch:
    """Looks at all limits, from a thread that is there as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._limits: set[ReadLimit] = set()
        self._is_running = False

    def add(self, limit: ReadLimit) -> None:
        with self._lock:
            self._limits.add(limit)
            if not self._is_running:
                self._is_running = True
                threading.Thread(target=self._run, name="read-limits", daemon=True).start()

    def discard(self, limit: ReadLimit) -> None:
        with self._lock:
            self._limits.discard(limit)

    def _run(self) -> None:
        while True:
            time.sleep(_LOOK_S)
            with self._lock:
                if not self._limits:
                    self._is_running = False
                    return
                for limit in self._limits:
                    limit.look(time.monotonic())


_watch = _Watch()
