"""From the configuration to stages that run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

from pipeline.config.models import Config
from pipeline.config.plugins import PluginPost
from pipeline.config.sources import Source
from pipeline.config.stages import ModelSource
from pipeline.device_errors import in_words
from pipeline.errors import SourceError
from pipeline.observe.status import RunStatus, SourceStatus, StageTimes
from pipeline.runtime.engines import Job, cpu_stages, cuda_stages, open_sources
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.ranges import with_ranges
from pipeline.runtime.second import find_second, stage_names
from pipeline.runtime.steps import STAGES, TRACK, Stages
from pipeline.sources.resolve import VideoSpec, resolve
from pipeline.stages import Model

log = logging.getLogger(__name__)

Progress = Callable[[str, int, "int | None"], None]


def resolve_sources(config: Config, status: RunStatus, progress: Progress | None) -> list[VideoSpec]:
    """The videos to process; what could not be found is in `status.sources` as failed."""
    specs: list[VideoSpec] = []
    for found in find_videos(config.sources, progress):
        if isinstance(found, SourceError):
            status.sources[found.source_id] = SourceStatus(found.source_id, "")
            status.sources[found.source_id].fail(found)
        else:
            status.sources[found.source_id] = new_status(found)
            specs.append(found)
    return specs


def find_videos(
    sources: Sequence[Source], progress: Progress | None, taken: Collection[str] = ()
) -> list[VideoSpec | SourceError]:
    """As `pipeline.sources.resolve.resolve`, with clips of media cards fetched first."""
    from pipeline.zoo import obtain_media

    return resolve(sources, lambda name: obtain_media(name, progress), taken)


def new_status(spec: VideoSpec) -> SourceStatus:
    """The status of a source that waits to be opened."""
    settings = spec.settings
    return SourceStatus(
        spec.source_id,
        spec.shown,
        frame_limit=settings.max_frames,
        is_live=settings.is_live,
        priority=settings.priority,
    )


def build_stages(
    config: Config,
    specs: Sequence[VideoSpec],
    status: RunStatus,
    progress: Progress | None,
    *,
    model: Model | None = None,
) -> Stages:
    """Loads the model, unless a loaded one is given, fits the stages around it and opens the sinks.

    Raises:
        VramlineError: something is missing or does not fit, in words; nothing is left open.
    """
    from pipeline.analytics.engine import Analytics
    from pipeline.observe.nvtx import nvtx_ranges
    from pipeline.plugins.host import PluginHost
    from pipeline.plugins.stage import StageChain
    from pipeline.sinks import build_sink
    from pipeline.sinks.heatmap import HeatmapSink

    status.device, status.device_reason = choose_engine(config)
    log.info("device %s: %s", status.device, status.device_reason)
    # Before what takes long: most mistakes are made here.
    open_range = nvtx_ranges() if config.runtime.nvtx and status.device == "cuda" else None
    plugins, stages_config = PluginHost(status), config.pipeline
    several = len(specs) > 1 or config.may_grow
    own_post = stages_config.postprocess
    postprocess = plugins.load(own_post, "pipeline.postprocess") if isinstance(own_post, PluginPost) else None
    own_stages = [plugins.load(own, f"pipeline.plugins[{i}]") for i, own in enumerate(stages_config.plugins)]
    sinks = [
        build_sink(sink, several_sources=several, field=f"sinks[{i}]", plugins=plugins)
        for i, sink in enumerate(config.sinks)
    ]
    status.drawing = tuple(f"sinks[{i}] ({config.sinks[i].type})" for i, sink in enumerate(sinks) if sink.needs_pixels)
    path, name = locate_model(stages_config.model, progress)
    second = find_second(stages_config, plugins, lambda model: locate_model(model, progress))
    rois = {spec.source_id: spec.settings.roi for spec in specs if spec.settings.roi is not None}
    analytics = Analytics(
        {spec.source_id: spec.settings.analytics for spec in specs if spec.settings.analytics is not None}
    )
    if any(settings.heatmap is not None for settings in analytics.settings.values()):
        sinks.append(HeatmapSink(analytics.settings))
    outputs = Outputs(sinks, status, close_others=plugins.close)
    make_stages = cuda_stages if status.device == "cuda" else cpu_stages
    videos = open_sources(config, status.device, len(specs))
    with in_words() if status.device == "cuda" else nullcontext():
        job = Job(config, path, name, rois, videos, postprocess, model, specs, second, status)
        stages = make_stages(job, outputs)
    status.memory, status.decoder_memory = stages.memory, stages.decoders
    chain = StageChain(own_stages) if own_stages else None
    stages = replace(stages, analytics=analytics, plugins=chain, plugin_stop=plugins.stop)
    if open_range is not None:
        stages = with_ranges(stages, open_range)
    outputs.open()
    status.model, status.batch_size = stages.model.name, stages.model.batch_size
    tracking = () if stages.tracker is None else (TRACK,)
    before, behind = stage_names(stages)
    names = (*STAGES[:1], *before, *STAGES[1:-1], *tracking, *behind, STAGES[-1])
    status.stages = {stage: StageTimes() for stage in names}
    return stages


def choose_engine(config: Config) -> tuple[str, str]:
    """Which engine runs, `cpu` or `cuda`, and why, in a few words.

    Raises:
        DeviceError: `cuda` was asked for and cannot be had.
    """
    from pipeline.inference._tensorflow import sees_gpu
    from pipeline.observe.machine import choose_device, gpu_setup

    engine, reason = choose_device(config.device)
    if engine == "cuda" and not sees_gpu():  # last, as it takes seconds
        return choose_device(config.device, lambda: replace(gpu_setup(), tensorflow_gpu=False))
    return engine, reason


def locate_model(model: ModelSource, progress: Progress | None) -> tuple[Path, str]:
    """Where the model lies, obtained first if a card describes it, and what it is called."""
    from pipeline.zoo import obtain_model

    if model.card is not None:
        return obtain_model(model.card, progress), model.name or model.card
    path = Path(model.path or "")
    return path, model.name or path.stem
