"""The lane: the threads that take frames through preprocess, model and postprocess into the sinks.

On the `cpu` engine each step is a thread, so that one batch is preprocessed while TensorFlow works on the one before and
the sinks write the one before that. On the `cuda` engine the steps only enqueue work on the device's stream, and the results
thread is the one that waits for the device. There preprocessing and postprocessing have threads of their own too, since
enqueueing a model takes the host long; of live streams, whose frames are to be taken as late as can be, they share the
model's. With a cascade one thread waits for the detections and enqueues what looks at their crops, and another waits for
that. Either way order is kept: a step is never in two threads.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence

from pipeline.frames import ResultBatch
from pipeline.observe.status import RunStatus
from pipeline.queues import BoundedQueue, Closed
from pipeline.runtime.batching import Patience, collect
from pipeline.runtime.flow import Batch
from pipeline.runtime.intake import Intake
from pipeline.runtime.steps import Stages, Steps
from pipeline.stages import DEVICE_INPUTS, DropCause

# Preprocessed, waiting for the model, which has one input itself; one more is being filled.
BATCHES_BEFORE_MODEL_ON_GPU = DEVICE_INPUTS - 2
# Enqueued, their results not there yet: the one that the device works on, the next, and the one that is being enqueued. CUDA
# takes a thousand launches ahead, a few batches of a model; then a thread that launches more keeps a whole core busy waiting.
BATCHES_ON_GPU = 3

Step = Callable[[Batch], None]


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
        self._batch_size = stages.model.batch_size
        self._intake = intake
        self._patience = patience
        self._on_end = on_end
        self._on_failure = on_failure
        self._stopping = False
        self._steps = Steps(stages, status=status, on_drop=intake.on_drop, keep_pixels=keep_pixels, deliver=deliver)
        self._on_device: BoundedQueue[None] = BoundedQueue(BATCHES_ON_GPU)
        queues, groups = self._layout(stages, queue_batches, takes_late=takes_late)
        self._queues = list(queues.values())
        status.queues.update({name: queue.stats for name, queue in queues.items()})
        if stages.on_device and not takes_late:
            status.queues["device"] = self._on_device.stats
        names = ("frames", *queues)
        # A model is called when somebody has taken what it gave before: three batches of that may be too much for a device.
        late = [takes_late or (stages.on_device and name == "model") for name in names]
        inputs = [self._collected(), *map(_drain, self._queues)]
        outputs: list[BoundedQueue[Batch] | None] = [*self._queues, None]
        self._threads = [
            threading.Thread(target=self._work, args=work, name=f"lane-{name}", daemon=True)
            for name, *work in zip(names, inputs, groups, outputs, late, strict=True)
        ]

    def _layout(
        self, stages: Stages, queue_batches: int, *, takes_late: bool
    ) -> tuple[dict[str, BoundedQueue[Batch]], list[list[Step]]]:
        """The queues between the threads, in their order, and the steps of each thread."""
        steps = self._steps
        prepare, infer, postprocess, settle = steps.prepare, steps.infer, steps.postprocess, steps.settle
        queues: dict[str, BoundedQueue[Batch]] = {}
        if not stages.on_device:
            groups: list[list[Step]] = [[prepare], [infer], [postprocess, settle]]
            queues["model"] = BoundedQueue(queue_batches)
        elif takes_late:
            groups = [[prepare, infer, postprocess], [settle]]
        else:
            groups = [[prepare], [self._enter_device, infer], [postprocess], [settle, self._leave_device]]
            queues["model"] = BoundedQueue(BATCHES_BEFORE_MODEL_ON_GPU)
            queues["outputs"] = BoundedQueue(1)
        queues["results"] = BoundedQueue(queue_batches)
        if stages.cascade is not None:
            groups.append([steps.finish])
            queues["crops"] = BoundedQueue(queue_batches)
        else:
            groups[-1].append(steps.finish)
        return queues, groups

    def _enter_device(self, _batch: Batch) -> None:
        self._on_device.put(None)

    def _leave_device(self, _batch: Batch) -> None:
        self._on_device.get()

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
        self._on_device.close()
        for queue in self._queues:
            for batch in queue.close(discard=True):
                self._steps.abandon(batch)

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
                    self._steps.abandon(batch)
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
        while (batch := collect(self._intake, self._batch_size, self._patience)) is not None:
            if self._stopping:
                self._steps.drop(batch.frames, DropCause.CLOSED)
                batch.frames.clear()
            yield batch


def _drain(queue: BoundedQueue[Batch]) -> Iterator[Batch]:
    while True:
        try:
            yield queue.get()
        except Closed:
            return
