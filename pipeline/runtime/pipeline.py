"""`Pipeline`: the Python API, and what the command line runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config.models import Config
from pipeline.errors import VramlineError
from pipeline.frames import Result, ResultBatch
from pipeline.observe.status import RunStatus, SourceState
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.build import Progress, build_stages, resolve_sources
from pipeline.runtime.engines import open_sources
from pipeline.runtime.flow import SourceItem
from pipeline.runtime.ingest import Ingest
from pipeline.runtime.lane import Lane, Stages
from pipeline.sources.resolve import VideoSpec

log = logging.getLogger(__name__)

LIVE_BATCH_TIMEOUT_S = 0.1
# On a device a video's frames are its decoder's few buffers: a batch must not wait for frames that can't come before
# those that wait with it are done.
DEVICE_BATCH_TIMEOUT_S = 0.02


class Pipeline:
    """A configured pipeline; runs once.

        with Pipeline.from_yaml("configs/quickstart.yaml") as pipeline:
            for result in pipeline:
                print(result.frame.source_id, result.frame.index, result.detections)

    Sinks of the configuration are written as well. Leaving the loop or the `with` block early ends the run cleanly: the
    outputs are completed with what there is.

    Args:
        config: What to do.
        progress: Called as `progress(what, done, total)` while a model or clip is fetched; total may be None.
    """

    def __init__(self, config: Config, *, progress: Progress | None = None) -> None:
        self.config = config
        self.status = RunStatus()
        self._progress = progress
        self._specs: list[VideoSpec] = []
        self._prepared = False
        self._stages: Stages | None = None
        self._ingest: Ingest | None = None
        self._lane: Lane | None = None
        self._delivered: BoundedQueue[ResultBatch] | None = None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._stop_requested = False
        self._finished = False

    @classmethod
    def from_yaml(
        cls, path: str | Path, overrides: Sequence[str] = (), *, progress: Progress | None = None
    ) -> Pipeline:
        """A pipeline from a YAML file, with `key=value` overrides as `--set` takes them.

        Raises:
            ConfigError: the file cannot be used; the error holds everything that is wrong.
        """
        from pipeline.config.load import load_config

        return cls(load_config(path, overrides), progress=progress)

    @classmethod
    def from_dict(cls, config: Mapping[str, Any], *, progress: Progress | None = None) -> Pipeline:
        """A pipeline from what the YAML file would hold; model cards fill in what is left out.

        Raises:
            ConfigError: it cannot be used; the error holds everything that is wrong.
        """
        from pipeline.config.load import config_from_mapping

        return cls(config_from_mapping(config), progress=progress)

    def prepare(self) -> None:
        """Everything before the first frame: finds the sources, obtains and loads the model, opens the outputs.

        Does nothing the second time. After it, `run` and iteration start at once; `close` undoes it.

        Raises:
            VramlineError: something is missing or does not fit, in words.
        """
        if self._prepared:
            return
        self._prepared = True
        self._specs = resolve_sources(self.config, self.status, self._progress)
        if self._specs:
            self._stages = build_stages(self.config, self._specs, self.status, self._progress)

    def run(self) -> RunStatus:
        """Processes everything and returns the closing status; results go to the sinks.

        A source that fails is reported in the status and the others go on.

        Raises:
            VramlineError: the run as a whole could not start or go on.
        """
        try:
            if self._start(deliver=False):
                self._wait()
        except KeyboardInterrupt:
            self.status.interrupted = True
            raise
        finally:
            self.close()
        self._raise_failure()
        return self.status

    def __iter__(self) -> Iterator[Result]:
        """Yields the results of all frames; frames of one source come in display order, with their pixels."""
        try:
            if self._start(deliver=True):
                assert self._delivered is not None
                while True:
                    try:
                        batch = self._delivered.get()
                    except Closed:
                        break
                    yield from batch
        finally:
            self.close()
        self._raise_failure()

    def stop(self) -> None:
        """Ends the run soon and cleanly: batches that are being worked on are finished, the outputs completed.

        From any thread or signal handler; may be called again.
        """
        self._stop_requested = True
        if self._ingest is not None:
            self._ingest.stop()
        if self._lane is not None:
            self._lane.stop()

    def close(self) -> None:
        """Stops if needed, completes the outputs, ends all threads, lets go of the model. May be called again."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
        self.stop()
        if self._delivered is not None:
            self._delivered.close(discard=True)
        self._wait()
        if self._stages is not None:
            if self._failure is None and self._ingest is not None:
                self._stages.outputs.close()
            else:
                self._stages.outputs.abort()
            self._stages.model.close()
        self.status.ended_s = time.monotonic()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _start(self, *, deliver: bool) -> bool:
        """Starts the threads; False if there is nothing to run."""
        if self._finished or self._ingest is not None:
            raise RuntimeError("a Pipeline runs once: make a new one")
        self.prepare()
        self.status.started_s = time.monotonic()
        if self._stages is None or self._stop_requested:
            for spec in self._specs:
                self.status.sources[spec.source_id].state = SourceState.STOPPED
            return False
        runtime, stages = self.config.runtime, self._stages
        frames: BoundedQueue[SourceItem] = BoundedQueue(runtime.queue_batches * stages.model.batch_size)
        if deliver:
            self._delivered = BoundedQueue(runtime.queue_batches)
        self._lane = Lane(
            stages,
            frames=frames,
            status=self.status,
            batch_timeout_s=self._batch_timeout_s(),
            queue_batches=runtime.queue_batches,
            keep_pixels=deliver,
            deliver=self._deliver if deliver else self._check_outputs,
            on_end=self._delivered.close if self._delivered is not None else None,
            on_failure=self._fail,
        )
        self._ingest = Ingest(
            self._specs,
            open_decoder=stages.open_decoder,
            open_sources=open_sources(self.config, self.status.device, len(self._specs)),
            queue=frames,
            status=self.status,
            on_failure=self._fail,
        )
        self._lane.start()
        self._ingest.start()
        if self._stop_requested:
            self.stop()
        return True

    def _batch_timeout_s(self) -> float | None:
        timeout_ms = self.config.runtime.batch_timeout_ms
        if timeout_ms is not None:
            return timeout_ms / 1e3
        if any(spec.is_url for spec in self._specs):
            return LIVE_BATCH_TIMEOUT_S
        return DEVICE_BATCH_TIMEOUT_S if self._stages is not None and self._stages.on_device else None

    def _deliver(self, batch: ResultBatch) -> None:
        assert self._delivered is not None
        with contextlib.suppress(Closed):  # the consumer has left; the sinks still get what is in flight
            self._delivered.put(batch)

    def _check_outputs(self, batch: ResultBatch) -> None:
        """Without any output left there is nobody to work for."""
        if self._stages is not None and self._stages.outputs.all_failed:
            self.stop()

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._failure is None:
                self._failure = error
        if isinstance(error, VramlineError):
            self.status.errors.append(str(error))
        if self._lane is not None:
            self._lane.give_up()
        self.stop()
        if self._delivered is not None:
            self._delivered.close()

    def _wait(self) -> None:
        for part in (self._ingest, self._lane):
            if part is not None:
                part.join()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
