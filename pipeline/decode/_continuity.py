"""Whether reference frames were lost on the way, from what H.264's packets say.

Decoders do not tell: FFmpeg fills the gap with a copy and NVDEC with whatever lies there, and neither marks the frames that
are then predicted from it. Each reference frame is numbered on from the one before, so a gap shows (ITU-T H.264, 7.4.3).
FFmpeg gives no picture for HEVC frames whose references are missing.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, NamedTuple

from pipeline.decode._headers import avc_sets, nal_length_bytes, nal_units

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_SLICE, _IDR, _SPS, _PPS = 1, 5, 7, 8
# Parameter sets and messages lie in front of the first slice, of which only the beginning is read.
_MOST_HEAD_BYTES = 16 << 10
_MOST_SLICE_HEADER_BYTES = 32
_MOST_UNIT_BYTES = 1024  # as long as parameter sets are with all scaling lists, up to what is read of them
# Profiles whose parameter sets state chroma format and scaling lists (7.3.2.1.1).
_HIGH_PROFILES = frozenset({44, 83, 86, 100, 110, 118, 122, 128, 134, 135, 138, 139, 244})


class _Sequence(NamedTuple):
    number_bits: int
    may_have_gaps: bool
    has_planes_apart: bool
    has_frames_only: bool


class Continuity:
    """Looks at the packets of one stream in decoding order; sees no gap in streams of other codecs.

    Attributes:
        is_intra: Whether the last packet's frame builds on no other, as far as its first slice tells: key frames of intra
            refresh, from which on the picture is only mended bit by bit, do.
    """

    def __init__(self, stream: VideoStream) -> None:
        context = stream.codec_context
        self.is_intra = True
        self._is_h264 = context.codec.canonical_name == "h264"
        extradata = bytes(context.extradata or b"")
        self._length_bytes = nal_length_bytes("h264", extradata) if self._is_h264 else 0
        self._sets: dict[int, _Sequence] = {}  # by SPS id
        self._set_of: dict[int, int] = {}  # PPS id -> SPS id
        self._previous: int | None = None  # frame_num of the last reference frame
        if self._is_h264:
            with contextlib.suppress(IndexError):
                for unit in avc_sets(extradata) if self._length_bytes else nal_units(extradata, 0):
                    if unit and unit[0] & 31 in (_SPS, _PPS):
                        self._read_set(unit)

    def has_gap(self, packet: Packet[VideoStream]) -> bool:
        """Whether reference frames are missing between the packet before and this one."""
        if not self._is_h264:
            return False
        self.is_intra = True
        head = bytes(memoryview(packet)[:_MOST_HEAD_BYTES])
        try:
            return self._has_gap(head)
        except (IndexError, KeyError):  # damaged, or of a kind that is not known: the decoder will see
            self._previous = None
            return False

    def _read_set(self, unit: bytes) -> None:
        if unit[0] & 31 == _SPS:
            number, sequence = _sequence_parameters(unit)
            self._sets[number] = sequence
        else:
            bits = _Bits(unit[1 : 1 + _MOST_SLICE_HEADER_BYTES])
            self._set_of[bits.ue()] = bits.ue()

    def _has_gap(self, head: bytes) -> bool:
        for unit in nal_units(head, self._length_bytes, _MOST_UNIT_BYTES):
            kind = unit[0] & 31 if unit else 0
            if kind in (_SPS, _PPS):
                self._read_set(unit)
            elif kind in (_SLICE, _IDR):
                return self._slice(unit, kind)
        return False

    def _slice(self, unit: bytes, kind: int) -> bool:
        is_reference = bool(unit[0] & 0x60)
        if kind == _IDR:
            self._previous = 0
            return False
        bits = _Bits(unit[1 : 1 + _MOST_SLICE_HEADER_BYTES])
        bits.ue()  # first macroblock
        self.is_intra = bits.ue() % 5 in (2, 4)  # I or SI
        sequence = self._sets[self._set_of[bits.ue()]]
        if sequence.has_planes_apart:
            bits.u(2)
        number, previous = bits.u(sequence.number_bits), self._previous
        is_field = not sequence.has_frames_only and bool(bits.u(1))
        if is_reference or previous is None:
            self._previous = number
        if previous is None or sequence.may_have_gaps:
            return False
        # Two reference frames share a number only if they are the fields of one.
        if number == previous:
            return is_reference and not is_field
        return number != (previous + 1) % (1 << sequence.number_bits)


def _sequence_parameters(unit: bytes) -> tuple[int, _Sequence]:
    """The id of an SPS and what it says (7.3.2.1.1)."""
    profile = unit[1]
    bits = _Bits(unit[4:])
    number = bits.ue()
    planes_apart = False
    if profile in _HIGH_PROFILES:
        chroma = bits.ue()
        if chroma == 3:
            planes_apart = bool(bits.u(1))
        bits.ue()  # bit depth of luma
        bits.ue()  # and of chroma
        bits.u(1)
        if bits.u(1):
            for index in range(8 if chroma != 3 else 12):
                if bits.u(1):
                    _skip_scaling_list(bits, 16 if index < 6 else 64)
    width = bits.ue() + 4
    order = bits.ue()
    if order == 0:
        bits.ue()
    elif order == 1:
        bits.u(1)
        bits.ue()  # signed, but as long
        bits.ue()
        for _ in range(bits.ue()):
            bits.ue()
    bits.ue()  # reference frames
    may_have_gaps = bool(bits.u(1))
    bits.ue()  # width
    bits.ue()  # height
    return number, _Sequence(width, may_have_gaps, planes_apart, has_frames_only=bool(bits.u(1)))


def _skip_scaling_list(bits: _Bits, size: int) -> None:
    last = following = 8
    for _ in range(size):
        if following:
            following = (last + bits.se() + 256) % 256
        last = following or last


class _Bits:
    """Reads a unit's bits, without the bytes that keep start codes out of it (7.3.1); `IndexError` at its end."""

    def __init__(self, data: bytes) -> None:
        plain = data.replace(b"\0\0\3", b"\0\0")
        self._value = int.from_bytes(plain, "big")
        self._left = 8 * len(plain)

    def u(self, count: int) -> int:
        """So many bits."""
        self._left -= count
        if self._left < 0:
            raise IndexError
        return self._value >> self._left & ((1 << count) - 1)

    def ue(self) -> int:
        """An unsigned number in Exp-Golomb code (9.1)."""
        rest = self._value & ((1 << self._left) - 1)
        zeros = self._left - rest.bit_length()
        self._left -= zeros
        return self.u(zeros + 1) - 1

    def se(self) -> int:
        """A signed one (9.1.1)."""
        value = self.ue()
        return (value + 1) // 2 if value % 2 else -(value // 2)
