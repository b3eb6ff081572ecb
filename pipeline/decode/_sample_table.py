"""What FFmpeg's index of an MP4 file lacks: when each sample is shown (ISO/IEC 14496-12, 8.5 to 8.7)."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

# A longer one is left to FFmpeg: hours of video take a few MB.
_MOST_HEADER_BYTES = 256 << 20


@dataclass(frozen=True, slots=True, eq=False)
class SampleTable:
    """Of one track.

    Attributes:
        sizes: (N,) int64: bytes of each sample, in decoding order.
        offsets: (N,) int64: from when it is decoded to when it is shown, in the track's ticks.
        last_duration: For how long the last one is shown, in ticks.
    """

    sizes: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    last_duration: int


def sample_table(file: int, track_id: int) -> SampleTable | None:
    """The table of a track; None if the file has none that is complete and of a single kind of samples.

    `file` is open for reading, `track_id` the track's number in the file. Raises OSError.
    """
    header = _header(file)
    if header is None:
        return None
    try:
        for _, track in _boxes(header, (b"trak",)):
            if _track_id(track) == track_id:
                return _table(track)
    except (struct.error, ValueError):  # it ends before its time
        pass
    return None


def _header(file: int) -> memoryview | None:
    """The contents of `moov`."""
    at, end = 0, os.fstat(file).st_size
    while at + 8 <= end:
        size, kind = struct.unpack(">I4s", os.pread(file, 8, at).ljust(8, b"\0"))
        start = 8
        if size == 1:
            size, start = int.from_bytes(os.pread(file, 8, at + 8), "big"), 16
        elif size == 0:
            size = end - at
        if size < start:
            return None
        if kind == b"moov":
            return memoryview(os.pread(file, size - start, at + start)) if size <= _MOST_HEADER_BYTES else None
        at += size
    return None


def _boxes(data: memoryview, kinds: tuple[bytes, ...]) -> Iterator[tuple[bytes, memoryview]]:
    """The contents of those boxes in `data` that are of these kinds."""
    at = 0
    while at + 8 <= len(data):
        size, kind = struct.unpack_from(">I4s", data, at)
        start = 8
        if size == 1:
            (size,), start = struct.unpack_from(">Q", data, at + 8), 16
        elif size == 0:
            size = len(data) - at
        if size < start:
            return
        if kind in kinds:
            yield kind, data[at + start : at + size]
        at += size


def _inside(data: memoryview, *path: bytes) -> memoryview | None:
    """The contents of the first box on a path."""
    for kind in path:
        found = next(_boxes(data, (kind,)), None)
        if found is None:
            return None
        data = found[1]
    return data


def _track_id(track: memoryview) -> int | None:
    box = _inside(track, b"tkhd")
    if box is None:
        return None
    (number,) = struct.unpack_from(">I", box, 20 if box[0] == 1 else 12)
    return int(number)


def _table(track: memoryview) -> SampleTable | None:
    boxes = _inside(track, b"mdia", b"minf", b"stbl")
    if boxes is None:
        return None
    found = dict(_boxes(boxes, (b"stsd", b"stsz", b"stts", b"ctts")))
    if not {b"stsd", b"stsz", b"stts"} <= found.keys() or struct.unpack_from(">I", found[b"stsd"], 4) != (1,):
        return None
    size, count = struct.unpack_from(">II", found[b"stsz"], 4)
    sizes = np.full(count, size) if size else np.frombuffer(found[b"stsz"], ">u4", count, 12)
    offsets = np.zeros(count, np.int64)
    if b"ctts" in found:
        (entries,) = struct.unpack_from(">I", found[b"ctts"], 4)
        runs = np.frombuffer(found[b"ctts"], ">u4", 2 * entries, 8).reshape(-1, 2)
        if int(runs[:, 0].sum()) != count:
            return None
        # Version 0 says that they are not negative, but files have negative ones in it.
        offsets = np.repeat(runs[:, 1].astype(np.uint32).view(np.int32), runs[:, 0].astype(np.int64)).astype(np.int64)
    (entries,) = struct.unpack_from(">I", found[b"stts"], 4)
    (last_duration,) = struct.unpack_from(">I", found[b"stts"], 4 + 8 * entries) if entries else (0,)
    return SampleTable(sizes.astype(np.int64), offsets, last_duration)
