"""The sources of a run: who is open, who waits, who is connected again and when.

One thread, the supervisor, owns all their states; the sessions only decode and report. So it is also the watchdog: it does
not hang where a session hangs. Videos are opened a few at a time, one after the other; live streams all at once, but only
some connect at the same moment.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from pipeline.errors import SourceError, SourceErrorCode, StreamStateError, UnknownStreamError, VramlineError
from pipeline.frames import Frame
from pipeline.observe.logs import redacted_traceback
from pipeline.observe.status import CONNECTED, ENDED, RunStatus, SourceState, SourceStatus
from pipeline.queues import Closed
from pipeline.runtime.flow import SourceEnd
from pipeline.runtime.host_memory import HostMemory
from pipeline.runtime.intake import Intake
from pipeline.runtime.session import OpenDecoder, Session, SessionEnd, Track, let_go
from pipeline.sources.backoff import Backoff
from pipeline.sources.freshness import RateGate, max_staleness_s, replaces
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DropCause, StreamInfo

log = logging.getLogger(__name__)

# How often the supervisor looks at the streams.
_TICK_S = 0.2
# FFmpeg ends a silent read after `timeout_s` by itself; where it does not, its thread is left behind this much later.
_GRACE_S = 1.0
# A live stream that is none of these can be connected again.
_OVER = (SourceState.DONE, SourceState.STOPPED)
# What a session may take to end once it has been told to, before it is left behind.
_LEAVE_S = 5.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may happen at the same time.

    Attributes:
        open_videos: Videos that are decoded; the others wait their turn.
        max_connects: Live streams that are connecting.
        slot_frames: Frames of a source that may wait for the model, where none gives way to a newer one.
    """

    open_videos: int = 4
    max_connects: int = 8
    slot_frames: int = 16


@dataclass(slots=True, eq=False)
class _Stream:
    """A source, as the supervisor sees it."""

    track: Track
    backoff: Backoff
    session: Session | None = None
    leave_by_s: float | None = None  # the session was told to end, and is left behind then
    is_wanted: bool = True  # False: paused
    is_removed: bool = False
    is_ended: bool = False  # the sinks have been told
    has_failed: bool = False  # and what follows has been done

    @property
    def status(self) -> SourceStatus:
        return self.track.status

    @property
    def spec(self) -> VideoSpec:
        return self.track.spec


