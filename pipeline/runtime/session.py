"""One connection to a source: a thread that opens it, decodes it into the source's slot, and tells how that ended.

A thread that hangs where nothing can wake it (a name server that is silent, a driver) is left behind: once its slot has been
handed over, nothing that it still does has any effect. It ends by itself when the call that it hangs in returns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.observe.status import SourceStatus
from pipeline.queues import Closed
from pipeline.runtime.intake import Slot
from pipeline.sources.freshness import RateGate
from pipeline.sources.resolve import VideoSpec
from pipeline.sources.timeline import Timeline
from pipeline.stages import Decoder, DecodeStats, DropCause, SinkSource, StreamInfo

OpenDecoder = Callable[[VideoSpec, DecodeStats], Decoder]
CountFrames = Callable[[float, int], None]


@dataclass(slots=True)
class Track:
    """What goes on over all connections of a source.

    Attributes:
        spec: What it is.
        status: What is known of it.
        slot: Where its frames wait for the model.
        gate: How many of them are wanted.
        timeline: Of a live stream: makes its times increase.
        is_announced: Whether the sinks know of it.
    """

    spec: VideoSpec
    status: SourceStatus
    slot: Slot
    gate: RateGate
    timeline: Timeline = field(default_factory=Timeline)
    is_announced: bool = False


@dataclass(frozen=True, slots=True)
class SessionEnd:
    """How a session ended.

    Attributes:
        error: What is wrong with the source; None if it came to its end or was told to stop.
        crash: What should never have happened.
        ran_s: How long it gave frames; None if it gave none.
    """

    error: SourceError | None
    crash: BaseException | None
    ran_s: float | None


class Session:
    """Runs once.

    Args:
        track: The source.
        open_decoder: Opens it.
        on_open: Called from the session's thread once there is a picture.
        on_end: Called from it as the last thing.
        count_frames: Called with the seconds that frames took to be read and decoded, and how many they are.
    """

    def __init__(
        self,
        track: Track,
        *,
        open_decoder: OpenDecoder,
        on_open: Callable[[Session, StreamInfo], None],
        on_end: Callable[[Session, SessionEnd], None],
        count_frames: CountFrames,
    ) -> None:
        self.track = track
        self.started_s = time.monotonic()
        self._open_decoder = open_decoder
        self._on_open = on_open
        self._on_end = on_end
        self._count_frames = count_frames
        self._lock = threading.Lock()
        self._decoder: Decoder | None = None
        self._is_cancelled = False
        self._opened_s: float | None = None
        self._moved_s = self.started_s  # when a frame was last handed on
        self._is_waiting = False  # for the model to take a frame
        self._handled = 0
        self.is_complete = False  # gave all frames that were asked for
        self.was_told = False  # to end, for the source to be connected anew
        self._stats = DecodeStats()
        self._is_settled = False
        name = f"source-{track.spec.source_id}"
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread, as the slot's owner."""
        self.track.status.connect(self._stats)
        self.track.slot.hand_over(self)
        self._thread.start()

    def cancel(self) -> None:
        """Ends it soon, in the frame or network wait that it is in; from any thread."""
        with self._lock:
            self._is_cancelled = True
            decoder = self._decoder
        self.track.slot.hand_over(None)
        if decoder is not None:
            decoder.close()

    def join(self) -> None:
        """Waits for the thread, which has reported its end."""
        self._thread.join()

    def silent_s(self, now_s: float) -> float:
        """For how long nothing has come from the source; 0 while it is we who make it wait."""
        if self._is_waiting:
            return 0.0
        return now_s - max(self.started_s, self._moved_s, self._stats.last_packet_s or 0.0)

    @property
    def ran_s(self) -> float | None:
        """How long it gave frames; None if it has given none."""
        return None if self._opened_s is None else max(0.0, self._moved_s - self._opened_s)

    def _run(self) -> None:
        error: SourceError | None = None
        crash: BaseException | None = None
        try:
            self._work()
        except SourceError as e:
            error = e.with_traceback(None)  # whose frames, this one among them, would keep the decoder
        except Closed:
            pass
        except BaseException as e:
            crash = e
        self.settle()
        self._on_end(self, SessionEnd(error, crash, self.ran_s))

    def _work(self) -> None:
        track = self.track
        track.timeline.reconnected()
        decoder = self._open_decoder(track.spec, self._stats)
        try:
            with self._lock:
                if self._is_cancelled:
                    return
                self._decoder = decoder
            self._opened_s = time.monotonic()
            if not track.is_announced:
                track.slot.put(SinkSource(track.spec.source_id, decoder.info), self)
                track.is_announced = True
            self._on_open(self, decoder.info)
            self._decode(decoder)
        finally:
            decoder.close()

    def _decode(self, decoder: Decoder) -> None:
        track, slot, gate = self.track, self.track.slot, self.track.gate
        status, earlier = track.status, track.status.earlier
        limit = track.spec.settings.max_frames
        resumed_s = time.perf_counter()
        for group in decoder.groups():
            if self._is_cancelled:  # it may be another session's turn by now
                let_go(group)
                break
            self._count_frames(time.perf_counter() - resumed_s, len(group))
            frames = [self._timed(frame, earlier.decoded) for frame in group] if status.is_live else group
            if not gate.is_open:
                frames = self._thinned(frames)
            if frames:
                self._hand_on(frames, slot)
            self._moved_s = time.monotonic()
            if limit is not None and earlier.frames + self._stats.frames >= limit:
                self.is_complete = True
                break
            if self._is_cancelled or status.error is not None:
                break
            resumed_s = time.perf_counter()

    def _timed(self, frame: Frame, earlier: int) -> Frame:
        """A live stream's frame with its number and time over all connections."""
        received_s = frame.received_s if frame.received_s is not None else time.monotonic()
        return frame.placed(earlier + frame.index, self.track.timeline(frame.pts_s, received_s))

    def _thinned(self, frames: Sequence[Frame]) -> Sequence[Frame]:
        """Those that are wanted at the source's rate."""
        wanted = [self.track.gate.keeps(frame.pts_s) for frame in frames]
        left_out = [frame for frame, is_wanted in zip(frames, wanted, strict=True) if not is_wanted]
        let_go(left_out)
        self.track.status.drops.add(DropCause.RATE, len(left_out))
        self._handled += len(left_out)
        return [frame for frame, is_wanted in zip(frames, wanted, strict=True) if is_wanted]

    def _hand_on(self, frames: Sequence[Frame], slot: Slot) -> None:
        self._is_waiting = not slot.replaces
        try:
            left = slot.put_frames(frames, self)
        finally:
            self._moved_s = time.monotonic()  # first: the time we made it wait for is no silence
            self._is_waiting = False
        self._handled += len(frames) - len(left)
        if left:
            let_go(left)
            raise Closed

    def leave(self) -> None:
        """Accounts for what was read so far; what the thread, which does not end, still counts has no effect."""
        with self._lock:
            if self._is_settled:
                return
            self._stats = self.track.status.detach()
        self.settle()

    def settle(self) -> None:
        """Accounts for what was read and has neither been handed on nor dropped for a reason; once, when nothing more counts.

        Most codecs make one frame of a packet. Where one makes more, those count as received.
        """
        with self._lock:
            if self._is_settled:
                return
            self._is_settled = True
        stats = self._stats
        skipped = stats.drops[DropCause.NON_KEY] + stats.drops[DropCause.BEHIND] + stats.drops[DropCause.RATE]
        without_picture = stats.packets - skipped - stats.decoded
        if without_picture >= 0:
            stats.drops.add(DropCause.NO_PICTURE, without_picture)
        else:
            stats.packets -= without_picture
        stats.drops.add(DropCause.CLOSED, max(0, stats.decoded - stats.drops[DropCause.CORRUPT] - self._handled))


def let_go(frames: Iterable[Frame]) -> None:
    """Gives the decoders their memory back; what reads it on a device has been enqueued, and order does the rest."""
    for frame in frames:
        frame.picture.let_go()
