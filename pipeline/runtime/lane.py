"""The lane: the threads that take frames through preprocess, model and postprocess into the sinks.

Three threads, joined by short queues, so that on the `cpu` engine one batch is preprocessed while TensorFlow works on
the one before and the sinks write the one before that. Order is kept: each stage is one thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from pipeline.errors import SourceError
from pipeline.frames import Predictions, ResultBatch
from pipeline.observe.status import RunStatus
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.flow import Batch, SourceItem, collect
from pipeline.runtime.outputs import Outputs
from pipeline.stages import Model, Postprocessor, Preprocessor

STAGES = ("decode", "preprocess", "infer", "postprocess", "sinks")


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of one engine, ready to run."""

    preprocess: Preprocessor
    model: Model
    postprocess: Postprocessor
    outputs: Outputs


class Lane:
    """Runs `Stages` over what comes out of `frames` until that queue ends.

    Args:
        stages: What is done with every batch.
        frames: Filled by the source threads.
        status: Counters are written here.
        batch_timeout_s: See `collect`.
        queue_batches: Batches that may wait between two stages.
        keep_pixels: Whether results keep the frames' pixels (for drawing).
        deliver: Called with every batch of results; may block: that is back-pressure.
        on_end: Called once everything has been delivered.
        on_failure: Called with an exception that ends the run.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        frames: BoundedQueue[SourceItem],
        status: RunStatus,
        batch_timeout_s: float | None,
        queue_batches: int,
        keep_pixels: bool,
        deliver: Callable[[ResultBatch], None] | None,
        on_end: Callable[[], None] | None,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._stages = stages
        self._frames = frames
        self._status = status
        self._batch_timeout_s = batch_timeout_s
        self._keep_pixels = keep_pixels or stages.outputs.needs_pixels
        self._deliver = deliver
        self._on_end = on_end
        self._on_failure = on_failure
        self._stopping = False
        self._prepared: BoundedQueue[Batch] = BoundedQueue(queue_batches)
        self._inferred: BoundedQueue[Batch] = BoundedQueue(queue_batches)
        steps = {"preprocess": self._preprocess, "infer": self._infer, "results": self._results}
        self._threads = [
            threading.Thread(target=self._guard, args=(step,), name=name, daemon=True) for name, step in steps.items()
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends soon: frames that no stage has worked on yet are left out, the others are finished."""
        self._stopping = True

    def give_up(self) -> None:
        """Drops what is in flight and wakes up everyone who waits: the run has failed."""
        for queue in (self._frames, self._prepared, self._inferred):
            queue.close(discard=True)

    def join(self) -> None:
        """Waits until all threads have ended."""
        for thread in self._threads:
            thread.join()

    def _guard(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Closed:
            pass  # the run has been given up
        except BaseException as e:
            self._on_failure(e)

    def _preprocess(self) -> None:
        times = self._status.stages["preprocess"]
        batch_size = self._stages.model.batch_size
        while (batch := collect(self._frames, batch_size, self._batch_timeout_s)) is not None:
            if self._stopping:
                batch.frames.clear()
            if batch.frames:
                start = time.perf_counter()
                self._prepare(batch)
                times.add(time.perf_counter() - start, len(batch.frames))
            self._prepared.put(batch)
        self._prepared.close()

    def _prepare(self, batch: Batch) -> None:
        """Sets the batch's input; frames of a source that cannot be preprocessed are left out and the others go on."""
        while batch.frames:
            try:
                rows = self._stages.model.rows(len(batch.frames))
                batch.input = self._stages.preprocess(batch.frames, rows)
                break
            except SourceError as e:
                self._status.sources[e.source_id].fail(e)
                batch.frames = [frame for frame in batch.frames if frame.source_id != e.source_id]
        if batch.input is not None and not self._keep_pixels:
            batch.frames = [frame.without_pixels() for frame in batch.frames]
            batch.input = batch.input.with_frames(tuple(batch.frames))

    def _infer(self) -> None:
        times = self._status.stages["infer"]
        for batch in _drain(self._prepared):
            if batch.input is not None:
                start = time.perf_counter()
                batch.outputs = self._stages.model(batch.input.tensor)
                times.add(time.perf_counter() - start, len(batch.frames))
            self._inferred.put(batch)
        self._inferred.close()

    def _results(self) -> None:
        outputs = self._stages.outputs
        times = self._status.stages["sinks"]
        for batch in _drain(self._inferred):
            results = self._postprocess(batch)
            start = time.perf_counter()
            for source in batch.started:
                outputs.source_started(source)
            if results is not None:
                outputs.write(results)
            for source_id in batch.finished:
                outputs.source_finished(source_id)
            times.add(time.perf_counter() - start, len(batch.frames))
            if results is not None:
                self._count(results)
                if self._deliver is not None:
                    self._deliver(results)
        if self._on_end is not None:
            self._on_end()

    def _postprocess(self, batch: Batch) -> ResultBatch | None:
        if batch.input is None or batch.outputs is None:
            return None
        start = time.perf_counter()
        predictions = self._stages.postprocess(batch.outputs, batch.input)
        if not isinstance(predictions, Predictions):
            predictions = predictions.result()
        self._status.stages["postprocess"].add(time.perf_counter() - start, len(batch.frames))
        return ResultBatch(batch.frames, predictions, self._stages.model.name)

    def _count(self, results: ResultBatch) -> None:
        for frame in results.frames:
            source = self._status.sources[frame.source_id]
            source.results += 1
            source.last_pts_s = frame.pts_s
        self._status.labels.update(_labels(results.predictions))


def _drain(queue: BoundedQueue[Batch]) -> Iterator[Batch]:
    while True:
        try:
            yield queue.get()
        except Closed:
            return


def _labels(predictions: Predictions) -> dict[str, int]:
    """How often each label was found: all detections, or each frame's best class."""
    if predictions.detections is not None:
        ids, name = predictions.detections.class_ids, predictions.detections.names
    elif predictions.classes is not None:
        ids, name = predictions.classes.class_ids[predictions.classes.counts > 0, 0], predictions.classes.names
    else:
        return {}
    unique, counts = np.unique(ids, return_counts=True)
    return {name.get(int(c), str(int(c))): int(n) for c, n in zip(unique, counts, strict=True)}
