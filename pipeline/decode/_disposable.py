"""Whether any other frame refers to a frame, from its packet: what may be left out before decoding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.decode._headers import nal_length_bytes, nal_units

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# The first slice lies behind parameter sets and messages; all slices of a picture say the same.
_MOST_HEAD_BYTES = 4096
_UNIT_HEADER_BYTES = 4  # two of them, and room for the start code behind an empty unit


class Disposables:
    """Tells the disposable packets of one H.264 or HEVC stream; of other codecs none is known."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self._codec = context.codec.canonical_name
        self._length_bytes = nal_length_bytes(self._codec, bytes(context.extradata or b""))
        self._highest_layer = 0

    def __contains__(self, packet: Packet[VideoStream]) -> bool:
        if packet.is_keyframe:
            return False
        if packet.is_disposable:
            return True
        if self._codec not in ("h264", "hevc"):
            return False
        head = bytes(memoryview(packet)[:_MOST_HEAD_BYTES])
        for unit in nal_units(head, self._length_bytes, _UNIT_HEADER_BYTES):
            if len(unit) < 2:
                continue
            if self._codec == "h264":
                if 1 <= unit[0] & 31 <= 5:  # a slice: nal_ref_idc (ITU-T H.264, 7.4.1)
                    return unit[0] & 0x60 == 0
            elif unit[0] >> 1 & 63 < 32:  # a slice: the even types below 16 are referred to by no picture of their own
                # sub-layer, and the highest sub-layer by no other (ITU-T H.265, table 7-1)
                kind, layer = unit[0] >> 1 & 63, (unit[1] & 7) - 1
                self._highest_layer = max(self._highest_layer, layer)
                return kind < 16 and kind % 2 == 0 and layer == self._highest_layer
        return False
