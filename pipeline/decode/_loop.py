"""Playing a file again and again: how often, and where the times of the next round begin."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING

import av.error

from pipeline.frames import Frame

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

# Formats with an index, in which seeking leads to the first packet and gives the same packets again.
_INDEXED = ("mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm")
# Before all timestamps that there are, and no overflow in any time base.
_BEFORE_ALL = -(1 << 40)
# A single frame of unknown rate stands for so long.
_LONE_FRAME_S = Fraction(1, 25)


class Loop:
    """The rounds of one file.

    Attributes:
        offset: What is added to the timestamps of this round, in the stream's ticks.
    """

    def __init__(self, times: bool | int, stream: VideoStream) -> None:
        """`times` is how often; True: for ever, False: once."""
        self._left = None if times is True else max(int(times), 1) - 1
        self._tick_s = stream.time_base or Fraction(1, av.time_base)
        rate = stream.average_rate or stream.guessed_rate
        self._step_s = 1 / Fraction(rate) if rate else _LONE_FRAME_S
        self.offset = 0

    def watched(self, groups: Iterator[Sequence[Frame]]) -> Iterator[Sequence[Frame]]:
        """The frames of a round, from whose times follows where the next one begins."""
        return self._watched(groups) if self._left != 0 else groups

    def goes_on(self) -> bool:
        """Whether another round follows; it counts as begun."""
        if self._left == 0:
            return False
        if self._left is not None:
            self._left -= 1
        return True

    def _watched(self, groups: Iterator[Sequence[Frame]]) -> Iterator[Sequence[Frame]]:
        first_s = before_s = last_s = None
        for group in groups:
            if first_s is None:
                first_s = group[0].pts_s
            before_s = group[-2].pts_s if len(group) > 1 else last_s
            last_s = group[-1].pts_s
            yield group
        if first_s is None or last_s is None:
            return
        # The last frame stands for as long as the one before it.
        step = max(self._ticks(last_s) - self._ticks(before_s), 1) if before_s is not None else self._lone_step()
        self.offset += self._ticks(last_s) - self._ticks(first_s) + step

    def _ticks(self, time_s: float) -> int:
        return round(time_s / self._tick_s)

    def _lone_step(self) -> int:
        return max(round(self._step_s / self._tick_s), 1)


def packets_again(
    container: InputContainer, stream: VideoStream, first: tuple[object, ...]
) -> Iterator[Packet[VideoStream]] | None:
    """The stream's packets from the beginning, by seeking; None where that does not lead to the first one.

    Args:
        container: Open, at any place.
        stream: One of its streams; its decoder is emptied.
        first: `identity` of the first packet.
    """
    if container.format.name not in _INDEXED:
        return None
    try:
        container.seek(_BEFORE_ALL, stream=stream)
        packets = container.demux(stream)
        packet = next(packets, None)
    except (av.error.FFmpegError, OSError):
        return None
    if packet is None or identity(packet) != first:
        return None
    if stream.codec_context.is_open:
        stream.codec_context.flush_buffers()
    return itertools.chain((packet,), packets)


def identity(packet: Packet[VideoStream]) -> tuple[object, ...]:
    """What a packet is known by."""
    return packet.pts, packet.dts, packet.pos, packet.size
