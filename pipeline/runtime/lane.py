"""The lane: the threads that take frames through preprocess, model and postprocess into the sinks.

On the `cpu` engine each step is a thread, so that one batch is preprocessed while TensorFlow works on the one before and
the sinks write the one before that. On the `cuda` engine the steps only enqueue work on the device's stream, and the results
thread is the one that waits for the device. There preprocessing and postprocessing have threads of their own too, since
enqueueing a model takes the host long; of live streams, whose frames are to be taken as late as can be, they share the
model's. With a cascade one thread waits for the detections and enqueues what looks at their crops, and another waits for
that. Either way order is kept: a step is never in two threads.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.models import Roi
from pipeline.crops import Crops, vectors_of
from pipeline.errors import SourceError
from pipeline.frames import Frame, Predictions, ResultBatch
from pipeline.masks import NO_CLASS
from pipeline.observe.status import RunStatus, SourceStatus
from pipeline.plugins.guard import PluginError
from pipeline.poses import PERSON
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.batching import Patience, collect
from pipeline.runtime.flow import Batch
from pipeline.runtime.intake import Intake
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.session import let_go
from pipeline.stages import DropCause, Model, Postprocessor, Preprocessor

if TYPE_CHECKING:
    from pipeline.analytics.engine import Analytics
    from pipeline.cascade.side import SideModels
    from pipeline.cascade.stage import Cascade
    from pipeline.decode.apart import DecodeStream
    from pipeline.plugins.guard import StopSwitch
    from pipeline.plugins.stage import StageChain
    from pipeline.runtime.session import OpenDecoder
    from pipeline.tracking.interface import Tracker
    from pipeline.vram import Allowance, MemoryPlan

STAGES = ("decode", "preprocess", "infer", "postprocess", "sinks")
TRACK = "track"  # one more, before the sinks, where a tracker runs
# Preprocessed, waiting for the model. Of input tensors there are two more: the model's, and the one that is being filled.
BATCHES_BEFORE_MODEL_ON_GPU = 1

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
        tracker: Gives detections their track ids, before the outputs; None: nothing tracks.
        sides: Other models on the same frames; None: there are none.
        cascade: Models on the crops of what was found, behind the tracker; None: there are none.
        analytics: Adds events and counts, behind these; None: there are none.
        plugins: The user's own stages, behind analytics; None: there are none.
        plugin_stop: With what a plug-in ends the run.
        rois: Region of interest by source id; changes as sources come and go.
        download: On a device: brings pixels to the host for those who draw.
        on_device: Whether all but the outputs is enqueued on a device.
        decode_stream: Where decoders work, if not on the stream of all others.
        memory: What is planned to be taken of the device's memory.
        decoders: What its decoders have taken of that.
    """

    open_decoder: OpenDecoder
    preprocess: Preprocessor
    model: Model
    postprocess: Postprocessor
    outputs: Outputs
    tracker: Tracker | None = None
    sides: SideModels | None = None
    cascade: Cascade | None = None
    analytics: Analytics | None = None
    plugins: StageChain | None = None
    plugin_stop: StopSwitch | None = None
    rois: dict[str, Roi] = field(default_factory=dict)
    download: Callable[[Sequence[Frame]], list[Frame]] | None = None
    on_device: bool = False
    decode_stream: DecodeStream | None = None
    memory: MemoryPlan | None = None
    decoders: Allowance | None = None

    def close_models(self) -> None:
        """Releases all models."""
        for models in (self.model, self.sides, self.cascade):
            if models is not None:
                models.close()


