"""What a key frame's packet says of the sequence that it begins, as bytes to compare: no bits are interpreted here.

FFmpeg decodes the frames whose headers are new, so that all it knows of them (size, format, colour, aspect) is known on the
`cuda` engine too; everything in between costs a comparison.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

# Parameter sets lie in front of the first slice.
_MOST_HEADER_BYTES = 64 << 10
_START_CODE = b"\0\0\1"
_ALWAYS_CLOSED = ("vp8", "vp9", "av1", "mjpeg")


@dataclass(frozen=True, slots=True)
class Headers:
    """The headers of a key frame.

    Attributes:
        identity: Differs wherever size, format or colour do; may differ without that.
        is_closed: Whether no later frame in decoding order is shown before this one.
    """

    identity: bytes
    is_closed: bool


def read_headers(codec: str, packet: object, nal_length_bytes: int = 0) -> Headers:
    """The headers in a key frame's packet.

    Args:
        codec: FFmpeg's canonical name.
        packet: The packet's bytes, or whatever gives them out as a buffer.
        nal_length_bytes: For H.264 and HEVC: of the length in front of each unit; 0 where start codes separate them.
    """
    head = bytes(memoryview(packet)[:_MOST_HEADER_BYTES])  # type: ignore[arg-type]
    if codec in ("h264", "hevc"):
        return _nal_headers(codec, head, nal_length_bytes)
    identity, is_closed = b"", codec in _ALWAYS_CLOSED
    if codec in ("mpeg1video", "mpeg2video"):
        identity = _up_to(head, b"\0\0\1\xb8", b"\0\0\1\0")
    elif codec == "mpeg4":
        identity = _up_to(head, b"\0\0\1\xb3", b"\0\0\1\xb6")
    elif codec == "vp8":
        identity = head[3:10]
    elif codec == "vp9":
        identity = head[:10]
    elif codec == "av1":
        identity = b"".join(_av1_sequence_headers(head))
    elif codec == "mjpeg":
        identity = _jpeg_frame_header(head)
    return Headers(identity, is_closed)


def _nal_headers(codec: str, head: bytes, nal_length_bytes: int) -> Headers:
    units = nal_units(head, nal_length_bytes)
    parameter_sets = []
    is_closed = False
    for unit in units:
        if not unit:
            continue
        if codec == "h264":
            kind = unit[0] & 31
            is_parameters, is_slice, is_closed = kind == 7, 1 <= kind <= 5, kind == 5
        else:
            kind = unit[0] >> 1 & 63
            is_parameters, is_slice, is_closed = kind == 33, kind < 32, kind in (19, 20)
        if is_slice:
            break
        if is_parameters:
            parameter_sets.append(unit.rstrip(b"\0"))
    return Headers(b"|".join(parameter_sets), is_closed)


def nal_length_bytes(codec: str, extradata: bytes) -> int:
    """How many bytes of length stand in front of each unit of an H.264 or HEVC stream; 0 where start codes do."""
    place = 4 if codec == "h264" else 21
    is_prefixed = codec in ("h264", "hevc") and extradata[:1] == b"\1" and len(extradata) > place  # avcC or hvcC
    return (extradata[place] & 3) + 1 if is_prefixed else 0


def avc_sets(avcc: bytes) -> Iterator[bytes]:
    """SPS and PPS of an avcC record (ISO/IEC 14496-15, 5.3.3)."""
    start = 5
    for mask in (31, 255):
        if start >= len(avcc):
            return
        count = avcc[start] & mask
        start += 1
        for _ in range(count):
            size = int.from_bytes(avcc[start : start + 2], "big")
            yield avcc[start + 2 : start + 2 + size]
            start += 2 + size


def nal_units(data: bytes, nal_length_bytes: int, most_bytes: int | None = None) -> Iterator[bytes]:
    """The units of an H.264 or HEVC packet, the last one as far as `data` goes.

    Args:
        data: The packet's beginning.
        nal_length_bytes: Of the length in front of each unit; 0 where start codes separate them.
        most_bytes: Of each unit as many as are of interest, at least 3; None: all. To look for the end of a picture's slice
            takes longer than everything else that is done with its packet.
    """
    if nal_length_bytes:
        return _prefixed_units(data, nal_length_bytes, most_bytes)
    return _start_code_units(data, most_bytes)


def _prefixed_units(data: bytes, length_bytes: int, most_bytes: int | None) -> Iterator[bytes]:
    start = 0
    while start + length_bytes < len(data):
        size = int.from_bytes(data[start : start + length_bytes], "big")
        start += length_bytes
        yield data[start : start + (size if most_bytes is None else min(size, most_bytes))]
        start += size


def _start_code_units(data: bytes, most_bytes: int | None) -> Iterator[bytes]:
    start = data.find(_START_CODE)
    while start >= 0:
        start += len(_START_CODE)
        end = None if most_bytes is None else start + most_bytes
        stop = data.find(_START_CODE, start, end and end + len(_START_CODE) - 1)
        yield data[start : stop if stop >= 0 else end]
        if stop < 0 and end is not None:  # not before somebody asks for the next one
            stop = data.find(_START_CODE, start)
        start = stop


def _up_to(data: bytes, *marks: bytes) -> bytes:
    """The sequence headers: what stands before the first of the marks, which begin a group of pictures or a picture."""
    return data[: min((i for mark in marks if (i := data.find(mark)) >= 0), default=64)]


def _av1_sequence_headers(data: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(data):
        kind, has_extension, has_size = data[start] >> 3 & 15, data[start] & 4, data[start] & 2
        start += 2 if has_extension else 1
        size = 0
        for i in range(8 if has_size else 0):  # leb128
            if start >= len(data):
                return
            byte = data[start]
            start += 1
            size |= (byte & 127) << 7 * i
            if byte < 128:
                break
        if not has_size:
            size = len(data) - start
        if kind == 1:
            yield data[start : start + size]
        start += size


def _jpeg_frame_header(data: bytes) -> bytes:
    """The SOF segment: size and sampling."""
    start = 2
    while start + 4 <= len(data) and data[start] == 0xFF:
        marker, size = data[start + 1], int.from_bytes(data[start + 2 : start + 4], "big")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            return data[start : start + 2 + size]
        start += 2 + size
    return b""
