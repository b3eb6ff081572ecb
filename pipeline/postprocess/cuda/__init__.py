"""The `cuda` engine of postprocessing: everything happens on the device, only results cross to the host.

A call enqueues two kernels (`kernels.cu`) and one copy, and returns a pending object; nothing in it waits for the device.
"""

from __future__ import annotations

from pipeline.config.models import ClassifyPost, Postprocess, RawPost
from pipeline.postprocess.cuda.classify import CudaClassifyPostprocessor
from pipeline.postprocess.cuda.detection import CudaDetectionPostprocessor
from pipeline.postprocess.cuda.raw import CudaRawPostprocessor
from pipeline.stages import DeviceStream, Postprocessor, TensorInfo

__all__ = ["build_cuda_postprocessor"]


def build_cuda_postprocessor(
    config: Postprocess,
    outputs: tuple[TensorInfo, ...],
    *,
    model_size: tuple[int, int],
    stream: DeviceStream,
    max_frames: int,
) -> Postprocessor:
    """The postprocessor that a configuration's `pipeline.postprocess` asks for.

    Its calls take CuPy arrays, come from one thread, and return a `pipeline.stages.PendingPredictions`.

    Args:
        config: The section of one family.
        outputs: The model's outputs.
        model_size: (width, height) of the model's input in pixels.
        stream: Where all work is put, and where the model's outputs were made.
        max_frames: Most frames of a batch.

    Raises:
        ModelError: the model lacks an output, or what is known of its shapes does not fit the family.
        ConfigError: labels cannot be read, a class that is named does not exist, or the engine cannot do what is asked.
    """
    if isinstance(config, ClassifyPost):
        return CudaClassifyPostprocessor(config, outputs, stream=stream, max_frames=max_frames)
    if isinstance(config, RawPost):
        return CudaRawPostprocessor(config, outputs, stream=stream)
    return CudaDetectionPostprocessor(config, outputs, model_size=model_size, stream=stream, max_frames=max_frames)
