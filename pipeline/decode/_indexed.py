"""Reading the packets of an MP4 file by its index, several with one system call.

PyAV gives up the interpreter's lock six times for each packet. With many decoding threads each of these is a chance to lose it,
and getting it back takes longer than the reading. FFmpeg's index says where in the file each packet lies; only when it is shown
has to be looked up. What comes out is what `container.demux` gives: the first packets are compared, and if anything is not as it
should be PyAV reads the file.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
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


AnyPacket: TypeAlias = "Packet[VideoStream] | FilePacket"


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

    def packets(self) -> Iterator[AnyPacket]:
        """Those of the first round."""
        number = 0
        expected: Iterator[tuple[FilePacket, bool]] = iter(())
        for packet in itertools.islice(self._demuxed, _COMPARED):
            if self._file is not None and packet.size:
                if number == 0:
                    self._first = identity(packet)
                    self._shift = (packet.pts or 0) - int(self._times[0] + self._offsets[0])
                    expected = self._read_from(0)
                if not _is_next(expected, packet):
                    self._file = None
            number += 1
            yield packet
        if self._file is None:
            yield from itertools.islice(self._demuxed, None)  # `yield from` cannot take PyAV's own where that has ended
        else:
            yield from self._from(number, self._demuxed)

    def again(self) -> Iterator[AnyPacket] | None:
        """Those of a further round; None if they are not read by the index."""
        if self._file is None or self._first is None:
            return None
        if self._stream.codec_context.is_open:
            self._stream.codec_context.flush_buffers()
        return self._from(0, None)

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

    def _from(self, begin: int, demuxed: Iterator[AnyPacket] | None) -> Iterator[AnyPacket]:
        """The packets from this one on; once the file cannot be read, PyAV's: `demuxed` is at the same one, None is anywhere."""
        given = 0
        try:
            for packet, is_key in self._read_from(begin):
                yield _real(packet, is_keyframe=True) if is_key else packet
                given += 1
        except _UnreadableError:
            if demuxed is None:
                assert self._first is not None and begin == 0
                demuxed = packets_again(self._container, self._stream, self._first)
            if demuxed is not None:
                yield from itertools.islice(demuxed, given, None)

    def _read_from(self, number: int) -> Iterator[tuple[FilePacket, bool]]:
        """The packets from this one on, and whether each is a key frame."""
        time_base = self._stream.time_base
        assert time_base is not None  # there are packets
        while number < len(self._times):
            some = slice(number, number + self._how_many(number))
            start = int(self._positions[some].min())
            data = self._read(start, int((self._positions[some] + self._sizes[some]).max()) - start)
            rows = zip(
                self._positions[some].tolist(),
                self._sizes[some].tolist(),
                (self._times[some] + self._offsets[some] + self._shift).tolist(),
                self._times[some].tolist(),
                self._durations[some].tolist(),
                self._is_key[some].tolist(),
                strict=True,
            )
            for pos, size, pts, dts, duration, is_key in rows:
                own = data[pos - start : pos - start + size]
                yield FilePacket(own, pos, pts, dts, duration, time_base), is_key
            number = some.stop

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


def _is_next(expected: Iterator[tuple[FilePacket, bool]], packet: Packet[VideoStream]) -> bool:
    try:
        own, is_key = next(expected)
    except (StopIteration, _UnreadableError):
        return False
    wanted = packet.pts, packet.dts, packet.duration, packet.pos, packet.is_keyframe
    return (own.pts, own.dts, own.duration, own.pos, is_key) == wanted and own.data == memoryview(packet)


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
