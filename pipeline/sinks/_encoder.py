"""H.264 in MP4, playable whatever happens.

While frames come, a fragmented MP4 grows under the temporary name: it plays up to its last fragment after a crash or on
a full disk. At the end its packets are copied, not encoded anew, into an ordinary MP4 with the index in front.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av

from pipeline.errors import SinkError
from pipeline.frames import Colour
from pipeline.sinks._files import Output
from pipeline.sinks._timestamps import TIME_BASE

# FFmpeg's AVCOL_SPC_* and AVCOL_RANGE_* by our names.
_SPACE = {"bt601": 6, "bt709": 1, "bt2020": 9, "smpte240m": 7}
_RANGE = {False: 1, True: 2}
_FRAGMENT_S = 2

T = TypeVar("T")


class Encoder:
    """Encodes frames of 8-bit 4:2:0 into one output."""

    def __init__(
        self,
        output: Output,
        size: tuple[int, int],
        colour: Colour,
        frame_rate: Fraction,
        *,
        crf: int,
        preset: str,
        threads: int,
    ) -> None:
        """Starts the encoder.

        Args:
            output: Where the video goes.
            size: (width, height) in pixels, even.
            colour: Matrix, range and siting of the samples: written into the stream.
            frame_rate: About; the frames' own times count.
            crf: x264's constant rate factor.
            preset: x264's preset.
            threads: Of the encoder.

        Raises:
            SinkError: the encoder refuses.
        """
        self._output = output
        self._final = output.partial.with_name(output.partial.name + ".final")
        self._final.unlink(missing_ok=True)  # a run that was killed while it completed its video left it
        self._whole_bytes: int | None = None  # after an error: how much of the file is whole fragments
        self._step = round(1 / (frame_rate * TIME_BASE))
        options = {
            "crf": str(crf),
            "preset": preset,
            "g": str(max(1, round(frame_rate * _FRAGMENT_S))),
            # Without reordering, decoding times are presentation times: with a variable rate, B-frames make the length
            # that an MP4 states, and players trust, wrong by the distance between the two.
            "bf": "0",
            "chroma_sample_location": colour.siting,
        }
        self._container: av.container.OutputContainer | None = self._try(
            lambda: av.open(
                f"file:{output.partial}",
                "w",
                format="mp4",
                options={"movflags": "frag_keyframe+empty_moov+default_base_moof", "flush_packets": "1"},
            )
        )
        self._stream = self._try(lambda: self._open_container().add_stream("libx264", rate=frame_rate, options=options))
        self._stream.width, self._stream.height = size
        self._stream.pix_fmt = "yuv420p"
        self._stream.time_base = TIME_BASE
        context = self._stream.codec_context
        context.time_base = TIME_BASE
        context.thread_count = threads
        context.colorspace = _SPACE[colour.matrix]
        context.color_range = _RANGE[colour.full_range]

    def encode(self, frame: av.VideoFrame, ticks: int) -> None:
        """Appends a frame that is shown from `ticks` (of 1/90000 s) on."""
        frame.pts, frame.time_base = ticks, TIME_BASE
        self._try(lambda: self._encode(frame))

    def finish(self) -> Path:
        """Ends the stream and completes the output."""
        self._end()
        try:
            self._try(self._copy)
            return self._output.complete(self._final)
        except SinkError:
            self._final.unlink(missing_ok=True)
            raise

    def abort(self) -> list[Path]:
        """Keeps the fragmented file, with all frames so far if there is room for them, else up to the last fragment."""
        with contextlib.suppress(SinkError):
            self._end()
        if self._whole_bytes is not None:
            self._output.shorten(self._whole_bytes)
        return self._output.keep()

    def _end(self) -> None:
        if self._container is None:
            return
        try:
            if self._stream.codec_context.is_open:  # flushing an encoder that refused to open crashes PyAV 19
                self._try(lambda: self._encode(None))
        finally:
            container, self._container = self._container, None
            with self._whole_fragments():
                self._try(container.close)

    def _encode(self, frame: av.VideoFrame | None) -> None:
        container = self._open_container()
        for packet in self._stream.encode(frame):
            if not packet.duration:
                packet.duration = self._step
            with self._whole_fragments():
                container.mux(packet)

    @contextlib.contextmanager
    def _whole_fragments(self) -> Iterator[None]:
        """Remembers, if writing fails, where the last whole fragment ends: every packet is flushed, a fragment in one go."""
        size = self._output.size_bytes
        try:
            yield
        except (av.error.FFmpegError, SinkError):
            if self._whole_bytes is None:
                self._whole_bytes = size
            raise

    def _copy(self) -> None:
        with (
            av.open(f"file:{self._output.partial}") as source,
            av.open(f"file:{self._final}", "w", format="mp4", options={"movflags": "faststart"}) as target,
        ):
            video = source.streams.video[0]
            copy = target.add_stream_from_template(video)
            for packet in source.demux(video):
                if packet.dts is not None:  # the last one is empty
                    packet.stream = copy
                    target.mux(packet)

    def _open_container(self) -> av.container.OutputContainer:
        if self._container is None:
            raise ValueError(f"{self._output.path} is closed")
        return self._container

    def _try(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except av.error.FFmpegError as e:
            code = getattr(e, "errno", 0)
            if code and os.strerror(code) != f"Unknown error {code}" and isinstance(e, OSError):
                raise self._output.error(e) from e
            raise SinkError(f"{self._output.path}: the video cannot be encoded: {e}") from e
