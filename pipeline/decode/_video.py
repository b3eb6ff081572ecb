"""What the decoders of both engines share: one open video, its packets, and FFmpeg's frames of them."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
from av.container import InputContainer

from pipeline.config.stages import Decode
from pipeline.cpus import use_all
from pipeline.decode._arrivals import Arrival, Arrivals
from pipeline.decode._codec import ThreadedCodec
from pipeline.decode._complete import Progress
from pipeline.decode._indexed import FileRun, Piece, each, real
from pipeline.decode._loop import Loop, identity, packets_again
from pipeline.decode._metadata import colour, display_size, orientation, sane_sar
from pipeline.decode._open import choose_stream, failure, open_container, reason_for
from pipeline.decode._packet_gate import PacketGate
from pipeline.decode._picture import views
from pipeline.decode._read_limit import ReadLimit
from pipeline.decode._reasons import Reason
from pipeline.errors import SourceErrorCode
from pipeline.frames import Frame, Picture
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, DropCause, StreamInfo

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_MOST_THREADS = 16  # as FFmpeg's own choice; more only cost memory
# A live stream whose damage no key frame ends (it may have none, with intra refresh) counts as mended after so many frames.
_MOST_BROKEN_FRAMES = 300
# A live stream from whose packets no picture comes for `timeout_s`, and at least so many of them, has become another one:
# its codec may have changed.
_MOST_FRUITLESS_PACKETS = 50


class VideoDecoder(ABC):
    """A `pipeline.stages.Decoder`: iterates the frames of one video once.

    The first frame is decoded at once, so that `info` states what the frames are and not only what the container says.

    Attributes:
        info: The stream.
        stats: Counters, up to date after every frame.
        open_aside: See `pipeline.stages.Decoder`.
    """

    def __init__(self, spec: VideoSpec, decode: Decode, stats: DecodeStats | None = None) -> None:
        """Opens the video.

        Args:
            spec: What to open.
            decode: How.
            stats: Where to count; counters of its own by default.

        Raises:
            SourceError: it cannot be opened, or not one frame of it can be decoded.
        """
        self.stats = stats if stats is not None else DecodeStats()
        self.open_aside: Callable[[], AbstractContextManager[object]] = nullcontext
        self._spec = spec
        self._is_live = spec.settings.is_live
        self._threads = decode.threads
        self._drops_corrupt = decode.corrupt_frames == "drop" or (decode.corrupt_frames == "auto" and self._is_live)
        self._fruitless_packets = 0  # since the codec last gave a picture
        self._picture_s = time.monotonic()  # when it did
        self._broken_frames = 0  # since damage that no key frame has ended yet
        self._errors_seen = 0
        self._failed_run = 0  # packets in a row that failed, up to the last one
        self._lock = threading.Lock()  # held while FFmpeg works on the container
        self._closing = False
        self._read_limit: ReadLimit | None = None
        self._container = open_container(spec)
        self._groups: Iterator[Sequence[Frame]] = iter(())
        try:
            self._stream = choose_stream(spec, self._container)
            base = self._stream.time_base
            self._tick_s = (base.numerator, base.denominator) if base is not None else None
            self._progress = Progress(self._container, self._stream, spec)
            self._gate = PacketGate(self._stream, spec.settings)
            self._arrivals = Arrivals(self._stream, is_live=self._is_live)
            self._loop = Loop(spec.settings.loop, self._stream)
            self._demuxed: Iterator[Piece] = self._demux()
            self._first_packet: tuple[object, ...] | None = None
            self._groups = self._checked()
            self._first: Sequence[Frame] = next(self._groups, ())
            info = _stream_info(self._container, self._stream, self._first[0] if self._first else None)
            self.info = _looped(info, spec.settings.loop)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _decoded(self) -> Iterator[Sequence[Frame]]:
        """All frames but the dropped ones, those that come out together in one sequence."""

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames in display order.

        Raises:
            SourceError: the video broke, ended before its container says, or its server fell silent.
        """
        for group in self.groups():
            yield from group

    def groups(self) -> Iterator[Sequence[Frame]]:
        """See `pipeline.stages.Decoder`; raises what iteration does."""
        while group := self._next():
            yield group

    def close(self) -> None:
        """Releases everything; another thread's iteration ends after the frame, or network wait, that it is in."""
        self._closing = True
        # Who holds the lock closes after its frame; the check behind the lock makes sure that somebody does.
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def _next(self) -> Sequence[Frame]:
        """The next frames, as many as are still wanted; none at the end."""
        group: Sequence[Frame] = ()
        limit = self._spec.settings.max_frames
        try:
            with self._lock:
                if not self._closing and (limit is None or self.stats.frames < limit):
                    group, self._first = self._first, ()
                    group = group or next(self._groups, ())
        except BaseException:
            self.close()
            raise
        if self._closing or not group:
            self.close()
            return ()
        if limit is not None:
            group = group[: limit - self.stats.frames]
        self.stats.frames += len(group)
        return group

    def _release(self) -> None:
        self._first = ()
        if hasattr(self._groups, "close"):
            self._groups.close()
        self._groups = iter(())
        if self._read_limit is not None:
            self._read_limit.close()
        self._container.close()

    def _checked(self) -> Iterator[Sequence[Frame]]:
        """The frames of all rounds; then an error if some must be missing."""
        while True:
            yield from self._loop.watched(self._decoded())
            if self._closing:
                return
            self._progress.check(self._failed_run, self.stats)
            if not self._loop.goes_on():
                break
            self._rewind()
        if self._is_live:
            text = f"the server ended the stream, after {self._progress.decoded} frames"
            raise failure(self._spec, Reason(SourceErrorCode.ENDED, text))

    def _rewind(self) -> None:
        """Back to the first packet: by seeking where that is exact, else by opening the file anew."""
        assert self._first_packet is not None
        packets = self._demux_again(self._first_packet)
        if packets is None:
            self._container.close()
            self._container = open_container(self._spec)
            self._stream = choose_stream(self._spec, self._container)
            packets = self._container.demux(self._stream)
        self._demuxed = packets
        self._progress.restart()
        self._gate = PacketGate(self._stream, self._spec.settings)

    def _demux(self) -> Iterator[Piece]:
        """All packets of the container that has just been opened."""
        return self._container.demux(self._stream)

    def _demux_again(self, first: tuple[object, ...]) -> Iterator[Piece] | None:
        """All of them, from this one on which was the first; None if the container has to be opened anew for that."""
        return packets_again(self._container, self._stream, first)

    def _packets(self) -> Iterator[Piece]:
        """The stream's packets, up to its end or to where it cannot be read further."""
        packets, stats, gate, clock = self._demuxed, self.stats, self._gate, time.monotonic
        limit: ReadLimit | None = None
        while True:
            asked_s = clock()
            if limit is not None:
                limit.asked_s = asked_s
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as e:
                self._progress.broken = reason_for(self._spec, e, is_open=True)
                self.stats.errors += 1
                self.stats.last_error = self._progress.broken.text
                return
            received_s = clock()
            if limit is not None:
                limit.asked_s = None
            if packet is None:
                return
            if isinstance(packet, FileRun):
                self._note_run(packet, received_s)
                yield packet
                continue
            if self._first_packet is None:
                self._first_packet = identity(real(packet))
                if self._is_live:
                    timeout_s = self._spec.settings.timeout_s
                    limit = self._read_limit = ReadLimit.of(self._container, timeout_s, asked_s, received_s)
            size = packet.size
            if not size:  # AVI has empty ones for "show the last frame on"; PyAV's last one means the end
                continue
            if self._is_live and (trouble := self._trouble(asked_s, received_s)) is not None:
                self._progress.broken = trouble
                return
            stats.packets += 1
            stats.packet_bytes += size
            stats.last_packet_s = received_s
            self._progress.read(packet)
            if not gate.is_open:
                cause = gate.cause(real(packet), received_s, received_s - asked_s)
                if cause is not None:
                    stats.drops.add(cause)
                    continue
            self._arrivals.note(packet, received_s)
            self._fruitless_packets += 1
            yield packet

    def _note_run(self, run: FileRun, received_s: float) -> None:
        stats = self.stats
        stats.packets += len(run)
        stats.packet_bytes += sum(run.sizes)
        stats.last_packet_s = received_s
        self._progress.read_run(run)
        self._arrivals.note_all(run.pts, received_s)

    def _trouble(self, asked_s: float, received_s: float) -> Reason | None:
        """Why a live stream is not to be read further, though this packet came."""
        timeout_s = self._spec.settings.timeout_s
        if received_s - asked_s >= timeout_s:
            # FFmpeg's reading timed out and its parser gave out what it still held: the next read would wait anew.
            return reason_for(self._spec, TimeoutError(), is_open=True)
        if self._fruitless_packets >= _MOST_FRUITLESS_PACKETS and received_s - self._picture_s >= timeout_s:
            text = f"no picture for {received_s - self._picture_s:.0f} s, though packets come"
            return Reason(SourceErrorCode.DAMAGED, text)
        return None

    def _in_software(self, packets: Iterable[Piece]) -> Iterator[Frame]:
        """FFmpeg's frames of the packets, one by one: each takes so long that nothing is won by waiting for more."""
        use_all()
        # Threads that decode frames side by side hold as many frames back; one camera needs no more than one.
        threads = self._threads or (1 if self._is_live else _default_threads())
        try:
            codec = ThreadedCodec(self._stream, threads, self.stats, is_live=self._is_live)
        except av.error.FFmpegError as e:
            text = f"its {self._stream.codec_context.name} decoder cannot be set up: {(e.strerror or 'unknown reason').lower()}"
            raise failure(self._spec, Reason(SourceErrorCode.UNSUPPORTED, text)) from None
        # A decoder that may reorder would hold back each key frame until the next ones come, seconds later.
        is_each_alone = self._is_live and self._gate.has_key_frames_only
        for frame in _all_frames(codec, map(real, each(packets)), is_each_alone=is_each_alone):
            arrival = self._admit(frame.pts, is_corrupt=frame.is_corrupt)
            if arrival is not None:
                yield self._frame(frame.pts, arrival, self._picture(frame), self._now())
        self._failed_run = codec.failed_run

    def _admit(self, pts: int | None, *, is_corrupt: bool) -> Arrival | None:
        """Counts a frame that came out of the codec; None if it is dropped because it is damaged.

        Args:
            pts: What its packet said, in the stream's ticks.
            is_corrupt: Whether the codec says so.
        """
        self._progress.decoded += 1
        self.stats.decoded += 1
        arrival = self._arrivals.of(pts)
        if self._is_live:
            self._fruitless_packets, self._picture_s = 0, time.monotonic()
            is_corrupt = self._is_broken(arrival, is_corrupt)
        if is_corrupt:
            self.stats.corrupt += 1
            if self._drops_corrupt:
                self.stats.dropped += 1
                self.stats.drops.add(DropCause.CORRUPT)
                return None
        return arrival

    def _is_broken(self, arrival: Arrival, is_corrupt: bool) -> bool:
        """Whether a live stream's frame is damaged, or follows damage that no key frame has ended."""
        if is_corrupt or arrival.has_lost or self.stats.errors > self._errors_seen:
            # An error of the packet right before a key frame is over by then.
            self._broken_frames = 0 if arrival.is_key and not is_corrupt else 1
            self._errors_seen = self.stats.errors
        elif arrival.is_key or self._broken_frames >= _MOST_BROKEN_FRAMES:
            self._broken_frames = 0
        elif self._broken_frames:
            self._broken_frames += 1
        return self._broken_frames > 0

    def _now(self) -> tuple[float, float]:
        """When a frame came out: `Frame.time_s` and `Frame.decoded_s`."""
        return time.time(), time.monotonic()

    def _frame(self, pts: int | None, arrival: Arrival, picture: Picture, now: tuple[float, float]) -> Frame:
        """The frame that was admitted last; `now` is when it came out."""
        time_s, decoded_s = now
        index = self._progress.decoded - 1
        if pts is not None and self._tick_s is not None:
            pts_s: float | None = (pts + self._loop.offset) * self._tick_s[0] / self._tick_s[1]
        else:
            rate = _raw_rate(self._stream)
            pts_s = float(index / rate) if rate else None
        source_id = self._spec.source_id
        return Frame(source_id, index, pts_s, time_s, picture, arrival.received_s, decoded_s, arrival.captured_s)

    def _picture(self, frame: av.VideoFrame) -> Picture:
        context = self._stream.codec_context
        planes, layout, owner = views(frame)
        rotation, mirror = orientation(frame)
        sar = sane_sar(self._stream.sample_aspect_ratio, context.sample_aspect_ratio)
        width, height = display_size((frame.width, frame.height), sar, rotation)
        colours = colour(
            owner,
            codec=context.codec.canonical_name,
            bit_depth=layout.bit_depth,
            override=self._spec.settings.colour,
        )
        return Picture(planes, layout.chroma_shift, colours, width, height, rotation, mirror, sar, owner)