class Lane:
    """Runs `Stages` over what comes out of `intake` until that ends.

    Args:
        stages: What is done with every batch.
        intake: Filled by the sources' threads.
        status: Counters are written here.
        patience: How long a batch waits for more frames.
        queue_batches: Batches that may wait between two threads.
        takes_late: Whether frames are taken only when the step behind has room for them, so that what waits is the newest.
        keep_pixels: Whether results keep the frames' pixels (for drawing).
        deliver: Called with every batch of results; may block: that is back-pressure.
        on_end: Called once everything has been delivered.
        on_failure: Called with an exception that ends the run.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        intake: Intake,
        status: RunStatus,
        patience: Patience,
        queue_batches: int,
        takes_late: bool = False,
        keep_pixels: bool,
        deliver: Callable[[ResultBatch], None],
        on_end: Callable[[], object] | None,
        on_failure: Callable[[BaseException], None],
    ) -> None:
        self._stages = stages
        self._intake = intake
        self._status = status
        self._patience = patience
        self._keep_pixels = keep_pixels or stages.outputs.needs_pixels
        self._deliver = deliver
        self._on_end = on_end
        self._on_failure = on_failure
        self._stopping = False
        self._late: list[ResultBatch] = []  # to be delivered behind the results of the batch
        prepare, infer, postprocess = self._prepare, self._infer, self._postprocess
        behind: list[list[Step]] = (
            [[self._settle, self._finish]] if stages.cascade is None else [[self._settle], [self._finish]]
        )
        queues: dict[str, BoundedQueue[Batch]] = {}
        if not stages.on_device:
            groups: list[list[Step]] = [[prepare], [infer], [postprocess, *behind[0]]]
            queues["model"] = BoundedQueue(queue_batches)
        elif takes_late:
            groups = [[prepare, infer, postprocess], behind[0]]
        else:
            groups = [[prepare], [infer], [postprocess], behind[0]]
            queues["model"] = BoundedQueue(BATCHES_BEFORE_MODEL_ON_GPU)
            queues["outputs"] = BoundedQueue(1)
        queues["results"] = BoundedQueue(queue_batches)
        if stages.cascade is not None:
            groups.append(behind[1])
            queues["crops"] = BoundedQueue(queue_batches)
        self._queues = list(queues.values())
        status.queues.update({name: queue.stats for name, queue in queues.items()})
        names = ("frames", *queues)
        # A model is called when somebody has taken what it gave before: three batches of that may be too much for a device.
        late = [takes_late or (stages.on_device and name == "model") for name in names]
        inputs = [self._collected(), *map(_drain, self._queues)]
        outputs: list[BoundedQueue[Batch] | None] = [*self._queues, None]
        self._threads = [
            threading.Thread(target=self._work, args=work, name=f"lane-{name}", daemon=True)
            for name, *work in zip(names, inputs, groups, outputs, late, strict=True)
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
        self._intake.close(discard=True)
        for queue in self._queues:
            for batch in queue.close(discard=True):
                self._abandon(batch)

    def join(self, timeout_s: float | None = None) -> bool:
        """Waits until all threads have ended; whether they have."""
        end_s = None if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            if thread.ident is None:  # the start failed before
                continue
            thread.join(None if end_s is None else max(0.0, end_s - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def _work(
        self, batches: Iterator[Batch], steps: Sequence[Step], out: BoundedQueue[Batch] | None, takes_late: bool
    ) -> None:
        try:
            while True:
                if out is not None and takes_late:
                    out.wait_for_room()
                batch = next(batches, None)
                if batch is None:
                    break
                try:
                    for step in steps:
                        step(batch)
                    if out is not None:
                        out.put(batch)
                except BaseException:
                    self._abandon(batch)
                    raise
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
        while (batch := collect(self._intake, size, self._patience)) is not None:
            if self._stopping:
                self._drop(batch.frames, DropCause.CLOSED)
                batch.frames.clear()
            yield batch

    def _drop(self, frames: Sequence[Frame], cause: DropCause) -> None:
        for frame in frames:
            self._intake.on_drop(frame, cause)

    def _abandon(self, batch: Batch) -> None:
        """The batch goes no further."""
        self._drop(batch.frames, DropCause.CLOSED)
        if batch.held and batch.reading is None and self._stages.decode_stream is not None:
            with contextlib.suppress(Exception):  # the device may be what failed
                batch.reading = self._stages.decode_stream.after_reading()
        with contextlib.suppress(Exception):
            _let_go_of_held(batch)

    def _prepare(self, batch: Batch) -> None:
        """Sets the batch's input; frames of a source that cannot be preprocessed are left out and the others go on."""
        if not batch.frames:
            return
        start, elsewhere_s = time.perf_counter(), 0.0
        if self._stages.decode_stream is not None:
            self._stages.decode_stream.before_reading()
        while batch.frames and batch.input is None:
            try:
                rows = self._stages.model.rows(len(batch.frames))
                found = self._stages.preprocess(batch.frames, rows)
                if self._stages.sides is not None:
                    begin = time.perf_counter()
                    batch.side = self._stages.sides(batch.frames, found)
                    elsewhere_s = time.perf_counter() - begin
                batch.input = found
            except SourceError as e:
                source = self._status.sources.get(e.source_id)
                if source is not None:
                    source.fail(e)
                self._drop([frame for frame in batch.frames if frame.source_id == e.source_id], DropCause.FAILED)
                batch.frames = [frame for frame in batch.frames if frame.source_id != e.source_id]
        if batch.input is not None:
            batch.held = batch.frames
            batch.frames = self._with_or_without_pixels(batch.frames)
            batch.input = batch.input.with_frames(tuple(batch.frames))
            if self._stages.cascade is None:
                self._has_enqueued_reading(batch)
        self._status.stages["preprocess"].add(time.perf_counter() - start - elsewhere_s, len(batch.frames))

    def _has_enqueued_reading(self, batch: Batch) -> None:
        """Nothing more will be enqueued that reads the pictures. On the decoders' own stream order alone does the rest."""
        if self._stages.decode_stream is None:
            _let_go_of_held(batch)
        else:
            batch.reading = self._stages.decode_stream.after_reading()

    def _with_or_without_pixels(self, frames: list[Frame]) -> list[Frame]:
        if not self._keep_pixels:
            return [frame.without_pixels() for frame in frames]
        return frames if self._stages.download is None else self._stages.download(frames)

    def _infer(self, batch: Batch) -> None:
        if batch.input is not None:
            start = time.perf_counter()
            batch.outputs = self._stages.model(batch.input.tensor)
            self._status.stages["infer"].add(time.perf_counter() - start, len(batch.frames))

    def _postprocess(self, batch: Batch) -> None:
        if batch.input is not None and batch.outputs is not None:
            start = time.perf_counter()
            try:
                batch.predictions = self._stages.postprocess(batch.outputs, batch.input)
            except PluginError:
                self._lose(batch)
            batch.outputs = None
            self._status.stages["postprocess"].add(time.perf_counter() - start, len(batch.frames))

    def _settle(self, batch: Batch) -> None:
        """Waits for the device if need be, tracks, and begins to look at the crops of what was found."""
        stages, predictions = self._stages, self._result(batch)
        if predictions is not None:
            sides = {} if stages.sides is None else stages.sides.finish(batch.side)
            found = ResultBatch(batch.frames, predictions, stages.model.name, models=sides)
            looks = None if stages.cascade is None else stages.cascade.looks(found, batch.held)
            batch.results = self._track(found, looks)
            if stages.cascade is not None:
                batch.crops = stages.cascade.start(batch.results, batch.held, looks, predictions.detections)
        if stages.cascade is not None:
            self._has_enqueued_reading(batch)
        else:
            _let_go_of_held(batch)
        batch.input, batch.side = None, {}
        for source_id in batch.finished:
            if stages.tracker is not None:
                stages.tracker.forget(source_id)
            if stages.cascade is not None:
                stages.cascade.forget(source_id)

    def _finish(self, batch: Batch) -> None:
        """Waits for what was found in crops, writes the sinks, delivers the results."""
        results = batch.results
        if results is not None and self._stages.cascade is not None and batch.crops is not None:
            results = replace(results, crops=self._stages.cascade.finish(batch.crops))
        _let_go_of_held(batch)
        inferred_s = time.monotonic()
        outputs = self._stages.outputs
        start = time.perf_counter()
        for source in batch.started:
            outputs.source_started(source)
        if results is not None:
            results = self._analyse(results)
            outputs.write(results)
        for source_id in batch.finished:
            self._finish_analytics(source_id)
            outputs.source_finished(source_id)
        self._status.stages["sinks"].add(time.perf_counter() - start, len(batch.frames))
        if results is not None:
            self._count(results, inferred_s)
            batch.frames = []  # they are accounted for
        for source_id in batch.finished:
            if self._status.sources[source_id].is_removed:
                self._stages.rois.pop(source_id, None)
            self._status.out(source_id)
        if results is not None:
            self._deliver(results)
        while self._late:
            self._deliver(self._late.pop(0))

    def _result(self, batch: Batch) -> Predictions | None:
        """The batch's predictions, waited for if need be; None if it has none."""
        if batch.predictions is None or isinstance(batch.predictions, Predictions):
            return batch.predictions
        try:
            return batch.predictions.result()
        except PluginError:
            self._lose(batch)
            return None

    def _lose(self, batch: Batch) -> None:
        """The frames of a batch that the user's postprocessor failed on have no results; what begins and ends goes on."""
        self._drop(batch.frames, DropCause.FAILED)
        batch.frames, batch.predictions = [], None

    def _analyse(self, results: ResultBatch) -> ResultBatch:
        if self._stages.analytics is not None:
            results = self._stages.analytics(results)
        return results if self._stages.plugins is None else self._stages.plugins(results)

    def _finish_analytics(self, source_id: str) -> None:
        """Tells what a source that has ended leaves open; no frame is left for it to go with."""
        events = () if self._stages.analytics is None else self._stages.analytics.finish(source_id)
        if events:
            results = ResultBatch((), Predictions(), self._stages.model.name, events)
            self._stages.outputs.write(results)
            self._late.append(results)
        if self._stages.plugins is not None:
            self._stages.plugins.finish(source_id)

    def _track(self, results: ResultBatch, looks: Crops | None) -> ResultBatch:
        if self._stages.tracker is None:
            return results
        start = time.perf_counter()
        results = self._stages.tracker(results, None if looks is None else vectors_of(looks))
        self._status.stages[TRACK].add(time.perf_counter() - start, len(results))
        return results

    def _count(self, results: ResultBatch, inferred_s: float) -> None:
        emitted_s, emitted_at_s = time.monotonic(), time.time()
        for frame in results.frames:
            source = self._status.sources[frame.source_id]
            source.results += 1
            source.last_pts_s = frame.pts_s
            if source.is_live:
                _note_latency(source, frame, inferred_s, emitted_s, emitted_at_s)
        self._status.labels.update(_labels(results.predictions))
        second = {name: side.predictions for name, side in results.models.items()}
        second |= {name: crops.predictions for name, crops in results.crops.items()}
        for name, predictions in second.items():
            self._status.models[name].labels.update(_labels(predictions))


