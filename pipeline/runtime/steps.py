"""What is done with a batch, step by step, and the stages of one engine that do it.

A step runs in whatever thread the lane gives it, one batch after another.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.config.sources import Roi
from pipeline.crops import Crops, vectors_of
from pipeline.errors import SourceError
from pipeline.frames import Frame, Picture, Predictions, ResultBatch
from pipeline.masks import NO_CLASS
from pipeline.observe.status import RunStatus, SourceStatus
from pipeline.plugins.guard import PluginError
from pipeline.poses import PERSON
from pipeline.runtime.flow import Batch
from pipeline.runtime.outputs import Outputs
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


class Steps:
    """The steps, in their order: `prepare`, `infer`, `postprocess`, `settle`, `finish`.

    On a device the first three only enqueue; `settle` waits for what they gave, and `finish` for what a cascade gave.

    Args:
        stages: What is done with every batch.
        status: Counters are written here.
        on_drop: Called with every frame that goes no further, and why.
        keep_pixels: Whether results keep the frames' pixels (for drawing).
        deliver: Called with every batch of results; may block: that is back-pressure.
    """

    def __init__(
        self,
        stages: Stages,
        *,
        status: RunStatus,
        on_drop: Callable[[Frame, DropCause], None],
        keep_pixels: bool,
        deliver: Callable[[ResultBatch], None],
    ) -> None:
        self._stages = stages
        self._status = status
        self._on_drop = on_drop
        keeps = keep_pixels or stages.outputs.needs_pixels
        self._download = stages.download if keeps else None
        # Where planes are kept and none are downloaded, they are those that were decoded.
        self._let_go_of = Picture.let_go_of_surface if keeps and stages.download is None else Picture.let_go
        self._deliver = deliver
        self._late: list[ResultBatch] = []  # to be delivered behind the results of the batch

    def prepare(self, batch: Batch) -> None:
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
                self.drop([frame for frame in batch.frames if frame.source_id == e.source_id], DropCause.FAILED)
                batch.frames = [frame for frame in batch.frames if frame.source_id != e.source_id]
        if batch.input is not None:
            batch.held = batch.frames
            if self._download is not None:
                batch.frames = self._download(batch.frames)
                batch.input = batch.input.with_frames(tuple(batch.frames))
            if self._stages.cascade is None:
                self._has_enqueued_reading(batch)
        self._status.stages["preprocess"].add(time.perf_counter() - start - elsewhere_s, len(batch.frames))

    def _has_enqueued_reading(self, batch: Batch) -> None:
        """Nothing more will be enqueued that reads the pictures. On the decoders' own stream order alone does the rest."""
        if self._stages.decode_stream is None:
            self._let_go_of_held(batch)
        else:
            batch.reading = self._stages.decode_stream.after_reading()

    def infer(self, batch: Batch) -> None:
        """Sets the batch's outputs."""
        if batch.input is not None:
            start = time.perf_counter()
            batch.outputs = self._stages.model(batch.input.tensor)
            self._status.stages["infer"].add(time.perf_counter() - start, len(batch.frames))

    def postprocess(self, batch: Batch) -> None:
        """Sets the batch's predictions, or a promise of them; one that the user's own postprocessor fails on has none."""
        if batch.input is not None and batch.outputs is not None:
            start = time.perf_counter()
            try:
                batch.predictions = self._stages.postprocess(batch.outputs, batch.input)
            except PluginError:
                self._lose(batch)
            batch.outputs = None
            self._status.stages["postprocess"].add(time.perf_counter() - start, len(batch.frames))

    def settle(self, batch: Batch) -> None:
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
            self._let_go_of_held(batch)
        batch.input, batch.side = None, {}
        for source_id in batch.finished:
            if stages.tracker is not None:
                stages.tracker.forget(source_id)
            if stages.cascade is not None:
                stages.cascade.forget(source_id)

    def finish(self, batch: Batch) -> None:
        """Waits for what was found in crops, writes the sinks, delivers the results."""
        results = batch.results
        if results is not None and self._stages.cascade is not None and batch.crops is not None:
            results = replace(results, crops=self._stages.cascade.finish(batch.crops))
        self._let_go_of_held(batch)
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
        self._read_no_more(batch)
        self.drop(batch.frames, DropCause.FAILED)
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

    def abandon(self, batch: Batch) -> None:
        """The batch goes no further."""
        with contextlib.suppress(Exception):  # the device may be what failed
            self._read_no_more(batch)
        self.drop(batch.frames, DropCause.CLOSED)

    def _read_no_more(self, batch: Batch) -> None:
        """Lets go of the pixels of a batch wherever it is; before its frames are dropped, which lets go of them at once."""
        if batch.held and batch.reading is None and self._stages.decode_stream is not None:
            batch.reading = self._stages.decode_stream.after_reading()
        self._let_go_of_held(batch)

    def _let_go_of_held(self, batch: Batch) -> None:
        held, batch.held = batch.held, []
        if held and batch.reading is not None:
            batch.reading.wait()
        for frame in held:
            self._let_go_of(frame.picture)

    def drop(self, frames: Sequence[Frame], cause: DropCause) -> None:
        """The frames go no further."""
        for frame in frames:
            self._on_drop(frame, cause)


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
    numbers, counts = (values.tolist() for values in np.unique(ids, return_counts=True))
    return {names.get(number, str(number)): count for number, count in zip(numbers, counts, strict=True)}