def _all_frames(
    codec: ThreadedCodec, packets: Iterable[Packet[VideoStream]], *, is_each_alone: bool
) -> Iterator[av.VideoFrame]:
    for packet in packets:
        yield from codec.decode(packet)
        if is_each_alone:
            yield from codec.flush()
    yield from codec.finish()


def _raw_rate(stream: VideoStream) -> Fraction | None:
    """The frame rate of a stream without any timestamps; the codec knows it better than the demuxer, which guesses."""
    if stream.start_time is not None:
        return None
    return stream.codec_context.framerate or stream.guessed_rate


def _stream_info(container: InputContainer, stream: VideoStream, first: Frame | None) -> StreamInfo:
    context = stream.codec_context
    size = (first.picture.width, first.picture.height) if first else (context.width, context.height)
    rate = _raw_rate(stream) or stream.average_rate
    if stream.duration and stream.time_base:
        duration_s: float | None = float(stream.duration * stream.time_base)
    else:
        duration_s = container.duration / av.time_base if container.duration else None
    count = stream.frames or (round(duration_s * rate) if duration_s and rate else 0) or None
    return StreamInfo(context.codec.canonical_name, *size, Fraction(rate) if rate else None, count, duration_s)


def _looped(info: StreamInfo, times: bool | int) -> StreamInfo:
    """What is known of a file that is played so often."""
    if times is False:
        return info
    if times is True:
        return replace(info, frame_count=None, duration_s=None)
    count, duration_s = info.frame_count, info.duration_s
    return replace(info, frame_count=count and count * times, duration_s=duration_s and duration_s * times)


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)
