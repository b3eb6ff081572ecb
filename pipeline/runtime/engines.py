"""The two engines: which implementation of each stage runs where. Everything else in the runtime is the same for both."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.config.models import Config
from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.cpus import keep_to
from pipeline.decode._session import PACKETS_AT_ONCE
from pipeline.errors import SourceError
from pipeline.observe.memory import summary_line
from pipeline.observe.status import RunStatus
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.session import OpenDecoder
from pipeline.runtime.steps import Stages
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import Decoder, DecodeStats, Model
from pipeline.vram import Allowance

if TYPE_CHECKING:
    from pipeline.plugins.host import Loaded
    from pipeline.runtime.planning import Planner
    from pipeline.runtime.second import SecondJob

log = logging.getLogger(__name__)

_OPEN_SOURCES = 4
# Twice as many as a large GPU has decoders (7), and some more: each of these is to have work while threads do something else.
_OPEN_SOURCES_ON_GPU = 16
# PyAV gives up the interpreter's lock several times for each packet that it reads. If many threads read at the same moment
# they wait for it each time; in turns a thread has it back at once.
_READING_VIDEOS = 1
# All live streams come into their own each time a packet does: dozens of threads, which would wait for the lock against each
# other and, worse, against the few that their frames are for. Beside one that waits for it another one has it.
_HANDLING_STREAMS = 2
# NVDEC's library has each thread that waits for a picture look for it again and again, a percent or two of a core. So many
# keep 7 decoders busy.
_DECODING_VIDEOS = 16
# With NVDEC at its limit the process keeps up to three CPUs busy. On eight of 16 it is as fast as on all, or faster where the
# CPUs are slow, and takes less of their time; on four it is slower.
_CPUS_BESIDE_GPU = 8
# What comes out of a decoder at a time has room.
_LEAST_SLOT_FRAMES_ON_GPU = PACKETS_AT_ONCE


@dataclass(frozen=True, slots=True)
class Job:
    """What the stages are made for.

    Attributes:
        config: All of it.
        model_path: Where the model lies.
        model_name: What results are stamped with.
        rois: Region of interest by source id.
        open_sources: How many videos are decoded at the same time.
        postprocess: The user's own postprocessor; None: a family's.
        model: A loaded one to use, which lies at `model_path`; None: it is loaded.
        specs: The videos and live streams.
        second: The further models.
        status: Of the run.
    """

    config: Config
    model_path: Path
    model_name: str
    rois: dict[str, Roi]
    open_sources: int = 1
    postprocess: Loaded | None = None
    model: Model | None = None
    specs: Sequence[VideoSpec] = ()
    second: tuple[SecondJob, ...] = ()
    status: RunStatus = field(default_factory=RunStatus)


def open_sources(config: Config, device: str, videos: int) -> int:
    """How many of the videos are decoded at the same time."""
    usual = _OPEN_SOURCES_ON_GPU if device == "cuda" else _OPEN_SOURCES
    return max(1, min(config.runtime.open_sources or usual, videos))


def slot_frames(config: Config, device: str, batch_size: int, open_videos: int) -> int:
    """How many frames of each open video may wait for the model: all together as many as the queue's batches hold."""
    least = _LEAST_SLOT_FRAMES_ON_GPU if device == "cuda" else 2
    return max(least, -(-config.queue_batches * batch_size // open_videos))


def kept_cpus(config: Config, stages: Stages) -> AbstractContextManager[None]:
    """Keeps the process to a few of the machine's CPUs: as many as the configuration says, or where that is quicker.

    What a plug-in's threads need, an encoder's, and those of who takes the results, nobody knows; live streams come when they
    come. A video that the GPU cannot decode has all CPUs.
    """
    if config.runtime.cpus is not None:
        return keep_to(config.runtime.cpus)
    is_plain = stages.on_device and not config.is_live and stages.plugins is None and not stages.outputs.needs_pixels
    return keep_to(_CPUS_BESIDE_GPU if is_plain else None, is_strict=False)


def cpu_stages(job: Job, outputs: Outputs) -> Stages:
    """FFmpeg, NumPy, TensorFlow on the CPU: the reference."""
    from pipeline.decode.ffmpeg import FfmpegDecoder
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model
    from pipeline.postprocess import build_postprocessor
    from pipeline.preprocess.reference import ReferencePreprocessor
    from pipeline.runtime.second import second_models
    from pipeline.tracking import build_tracker, for_tracking

    stages, runtime = job.config.pipeline, job.config.runtime
    model = job.model or load_model(
        job.model_path,
        stages.model,
        name=job.model_name,
        batch_size=runtime.batch_size,
        preprocess=stages.preprocess,
        threads=runtime.inference_threads,
    )
    resolved = resolve_input(model.input, stages.preprocess, model=job.model_name)
    preprocess = ReferencePreprocessor(resolved, job.rois)
    sides, cascade = second_models(job, model, resolved)
    return Stages(
        open_decoder=_checked(lambda spec, stats: FfmpegDecoder(spec, stages.decode, stats)),
        preprocess=preprocess,
        model=model,
        postprocess=build_postprocessor(
            for_tracking(stages.postprocess, stages.tracker),
            model.outputs,
            model_size=preprocess.model_size,
            plugin=job.postprocess,
        ),
        outputs=outputs,
        tracker=build_tracker(stages.tracker, stages.postprocess),
        sides=sides,
        cascade=cascade,
        rois=job.rois,
    )


def cuda_stages(job: Job, outputs: Outputs) -> Stages:
    """NVDEC on a stream of its own; our kernels or CV-CUDA, TensorFlow on the GPU, CuPy: all on TensorFlow's."""
    from pipeline.decode.apart import DecodeStream
    from pipeline.decode.capabilities import gpu_capabilities
    from pipeline.decode.download import Download
    from pipeline.decode.memory import SurfaceMemory
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.decode.turnstile import DecodeTurns, Turnstile
    from pipeline.inference.shared_stream import limit_cupy, open_shared_stream
    from pipeline.inference.shared_stream.library import library_path
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model
    from pipeline.postprocess.cuda import build_cuda_postprocessor
    from pipeline.preprocess.decode_scale import DecodeScale
    from pipeline.preprocess.engines import device_preprocessor
    from pipeline.runtime.second import second_models
    from pipeline.sinks.native_texts import use_library
    from pipeline.tracking import build_tracker, for_tracking

    stages, runtime = job.config.pipeline, job.config.runtime
    planner = _planner(job)
    first = planner.checked()
    assert first.shares is not None  # a budget is known here
    stream = open_shared_stream(first.shares.tensorflow_bytes)
    limit_cupy(first.shares.cupy_bytes)
    use_library(library_path(stream.tf))
    decode_stream = DecodeStream(stream)
    gpu_capabilities(stream.ordinal)  # a decoder library that is missing is the run's error, not each source's
    model = job.model or load_model(
        job.model_path,
        stages.model,
        name=job.model_name,
        batch_size=runtime.batch_size,
        preprocess=stages.preprocess,
        stream=stream,
    )
    resolved = resolve_input(model.input, stages.preprocess, model=job.model_name)
    planner = _with_model(planner, model, resolved, first.shares.tensorflow_bytes)
    memory, ring = planner.checked(), planner.needs.ring
    assert memory.shares is not None
    log.info("GPU memory: %s", summary_line(memory))
    preprocess = device_preprocessor(resolved, job.rois, stream=stream, max_rows=model.batch_size)
    sides, cascade = second_models(job, model, resolved, stream=stream)
    decoders = Allowance(memory.shares.decoders_bytes)
    surfaces = SurfaceMemory(decoders, memory.shares.source_bytes)
    turns = DecodeTurns(Turnstile(_READING_VIDEOS), Turnstile(_DECODING_VIDEOS), Turnstile(_HANDLING_STREAMS))
    decode_scale = DecodeScale(resolved, job.rois) if stages.decode.scale == "auto" and cascade is None else None

    def open_decoder(spec: VideoSpec, stats: DecodeStats) -> Decoder:
        scale = None if outputs.needs_pixels else decode_scale
        return open_nvdec(
            spec,
            stages.decode,
            stats,
            stream=decode_stream,
            ring=ring,
            memory=surfaces,
            scale=scale,
            turns=turns,
            is_ahead=memory.decodes_ahead,
        )

    return Stages(
        open_decoder=_checked(open_decoder),
        preprocess=preprocess,
        model=model,
        postprocess=build_cuda_postprocessor(
            for_tracking(stages.postprocess, stages.tracker),
            model.outputs,
            model_size=preprocess.model_size,
            stream=stream,
            max_frames=model.batch_size,
            plugin=job.postprocess,
        ),
        outputs=outputs,
        tracker=build_tracker(stages.tracker, stages.postprocess),
        sides=sides,
        cascade=cascade,
        rois=job.rois,
        download=Download(stream),
        on_device=True,
        decode_stream=decode_stream,
        memory=memory,
        decoders=decoders,
    )


def _planner(job: Job) -> Planner:
    """Of the memory plan; starts CuPy, but not TensorFlow's GPU, whose share follows from the plan."""
    from pipeline.inference.shared_stream import free_memory, share
    from pipeline.runtime.planning import Planner, needs_of

    free_bytes, own_bytes = free_memory()
    needs = needs_of(job.config, job.specs, job.open_sources, job.model_path)
    needs = replace(needs, tensorflow_bytes=share.fixed_bytes())
    return Planner(needs, job.config.runtime.vram_budget_mb, free_bytes, own_bytes)


def _with_model(planner: Planner, model: Model, preprocess: Preprocess, share_bytes: int) -> Planner:
    """The same, with what the loaded model says."""
    assert preprocess.size is not None
    assert preprocess.dtype is not None
    return planner.with_model(
        size=preprocess.size,
        channels=preprocess.channels,
        dtype=preprocess.dtype,
        batch_size=model.batch_size,
        share=share_bytes,
    )


def _checked(open_decoder: OpenDecoder) -> OpenDecoder:
    """Opening also checks that the source's region of interest, lines and zones lie in its picture."""
    from pipeline.analytics.layout import check_layout
    from pipeline.preprocess.roi import region_of

    def opening(spec: VideoSpec, stats: DecodeStats) -> Decoder:
        decoder = open_decoder(spec, stats)
        try:
            size = decoder.info.width, decoder.info.height
            region_of(spec.settings.roi, size, spec.source_id)
            for warning in check_layout(spec.settings.analytics, size, spec.source_id):
                log.warning("%s", warning)
        except SourceError:
            decoder.close()
            raise
        return decoder

    return opening
