"""The `cpu` engine's decoder: FFmpeg through PyAV. docs/sources.md states its rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pipeline.decode._video import VideoDecoder
from pipeline.frames import Frame


class FfmpegDecoder(VideoDecoder):
    """Decodes on the CPU; the frames' planes are views of FFmpeg's own memory."""

    def _decoded(self) -> Iterator[Sequence[Frame]]:
        return ((frame,) for frame in self._in_software(self._packets()))
