"""The parts of a pipeline, each on its own: the stages are those that the whole pipeline is measured with."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from pipeline.bench.fence import Fence
from pipeline.bench.meter import BenchError, Measurement, Meter
from pipeline.errors import VramlineError
from pipeline.frames import Frame, InputBatch, Predictions
from pipeline.runtime.session import let_go
from pipeline.runtime.steps import Stages
from pipeline.sources.freshness import RateGate
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats

# What a thread gets to end once it has been told to.
_END_S = 20.0
_LEAST_OF_A_VIDEO = 8


class Workers:
    """Threads that work until they are told to stop, and what goes wrong in them."""

    def __init__(self, what: str, works: Sequence[Callable[[Workers], None]]) -> None:
        self.what = what
        self.is_stopping = False
        self._error: BaseException | None = None
        self._threads = [
            threading.Thread(target=self._run, args=(work,), name=f"bench-{i}", daemon=True)
            for i, work in enumerate(works)
        ]

    def __enter__(self) -> Workers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.is_stopping = True
        for thread in self._threads:
            thread.join(_END_S)

    def check(self) -> None:
        """Raises what went wrong in a thread.

        Raises:
            VramlineError: as the stage raised it.
            BenchError: a thread has ended though nobody told it to.
        """
        if self._error is not None:
            raise self._error
        if not all(thread.is_alive() for thread in self._threads):
            raise BenchError(f"{self.what}: ended by itself")

    def _run(self, work: Callable[[Workers], None]) -> None:
        try:
            work(self)
        except BaseException as e:
            self._error = self._error or e


def decode_alone(stages: Stages, specs: Sequence[VideoSpec], meter: Meter) -> Measurement:
    """All videos at once, each in a thread of its own; every frame is given back as soon as it is there."""
    counts = [0] * len(specs)

    def decode(number: int, spec: VideoSpec) -> Callable[[Workers], None]:
        def work(workers: Workers) -> None:
            gate = RateGate(spec.settings.every, spec.settings.max_fps)
            with contextlib.closing(stages.open_decoder(spec, DecodeStats())) as decoder:
                for group in decoder.groups():
                    let_go(group)
                    counts[number] += len(group) if gate.is_open else sum(gate.keeps(f.pts_s) for f in group)
                    if workers.is_stopping:
                        return

        return work

    with Workers("decode alone", [decode(i, spec) for i, spec in enumerate(specs)]) as workers:
        return _rate(workers, lambda: sum(counts), meter, is_ready=lambda: all(counts))


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """Real frames for a batch, in the pixels that the decoder left, to be worked on again and again.

    Attributes:
        frames: As many as the model takes at a time.
        rows: Of the model's input.
    """

    frames: list[Frame]
    rows: int

    def release(self) -> None:
        """Gives the frames back."""
        let_go(self.frames)


def take_sample(stages: Stages, specs: Sequence[VideoSpec]) -> Sample:
    """The first frames of the videos, of as many as it takes."""
    size = stages.model.batch_size
    # Each decoder has its share of a batch out at a time, and some more.
    each = max(-(-size // len(specs)), _LEAST_OF_A_VIDEO)
    frames: list[Frame] = []
    for spec in specs:
        with contextlib.closing(stages.open_decoder(spec, DecodeStats())) as decoder:
            frames += itertools.islice(decoder, min(each, size - len(frames)))
        if len(frames) == size:
            break
    if not frames:
        raise BenchError("there is not one frame to measure with")
    if stages.decode_stream is not None:
        stages.decode_stream.before_reading()
    return Sample(frames, stages.model.rows(len(frames)))


def preprocess_alone(stages: Stages, sample: Sample, fence: Fence, meter: Meter) -> Measurement:
    """The same frames again and again."""

    def call() -> None:
        stages.preprocess(sample.frames, sample.rows)

    return _repeated("preprocess alone", call, len(sample.frames), fence, meter)


def model_alone(stages: Stages, batch: InputBatch, fence: Fence, meter: Meter) -> Measurement:
    """The same input again and again, in full batches."""

    def call() -> None:
        stages.model(batch.tensor)

    return _repeated("model alone", call, len(batch.frames), fence, meter)


def postprocess_alone(stages: Stages, batch: InputBatch, meter: Meter) -> Measurement:
    """The same outputs again and again, their results waited for one batch late."""
    outputs = stages.model(batch.tensor)
    waiting: list[Callable[[], Predictions]] = []

    def call() -> None:
        results = stages.postprocess(outputs, batch)
        if not isinstance(results, Predictions):
            waiting.append(results.result)
            if len(waiting) > 1:
                waiting.pop(0)()

    measured = _repeated("postprocess alone", call, len(batch.frames), Fence(on_device=False), meter)
    for result in waiting:
        result()
    return measured


def _repeated(what: str, call: Callable[[], None], frames: int, fence: Fence, meter: Meter) -> Measurement:
    done = [0]

    def work(workers: Workers) -> None:
        while not workers.is_stopping:
            call()
            done[0] += frames * fence()
        fence.drain()

    with Workers(what, [work]) as workers:
        return _rate(workers, lambda: done[0], meter, is_ready=lambda: done[0] > 0)


def _rate(workers: Workers, count: Callable[[], int], meter: Meter, *, is_ready: Callable[[], bool]) -> Measurement:
    try:
        return meter.watch(workers.what, count, note=lambda: None, is_ready=is_ready, check=workers.check)[0]
    except VramlineError as e:
        if isinstance(e, BenchError) or e.message.startswith(workers.what):
            raise
        raise BenchError(f"{workers.what}: {e.message}", remedy=e.remedy) from e
