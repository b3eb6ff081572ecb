"""Packets as NVDEC's parser takes them: start codes in front of each unit, and the sequence's headers in the stream itself."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, TypeAlias

import av
import av.error
from av.bitstream import BitStreamFilterContext

from pipeline.decode._headers import Headers, avc_sets, nal_length_bytes, read_headers
from pipeline.decode._indexed import AnyPacket, FilePacket, FileRun, data_of, new_packet, real

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

# A piece of the stream, in memory that can be read.
Unit: TypeAlias = "Packet[VideoStream] | bytes | bytearray | memoryview"

_START_CODE = b"\0\0\0\1"
_length_at = struct.Struct(">I").unpack_from
_LEAST_UNIT_BYTES = len(_START_CODE) + 1
_FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}
# The units of a picture that others may not refer across, and headers: (shift, mask, types) of a unit's first byte.
_SPECIAL_UNITS = {
    "h264": (0, 0x1F, frozenset((5, 7, 8, 15))),
    "hevc": (1, 0x3F, frozenset((*range(16, 24), 32, 33, 34))),
}
# To the parser a picture has ended when the next one begins, as an access unit delimiter says (H.264, 7.3.2.4; H.265, 7.3.2.5).
# It sees that only when more bytes have come; zeros may follow any unit (measured: 249 are too few, 259 enough).
_BEHIND = bytes(300)
_ENDS = {"h264": b"\0\0\0\1\x09\xf0" + _BEHIND, "hevc": b"\0\0\0\1\x46\x01\x50" + _BEHIND}
# Their headers may stand in the container alone.
_WITH_HEADERS_APART = ("h264", "hevc", "mpeg4", "mpeg2video", "mpeg1video")


class ForNvdec:
    """Converts the packets of one stream, in decoding order."""

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self._codec = context.codec.canonical_name
        self._extradata = bytes(context.extradata or b"")
        self._is_prefixed = self._codec in _FILTERS and self._extradata[:1] == b"\1"  # avcC or hvcC
        self._filter: BitStreamFilterContext | None = None
        if self._is_prefixed:
            self._filter = BitStreamFilterContext(_FILTERS[self._codec], stream)
        elif self._codec == "mpeg4":
            self._filter = BitStreamFilterContext("mpeg4_unpack_bframes", stream)
        self._length_bytes = self._read_length_bytes()
        self._shift, self._mask, self._special = _SPECIAL_UNITS.get(self._codec, (0, 0, frozenset()))
        self._is_start = True

    def headers(self, packet: Packet[VideoStream]) -> Headers:
        """The headers that are in force from this key frame on."""
        if packet.has_sidedata("new_extradata"):
            self._extradata = bytes(packet.get_sidedata("new_extradata"))
            self._length_bytes = self._read_length_bytes()
        found = read_headers(self._codec, packet, self._length_bytes)
        return Headers(found.identity + self._extradata, found.is_closed)

    def restart(self) -> None:
        """The next packet goes to a new decoder, which knows nothing yet."""
        self._is_start = True

    def shows_nothing(self, packet: AnyPacket) -> bool:
        """Whether it only holds a picture that others refer to."""
        if self._codec == "vp8":
            return not data_of(packet)[0] & 0x10
        if self._codec == "vp9":
            data = data_of(packet)
            is_superframe = data[-1] & 0xE0 == 0xC0
            return not is_superframe and data[0] & 0xFA == 0x80  # profile 0 or 2, neither shown nor repeated
        return False

    def convert(self, packet: AnyPacket, *, keep: bool = False) -> Sequence[Unit]:
        """The packet as it goes to the decoder; none if nothing of it is left. May empty `packet` unless `keep`."""
        is_start, self._is_start = self._is_start, False
        if self._filter is None:
            units: Sequence[Unit] = (packet.data if isinstance(packet, FilePacket) else packet,)
        elif self._is_prefixed and not is_start and (unit := self._with_start_codes(packet)) is not None:
            return (unit,)
        else:
            try:
                units = self._filter.filter(_copy(packet) if keep else real(packet))
            except av.error.FFmpegError:
                return ()
        if is_start and units and self._codec in _WITH_HEADERS_APART:
            return (self._headers_apart() + bytes(units[0]), *units[1:])
        return units

    def ended(self, units: Sequence[Unit]) -> Sequence[Unit]:
        """The same picture, H.264's or HEVC's, with its end: the decoder does not wait for the next one."""
        return (*units[:-1], bytes(units[-1]) + _ENDS[self._codec]) if units else ()

    def convert_run(self, run: FileRun) -> bytearray | None:
        """The same of a run, all in one; None if each has to be converted by itself."""
        if not self._is_prefixed or self._is_start or self._length_bytes != len(_START_CODE):
            return None
        begin, end, length = run.starts[0], run.starts[-1] + run.sizes[-1], sum(run.sizes)
        if end - begin == length and run.starts == sorted(run.starts):
            data = bytearray(run.data[begin:end])
        else:  # with something else between them
            data = bytearray().join(run.data[at : at + size] for at, size in zip(run.starts, run.sizes, strict=True))
        at = 0
        for size in run.sizes:
            if not self._put_start_codes(data, at, at + size):
                return None
            at += size
        return data

    def _with_start_codes(self, packet: AnyPacket) -> bytearray | None:
        """A packet of ordinary pictures, to which the filter would do nothing else; None if it is not clear that it is one.

        The filter releases the interpreter's lock three times for a packet, which with many threads costs more than all else.
        """
        if self._length_bytes != len(_START_CODE) or packet.is_keyframe:
            return None
        if not isinstance(packet, FilePacket) and packet.has_sidedata("new_extradata"):
            return None
        data = bytearray(data_of(packet))
        return data if self._put_start_codes(data, 0, len(data)) else None

    def _put_start_codes(self, data: bytearray, at: int, end: int) -> bool:
        """Puts them in the place of the units' lengths; whether they are ordinary units, and end where they should."""
        while at + _LEAST_UNIT_BYTES <= end:
            start = at + len(_START_CODE)
            (size,) = _length_at(data, at)
            if not size or data[start] >> self._shift & self._mask in self._special:
                return False
            data[at:start] = _START_CODE
            at = start + size
        return at == end

    def _read_length_bytes(self) -> int:
        """Of the numbers in front of each unit, which say how long it is; 0 if there are start codes."""
        return nal_length_bytes(self._codec, self._extradata) if self._is_prefixed else 0

    def _headers_apart(self) -> bytes:
        if not self._is_prefixed:
            return self._extradata
        sets = avc_sets(self._extradata) if self._codec == "h264" else _hevc_sets(self._extradata)
        return b"".join(_START_CODE + unit for unit in sets)


