"""A codec that decodes on several threads and still loses no frame at the end of a damaged video.

With frame threads, packets are in flight while others are sent, and when the end is signalled the rest comes out at once.
PyAV stops there at the first error, and with it go all frames behind: up to one for each thread. So the packets since a
recent key frame are kept, and where frames are missing at the end they are decoded again, one packet at a time.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

import av
import av.error
from av.codec.codec import Capabilities

from pipeline.stages import DecodeStats

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

_REORDER = 16  # frames that a decoder holds back to bring them into display order; H.264 and HEVC allow this many
_MOST_TAIL_BYTES = 32 << 20


class ThreadedCodec:
    """Packets in, frames in display order out; errors of packets are counted, not raised.

    Attributes:
        failed_run: How many packets in a row failed, up to the last one.
    """

    def __init__(self, stream: VideoStream, threads: int, stats: DecodeStats, *, is_live: bool = False) -> None:
        """Opens the codec unless it is open, and then has its threads already; raises `av.error.FFmpegError`.

        A live stream's threads share each frame, for those that have one each hold frames back.
        """
        self._context = stream.codec_context
        if not self._context.is_open:
            self._context.thread_type = "SLICE" if is_live else "AUTO"
            self._context.thread_count = threads
            self._context.open(strict=False)
        threads = self._context.thread_count
        self._stats = stats
        self.failed_run = 0
        self._sent = 0
        self._in_flight = 0
        if threads > 1 and not is_live and self._context.codec.capabilities & Capabilities.frame_threads:
            self._in_flight = threads - 1
        self._tail: deque[Packet[VideoStream]] = deque()
        self._tail_bytes = 0
        self._key_frames: deque[int] = deque()  # numbers of the key frames in the tail
        self._returned: deque[int | None] = deque()  # pts of the frames that came out lately
        self._is_untimed = False
        self._is_live = is_live

    def decode(self, packet: Packet[VideoStream]) -> Iterator[av.VideoFrame]:
        """The frames that come out when this packet goes in."""
        if self._sent == 0 and not self._is_live:  # whose first packets may come before its time is known
            self._is_untimed = packet.pts is None and packet.dts is None
        if self._is_untimed:
            packet.pts = self._sent  # so that frames can be told apart; taken off them again
        if self._in_flight:
            self._keep(packet)
        self._sent += 1
        frames = self._decode(self._context, packet, self._sent - 1 - self._in_flight)
        self._returned.extend(frame.pts for frame in frames)
        return self._timed(frames)

    def flush(self) -> Iterator[av.VideoFrame]:
        """The frames that are still inside; a key frame may follow."""
        frames = self._decode(self._context, None, self._sent - 1)
        self._context.flush_buffers()
        self._returned.extend(frame.pts for frame in frames)
        return self._timed(frames)

    def finish(self) -> Iterator[av.VideoFrame]:
        """The frames that are still inside."""
        failed_run = self.failed_run
        errors = self._stats.errors
        rest = self._decode(self._context, None, self._sent - 1)
        self.failed_run = failed_run  # what was held back says nothing of the last packets
        self._returned.extend(frame.pts for frame in rest)
        yield from self._timed(rest)
        returned = set(self._returned)
        if self._tail and any(p.pts not in returned and not p.is_discard for p in self._tail):
            self._stats.errors = errors
            yield from self._again(returned)

    def _decode(
        self, context: av.VideoCodecContext, packet: Packet[VideoStream] | None, number: int
    ) -> list[av.VideoFrame]:
        """What comes out; an error belongs to packet `number`."""
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError as e:
            self._stats.errors += 1
            self._stats.last_error = f"packet {number}: {e.strerror or type(e).__name__}"
            self.failed_run += 1
            return []
        if frames:
            self.failed_run = 0
        return frames

    def _keep(self, packet: Packet[VideoStream]) -> None:
        if packet.is_keyframe:
            self._key_frames.append(self._sent)
        self._tail.append(packet)
        self._tail_bytes += packet.size
        # A later key frame is soon enough to start from once everything before it has come out, which failures delay.
        settled = self._sent - self._in_flight - _REORDER
        while len(self._key_frames) > 1 and self._key_frames[1] <= settled and not self.failed_run:
            self._key_frames.popleft()
        start = self._key_frames[0] if self._key_frames else self._sent + 1
        while self._tail and (self._first_kept < start or self._tail_bytes > _MOST_TAIL_BYTES):
            self._tail_bytes -= self._tail.popleft().size
        if self._key_frames and self._first_kept > self._key_frames[0]:
            self._key_frames.popleft()
        while len(self._returned) > len(self._tail) + _REORDER:
            self._returned.popleft()

    @property
    def _first_kept(self) -> int:
        return self._sent + 1 - len(self._tail)

    def _again(self, returned: set[int | None]) -> Iterator[av.VideoFrame]:
        """Decodes the tail without threads; the frames of it that did not come out before."""
        log.debug("decodes the last %d packets again: frames are missing", len(self._tail))
        context = _single_threaded(self._context)
        for left in range(len(self._tail), 0, -1):
            counted, failed_run = (self._stats.errors, self._stats.last_error), self.failed_run
            frames = self._decode(context, self._tail.popleft(), self._sent - left)
            if left > self._in_flight:  # its error, if any, was counted the first time
                self._stats.errors, self._stats.last_error = counted
                self.failed_run = failed_run
            yield from self._timed([frame for frame in frames if frame.pts not in returned])
        failed_run = self.failed_run
        yield from self._timed(
            [frame for frame in self._decode(context, None, self._sent - 1) if frame.pts not in returned]
        )
        self.failed_run = failed_run

    def _timed(self, frames: list[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """The frames one by one, without a reference to those that are out; numbers are no times."""
        while frames:
            if self._is_untimed:
                frames[0].pts = None
            yield frames.pop(0)


def _single_threaded(context: av.VideoCodecContext) -> av.VideoCodecContext:
    """A fresh decoder for the same stream."""
    fresh = cast("av.VideoCodecContext", av.VideoCodecContext.create(context.name, "r"))
    fresh.width, fresh.height = context.width, context.height
    fresh.codec_tag = context.codec_tag
    fresh.extradata = context.extradata
    fresh.thread_count = 1
    return fresh
