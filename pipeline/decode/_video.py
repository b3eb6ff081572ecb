"""What the decoders of both engines share: one open video, its packets, and FFmpeg's frames of them."""

from __future__ import annotations

import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from fractions import Fraction
from typing import TYPE_CHECKING

import av
import av.error
from av.container import InputContainer

from pipeline.config.models import Decode
from pipeline.decode._codec import ThreadedCodec
from pipeline.decode._complete import Progress
from pipeline.decode._metadata import colour, display_size, orientation, sane_sar
from pipeline.decode._open import choose_stream, failure, open_container
from pipeline.decode._picture import views
from pipeline.decode._reasons import Reason, reason_of
from pipeline.errors import SourceErrorCode
from pipeline.frames import Frame, Picture
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, StreamInfo

if TYPE_CHECKING:
    from av.packet import Packet
    from av.video.stream import VideoStream

_MOST_THREADS = 16  # as FFmpeg's own choice; more only cost memory


class VideoDecoder(ABC):
    """A `pipeline.stages.Decoder`: iterates the frames of one video once.

    The first frame is decoded at once, so that `info` states what the frames are and not only what the container says.

    Attributes:
        info: The stream.
        stats: Counters, up to date after every frame.
    """

    def __init__(self, spec: VideoSpec, decode: Decode) -> None:
        """Opens the video.

        Raises:
            SourceError: it cannot be opened, or not one frame of it can be decoded.
        """
        self.stats = DecodeStats()
        self._spec = spec
        self._threads = decode.threads or _default_threads()
        self._drops_corrupt = decode.corrupt_frames == "drop"
        self._failed_run = 0  # packets in a row that failed, up to the last one
        self._lock = threading.Lock()  # held while FFmpeg works on the container
        self._closing = False
        self._container = open_container(spec)
        self._frames: Iterator[Frame] = iter(())
        try:
            self._stream = choose_stream(spec, self._container)
            base = self._stream.time_base
            self._tick_s = (base.numerator, base.denominator) if base is not None else None
            self._progress = Progress(self._container, self._stream, spec)
            self._frames = self._checked()
            self._first: Frame | None = next(self._frames, None)
            self.info = _stream_info(self._container, self._stream, self._first)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _decoded(self) -> Iterator[Frame]:
        """All frames but the dropped ones."""

    def __iter__(self) -> Iterator[Frame]:
        """Yields the frames in display order.

        Raises:
            SourceError: the video broke, ended before its container says, or its server fell silent.
        """
        while (frame := self._next()) is not None:
            yield frame

    def close(self) -> None:
        """Releases everything; another thread's iteration ends after the frame, or network wait, that it is in."""
        self._closing = True
        # Who holds the lock closes after its frame; the check behind the lock makes sure that somebody does.
        if self._lock.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._lock.release()

    def _next(self) -> Frame | None:
        frame = None
        try:
            with self._lock:
                limit = self._spec.settings.max_frames
                if not self._closing and (limit is None or self.stats.frames < limit):
                    frame, self._first = self._first, None
                    frame = frame or next(self._frames, None)
        except BaseException:
            self.close()
            raise
        if self._closing or frame is None:
            self.close()
            return None
        self.stats.frames += 1
        return frame

    def _release(self) -> None:
        self._first = None
        if hasattr(self._frames, "close"):
            self._frames.close()
        self._frames = iter(())
        self._container.close()

    def _checked(self) -> Iterator[Frame]:
        """The frames; then an error if some must be missing."""
        yield from self._decoded()
        if not self._closing:
            self._progress.check(self._failed_run, self.stats)

    def _packets(self) -> Iterator[Packet[VideoStream]]:
        """The stream's packets, up to its end or to where it cannot be read further."""
        packets = self._container.demux(self._stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as e:
                self._progress.broken = reason_of(e, is_url=self._spec.is_url, is_open=True)
                self.stats.errors += 1
                self.stats.last_error = self._progress.broken.text
                return
            if packet is None:
                return
            if packet.size:  # AVI has empty ones for "show the last frame on"; PyAV's last one means the end
                self._progress.read(packet)
                yield packet

    def _in_software(self, packets: Iterable[Packet[VideoStream]]) -> Iterator[Frame]:
        """FFmpeg's frames of the packets."""
        try:
            codec = ThreadedCodec(self._stream, self._threads, self.stats)
        except av.error.FFmpegError as e:
            text = f"its {self._stream.codec_context.name} decoder cannot be set up: {(e.strerror or 'unknown reason').lower()}"
            raise failure(self._spec, Reason(SourceErrorCode.UNSUPPORTED, text)) from None
        for frame in _all_frames(codec, packets):
            index = self._progress.decoded
            self._progress.decoded += 1
            if frame.is_corrupt:
                self.stats.corrupt += 1
                if self._drops_corrupt:
                    self.stats.dropped += 1
                    continue
            pts_s = self._pts_s(frame.pts, index)
            yield Frame(self._spec.source_id, index, pts_s, time.time(), self._picture(frame))
        self._failed_run = codec.failed_run

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

    def _pts_s(self, pts: int | None, index: int) -> float | None:
        if pts is not None and self._tick_s is not None:
            return pts * self._tick_s[0] / self._tick_s[1]
        rate = _raw_rate(self._stream)
        return float(index / rate) if rate else None


def _all_frames(codec: ThreadedCodec, packets: Iterable[Packet[VideoStream]]) -> Iterator[av.VideoFrame]:
    for packet in packets:
        yield from codec.decode(packet)
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


def _default_threads() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(cores, _MOST_THREADS)
