"""Reading the packets of an MP4 file by its index, several with one system call.

PyAV gives up the interpreter's lock six times for each packet. With many decoding threads each of these is a chance to lose it,
and getting it back takes longer than the reading. FFmpeg's index says where in the file each packet lies; only when it is shown
has to be looked up. What comes out is what `container.demux` gives: the first packets are compared, and if anything is not as it
should be PyAV reads the file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeAlias, cast

import av
import numpy as np

from pipeline.decode._loop import identity, packets_again
from pipeline.decode._sample_table import sample_table

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.packet import Packet
    from av.video.stream import VideoStream

_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2"
# So many packets are read at a time, if no more than this lies between the first one's beginning and the last one's end.
_AT_ONCE = 64
_MOST_BYTES = 4 << 20
# So many are compared with those that PyAV reads.
_COMPARED = 24
# More are left to PyAV, to hold no long tables: nearly five hours of 30 frames/s.
_MOST_PACKETS = 1 << 19


@dataclass(slots=True, eq=False)
class FilePacket:
    """A packet that is no key frame, with what decoding uses of `av.Packet`; see `real`.

    Attributes:
        data: Its bytes.
        pos: Where in the file they begin.
        pts: When it is shown, in ticks.
        dts: When it is decoded, in ticks.
        duration: How long it is shown, in ticks.
        time_base: Seconds of a tick.
    """

    data: memoryview
    pos: int
    pts: int
    dts: int
    duration: int
    time_base: Fraction

    is_keyframe: ClassVar = False
    is_corrupt: ClassVar = False
    is_discard: ClassVar = False

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.data)


@dataclass(slots=True, eq=False)
class FileRun:
    """Several of these, one behind another: most of what is done with each of thousands a second is done once for all of them.

    Attributes:
        data: Of the file, from somewhere before the first to somewhere behind the last.
        starts: Where in it each packet begins.
        sizes: Bytes of each.
        places: Where in the file each begins.
        pts: When each is shown, in ticks.
        dts: When each is decoded.
        durations: How long each is shown.
        time_base: Seconds of a tick.
    """

    data: memoryview
    starts: list[int]
    sizes: list[int]
    places: list[int]
    pts: list[int]
    dts: list[int]
    durations: list[int]
    time_base: Fraction

    def __len__(self) -> int:
        return len(self.sizes)

    def part(self, first: int, end: int) -> FileRun:
        """Those from `first` on that come before `end`, by their numbers in it."""
        some = slice(first, end)
        return FileRun(
            self.data,
            self.starts[some],
            self.sizes[some],
            self.places[some],
            self.pts[some],
            self.dts[some],
            self.durations[some],
            self.time_base,
        )

    def packets(self) -> list[FilePacket]:
        """Each by itself."""
        rows = zip(self.starts, self.sizes, self.places, self.pts, self.dts, self.durations, strict=True)
        return [
            FilePacket(self.data[start : start + size], place, pts, dts, duration, self.time_base)
            for start, size, place, pts, dts, duration in rows
        ]


AnyPacket: TypeAlias = "Packet[VideoStream] | FilePacket"
Piece: TypeAlias = "AnyPacket | FileRun"


def each(pieces: Iterable[Piece]) -> Iterator[AnyPacket]:
    """The packets, one by one."""
    for piece in pieces:
        if isinstance(piece, FileRun):
            yield from piece.packets()
        else:
            yield piece


def real(packet: AnyPacket) -> Packet[VideoStream]:
    """The packet as FFmpeg takes it."""
    return _real(packet, is_keyframe=False) if isinstance(packet, FilePacket) else packet


def new_packet(data: bytes) -> Packet[VideoStream]:
    """A packet on memory of FFmpeg's, which reads a little beyond the end; `av.Packet(data)` would be on Python's."""
    packet = cast("Packet[VideoStream]", av.Packet(len(data)))
    packet.update(data)
    return packet


def data_of(packet: AnyPacket) -> memoryview:
    """Its bytes, not copied."""
    return packet.data if isinstance(packet, FilePacket) else memoryview(packet)


class IndexedFile:
    """The packets of a file's video."""

    def __init__(self, path: str, container: InputContainer, stream: VideoStream) -> None:
        """Of a container from which no packet has been read. Any file will do, and is read by PyAV if it has no index."""
        self._container, self._stream = container, stream
        self._demuxed = container.demux(stream)
        self._file: _File | None = None
        self._first: tuple[object, ...] | None = None
        if container.format.name != _FORMAT or len(stream.index_entries) > _MOST_PACKETS:
            return
        try:
            if Path(path).is_file():  # from a pipe it would take what is PyAV's
                self._file = _File(path)
                if not self._read_tables(self._file.number):
                    self._file = None
        except OSError:  # who reads it says so
            self._file = None

    @property
    def is_indexed(self) -> bool:
        """Whether the index is used, as far as is known."""
        return self._file is not None

    def packets(self, together: int = 1) -> Iterator[Piece]:
        """Those of the first round; up to so many of them that are no key frames may come as one run."""
        number = 0
        expected: Iterator[Piece] = iter(())
        for packet in itertools.islice(self._demuxed, _COMPARED):
            if self._file is not None and packet.size:
                if number == 0:
                    self._first = identity(packet)
                    self._shift = (packet.pts or 0) - int(self._times[0] + self._offsets[0])
                    expected = self._read_from(0, 1)
                if not _is_next(expected, packet):
                    self._file = None
            number += 1
            yield packet
        if self._file is None:
            yield from itertools.islice(self._demuxed, None)  # `yield from` cannot take PyAV's own where that has ended
        else:
            yield from self._from(number, self._demuxed, together)

    def again(self, together: int = 1) -> Iterator[Piece] | None:
        """Those of a further round; None if they are not read by the index."""
        if self._file is None or self._first is None:
            return None
        if self._stream.codec_context.is_open:
            self._stream.codec_context.flush_buffers()
        return self._from(0, None, together)

    def close(self) -> None:
        """Nothing more will be read."""
        self._file = None

    def _read_tables(self, file: int) -> bool:
        table = sample_table(file, self._stream.id)
        index = self._stream.index_entries
        count = len(index)
        if table is None or not count or count != len(table.sizes):
            return False
        entries = [index[i] for i in range(count)]
        if any(entry.is_discard for entry in entries):
            return False
        self._positions = np.array([entry.pos for entry in entries], np.int64)
        self._times = np.array([entry.timestamp for entry in entries], np.int64)
        self._is_key = np.array([entry.is_keyframe for entry in entries], np.bool_)
        self._sizes, self._offsets = table.sizes, table.offsets
        steps = np.diff(self._times)
        self._durations = np.append(steps, table.last_duration)
        ends = self._positions + self._sizes
        # Where samples have been left out or repeated, the index and the table tell of different ones.
        is_whole = [entry.size for entry in entries] == self._sizes.tolist() and ends.max() <= os.fstat(file).st_size
        return bool(is_whole and (steps > 0).all())

    def _from(self, begin: int, demuxed: Iterator[AnyPacket] | None, together: int) -> Iterator[Piece]:
        """The packets from this one on; once the file cannot be read, PyAV's: `demuxed` is at the same one, None is anywhere."""
        given = 0
        try:
            for piece in self._read_from(begin, together):
                yield piece
                given += len(piece) if isinstance(piece, FileRun) else 1
        except _UnreadableError:
            if demuxed is None:
                assert self._first is not None and begin == 0
                demuxed = packets_again(self._container, self._stream, self._first)
            if demuxed is not None:
                yield from itertools.islice(demuxed, given, None)

    def _read_from(self, number: int, together: int) -> Iterator[Piece]:
        """The packets from this one on: key frames as FFmpeg's, others in runs if so many may come `together`."""
        while number < len(self._times):
            some = slice(number, number + self._how_many(number))
            run, is_key = self._run(some), self._is_key[some].tolist()
            first, count = 0, len(is_key)
            while first < count:
                end = first + 1
                if not is_key[first]:
                    while end < count and end - first < together and not is_key[end]:
                        end += 1
                    if end == count < first + together and first and some.stop < len(self._times):
                        break  # a run that is cut off here is read again, with what follows
                part = run.part(first, end)
                if end > first + 1:
                    yield part
                else:
                    (packet,) = part.packets()
                    yield _real(packet, is_keyframe=True) if is_key[first] else packet
                first = end
            number += first

    def _run(self, some: slice) -> FileRun:
        """All of these packets, key frames among them."""
        time_base = self._stream.time_base
        assert time_base is not None  # there are packets
        places = self._positions[some]
        start = int(places.min())
        return FileRun(
            self._read(start, int((places + self._sizes[some]).max()) - start),
            (places - start).tolist(),
            self._sizes[some].tolist(),
            places.tolist(),
            (self._times[some] + self._offsets[some] + self._shift).tolist(),
            self._times[some].tolist(),
            self._durations[some].tolist(),
            time_base,
        )

    def _how_many(self, number: int) -> int:
        """Packets that are read together from this one on."""
        positions = self._positions[number : number + _AT_ONCE]
        ends = positions + self._sizes[number : number + _AT_ONCE]
        spans = np.maximum.accumulate(ends) - np.minimum.accumulate(positions)
        return max(1, int(np.count_nonzero(spans <= _MOST_BYTES)))

    def _read(self, start: int, size: int) -> memoryview:
        assert self._file is not None
        try:
            data = os.pread(self._file.number, size, start)
        except OSError:
            raise _UnreadableError from None
        if len(data) < size:
            raise _UnreadableError
        return memoryview(data)


def _is_next(expected: Iterator[Piece], packet: Packet[VideoStream]) -> bool:
    try:
        own = next(expected)
    except (StopIteration, _UnreadableError):
        return False
    assert not isinstance(own, FileRun)  # one at a time was asked for
    known = own.pts, own.dts, own.duration, own.is_keyframe
    if known != (packet.pts, packet.dts, packet.duration, packet.is_keyframe) or data_of(own) != memoryview(packet):
        return False
    return not isinstance(own, FilePacket) or own.pos == packet.pos


class _UnreadableError(Exception):
    """The file is not what it was."""


class _File:
    """A file that is open for reading until nobody uses it any more."""

    def __init__(self, path: str) -> None:
        self.number = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


def _real(packet: FilePacket, *, is_keyframe: bool) -> Packet[VideoStream]:
    found = new_packet(bytes(packet.data))
    found.pts, found.dts, found.duration = packet.pts, packet.dts, packet.duration
    found.time_base = packet.time_base
    found.is_keyframe = is_keyframe
    return found
