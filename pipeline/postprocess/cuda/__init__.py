"""The `cuda` engine of postprocessing: what is large is made small on the device, and only results cross to the host.

A call enqueues at most two kernels (`kernels.cu`) and one copy, and returns a pending object; nothing in it waits for the
device.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.plugins import PluginPost
from pipeline.config.postprocess import ClassifyPost, Postprocess, RawPost
from pipeline.config.tasks import EmbeddingPost, PosePost, SegmentPost
from pipeline.postprocess.cuda.classify import CudaClassifyPostprocessor
from pipeline.postprocess.cuda.copied import CopiedOutputPostprocessor
from pipeline.postprocess.cuda.detection import CudaDetectionPostprocessor
from pipeline.postprocess.cuda.raw import CudaRawPostprocessor
from pipeline.postprocess.cuda.segment import CudaSegmentPostprocessor
from pipeline.postprocess.embedding import EmbeddingPostprocessor
from pipeline.postprocess.pose import PosePostprocessor
from pipeline.stages import DeviceStream, Postprocessor, TensorInfo

if TYPE_CHECKING:
    from pipeline.plugins.host import Loaded

__all__ = ["build_cuda_postprocessor"]


def build_cuda_postprocessor(  # noqa: PLR0911 - one for each kind of family
    config: Postprocess,
    outputs: tuple[TensorInfo, ...],
    *,
    model_size: tuple[int, int],
    stream: DeviceStream,
    max_frames: int,
    plugin: Loaded | None = None,
) -> Postprocessor:
    """The postprocessor that a configuration's `pipeline.postprocess` asks for.

    Its calls take CuPy arrays, come from one thread, and return a `pipeline.stages.PendingPredictions`.

    Args:
        config: The section of one family.
        outputs: The model's outputs.
        model_size: (width, height) of the model's input in pixels.
        stream: Where all work is put, and where the model's outputs were made.
        max_frames: Most frames of a batch.
        plugin: What family `plugin` names, if it is loaded already.

    Raises:
        ModelError: the model lacks an output, or what is known of its shapes does not fit the family.
        ConfigError: labels cannot be read, a class that is named does not exist, or the engine cannot do what is asked.
    """
    match config:
        case ClassifyPost():
            return CudaClassifyPostprocessor(config, outputs, stream=stream, max_frames=max_frames)
        case PosePost():
            return CopiedOutputPostprocessor(PosePostprocessor(config, outputs, model_size), stream=stream)
        case SegmentPost():
            return CudaSegmentPostprocessor(
                config, outputs, model_size=model_size, stream=stream, max_frames=max_frames
            )
        case EmbeddingPost():
            return CopiedOutputPostprocessor(EmbeddingPostprocessor(config, outputs), stream=stream)
        case RawPost():
            return CudaRawPostprocessor(config, outputs, stream=stream)
        case PluginPost():
            from pipeline.plugins.host import PluginHost
            from pipeline.plugins.postprocess import device_postprocessor

            loaded = plugin or PluginHost().load(config, "pipeline.postprocess")
            return device_postprocessor(loaded, outputs, stream=stream)
        case _:
            return CudaDetectionPostprocessor(
                config, outputs, model_size=model_size, stream=stream, max_frames=max_frames
            )
