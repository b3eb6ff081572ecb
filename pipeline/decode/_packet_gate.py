"""What is not even decoded: packets that the source's policy leaves out, and those that are too late anyway."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.sources import Source
from pipeline.decode._disposable import Disposables
from pipeline.sources.freshness import Lag, RateGate, max_staleness_s, policy_of
from pipeline.stages import DropCause

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream


class PacketGate:
    """Looks at the packets of one stream in decoding order.

    A decoder that falls behind by half of what is allowed is relieved of the frames that no other refers to; by all of it,
    of everything up to the next key frame.

    Attributes:
        has_key_frames_only: Whether only key frames are let through.
        is_open: Whether it lets everything through.
    """

    def __init__(self, stream: VideoStream, settings: Source) -> None:
        self.has_key_frames_only = policy_of(settings) == "keyframes"
        self._limit_s = max_staleness_s(settings) if settings.is_live else None
        # No `Fraction`, which takes longer than all else that is done for a packet.
        self._tick_s = (base.numerator, base.denominator) if (base := stream.time_base) else None
        self._disposables = Disposables(stream)
        # Where frames are reordered, those between two others would seem to come too soon.
        self._rate = RateGate(1, None if stream.codec_context.has_b_frames else settings.max_fps)
        self._lag = Lag()
        self._is_skipping = False
        self.is_open = not self.has_key_frames_only and self._limit_s is None and self._rate.is_open

    def cause(self, packet: Packet[VideoStream], received_s: float, waited_s: float) -> DropCause | None:
        """Why the packet is to be left out; None if it is not.

        Args:
            packet: With its data.
            received_s: `time.monotonic()` when it was read.
            waited_s: How long reading it took.
        """
        pts, tick_s = packet.pts, self._tick_s
        pts_s = pts * tick_s[0] / tick_s[1] if pts is not None and tick_s is not None else None
        lag_s = 0.0
        if self._limit_s is not None and pts_s is not None:
            lag_s = self._lag.update(pts_s, received_s, waited_s)
        if packet.is_keyframe:
            self._is_skipping = False
        elif self.has_key_frames_only:
            return DropCause.NON_KEY
        elif self._limit_s is not None:
            self._is_skipping = self._is_skipping or lag_s > self._limit_s
            if self._is_skipping or (lag_s > self._limit_s / 2 and packet in self._disposables):
                return DropCause.BEHIND
        if self._rate.is_open or pts_s is None:
            return None
        if not self._rate.is_due(pts_s) and packet in self._disposables:
            return DropCause.RATE
        self._rate.keeps(pts_s)
        return None
