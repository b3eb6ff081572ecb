"""From a model's outputs to results in display coordinates; one module for each family of models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.config.plugins import PluginPost
from pipeline.config.postprocess import (
    BoxesPost,
    ClassifyPost,
    GflPost,
    OdApiPost,
    Postprocess,
    RawPost,
    SsdPost,
    YoloPost,
)
from pipeline.config.tasks import EmbeddingPost, PosePost, SegmentPost
from pipeline.postprocess.boxes import BoxesDecoder
from pipeline.postprocess.classify import ClassifyPostprocessor
from pipeline.postprocess.detection import Decode, DetectionPostprocessor
from pipeline.postprocess.embedding import EmbeddingPostprocessor
from pipeline.postprocess.gfl import GflDecoder
from pipeline.postprocess.od_api import OdApiDecoder
from pipeline.postprocess.pose import PosePostprocessor
from pipeline.postprocess.raw import RawPostprocessor
from pipeline.postprocess.segment import SegmentPostprocessor
from pipeline.postprocess.ssd import SsdDecoder
from pipeline.postprocess.yolo import YoloDecoder
from pipeline.stages import Postprocessor, TensorInfo

if TYPE_CHECKING:
    from pipeline.plugins.host import Loaded

__all__ = ["build_postprocessor"]


def build_postprocessor(  # noqa: PLR0911 - one for each kind of family
    config: Postprocess,
    outputs: tuple[TensorInfo, ...],
    *,
    model_size: tuple[int, int],
    plugin: Loaded | None = None,
) -> Postprocessor:
    """The postprocessor that a configuration's `pipeline.postprocess` asks for.

    Args:
        config: The section of one family.
        outputs: The model's outputs.
        model_size: (width, height) of the model's input in pixels.
        plugin: What family `plugin` names, if it is loaded already.

    Raises:
        ModelError: the model lacks an output, or what is known of its shapes does not fit the family.
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """
    match config:
        case ClassifyPost():
            return ClassifyPostprocessor(config, outputs)
        case PosePost():
            return PosePostprocessor(config, outputs, model_size)
        case SegmentPost():
            return SegmentPostprocessor(config, outputs, model_size)
        case EmbeddingPost():
            return EmbeddingPostprocessor(config, outputs)
        case RawPost():
            return RawPostprocessor(config, outputs)
        case PluginPost():
            from pipeline.plugins.host import PluginHost
            from pipeline.plugins.postprocess import host_postprocessor

            return host_postprocessor(plugin or PluginHost().load(config, "pipeline.postprocess"))
        case _:
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