def picture_in(context: av.VideoCodecContext, packets: Sequence[Packet[VideoStream]]) -> av.VideoFrame | None:
    """The first picture that FFmpeg decodes of the packets, alone; None if there is none."""
    frames: list[av.VideoFrame] = []
    try:
        for packet in packets:
            # A picture that is not to be shown is as good; a copy carries no flags.
            frames += context.decode(new_packet(bytes(packet)) if packet.is_discard else packet)
            if frames:
                break
        if not frames:
            frames += context.decode(None)
    except av.error.FFmpegError:
        pass
    context.flush_buffers()
    return frames[0] if frames else None


def _copy(packet: AnyPacket) -> Packet[VideoStream]:
    if isinstance(packet, FilePacket):
        return real(packet)
    copy = new_packet(bytes(packet))
    copy.pts, copy.dts = packet.pts, packet.dts
    if packet.has_sidedata("new_extradata"):
        copy.set_sidedata(packet.get_sidedata("new_extradata"))
    return copy


def _hevc_sets(hvcc: bytes) -> Iterator[bytes]:
    """VPS, SPS, PPS and SEI of an hvcC record (ISO/IEC 14496-15, 8.3.3)."""
    start = 23
    for _ in range(hvcc[22] if len(hvcc) > 22 else 0):
        count = int.from_bytes(hvcc[start + 1 : start + 3], "big")
        start += 3
        for _ in range(count):
            size = int.from_bytes(hvcc[start : start + 2], "big")
            yield hvcc[start + 2 : start + 2 + size]
            start += 2 + size
