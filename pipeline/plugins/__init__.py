"""Your own sinks, stages and postprocessing: `docs/plugins.md`. This module is what plug-ins may import."""

from __future__ import annotations

from pipeline.crops import Crops
from pipeline.frames import Array, Detections, Found, Frame, InputBatch, Predictions, Result, ResultBatch
from pipeline.plugins.helpers import detections_of
from pipeline.plugins.interface import (
    Closes,
    HearsEnds,
    HearsStarts,
    Opens,
    PostprocessPlugin,
    SinkPlugin,
    StagePlugin,
    UsesStream,
)
from pipeline.stages import DeviceStream, PendingPredictions, SinkSource, StreamInfo

__all__ = [
    "Array",
    "Closes",
    "Crops",
    "Detections",
    "DeviceStream",
    "Found",
    "Frame",
    "HearsEnds",
    "HearsStarts",
    "InputBatch",
    "Opens",
    "PendingPredictions",
    "PostprocessPlugin",
    "Predictions",
    "Result",
    "ResultBatch",
    "SinkPlugin",
    "SinkSource",
    "StagePlugin",
    "StreamInfo",
    "UsesStream",
    "detections_of",
]
