"""The source threads: each takes the next video, decodes it into the shared queue, and takes the next one."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from pipeline.errors import SourceError
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.flow import SourceEnd, SourceItem
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import Decoder, SinkSource

OpenDecoder = Callable[[VideoSpec], Decoder]


class Ingest:
    """Decodes all videos, at most `open_sources` at a time, into `queue`, and closes it after the last.

    A source that fails is reported in its status and the others go on, unless its `on_error` says stop.
    """

    def __init__(
        self,
        specs: Sequence[VideoSpec],
        *,
        open_decoder: OpenDecoder,
        open_sources: int,
        queue: BoundedQueue[SourceItem],
        status: RunStatus,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._pending = deque(specs)
        self._open_decoder = open_decoder
        self._queue = queue
        self._status = status
        self._times = status.stages["decode"]
        self._on_failure = on_failure
        self._lock = threading.RLock()  # a signal handler may call stop() while this thread holds it
        self._decoders: set[Decoder] = set()
        self._stopping = False
        count = max(1, min(open_sources, len(specs)))
        self._running = count
        self._threads = [threading.Thread(target=self._run, name=f"source-{i}", daemon=True) for i in range(count)]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends all sources soon: those that run after their current frame, those that wait at once."""
        with self._lock:
            self._stopping = True
            while self._pending:
                self._status.sources[self._pending.popleft().source_id].state = SourceState.STOPPED
            decoders = list(self._decoders)
        for decoder in decoders:
            decoder.close()

    def join(self) -> None:
        """Waits until all threads have ended."""
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        try:
            while (spec := self._next()) is not None:
                self._process(spec, self._status.sources[spec.source_id])
        except Closed:
            pass  # the run has been given up behind us
        except BaseException as e:
            self._on_failure(e)
        finally:
            with self._lock:
                self._running -= 1
                last = self._running == 0
            if last:
                self._queue.close()

    def _next(self) -> VideoSpec | None:
        with self._lock:
            return self._pending.popleft() if self._pending and not self._stopping else None

    def _process(self, spec: VideoSpec, status: SourceStatus) -> None:
        started = False
        try:
            decoder = self._open_decoder(spec)
            try:
                with self._lock:
                    if self._stopping:
                        status.state = SourceState.STOPPED
                        return
                    self._decoders.add(decoder)
                status.info, status.decode, status.state = decoder.info, decoder.stats, SourceState.RUNNING
                self._queue.put(SinkSource(spec.source_id, decoder.info))
                started = True
                self._decode(decoder, status)
                if status.error is None:
                    status.state = SourceState.STOPPED if self._stopping else SourceState.DONE
            finally:
                with self._lock:
                    self._decoders.discard(decoder)
                decoder.close()
        except SourceError as e:
            status.fail(e)
            if spec.settings.on_error == "stop":
                self._status.errors.append(f"source {spec.source_id} failed and its on_error is stop")
                self.stop()
        finally:
            if started:
                self._queue.put(SourceEnd(spec.source_id))

    def _decode(self, decoder: Decoder, status: SourceStatus) -> None:
        resumed_s = time.perf_counter()
        for frame in decoder:
            self._count(time.perf_counter() - resumed_s)
            self._queue.put(frame)
            if self._stopping or status.error is not None:
                break
            resumed_s = time.perf_counter()

    def _count(self, busy_s: float) -> None:
        with self._lock:
            if self._status.first_frame_s is None:
                self._status.first_frame_s = time.monotonic() - busy_s
            self._times.add(busy_s, 1)
