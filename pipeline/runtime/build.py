"""From the configuration to stages that run."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from pipeline.config.models import Config, ModelSource, Source
from pipeline.errors import SourceError
from pipeline.observe.status import RunStatus, SourceStatus, StageTimes
from pipeline.runtime.engines import Job, cpu_stages, cuda_stages, open_sources
from pipeline.runtime.lane import STAGES, Stages
from pipeline.runtime.outputs import Outputs
from pipeline.sources.resolve import VideoSpec, resolve

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


def build_stages(config: Config, specs: Sequence[VideoSpec], status: RunStatus, progress: Progress | None) -> Stages:
    """Loads the model, fits the stages around it and opens the sinks.

    Raises:
        VramlineError: something is missing or does not fit, in words; nothing is left open.
    """
    from pipeline.observe.machine import choose_device
    from pipeline.sinks import build_sink

    status.device, status.device_reason = choose_device(config.device)
    log.info("device %s: %s", status.device, status.device_reason)
    path, name = locate_model(config.pipeline.model, progress)
    rois = {spec.source_id: spec.settings.roi for spec in specs if spec.settings.roi is not None}
    several = len(specs) > 1 or config.may_grow
    outputs = Outputs([build_sink(sink, several_sources=several) for sink in config.sinks], status)
    make_stages = cuda_stages if status.device == "cuda" else cpu_stages
    stages = make_stages(Job(config, path, name, rois, open_sources(config, status.device, len(specs))), outputs)
    outputs.open()
    status.model, status.batch_size = stages.model.name, stages.model.batch_size
    status.stages = {stage: StageTimes() for stage in STAGES}
    return stages


def locate_model(model: ModelSource, progress: Progress | None) -> tuple[Path, str]:
    """Where the model lies, obtained first if a card describes it, and what it is called."""
    from pipeline.zoo import obtain_model

    if model.card is not None:
        return obtain_model(model.card, progress), model.name or model.card
    path = Path(model.path or "")
    return path, model.name or path.stem
