"""The `cpu` engine's decoder: FFmpeg through PyAV. docs/sources.md states its rules."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
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
    from av.video.stream import VideoStream

_MOST_THREADS = 16  # as FFmpeg's own choice; more only cost memory


class FfmpegDecoder:
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
        self._drops_corrupt = decode.corrupt_frames == "drop"
        self._lock = threading.Lock()  # held while FFmpeg works on the container
        self._closing = False
        self._container = open_container(spec)
        self._frames: Iterator[Frame] = iter(())
        try:
            stream = choose_stream(spec, self._container)
            self._frames = self._decoded(self._container, stream, decode.threads or _default_threads())
            self._first: Frame | None = next(self._frames, None)
            self.info = _stream_info(self._container, stream, self._first)
        except BaseException:
            self.close()
            raise

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

    def _decoded(self, container: InputContainer, stream: VideoStream, threads: int) -> Iterator[Frame]:
        """All frames but the dropped ones; then an error if some must be missing."""
        try:
            codec = ThreadedCodec(stream, threads, self.stats)
        except av.error.FFmpegError as e:
            text = (
                f"its {stream.codec_context.name} decoder cannot be set up: {(e.strerror or 'unknown reason').lower()}"
            )
            raise failure(self._spec, Reason(SourceErrorCode.UNSUPPORTED, text)) from None
        progress = Progress(container, stream, self._spec)
        for frame in self._raw(container, stream, codec, progress):
            progress.decoded += 1
            if frame.is_corrupt:
                self.stats.corrupt += 1
                if self._drops_corrupt:
                    self.stats.dropped += 1
                    continue
            yield self._frame(frame, progress.decoded - 1, stream)
        if not self._closing:
            progress.check(codec.failed_run, self.stats)

    def _raw(
        self, container: InputContainer, stream: VideoStream, codec: ThreadedCodec, progress: Progress
    ) -> Iterator[av.VideoFrame]:
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except (av.error.FFmpegError, OSError) as e:
                progress.broken = reason_of(e, is_url=self._spec.is_url, is_open=True)
                self.stats.errors += 1
                self.stats.last_error = progress.broken.text
                break
            if packet is None:
                break
            if packet.size:  # AVI has empty ones for "show the last frame on"; PyAV's last one means the end
                progress.read(packet)
                yield from codec.decode(packet)
        yield from codec.finish()

    def _frame(self, frame: av.VideoFrame, index: int, stream: VideoStream) -> Frame:
        time_s = time.time()
        context = stream.codec_context
        try:
            planes, layout, owner = views(frame)
        except ValueError as e:  # PyAV's "invalid argument" is one
            text = f"its pixel format {frame.format.name} cannot be converted"
            raise failure(self._spec, Reason(SourceErrorCode.UNSUPPORTED, text)) from e
        rotation, mirror = orientation(frame)
        sar = sane_sar(stream.sample_aspect_ratio, context.sample_aspect_ratio)
        width, height = display_size((frame.width, frame.height), sar, rotation)
        picture = Picture(
            planes,
            layout.chroma_shift,
            colour(
                owner,
                codec=context.codec.canonical_name,
                bit_depth=layout.bit_depth,
                override=self._spec.settings.colour,
            ),
            width,
            height,
            rotation,
            mirror,
            sar,
            owner,
        )
        return Frame(self._spec.source_id, index, _pts_s(frame, index, stream), time_s, picture)


def _pts_s(frame: av.VideoFrame, index: int, stream: VideoStream) -> float | None:
    if frame.pts is not None and stream.time_base is not None:
        return float(frame.pts * stream.time_base)
    rate = _raw_rate(stream)
    return float(index / rate) if rate else None


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