class Ingest:
    """Decodes all sources into `intake`, and closes it after the last.

    A source that fails is reported in its status and the others go on, unless its `on_error` says stop.

    Args:
        specs: The sources to begin with, which have their entries in `status`.
        open_decoder: Opens one.
        limits: How much at a time.
        intake: Where the frames go.
        status: Counters and states are written here.
        stay_alive: Whether to wait for further sources when all have ended.
        on_failure: Called with an exception that ends the run.
    """

    def __init__(
        self,
        specs: Sequence[VideoSpec],
        *,
        open_decoder: OpenDecoder,
        limits: Limits,
        intake: Intake,
        status: RunStatus,
        stay_alive: bool = False,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._open_decoder = open_decoder
        self._limits = limits
        self._intake = intake
        self._status = status
        self._times = status.stages["decode"]
        self._stay_alive = stay_alive
        self._on_failure = on_failure
        self._count_lock = threading.Lock()
        self._inbox: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._streams: dict[str, _Stream] = {}
        self._leaving: list[_Stream] = []  # removed, and their sessions not over yet
        self._memory = HostMemory()
        self._is_stopping = False
        self._end_lock = threading.Lock()  # held where sources are added and where the last one has ended
        self._has_ended = False
        for spec in specs:
            self._streams[spec.source_id] = self._new_stream(spec)
        self._thread = threading.Thread(target=self._supervise, name="sources", daemon=True)

    # ------------------------------------------------------------------------------------------------ from any thread

    def start(self) -> None:
        """Starts the supervisor."""
        self._thread.start()

    def stop(self) -> None:
        """Ends all sources soon: those that run after their current frame, those that wait at once.

        Also from a signal handler: nothing here waits for a lock.
        """
        self._inbox.put(self._stop)

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits until all sources have ended; whether they have."""
        if self._thread.ident is not None:  # it was started
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def add(self, spec: VideoSpec) -> None:
        """Another source, which has its entry in the status.

        Raises:
            StreamStateError: all has ended meanwhile.
        """
        status = self._status.sources[spec.source_id]

        def add() -> None:
            if self._status.sources.get(spec.source_id) is not status:
                return  # it was removed at once
            if self._is_stopping:
                status.enter(SourceState.STOPPED)
            else:
                self._streams[spec.source_id] = self._new_stream(spec)

        with self._end_lock:
            if self._has_ended:
                raise StreamStateError("the run is not going on: no source can be added")
            self._inbox.put(add)

    def remove(self, source_id: str) -> None:
        """Ends a source and forgets it.

        Raises:
            UnknownStreamError: there is none.
        """
        self._status_of(source_id)
        self._inbox.put(lambda: self._remove(source_id))

    def pause(self, source_id: str) -> None:
        """Disconnects a live stream until it is resumed.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video, or has ended.
        """
        status = self._live(source_id)
        if status.state in ENDED:
            raise StreamStateError(f"stream {source_id} has {status.state.value}", remedy="restart it")
        self._inbox.put(lambda: self._pause(source_id))

    def resume(self, source_id: str) -> None:
        """Connects a paused live stream again.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video, or is over for good.
        """
        self._not_over(source_id)
        self._inbox.put(lambda: self._resume(source_id))

    def restart(self, source_id: str) -> None:
        """Connects a live stream anew at once.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video, or is over for good.
        """
        self._not_over(source_id)
        self._inbox.put(lambda: self._restart(source_id))

    def set_priority(self, source_id: str, priority: int) -> None:
        """A source's share of the model.

        Raises:
            UnknownStreamError: there is none.
        """
        self._status_of(source_id)

        def change() -> None:
            stream = self._streams.get(source_id)
            if stream is not None:
                stream.track.slot.weight = float(priority)
                stream.status.priority = priority

        self._inbox.put(change)

    def drop(self, frame: Frame, cause: DropCause) -> None:
        """Counts a frame that nobody will see, and lets go of it."""
        status = self._status.sources.get(frame.source_id)
        if status is not None:
            status.drops.add(cause)
        let_go((frame,))

    def _status_of(self, source_id: str) -> SourceStatus:
        status = self._status.sources.get(source_id)
        if status is None:
            raise UnknownStreamError(source_id)
        return status

    def _live(self, source_id: str) -> SourceStatus:
        status = self._status_of(source_id)
        if not status.is_live:
            raise StreamStateError(f"{source_id} is a video, not a live stream")
        return status

    def _not_over(self, source_id: str) -> None:
        status = self._live(source_id)
        if status.state in _OVER:
            raise StreamStateError(f"stream {source_id} has {status.state.value}", remedy="add it again")

    # ------------------------------------------------------------------------------------------------- the supervisor

    def _supervise(self) -> None:
        try:
            while True:
                self._tick()
                if self._is_over():
                    break
                self._obey()
        except BaseException as e:
            self._on_failure(e)
        finally:
            self._has_ended = True
            for stream in self._streams.values():
                if stream.session is not None:
                    stream.session.cancel()
                self._end(stream)
            self._intake.close()

    def _obey(self) -> None:
        """Waits for something to do, and does all that there is."""
        try:
            self._inbox.get(timeout=self._pause_s())()
            while True:
                self._inbox.get_nowait()()
        except queue.Empty:
            pass

    def _pause_s(self) -> float:
        now_s = time.monotonic()
        times = [s.status.retry_s for s in self._streams.values() if s.status.retry_s is not None]
        return max(0.001, min([_TICK_S, *(t - now_s for t in times)]))

    def _tick(self) -> None:
        now_s = time.monotonic()
        for stream in (*self._streams.values(), *self._leaving):
            self._watch(stream, now_s)
        self._memory.tick()
        if not self._is_stopping:
            self._connect_waiting()

    def _is_over(self) -> bool:
        streams = self._streams.values()
        if self._leaving or any(s.session is not None for s in streams):
            return False
        if not self._is_stopping and (self._stay_alive or not all(s.status.state in ENDED for s in streams)):
            return False
        with self._end_lock:
            self._has_ended = self._inbox.empty()  # what is asked last is done before
            return self._has_ended

    def _new_stream(self, spec: VideoSpec) -> _Stream:
        settings, status = spec.settings, self._status.sources[spec.source_id]
        newest_only = replaces(settings)
        slot = self._intake.open(
            spec.source_id,
            capacity=1 if newest_only else self._limits.slot_frames,
            replaces=newest_only,
            weight=float(settings.priority),
            max_age_s=max_staleness_s(settings),
        )
        status.slot = slot.stats
        track = Track(spec, status, slot, RateGate(settings.every, settings.max_fps))
        return _Stream(track, Backoff(settings.reconnect))

    def _connect_waiting(self) -> None:
        states = [(s.status.is_live, s.status.state) for s in self._streams.values()]
        connects = self._limits.max_connects - states.count((True, SourceState.CONNECTING))
        videos = self._limits.open_videos - sum(
            1 for s in self._streams.values() if s.session is not None and not s.status.is_live
        )
        waiting = [s for s in self._streams.values() if s.status.state is SourceState.WAITING and s.session is None]
        # Who has waited longest goes first: cameras that are down must not take every turn from those behind them.
        for stream in sorted(waiting, key=lambda s: s.status.changed_s):
            if stream.status.is_live and connects > 0:
                connects -= 1
                self._connect(stream)
            elif not stream.status.is_live and videos > 0:
                videos -= 1
                self._connect(stream)

    def _connect(self, stream: _Stream) -> None:
        if stream.status.is_live:
            if not stream.status.connecting():
                return
            stream.has_failed = False
        stream.session = Session(
            stream.track,
            open_decoder=self._open_decoder,
            on_open=lambda session, info: self._inbox.put(lambda: self._opened(stream, session, info)),
            on_end=lambda session, end: self._inbox.put(lambda: self._reported(stream, session, end)),
            count_frames=self._count,
        )
        stream.session.start()

    def _opened(self, stream: _Stream, session: Session, info: StreamInfo) -> None:
        if session is not stream.session or stream.leave_by_s is not None:
            return
        status = stream.status
        status.info = info
        status.connects += 1
        status.enter(SourceState.RUNNING, f"{info.codec} {info.width}x{info.height}")

    def _watch(self, stream: _Stream, now_s: float) -> None:
        """Sees to it that nothing takes for ever."""
        status, session = stream.status, stream.session
        if status.state is SourceState.BACKING_OFF and status.retry_s is not None and now_s >= status.retry_s:
            status.retry_s = None
            status.enter(SourceState.WAITING)
        if session is None:
            if status.state is SourceState.FAILED and not stream.has_failed:  # a frame that came before the end
                status.retry_s = None
                self._failed(stream)
            return
        if stream.leave_by_s is not None:
            if now_s >= stream.leave_by_s:
                self._abandon(stream, None)
            return
        if not status.is_live or status.state not in CONNECTED:
            return
        settings, silent_s = stream.spec.settings, session.silent_s(now_s)
        if status.failed_attempts and (session.ran_s or 0.0) >= settings.reconnect.stable_s:
            status.failed_attempts = 0
            stream.backoff.reset()
        if status.state is SourceState.RUNNING and silent_s >= settings.stall_s:
            status.enter(SourceState.STALLED, f"nothing has come for {silent_s:.1f} s")
        elif status.state is SourceState.STALLED and silent_s < settings.stall_s:
            status.enter(SourceState.RUNNING, "goes on")
        if silent_s >= settings.timeout_s + _GRACE_S:
            text = f"{stream.spec.shown}: nothing has come for {silent_s:.0f} s"
            self._abandon(stream, SourceError(text, source_id=status.source_id, code=SourceErrorCode.STALLED))

    def _abandon(self, stream: _Stream, error: SourceError | None) -> None:
        """Goes on without a session that does not end."""
        session = stream.session
        assert session is not None
        session.cancel()
        session.leave()
        log.debug("stream %s: a thread that hangs is left behind", stream.status.source_id)
        self._ended(stream, session, SessionEnd(error, None, session.ran_s))

    def _reported(self, stream: _Stream, session: Session, end: SessionEnd) -> None:
        session.join()
        self._ended(stream, session, end)

    def _ended(self, stream: _Stream, session: Session, end: SessionEnd) -> None:
        """What follows a session's end."""
        self._memory.freed()
        if session is not stream.session:
            return  # it was left behind
        stream.session = stream.leave_by_s = None
        status, settings = stream.status, stream.spec.settings
        if end.crash is not None:
            end = replace(end, error=self._crashed(stream, end.crash))
        if stream.is_removed or self._is_stopping:
            if end.error is not None and not status.is_live:
                status.fail(end.error)
            self._close(stream, SourceState.STOPPED)
        elif status.error is not None and not session.was_told:  # the model's side cannot use its frames
            self._failed(stream)
        elif not status.is_live:
            if end.error is not None:
                status.fail(end.error)
                self._failed(stream)
            else:
                self._close(stream, SourceState.DONE)
        elif session.is_complete:
            self._close(stream, SourceState.DONE)
        elif not stream.is_wanted:
            status.enter(SourceState.PAUSED)
        elif session.was_told:  # to connect anew
            status.enter(SourceState.WAITING)
        else:
            error = end.error or SourceError(
                f"{stream.spec.shown}: the server ended the stream",
                source_id=status.source_id,
                code=SourceErrorCode.ENDED,
            )
            self._back_off(stream, error, stream.backoff.delay_s(error.code, end.ran_s), settings.on_error)

    def _crashed(self, stream: _Stream, crash: BaseException) -> SourceError | None:
        """A mistake that one camera brings out is its own error, and the others go on; every other ends the run."""
        if not stream.status.is_live or isinstance(crash, VramlineError):
            self._on_failure(crash)
            return None
        log.error("stream %s:\n%s", stream.status.source_id, redacted_traceback(crash))
        text = f"{stream.spec.shown}: its decoder broke ({type(crash).__name__})"
        return SourceError(text, source_id=stream.status.source_id, code=SourceErrorCode.DAMAGED)

    def _back_off(self, stream: _Stream, error: SourceError, delay_s: float | None, on_error: str) -> None:
        status = stream.status
        is_news = error.code is not status.last_error_code or stream.backoff.failures.bit_count() == 1
        status.last_error, status.last_error_code = str(error), error.code
        status.failed_attempts = stream.backoff.failures
        if delay_s is None:
            status.fail(error)
            self._failed(stream)
            return
        status.retry_s = time.monotonic() + delay_s
        text = f"{error}; tries again in {delay_s:.1f} s"
        if stream.backoff.failures > 1:
            text += f", {stream.backoff.failures} attempts so far"
        status.enter(SourceState.BACKING_OFF, text, is_news=is_news)

    def _failed(self, stream: _Stream) -> None:
        stream.has_failed = True
        if not stream.status.is_live:
            self._end(stream)
        if stream.spec.settings.on_error == "stop":
            self._status.errors.append(f"source {stream.status.source_id} failed and its on_error is stop")
            self._stop()

    def _close(self, stream: _Stream, state: SourceState) -> None:
        """The source is over for good."""
        if stream.status.state not in ENDED:
            stream.status.enter(state)
        self._end(stream)
        if stream.is_removed:
            if stream in self._leaving:
                self._leaving.remove(stream)
            if not stream.track.is_announced:  # else when its last frame has come out of the model
                self._status.out(stream.status.source_id)

    def _end(self, stream: _Stream) -> None:
        """Tells the sinks, once. A live stream that failed is not over before the run is: it can be restarted."""
        if stream.is_ended:
            return
        stream.is_ended = True
        slot = stream.track.slot
        slot.hand_over(self)
        if stream.track.is_announced:
            with contextlib.suppress(Closed):  # the run has been given up
                slot.put(SourceEnd(stream.status.source_id), self)
        self._intake.forget(slot)

    # ------------------------------------------------------------------------------------------------------- commands

    def _stop(self) -> None:
        if self._is_stopping:
            return
        self._is_stopping = True
        for stream in self._streams.values():
            self._leave(stream, SourceState.STOPPED)

    def _leave(self, stream: _Stream, state: SourceState) -> None:
        """Ends a stream's session if it has one; without one it enters `state` at once."""
        stream.status.retry_s = None
        if stream.session is not None:
            stream.leave_by_s = time.monotonic() + _LEAVE_S
            stream.session.cancel()
        elif stream.status.state not in ENDED or (state is SourceState.WAITING):
            stream.status.enter(state)

    def _remove(self, source_id: str) -> None:
        stream = self._streams.pop(source_id, None)
        status = self._status.sources.get(source_id)
        if stream is None:
            if status is not None and not status.is_removed:  # there was nothing to open
                self._status.remove(source_id)
                self._status.out(source_id)
            return
        stream.is_removed = True
        self._status.remove(source_id)
        if stream.session is None:
            self._close(stream, SourceState.STOPPED)
        else:
            self._leaving.append(stream)
            self._leave(stream, SourceState.STOPPED)

    def _pause(self, source_id: str) -> None:
        stream = self._streams.get(source_id)
        if stream is not None and stream.is_wanted and stream.status.state not in ENDED and not self._is_stopping:
            stream.is_wanted = False
            self._leave(stream, SourceState.PAUSED)

    def _resume(self, source_id: str) -> None:
        stream = self._streams.get(source_id)
        if stream is None or stream.is_wanted or self._is_stopping or stream.is_ended:
            return
        stream.is_wanted = True
        stream.backoff.reset()
        stream.status.failed_attempts = 0
        if stream.session is None:
            stream.status.enter(SourceState.WAITING)
        else:
            stream.session.was_told = True

    def _restart(self, source_id: str) -> None:
        stream = self._streams.get(source_id)
        if stream is None or self._is_stopping or stream.is_ended:
            return
        stream.is_wanted = True
        stream.backoff.reset()
        stream.status.failed_attempts = 0
        if stream.session is not None:
            stream.session.was_told = True
        self._leave(stream, SourceState.WAITING)

    def _count(self, busy_s: float, frames: int) -> None:
        with self._count_lock:
            if self._status.first_frame_s is None:
                self._status.first_frame_s = time.monotonic() - busy_s
            self._times.add(busy_s, frames)
