"""Measures a configuration: its parts one after another, then all together, in one process with one loaded model."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.bench import facts, parts
from pipeline.bench.fence import Fence
from pipeline.bench.gpu import watch_gpu
from pipeline.bench.limit import find_limit
from pipeline.bench.meter import Measurement, Meter, Timing
from pipeline.bench.plan import make_plan
from pipeline.bench.report import Report
from pipeline.bench.whole import Counter, front_half, measure
from pipeline.config.models import Config
from pipeline.frames import Array, InputBatch
from pipeline.observe.machine import choose_device
from pipeline.observe.status import RunStatus
from pipeline.runtime.build import Progress, build_stages, find_videos
from pipeline.runtime.engines import open_sources
from pipeline.runtime.pipeline import BuildStages, Pipeline
from pipeline.runtime.steps import Stages
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import Model

OnPart = Callable[[str, "Measurement | None"], None]


def bench(
    config: Config,
    *,
    name: str = "",
    timing: Timing | None = None,
    sources: int | None = None,
    on_part: OnPart = lambda _name, _measured: None,
    progress: Progress | None = None,
    build: BuildStages = build_stages,
    known: Mapping[str, Measurement] | None = None,
) -> Report:
    """Measures a configuration whose sources are files. Its outputs are written to a temporary folder.

    Args:
        config: The user's.
        name: What the report calls it.
        timing: How long each part is measured.
        sources: How many videos are decoded at a time, those of the configuration being repeated; default: as many of
            them as a run would open at a time.
        on_part: Called with each part's name before it is measured, and again with what came out.
        progress: Called while a model or clip is fetched.
        build: Makes the stages.
        known: Parts that have been measured before, by name; they are not measured again.

    Raises:
        VramlineError: something is missing, does not fit, or broke while it was measured.
    """
    timing = timing or Timing()
    device, device_reason = choose_device(config.device)
    videos = find_videos(config.sources, progress)
    open_videos = sources or open_sources(config, device, len(videos))
    with tempfile.TemporaryDirectory(prefix="vramline-bench-", ignore_cleanup_errors=True) as folder:
        plan = make_plan(config, videos, open_videos, Path(folder))
        stand = _Stand(build)
        with Pipeline(plan.config, progress=progress, build=stand.build) as pipeline:
            on_part("prepare", None)
            pipeline.prepare()
            gpu = watch_gpu(device)
            meter = Meter(timing, gpu.sampler)
            found = dict(known or {})

            def part(part_name: str, work: Callable[[], Measurement]) -> None:
                if part_name not in found:
                    on_part(part_name, None)
                    found[part_name] = work()
                    on_part(part_name, found[part_name])

            _measure_parts(stand, plan.config, device, meter, part)
            on_part("pipeline", None)
            whole = measure(pipeline, stand.counter, meter)
            on_part("pipeline", whole.measured)
        return Report(
            config=name,
            device=device,
            device_reason=device_reason,
            model=pipeline.status.model,
            batch_size=pipeline.status.batch_size,
            sources=open_videos,
            timing=timing,
            clips=facts.clips(stand.specs),
            sinks=[sink.type for sink in plan.config.sinks],
            left_out=plan.left_out,
            machine=facts.machine(gpu.facts),
            gpu_reason=gpu.reason,
            versions=facts.versions(),
            parts=found,
            whole=whole,
            limit=find_limit(found, whole, on_device=device == "cuda"),
        )


class _Stand:
    """Where the stages of the whole pipeline stand, for its parts to be measured on them.

    Attributes:
        stages: Once they are built.
        specs: The videos.
        counter: Behind the sinks.
    """

    stages: Stages

    def __init__(self, build: BuildStages) -> None:
        self._build = build
        self.specs: Sequence[VideoSpec] = ()
        self.counter = Counter()

    def build(self, config: Config, specs: Sequence[VideoSpec], status: RunStatus, progress: Progress | None) -> Stages:
        self.specs = specs
        self.stages = self._build(config, specs, status, progress)
        self.stages.outputs.add(self.counter)
        return self.stages


def _measure_parts(
    stand: _Stand, config: Config, device: str, meter: Meter, part: Callable[[str, Callable[[], Measurement]], None]
) -> None:
    stages, specs = stand.stages, stand.specs
    fence = Fence(on_device=stages.on_device)
    part("decode", lambda: parts.decode_alone(stages, specs, meter))
    sample = parts.take_sample(stages, specs)
    try:
        part("preprocess", lambda: parts.preprocess_alone(stages, sample, fence, meter))
        batch = _input_of(stages, sample)
        part("model", lambda: parts.model_alone(stages, batch, fence, meter))
        part("postprocess", lambda: parts.postprocess_alone(stages, batch, meter))
    finally:
        sample.release()
    part("decode_and_preprocess", lambda: front_half(config, stages, device, fence, meter))


def _input_of(stages: Stages, sample: parts.Sample) -> InputBatch:
    """The model's input, which stays as it is while nothing else is preprocessed."""
    batch = stages.preprocess(sample.frames, sample.rows)
    return batch.with_frames(tuple(frame.without_pixels() for frame in sample.frames))


@dataclass(slots=True)
class KeptModel:
    """Loads a model with the first stages that it builds and lends it to all later ones, which are made for the same model."""

    _model: _Lent | None = None

    def build(self, config: Config, specs: Sequence[VideoSpec], status: RunStatus, progress: Progress | None) -> Stages:
        """As `pipeline.runtime.build.build_stages`."""
        stages = build_stages(config, specs, status, progress, model=self._model)
        if self._model is None:
            self._model = _Lent(stages.model)
        return replace(stages, model=self._model)

    def close(self) -> None:
        """Releases the model."""
        if self._model is not None:
            self._model.model.close()


class _Lent:
    """A model that who uses it does not close."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.name, self.input, self.outputs, self.batch_size = model.name, model.input, model.outputs, model.batch_size
        self.rows = model.rows

    def __call__(self, tensor: Array) -> Mapping[str, Array]:
        return self.model(tensor)

    def close(self) -> None:
        """It stays open."""
