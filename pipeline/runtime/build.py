"""From the configuration to stages that run: the only place that knows which engine implements what."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from pipeline.config.models import Config, ModelSource
from pipeline.errors import SourceError
from pipeline.observe.status import RunStatus, SourceStatus, StageTimes
from pipeline.runtime.ingest import OpenDecoder
from pipeline.runtime.lane import STAGES, Stages
from pipeline.runtime.outputs import Outputs
from pipeline.sources.resolve import VideoSpec, resolve
from pipeline.stages import Decoder

log = logging.getLogger(__name__)

Progress = Callable[[str, int, "int | None"], None]


def resolve_sources(config: Config, status: RunStatus, progress: Progress | None) -> list[VideoSpec]:
    """The videos to process; what could not be found is in `status.sources` as failed."""
    from pipeline.zoo import obtain_media

    specs: list[VideoSpec] = []
    for found in resolve(config.sources, lambda name: obtain_media(name, progress)):
        if isinstance(found, SourceError):
            status.sources[found.source_id] = SourceStatus(found.source_id, "")
            status.sources[found.source_id].fail(found)
        else:
            status.sources[found.source_id] = SourceStatus(
                found.source_id, found.shown, frame_limit=found.settings.max_frames
            )
            specs.append(found)
    return specs


def build_stages(config: Config, specs: Sequence[VideoSpec], status: RunStatus, progress: Progress | None) -> Stages:
    """Loads the model, fits the stages around it and opens the sinks.

    Raises:
        VramlineError: something is missing or does not fit, in words; nothing is left open.
    """
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model
    from pipeline.observe.machine import choose_device
    from pipeline.postprocess import build_postprocessor
    from pipeline.preprocess.reference import ReferencePreprocessor
    from pipeline.sinks import build_sink

    status.device, status.device_reason = choose_device(config.device)
    log.info("device %s: %s", status.device, status.device_reason)
    wanted, runtime = config.pipeline.model, config.runtime
    path, name = locate_model(wanted, progress)
    model = load_model(
        path,
        wanted,
        name=name,
        batch_size=runtime.batch_size,
        preprocess=config.pipeline.preprocess,
        threads=runtime.inference_threads,
        device=status.device,
    )
    preprocess = resolve_input(model.input, config.pipeline.preprocess, model=name)
    assert preprocess.size is not None
    rois = {spec.source_id: spec.settings.roi for spec in specs if spec.settings.roi is not None}
    stages = Stages(
        open_decoder=_open_decoder(config),
        preprocess=ReferencePreprocessor(preprocess, rois),
        model=model,
        postprocess=build_postprocessor(config.pipeline.postprocess, model.outputs, model_size=preprocess.size),
        outputs=Outputs([build_sink(sink, several_sources=len(specs) > 1) for sink in config.sinks], status),
    )
    stages.outputs.open()
    status.model, status.batch_size = model.name, model.batch_size
    status.stages = {stage: StageTimes() for stage in STAGES}
    return stages


def locate_model(model: ModelSource, progress: Progress | None) -> tuple[Path, str]:
    """Where the model lies, obtained first if a card describes it, and what it is called."""
    from pipeline.zoo import obtain_model

    if model.card is not None:
        return obtain_model(model.card, progress), model.name or model.card
    path = Path(model.path or "")
    return path, model.name or path.stem


def _open_decoder(config: Config) -> OpenDecoder:
    """What opens a video on the engine that was chosen, and checks that its region of interest lies in the picture."""
    from pipeline.decode.ffmpeg import FfmpegDecoder
    from pipeline.preprocess.roi import region_of

    def opening(spec: VideoSpec) -> Decoder:
        decoder = FfmpegDecoder(spec, config.pipeline.decode)
        try:
            region_of(spec.settings.roi, (decoder.info.width, decoder.info.height), spec.source_id)
        except SourceError:
            decoder.close()
            raise
        return decoder

    return opening
