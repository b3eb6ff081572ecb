"""What is known of the packets that frames are decoded from: a frame's timestamp is all that leads back to its packet."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from pipeline.decode._continuity import Continuity
from pipeline.decode._indexed import AnyPacket, real
from pipeline.decode._rtcp import capture_time_s

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# More are not inside a decoder; what is older was lost in it.
_MOST = 256


class Arrival(NamedTuple):
    """A packet's arrival.

    Attributes:
        received_s: `time.monotonic()` when it was read; None if unknown.
        captured_s: When the camera took it, seconds since 1970-01-01 UTC by its own clock; None if it does not say.
        is_key: Whether it is a key frame's.
        has_lost: Whether frames that it builds on were lost on the way, since the last key frame.
    """

    received_s: float | None = None
    captured_s: float | None = None
    is_key: bool = False
    has_lost: bool = False


class Arrivals:
    """Remembers the packets that are inside the decoder. Of files only when they were read."""

    def __init__(self, stream: VideoStream, *, is_live: bool) -> None:
        self._is_live = is_live
        self._continuity = Continuity(stream)
        self._has_lost = False
        self._refreshes = 0  # key frames of intra refresh in a row, without a gap
        self._key_pts: int | None = None
        self._by_pts: dict[int, Arrival] = {}
        self._last = Arrival()

    def note(self, packet: AnyPacket, received_s: float) -> None:
        """A packet goes into the decoder."""
        arrival = self._live(real(packet), received_s) if self._is_live else Arrival(received_s)
        self._last = arrival
        pts = packet.pts
        if pts is not None:
            self._by_pts[pts] = arrival
            self._forget_oldest()

    def note_all(self, pts: Iterable[int], received_s: float) -> None:
        """Packets of a file with these timestamps go into the decoder."""
        self._last = Arrival(received_s)
        self._by_pts |= dict.fromkeys(pts, self._last)
        self._forget_oldest()

    def _forget_oldest(self) -> None:
        while len(self._by_pts) > _MOST:
            del self._by_pts[next(iter(self._by_pts))]

    def of(self, pts: int | None) -> Arrival:
        """The arrival of the packet with this timestamp; without one, of the last packet."""
        return self._by_pts.pop(pts, self._last) if pts is not None else self._last

    def ends_loss(self, packet: AnyPacket) -> bool:
        """Whether this key frame is the last that was noted, and frames before it were lost."""
        return packet.pts is not None and packet.pts == self._key_pts

    def _live(self, packet: Packet[VideoStream], received_s: float) -> Arrival:
        has_gap = self._continuity.has_gap(packet)
        is_key, pts = packet.is_keyframe, packet.pts
        if has_gap:
            self._refreshes = 0
        if is_key and not self._continuity.is_intra:
            # It only begins to mend the picture, which is whole when the next one begins.
            self._refreshes += 1
            is_key = self._refreshes > 1
        if is_key:
            # What is shown before the key frame may still build on what was before it.
            self._key_pts = pts if self._has_lost or has_gap else None
            self._has_lost = False
        elif has_gap:
            self._has_lost = True
        has_lost = self._has_lost or (self._key_pts is not None and pts is not None and pts < self._key_pts)
        return Arrival(received_s, capture_time_s(packet), is_key, has_lost)
