"""`Pipeline`: the Python API, and what the command line runs."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from pipeline.analytics.addition import check_addition
from pipeline.config.models import Config
from pipeline.config.sinks import VideoSink
from pipeline.config.sources import Source, expand_source
from pipeline.control.reload import apply_sources, but_for_priority
from pipeline.device_errors import explained
from pipeline.errors import DeviceLostError, SourceError, StreamStateError, VramlineError
from pipeline.frames import Frame, Result, ResultBatch
from pipeline.observe.status import RunStatus, SourceState
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.batching import AdaptivePatience, FixedPatience, Patience
from pipeline.runtime.build import Progress, build_stages, find_videos, new_status, resolve_sources
from pipeline.runtime.engines import kept_cpus, open_sources, slot_frames
from pipeline.runtime.ingest import Ingest, Limits
from pipeline.runtime.intake import Intake
from pipeline.runtime.lane import Lane
from pipeline.runtime.steps import Stages
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DropCause

if TYPE_CHECKING:
    from pipeline.analytics.events import Event
    from pipeline.control.http import HttpServer

log = logging.getLogger(__name__)

BuildStages = Callable[[Config, Sequence[VideoSpec], RunStatus, "Progress | None"], Stages]

URL_BATCH_TIMEOUT_S = 0.1
# On a device a video's frames are its decoder's few buffers: a batch must not wait for frames that can't come before
# those that wait with it are done.
DEVICE_BATCH_TIMEOUT_S = 0.02
_MOST_LATE_EVENTS = 10_000
# How often a run looks whether it has been told to stop while it waits for its end.
_LOOK_S = 0.2
# What the threads get to end once the device has failed: nothing that they still wait for will come.
_LOST_S = 2.0
# What the threads get to let go once their work has been given up.
_GIVE_UP_S = 2.0


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
        build: Makes the stages in place of `pipeline.runtime.build.build_stages`, with the same arguments.

    Attributes:
        config: The same.
        status: How it goes.
        late_events: While results are iterated: events that came to light when their sources had ended, and so belong to no
            result any more, such as zones that somebody was still in. At most the last 10,000.
    """

    def __init__(self, config: Config, *, progress: Progress | None = None, build: BuildStages | None = None) -> None:
        self.config = config
        self.status = RunStatus()
        self._progress = progress
        self._build = build
        self._specs: list[VideoSpec] = []
        self.late_events: deque[Event] = deque(maxlen=_MOST_LATE_EVENTS)
        self._prepared = False
        self._stages: Stages | None = None
        self._ingest: Ingest | None = None
        self._lane: Lane | None = None
        self._delivered: BoundedQueue[ResultBatch] | None = None
        self._failure: BaseException | None = None
        self._lock = threading.Lock()
        self._sources_lock = threading.Lock()  # held while sources are added
        self._http: HttpServer | None = None
        self._cpus = contextlib.ExitStack()
        self._stop_requested = False
        self._stop_s: float | None = None
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
            build = self._build or build_stages
            self._stages = build(self.config, self._specs, self.status, self._progress)

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
                    self.late_events += [event for event in batch.events if event.position is None]
                    yield from batch
        finally:
            self.close()
        self._raise_failure()

    def stop(self) -> None:
        """Ends the run soon and cleanly: batches that are being worked on are finished, the outputs completed.

        From any thread or signal handler; may be called again.
        """
        self._stop_requested = True
        if self._stop_s is None:
            self._stop_s = time.monotonic()
        if self._ingest is not None:
            self._ingest.stop()
        if self._lane is not None:
            self._lane.stop()

    # ---------------------------------------------------------------------------------------------- coming and going

    def add_source(self, source: Source | str | Mapping[str, Any]) -> list[str]:
        """Adds what a source names (a directory names many) to the run; returns the ids.

        Args:
            source: As in the configuration: a path, a URL, or the mapping.

        Raises:
            SourceError: there is nothing to add, in words; nothing was added.
            StreamStateError: the run is not going on, or its outputs or stages cannot do with another source.
            pydantic.ValidationError: it is no source.
        """
        if not isinstance(source, Source):
            source = Source.model_validate(expand_source(dict(source) if isinstance(source, Mapping) else source))
        ingest, stages = self._ingest, self._stages
        if ingest is None or stages is None or self._stop_requested:
            raise StreamStateError("the run is not going on: no source can be added")
        with self._sources_lock:
            found = find_videos([source], self._progress, self.status.sources)
            for item in found:
                if isinstance(item, SourceError):
                    raise item
            specs = [item for item in found if isinstance(item, VideoSpec)]
            self._check_that_more_sources_fit(source)
            for spec in specs:
                stages.rois.pop(spec.source_id, None)
                if source.roi is not None:
                    stages.rois[spec.source_id] = source.roi
                if source.analytics is not None and stages.analytics is not None:
                    stages.analytics.settings[spec.source_id] = source.analytics
                self.status.sources[spec.source_id] = new_status(spec)
                try:
                    ingest.add(spec)
                except StreamStateError:
                    del self.status.sources[spec.source_id]
                    raise
                self._specs.append(spec)
        return [spec.source_id for spec in specs]

    def remove_source(self, source_id: str) -> None:
        """Ends a source and forgets it; its results so far stay.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: the run is not going on.
        """
        self._running_ingest().remove(source_id)
        with self._sources_lock:
            self._specs = [spec for spec in self._specs if spec.source_id != source_id]
        if self._stages is not None and self._stages.analytics is not None:
            self._stages.analytics.settings.pop(source_id, None)

    def pause_source(self, source_id: str) -> None:
        """Disconnects a live stream until it is resumed.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video, or has ended; or the run is not going on.
        """
        self._running_ingest().pause(source_id)

    def resume_source(self, source_id: str) -> None:
        """Connects a paused live stream again.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video; or the run is not going on.
        """
        self._running_ingest().resume(source_id)

    def restart_source(self, source_id: str) -> None:
        """Connects a live stream anew at once, also one that failed or is backing off.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: it is a video; or the run is not going on.
        """
        self._running_ingest().restart(source_id)

    def set_priority(self, source_id: str, priority: int) -> None:
        """A source's share of the model where that cannot keep up.

        Args:
            source_id: Which.
            priority: 1 to 100.

        Raises:
            UnknownStreamError: there is none.
            StreamStateError: the run is not going on.
            ValueError: the priority is none.
        """
        if not 1 <= priority <= 100:
            raise ValueError(f"a priority is 1 to 100, not {priority}")
        self._running_ingest().set_priority(source_id, priority)

    def reload(self, config: Config) -> None:
        """Adds and removes sources so that they are those of another configuration; the others run on untouched.

        What else differs takes effect at the next start, and a warning says so. Sources that were added by `add_source`
        stay. Returns when it is done.
        """
        sources = apply_sources(self, self.config, config)
        self.config = self.config.model_copy(update={"sources": sources})

    def ids_of(self, source: Source) -> list[str]:
        """The ids of what this entry of the configuration named, whatever its priority is by now."""
        wanted = but_for_priority(source)
        with self._sources_lock:
            return [spec.source_id for spec in self._specs if but_for_priority(spec.settings) == wanted]

    def _running_ingest(self) -> Ingest:
        if self._ingest is None or self._finished:
            raise StreamStateError("the run is not going on")
        return self._ingest

    def _check_that_more_sources_fit(self, source: Source) -> None:
        check_addition(source, self.config)
        stages = self.config.pipeline
        engines = {stages.preprocess.engine, *(side.preprocess.engine for side in stages.models)}
        if source.roi is not None and self.status.device == "cuda" and "cvcuda" in engines:
            raise StreamStateError("cvcuda cannot do a region of interest")
        if len(self.status.sources) == 0 or self.config.may_grow or len(self._specs) > 1:
            return
        for sink in self.config.sinks:
            if isinstance(sink, VideoSink) and "{source}" not in str(sink.path):
                raise StreamStateError(f"{sink.path}: several sources cannot share one annotated video")

    def close(self) -> None:
        """Stops if needed, completes the outputs, ends all threads, lets go of the model. May be called again."""
        with self._lock:
            if self._finished:
                return
            self._finished = True
        self.stop()
        if self._delivered is not None:
            self._delivered.close(discard=True)
        has_ended = self._wait()
        self._cpus.close()
        if self._http is not None:
            self._http.close()
        if self._stages is not None:
            if self._failure is None and self._ingest is not None and has_ended:
                self._stages.outputs.close()
            else:
                self._stages.outputs.abort()
            if has_ended:  # else a thread is still in it
                self._stages.close_models()
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
        if self.config.observe.http is not None:  # first: it may not start
            from pipeline.control.http import HttpServer

            self._http = HttpServer(self, self.config.observe.http)
            self._http.start()
        runtime, stages = self.config.runtime, self._stages
        if stages.plugin_stop is not None:
            stages.plugin_stop.on_stop = self.stop
        batch_size = stages.model.batch_size
        intake = Intake(self._drop)
        if deliver:
            stages.outputs.others_need_pixels = True
            self._delivered = BoundedQueue(self.config.queue_batches)
            self.status.queues["consumer"] = self._delivered.stats
        self._lane = Lane(
            stages,
            intake=intake,
            status=self.status,
            patience=self._patience(intake),
            queue_batches=self.config.queue_batches,
            takes_late=self.config.is_live,
            keep_pixels=deliver,
            deliver=self._deliver if deliver else self._check_outputs,
            on_end=self._delivered.close if self._delivered is not None else None,
            on_failure=self._fail,
        )
        videos = open_sources(self.config, self.status.device, len(self._specs))
        self._ingest = Ingest(
            self._specs,
            open_decoder=stages.open_decoder,
            limits=Limits(
                videos,
                runtime.max_connects,
                slot_frames(self.config, self.status.device, batch_size, videos),
            ),
            intake=intake,
            status=self.status,
            stay_alive=runtime.stay_alive,
            on_failure=self._fail,
        )
        self._cpus.enter_context(kept_cpus(self.config, stages))
        self._lane.start()
        self._ingest.start()
        if self._stop_requested:
            self.stop()
        return True

    def _patience(self, intake: Intake) -> Patience:
        timeout_ms = self.config.runtime.batch_timeout_ms
        if timeout_ms is not None:
            return FixedPatience(timeout_ms / 1e3)
        if self.config.is_live:
            return AdaptivePatience(intake)
        if any(spec.is_url for spec in self._specs):
            return FixedPatience(URL_BATCH_TIMEOUT_S)
        return FixedPatience(DEVICE_BATCH_TIMEOUT_S if self._stages is not None and self._stages.on_device else None)

    def _drop(self, frame: Frame, cause: DropCause) -> None:
        if self._ingest is not None:
            self._ingest.drop(frame, cause)

    def _deliver(self, batch: ResultBatch) -> None:
        assert self._delivered is not None
        with contextlib.suppress(Closed):  # the consumer has left; the sinks still get what is in flight
            self._delivered.put(batch)

    def _check_outputs(self, batch: ResultBatch) -> None:
        """Without any output left there is nobody to work for."""
        if self._stages is not None and self._stages.outputs.all_failed:
            self.stop()

    def _fail(self, error: BaseException) -> None:
        if self._stages is not None and self._stages.on_device:
            error = explained(error) or error
        with self._lock:
            if self._failure is None:
                self._failure = error
        if isinstance(error, VramlineError):
            self.status.errors.append(str(error))
        self.stop()  # first, so that what the lane breaks off is not taken for its end
        if self._lane is not None:
            self._lane.give_up()
        if self._delivered is not None:
            self._delivered.close()

    def _wait(self) -> bool:
        """Waits for the end of all threads; whether they have ended.

        A run that has been told to stop gets `runtime.drain_s` for it. After that its work is given up.
        """
        parts = [part for part in (self._ingest, self._lane) if part is not None]
        while not all(part.join(_LOOK_S) for part in parts):
            stop_s, drain_s = self._stop_s, self.config.runtime.drain_s
            if isinstance(self._failure, DeviceLostError):
                drain_s = min(drain_s, _LOST_S)
            if stop_s is None or time.monotonic() < stop_s + drain_s:
                continue
            if self._lane is not None:
                self._lane.give_up()
            if all(part.join(_GIVE_UP_S) for part in parts):
                return True
            with self._lock:
                text = f"the run did not end within {drain_s:g} s of being stopped"
                if text not in self.status.errors:
                    log.error("%s; what was under way is lost", text)
                    self.status.errors.append(text)
            return False
        return True

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure
