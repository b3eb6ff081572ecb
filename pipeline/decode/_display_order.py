"""Gives each decoded frame back what its packet said, where the decoder hands out pictures in display order and nothing else."""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple


class Mark(NamedTuple):
    """What is known of a frame that is inside the decoder. Sorts in display order.

    Attributes:
        epoch: How many closed key frames were before; nothing is shown across them.
        time: What it sorts by: its timestamp, or the nearest thing to one.
        number: Of its packet.
        pts: Presentation timestamp; None if the container states none.
        is_hidden: Whether the container says that it is decoded for others' sake and not shown.
    """

    epoch: int
    time: int
    number: int
    pts: int | None
    is_hidden: bool


_UNKNOWN = Mark(0, 0, 0, None, False)


class DisplayOrder:
    """The marks of the frames that are inside the decoder.

    A damaged packet can come out as no frame. Its mark is then left over and later frames get the mark before theirs. At a
    closed key frame a decoder holds nothing back for reordering, so what is inside right after it is the decoder's delay
    alone: more than ever before means that marks are left over, and the decoder is to be drained before the next.

    Attributes:
        has_lost: Whether marks seem to be left over.
        newest: Number of the mark that was added last.
    """

    def __init__(self) -> None:
        self.has_lost = False
        self._inside: list[Mark] = []
        self._epoch = 0
        self._closed_keys: deque[int] = deque()  # numbers of their marks, those that have not settled
        self.newest = 0
        self._last_time = 0
        self._delay: int | None = None
        self._has_shown = False

    def add(self, pts: int | None, dts: int | None, is_hidden: bool) -> None:
        """A packet goes in."""
        time = pts if pts is not None else dts
        if time is None:
            time = self._last_time
        self._last_time = time
        self.newest += 1
        heapq.heappush(self._inside, Mark(self._epoch, time, self.newest, pts, is_hidden))

    def add_all(self, pts: Sequence[int]) -> None:
        """Packets with these timestamps go in, all to be shown."""
        for time in pts:
            self.newest += 1
            heapq.heappush(self._inside, Mark(self._epoch, time, self.newest, time, False))
        self._last_time = pts[-1]

    def pop_all(self, count: int) -> list[Mark]:
        """So many frames come out."""
        self._has_shown = self._has_shown or count > 0
        inside = self._inside
        return [heapq.heappop(inside) if inside else _UNKNOWN for _ in range(count)]

    def before_closed_key_frame(self) -> None:
        """The next packet is shown after all before it, whatever its timestamp says."""
        self._epoch += 1
        self._closed_keys.append(self.newest + 1)

    def settle(self, newest: int) -> None:
        """All frames that came out until the packet with this mark had gone in were popped, and none that came out later."""
        is_closed_key = False
        while self._closed_keys and self._closed_keys[0] <= newest:
            is_closed_key = self._closed_keys.popleft() == newest
        if not is_closed_key or not self._has_shown:
            return  # or the delay has not filled yet
        count = sum(mark.number <= newest for mark in self._inside)
        self.has_lost = self._delay is not None and count > self._delay
        self._delay = count if self._delay is None else min(count, self._delay)

    def drained(self, frames: int) -> None:
        """Everything comes out, and it is `frames` frames: the last ones that went in; the others were lost."""
        self._inside.sort()  # a sorted list is a heap
        del self._inside[: max(0, len(self._inside) - frames)]
        self._restart()

    def clear(self) -> None:
        """The decoder was given up with everything inside."""
        self._inside.clear()
        self._restart()

    def _restart(self) -> None:
        self.has_lost = False
        self._has_shown = False
