"""From a model's outputs to results in display coordinates; one module for each family of models."""

from __future__ import annotations

from pipeline.config.models import (
    BoxesPost,
    ClassifyPost,
    GflPost,
    OdApiPost,
    Postprocess,
    RawPost,
    SsdPost,
    YoloPost,
)
from pipeline.postprocess.boxes import BoxesDecoder
from pipeline.postprocess.classify import ClassifyPostprocessor
from pipeline.postprocess.detection import Decode, DetectionPostprocessor
from pipeline.postprocess.gfl import GflDecoder
from pipeline.postprocess.od_api import OdApiDecoder
from pipeline.postprocess.raw import RawPostprocessor
from pipeline.postprocess.ssd import SsdDecoder
from pipeline.postprocess.yolo import YoloDecoder
from pipeline.stages import Postprocessor, TensorInfo

__all__ = ["build_postprocessor"]


def build_postprocessor(
    config: Postprocess, outputs: tuple[TensorInfo, ...], *, model_size: tuple[int, int]
) -> Postprocessor:
    """The postprocessor that a configuration's `pipeline.postprocess` asks for.

    Args:
        config: The section of one family.
        outputs: The model's outputs.
        model_size: (width, height) of the model's input in pixels.

    Raises:
        ModelError: the model lacks an output, or what is known of its shapes does not fit the family.
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """
    if isinstance(config, ClassifyPost):
        return ClassifyPostprocessor(config, outputs)
    if isinstance(config, RawPost):
        return RawPostprocessor(config, outputs)
    return DetectionPostprocessor(config, _decoder(config, outputs, model_size))


def _decoder(
    config: OdApiPost | SsdPost | YoloPost | GflPost | BoxesPost,
    outputs: tuple[TensorInfo, ...],
    model_size: tuple[int, int],
) -> Decode:
    match config:
        case OdApiPost():
            return OdApiDecoder(config, outputs, model_size)
        case SsdPost():
            return SsdDecoder(config, outputs, model_size)
        case YoloPost():
            return YoloDecoder(config, outputs, model_size)
        case GflPost():
            return GflDecoder(config, outputs, model_size)
        case BoxesPost():
            return BoxesDecoder(config, outputs, model_size)
