"""When a camera says that a picture was taken: its sender reports tie the stream's timestamps to its clock."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# FFmpeg's AVProducerReferenceTime: microseconds since 1970, flags.
_REFERENCE_TIME = struct.Struct("@qi")


def capture_time_s(packet: Packet[VideoStream]) -> float | None:
    """The sender's wall clock at the packet's presentation time, in seconds since 1970.

    FFmpeg knows it from the first RTCP sender report on, which comes some seconds after the start. It is as right as
    the camera's clock; with FFmpeg 8.0 (PyAV 16) it is the time of the packet after this one.

    Returns:
        None before that, and for the packet that a report came with: FFmpeg's parser gives it its successor's time,
        which is a frame off, or several where frames are reordered. None also for a camera that counts from its own
        start because it was never told the time, and where FFmpeg does not tell.
    """
    if not _has(packet, "prft") or _has(packet, "rtcp_sr"):
        return None
    data = bytes(packet.get_sidedata("prft"))
    if len(data) < _REFERENCE_TIME.size:
        return None
    wallclock_us, _ = _REFERENCE_TIME.unpack_from(data)
    return wallclock_us / 1e6 if wallclock_us > 0 else None


def _has(packet: Packet[VideoStream], kind: Literal["prft", "rtcp_sr"]) -> bool:
    """Whether the packet carries this; False where this PyAV does not know it."""
    try:
        return packet.has_sidedata(kind)
    except (AttributeError, ValueError):
        return False
