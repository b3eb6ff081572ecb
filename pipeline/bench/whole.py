"""The whole pipeline, or its front half, as the runtime runs it."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.bench.cpu import usable_cores
from pipeline.bench.fence import Fence, Nothing
from pipeline.bench.meter import BenchError, Measurement, Meter
from pipeline.config.models import Config
from pipeline.frames import Array, InputBatch, ResultBatch
from pipeline.observe.status import RunStatus, SourceState, StageTimes
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.pipeline import Pipeline
from pipeline.runtime.steps import STAGES, Stages
from pipeline.stages import Model, SinkSource

_END_S = 60.0


@dataclass(frozen=True, slots=True)
class Latency:
    """From when a frame's packet was read to when its record had been written, in milliseconds."""

    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class StageCost:
    """What a stage cost in the whole pipeline.

    Attributes:
        ms_per_frame: Busy milliseconds of its thread a frame.
        busy: Share of the time in which its thread was busy with it; of decoding, a number of threads.
    """

    ms_per_frame: float
    busy: float


@dataclass(frozen=True, slots=True)
class Whole:
    """How the whole pipeline did.

    Attributes:
        measured: Its rate and cost.
        latency: None where decoders do not say when packets came.
        stages: By name, in the pipeline's order.
        cores: That the process could use.
    """

    measured: Measurement
    latency: Latency | None
    stages: Mapping[str, StageCost]
    cores: int


class Counter:
    """A `pipeline.stages.Sink` behind the others that counts, and notes when records had been written."""

    needs_pixels = False

    def __init__(self) -> None:
        self.completed: list[Path] = []
        self.frames = 0
        self._written: list[tuple[float, list[float | None]]] = []

    def open(self) -> None:
        """Nothing is to be opened."""

    def source_started(self, source: SinkSource) -> None:
        """Nothing depends on it."""

    def write(self, batch: ResultBatch) -> None:
        """Counts."""
        # Ages are worked out later: this is in the way of what is measured.
        self._written.append((time.monotonic(), [frame.received_s for frame in batch.frames]))
        self.frames += len(batch.frames)

    def source_finished(self, source_id: str) -> None:
        """Nothing depends on it."""

    def close(self) -> list[Path]:
        """Nothing has been written."""
        return []

    def abort(self) -> list[Path]:
        """The same."""
        return []

    def latency(self, start_s: float, end_s: float) -> Latency | None:
        """Of the frames that were written between two times of `time.monotonic()`."""
        ages_s = [
            written_s - received_s
            for written_s, all_received_s in self._written
            if start_s < written_s <= end_s
            for received_s in all_received_s
            if received_s is not None
        ]
        if not ages_s:
            return None
        p50, p95, p99 = np.quantile(ages_s, (0.5, 0.95, 0.99)) * 1e3
        return Latency(float(p50), float(p95), float(p99), 1e3 * max(ages_s))


class _NoModel:
    """In the model's place: takes what the model takes and does nothing with it."""

    def __init__(self, model: Model) -> None:
        self.name, self.input, self.outputs, self.batch_size = model.name, model.input, model.outputs, model.batch_size
        self.rows = model.rows

    def __call__(self, tensor: Array) -> Mapping[str, Array]:
        return {}

    def close(self) -> None:
        """The model stays open."""


def front_half(config: Config, stages: Stages, device: str, fence: Fence, meter: Meter) -> Measurement:
    """Decoding and preprocessing as in the whole pipeline, of whose stages nothing else is left."""
    counter = Counter()

    def nothing(outputs: Mapping[str, Array], batch: InputBatch) -> Nothing:
        return Nothing(fence.mark())

    def build(_config: Config, _specs: Sequence[Any], status: RunStatus, _progress: object) -> Stages:
        status.device = device
        status.stages = {name: StageTimes() for name in STAGES}
        outputs = Outputs([counter], status)
        return replace(
            stages,
            model=_NoModel(stages.model),
            postprocess=nothing,
            outputs=outputs,
            tracker=None,
            analytics=None,
            plugins=None,
            plugin_stop=None,
        )

    with Pipeline(config, build=build) as pipeline:
        return measure(pipeline, counter, meter, "decode and preprocess").measured


def measure(pipeline: Pipeline, counter: Counter, meter: Meter, what: str = "full pipeline") -> Whole:
    """Runs a pipeline whose stages have the counter among their sinks, until it has been measured.

    Raises:
        VramlineError: it broke, or a source or sink did.
    """
    status = pipeline.status
    crash: list[BaseException] = []

    def run() -> None:
        try:
            pipeline.run()
        except BaseException as e:
            crash.append(e)

    runner = threading.Thread(target=run, name="bench-pipeline", daemon=True)

    def check() -> None:
        if crash:
            raise crash[0]
        for source in list(status.sources.values()):
            if source.state is SourceState.FAILED:
                raise BenchError(f"{what}: source {source.source_id}: {source.error}")
        if status.errors:
            raise BenchError(f"{what}: {status.errors[0]}")
        if not runner.is_alive():
            raise BenchError(f"{what}: it ended before it could be measured")

    def busy() -> dict[str, float]:
        return {name: times.busy_s for name, times in status.stages.items()}

    def all_give_frames() -> bool:
        return all(source.results for source in list(status.sources.values()))

    pipeline.prepare()
    runner.start()
    try:
        measured, start, end = meter.watch(
            what, lambda: counter.frames, note=busy, is_ready=all_give_frames, check=check
        )
        cores = len(usable_cores())
    finally:
        pipeline.stop()
        runner.join(_END_S)
    if crash:
        raise crash[0]
    stages = {
        name: StageCost(
            1e3 * (busy_s - start.note[name]) / measured.frames, (busy_s - start.note[name]) / measured.seconds
        )
        for name, busy_s in end.note.items()
    }
    return Whole(measured, counter.latency(start.time_s, end.time_s), stages, cores)
