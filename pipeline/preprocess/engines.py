"""Which engine of preprocessing works for a configuration on a GPU."""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.stages import DeviceStream, Preprocessor


def device_preprocessor(
    preprocess: Preprocess, rois: Mapping[str, Roi] | None = None, *, stream: DeviceStream, max_rows: int
) -> Preprocessor:
    """The engine that `preprocess.engine` names; `auto` is the fused kernel, which can do all that the reference can.

    Arguments and errors are those of `pipeline.preprocess.fused.FusedPreprocessor` and
    `pipeline.preprocess.cvcuda.CvCudaPreprocessor`.
    """
    if preprocess.engine == "cvcuda":
        from pipeline.preprocess.cvcuda import CvCudaPreprocessor

        return CvCudaPreprocessor(preprocess, rois, stream=stream, max_rows=max_rows)
    from pipeline.preprocess.fused import FusedPreprocessor

    return FusedPreprocessor(preprocess, rois, stream=stream, max_rows=max_rows)