def _drain(queue: BoundedQueue[Batch]) -> Iterator[Batch]:
    while True:
        try:
            yield queue.get()
        except Closed:
            return


def _let_go_of_held(batch: Batch) -> None:
    held, batch.held = batch.held, []
    if held and batch.reading is not None:
        batch.reading.wait()
    let_go(held)


def _note_latency(source: SourceStatus, frame: Frame, inferred_s: float, emitted_s: float, emitted_at_s: float) -> None:
    """Adds one frame to a live stream's latencies; `emitted_at_s` is the wall clock's time of `emitted_s`."""
    source.rate.add(emitted_s)
    latency = source.latency
    if frame.received_s is not None and frame.decoded_s is not None:
        latency["decode"].add(frame.decoded_s - frame.received_s)
        latency["infer"].add(inferred_s - frame.decoded_s)
        latency["total"].add(emitted_s - frame.received_s)
        if frame.captured_s is not None:
            latency["receive"].add(emitted_at_s - (emitted_s - frame.received_s) - frame.captured_s)
            latency["capture_to_emit"].add(emitted_at_s - frame.captured_s)
    latency["emit"].add(emitted_s - inferred_s)


def _labels(predictions: Predictions) -> dict[str, int]:
    """How often each label was found: all detections or persons, each frame's best class, frames with pixels of a class."""
    if predictions.detections is not None:
        ids, names = predictions.detections.class_ids, predictions.detections.names
    elif predictions.classes is not None:
        ids, names = predictions.classes.class_ids[predictions.classes.counts > 0, 0], predictions.classes.names
    elif predictions.poses is not None:
        return {PERSON: len(predictions.poses)} if len(predictions.poses) else {}
    elif predictions.segmentations is not None:
        frames = (predictions.segmentations.shares[:, :NO_CLASS] > 0).sum(axis=0)
        return {predictions.segmentations.label(int(n)): int(frames[n]) for n in np.flatnonzero(frames)}
    else:
        return {}
    return {names.get(number, str(number)): count for number, count in sorted(Counter(ids.tolist()).items())}
