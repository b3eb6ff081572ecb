"""The two engines: which implementation of each stage runs where. Everything else in the runtime is the same for both."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.config.models import Config, Roi
from pipeline.errors import SourceError
from pipeline.runtime.ingest import OpenDecoder
from pipeline.runtime.lane import Stages
from pipeline.runtime.outputs import Outputs
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import Decoder

# Frames of a video that may be out of its decoder's hands: two batches' worth of its share, and some for reordering.
_MOST_SURFACES = 16
# At thousands of frames/s the decoding threads must get the interpreter back sooner than after the usual 5 ms.
_SWITCH_INTERVAL_S = 2e-4


@dataclass(frozen=True, slots=True)
class Job:
    """What the stages are made for.

    Attributes:
        config: All of it.
        model_path: Where the model lies.
        model_name: What results are stamped with.
        rois: Region of interest by source id.
    """

    config: Config
    model_path: Path
    model_name: str
    rois: Mapping[str, Roi]


def cpu_stages(job: Job, outputs: Outputs) -> Stages:
    """FFmpeg, NumPy, TensorFlow on the CPU: the reference."""
    from pipeline.decode.ffmpeg import FfmpegDecoder
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model
    from pipeline.postprocess import build_postprocessor
    from pipeline.preprocess.reference import ReferencePreprocessor

    stages, runtime = job.config.pipeline, job.config.runtime
    model = load_model(
        job.model_path,
        stages.model,
        name=job.model_name,
        batch_size=runtime.batch_size,
        preprocess=stages.preprocess,
        threads=runtime.inference_threads,
    )
    preprocess = ReferencePreprocessor(resolve_input(model.input, stages.preprocess, model=job.model_name), job.rois)
    return Stages(
        open_decoder=_checked(lambda spec: FfmpegDecoder(spec, stages.decode)),
        preprocess=preprocess,
        model=model,
        postprocess=build_postprocessor(stages.postprocess, model.outputs, model_size=preprocess.model_size),
        outputs=outputs,
    )


def cuda_stages(job: Job, outputs: Outputs) -> Stages:
    """NVDEC, our kernels or CV-CUDA, TensorFlow on the GPU, CuPy: all on TensorFlow's stream."""
    from pipeline.decode.download import Download
    from pipeline.decode.nvdec import open_nvdec
    from pipeline.inference.shared_stream import open_shared_stream
    from pipeline.inference.signature import resolve_input
    from pipeline.inference.tensorflow import load_model
    from pipeline.postprocess.cuda import build_cuda_postprocessor
    from pipeline.preprocess.engines import device_preprocessor

    sys.setswitchinterval(min(sys.getswitchinterval(), _SWITCH_INTERVAL_S))
    stages, runtime = job.config.pipeline, job.config.runtime
    stream = open_shared_stream()
    model = load_model(
        job.model_path,
        stages.model,
        name=job.model_name,
        batch_size=runtime.batch_size,
        preprocess=stages.preprocess,
        stream=stream,
    )
    resolved = resolve_input(model.input, stages.preprocess, model=job.model_name)
    preprocess = device_preprocessor(resolved, job.rois, stream=stream, max_rows=model.batch_size)
    return Stages(
        open_decoder=_checked(lambda spec: open_nvdec(spec, stages.decode, stream=stream, ring=_MOST_SURFACES)),
        preprocess=preprocess,
        model=model,
        postprocess=build_cuda_postprocessor(
            stages.postprocess,
            model.outputs,
            model_size=preprocess.model_size,
            stream=stream,
            max_frames=model.batch_size,
        ),
        outputs=outputs,
        download=Download(stream),
        on_device=True,
    )


def _checked(open_decoder: OpenDecoder) -> OpenDecoder:
    """Opening also checks that the source's region of interest lies in its picture."""
    from pipeline.preprocess.roi import region_of

    def opening(spec: VideoSpec) -> Decoder:
        decoder = open_decoder(spec)
        try:
            region_of(spec.settings.roi, (decoder.info.width, decoder.info.height), spec.source_id)
        except SourceError:
            decoder.close()
            raise
        return decoder

    return opening
