"""The lane: the threads that take frames through preprocess, model and postprocess into the sinks.

On the `cpu` engine each step is a thread, so that one batch is preprocessed while TensorFlow works on the one before and
the sinks write the one before that. On the `cuda` engine the steps only enqueue work on the device's stream, in which
order is everything: they share a thread, and the results thread is the one that waits for the device. Either way order is
kept: a step is never in two threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import SourceError
from pipeline.frames import Frame, Predictions, ResultBatch
from pipeline.observe.status import RunStatus
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.flow import Batch, SourceItem, collect
from pipeline.runtime.outputs import Outputs
from pipeline.stages import Model, Postprocessor, Preprocessor

if TYPE_CHECKING:
    from pipeline.runtime.ingest import OpenDecoder

STAGES = ("decode", "preprocess", "infer", "postprocess", "sinks")

Step = Callable[[Batch], None]


@dataclass(frozen=True, slots=True, eq=False)
class Stages:
    """The stages of one engine, ready to run.

    Attributes:
        open_decoder: Opens a video.
        preprocess: Frames -> input.
        model: Input -> outputs.
        postprocess: Outputs -> predictions, or a promise of them.
        outputs: Where results go.
        download: On a device: brings pixels to the host for those who draw.
        on_device: Whether all but the outputs is enqueued on one device stream.
    """

    open_decoder: OpenDecoder
    preprocess: Preprocessor
    model: Model
    postprocess: Postprocessor
    outputs: Outputs
    download: Callable[[Sequence[Frame]], list[Frame]] | None = None
    on_device: bool = False


class Lane:
    """Runs `Stages` over what comes out of `frames` until that queue ends.

    Args:
        stages: What is done with every batch.
        frames: Filled by the source threads.
        status: Counters are written here.
        batch_timeout_s: See `collect`.
        queue_batches: Batches that may wait between two threads.
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
        deliver: Callable[[ResultBatch], None],
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
        prepare, infer, postprocess, finish = self._prepare, self._infer, self._postprocess, self._finish
        groups: list[list[Step]] = (
            [[prepare, infer, postprocess], [finish]]
            if stages.on_device
            else [[prepare], [infer], [postprocess, finish]]
        )
        self._queues: list[BoundedQueue[Batch]] = [BoundedQueue(queue_batches) for _ in groups[1:]]
        inputs = [self._collected(), *map(_drain, self._queues)]
        outputs: list[BoundedQueue[Batch] | None] = [*self._queues, None]
        self._threads = [
            threading.Thread(target=self._work, args=(inputs[i], steps, outputs[i]), name=f"lane-{i}", daemon=True)
            for i, steps in enumerate(groups)
        ]

    def start(self) -> None:
        """Starts the threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Ends soon: frames that no step has worked on yet are left out, the others are finished."""
        self._stopping = True

    def give_up(self) -> None:
        """Drops what is in flight and wakes up everyone who waits: the run has failed."""
        self._frames.close(discard=True)
        for queue in self._queues:
            queue.close(discard=True)

    def join(self) -> None:
        """Waits until all threads have ended."""
        for thread in self._threads:
            thread.join()

    def _work(self, batches: Iterator[Batch], steps: Sequence[Step], out: BoundedQueue[Batch] | None) -> None:
        try:
            for batch in batches:
                for step in steps:
                    step(batch)
                if out is not None:
                    out.put(batch)
            if out is not None:
                out.close()
            elif self._on_end is not None:
                self._on_end()
        except Closed:
            pass  # the run has been given up
        except BaseException as e:
            self._on_failure(e)

    def _collected(self) -> Iterator[Batch]:
        size = self._stages.model.batch_size
        while (batch := collect(self._frames, size, self._batch_timeout_s)) is not None:
            if self._stopping:
                _let_go(batch.frames)
                batch.frames.clear()
            yield batch

    def _prepare(self, batch: Batch) -> None:
        """Sets the batch's input; frames of a source that cannot be preprocessed are left out and the others go on."""
        if not batch.frames:
            return
        start = time.perf_counter()
        while batch.frames and batch.input is None:
            try:
                rows = self._stages.model.rows(len(batch.frames))
                batch.input = self._stages.preprocess(batch.frames, rows)
            except SourceError as e:
                self._status.sources[e.source_id].fail(e)
                _let_go([frame for frame in batch.frames if frame.source_id == e.source_id])
                batch.frames = [frame for frame in batch.frames if frame.source_id != e.source_id]
        if batch.input is not None:
            batch.frames = self._with_or_without_pixels(batch.frames)
            batch.input = batch.input.with_frames(tuple(batch.frames))
        self._status.stages["preprocess"].add(time.perf_counter() - start, len(batch.frames))

    def _with_or_without_pixels(self, frames: list[Frame]) -> list[Frame]:
        if not self._keep_pixels:
            kept = [frame.without_pixels() for frame in frames]
        elif self._stages.download is not None:
            kept = self._stages.download(frames)
        else:
            kept = frames
        _let_go(frames)
        return kept

    def _infer(self, batch: Batch) -> None:
        if batch.input is not None:
            start = time.perf_counter()
            batch.outputs = self._stages.model(batch.input.tensor)
            self._status.stages["infer"].add(time.perf_counter() - start, len(batch.frames))

    def _postprocess(self, batch: Batch) -> None:
        if batch.input is not None and batch.outputs is not None:
            start = time.perf_counter()
            batch.predictions = self._stages.postprocess(batch.outputs, batch.input)
            batch.outputs = None
            self._status.stages["postprocess"].add(time.perf_counter() - start, len(batch.frames))

    def _finish(self, batch: Batch) -> None:
        """Waits for the device if need be, writes the sinks, delivers the results."""
        results = None
        if batch.predictions is not None:
            predictions = batch.predictions
            if not isinstance(predictions, Predictions):
                predictions = predictions.result()
            results = ResultBatch(batch.frames, predictions, self._stages.model.name)
        outputs = self._stages.outputs
        start = time.perf_counter()
        for source in batch.started:
            outputs.source_started(source)
        if results is not None:
            outputs.write(results)
        for source_id in batch.finished:
            outputs.source_finished(source_id)
        self._status.stages["sinks"].add(time.perf_counter() - start, len(batch.frames))
        if results is not None:
            self._count(results)
            self._deliver(results)

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


def _let_go(frames: Sequence[Frame]) -> None:
    """Gives the decoders their device memory back; what reads it has been enqueued, and order does the rest."""
    for frame in frames:
        if frame.picture.surface is not None:
            frame.picture.surface.release()


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
