"""Whether a video was decoded to its end, or broke on the way; many containers end quietly where they are cut off."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import TYPE_CHECKING

from pipeline.decode._open import failure
from pipeline.decode._reasons import Reason
from pipeline.errors import SourceErrorCode
from pipeline.stages import DecodeStats

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

    from pipeline.decode._indexed import AnyPacket, FileRun
    from pipeline.sources.resolve import VideoSpec

# Fewer packets than this that fail at the very end are counted as errors; from here on the rest counts as lost.
_HOPELESS_RUN = 10
# A container's duration may be rounded or padded by this much; and it may let the last frame stand for longer than
# others, most of all where frames are rare, as in recorded slides.
_TOLERANCE_S = 0.5
_TOLERANCE_STEPS = 5
# Formats without an index flag packets for gaps in the transmission, and state no duration of their own.
_STREAMED = ("mpegts", "mpeg", "rtsp", "hls")


class Progress:
    """What was read and decoded of a video so far.

    Attributes:
        decoded: Frames that came out of the decoder.
        broken: Why the container could not be read further; None if it could.
    """

    def __init__(self, container: InputContainer, stream: VideoStream, spec: VideoSpec) -> None:
        self.decoded = 0
        self.broken: Reason | None = None
        self._spec = spec
        self._is_streamed = container.format.name in _STREAMED
        self._declared_end_s = None if self._is_streamed else _declared_end_s(stream)
        self._tick_s = stream.time_base  # not later: a file that is played again may be another container's by then
        # In the stream's ticks: this is done for every packet, and a `Fraction` takes longer than all the rest.
        self._end: int | None = None
        self._longest_step = 0
        self._packets = 0
        self._last_is_partial = False
        self._decoded_before = 0  # in earlier rounds

    def restart(self) -> None:
        """The same video begins again from its first packet."""
        self._end, self._longest_step = None, 0
        self._packets, self._last_is_partial = 0, False
        self._decoded_before = self.decoded

    def read(self, packet: AnyPacket) -> None:
        """Notes a packet."""
        self._packets += 1
        self._last_is_partial = packet.is_corrupt
        pts = packet.pts
        if pts is not None:
            self._reaches(pts + (packet.duration or 0))

    def read_run(self, run: FileRun) -> None:
        """Notes each of its packets."""
        self._packets += len(run)
        self._last_is_partial = False
        for pts, duration in zip(run.pts, run.durations, strict=True):
            self._reaches(pts + duration)

    def _reaches(self, end: int) -> None:
        if self._end is None:
            self._end = end
        elif end > self._end:
            self._longest_step = max(self._longest_step, end - self._end)
            self._end = end

    def check(self, failed_run: int, stats: DecodeStats) -> None:
        """Raises `SourceError` if the video broke, or ends before its container says, or has no frames at all."""
        reason = self._reason(failed_run)
        if reason is not None:
            raise failure(self._spec, reason)
        if self.decoded == self._decoded_before:
            text = f"no frames: none of its {self._packets} packets could be decoded"
            if stats.errors == 0:
                text += " (is its key frame missing?)"
            raise failure(
                self._spec, Reason(SourceErrorCode.NO_FRAMES, text if self._packets else "it holds no frames")
            )

    def _reason(self, failed_run: int) -> Reason | None:
        after = f"after {self.decoded} frame{'' if self.decoded == 1 else 's'}"
        if self.broken is not None:
            if self._spec.is_url:
                return Reason(self.broken.code, f"{self.broken.text}, {after}", self.broken.remedy)
            return Reason(SourceErrorCode.DAMAGED, f"damaged: it cannot be read further, {after}")
        cut_off = SourceErrorCode.NETWORK if self._spec.is_url else SourceErrorCode.DAMAGED
        if self._last_is_partial and not self._is_streamed:
            return Reason(cut_off, f"cut off: the data ends in the middle of a frame, {after}")
        tick_s = self._tick_s
        if self._declared_end_s is not None and self._end is not None and tick_s:
            missing_s = self._declared_end_s - float(self._end * tick_s)
            if missing_s > max(_TOLERANCE_S, _TOLERANCE_STEPS * float(self._longest_step * tick_s)):
                return Reason(cut_off, f"cut off: it ends {missing_s:.1f} s early, {after}")
        if self.decoded and failed_run >= _HOPELESS_RUN:
            return Reason(SourceErrorCode.DAMAGED, f"damaged: its last {failed_run} packets cannot be decoded, {after}")
        return None


def _declared_end_s(stream: VideoStream) -> float | None:
    if stream.duration and stream.time_base:
        return float(((stream.start_time or 0) + stream.duration) * stream.time_base)
    # Matroska writes each track's end as a tag.
    match = re.match(r"(\d+):(\d+):(\d+(?:\.\d+)?)", stream.metadata.get("DURATION", ""))
    if match is None:
        return None
    hours, minutes, seconds = match.groups()
    return float(Fraction(int(hours) * 3600 + int(minutes) * 60) + Fraction(seconds))
