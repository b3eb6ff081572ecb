"""The `cpu` engine of preprocessing, in NumPy: what every other engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Frame, InputBatch, Picture
from pipeline.preprocess.buffers import TensorPool
from pipeline.preprocess.geometry import place
from pipeline.preprocess.planner import Planner, transforms_of, window_of
from pipeline.preprocess.render import Kind, Values, plan, render
from pipeline.preprocess.roi import region_of


class ReferencePreprocessor:
    """Frames of any size and colour space -> the model's input tensor.

    A batch's tensor is not written to again for as long as anything refers to it (see `buffers`). Calls from several
    threads are safe.
    """

    def __init__(self, preprocess: Preprocess, rois: Mapping[str, Roi] | None = None) -> None:
        """Arguments and errors are those of `pipeline.preprocess.planner.Planner`."""
        self._planner = Planner(preprocess, rois)
        self.model_size = self._planner.model_size
        self._tensors = TensorPool()

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """The batch of these frames; see `pipeline.stages.Preprocessor`.

        Raises:
            SourceError: a source's region of interest holds no pixel of its picture.
        """
        planner = self._planner
        tensor = self._tensors.take(planner.shape(rows), planner.dtype)
        tensor[len(frames) :] = 0
        plans = [planner.plan(frame.picture, frame.source_id) for frame in frames]
        for row, frame, frame_plan in zip(tensor[: len(frames)], frames, plans, strict=True):
            render(frame_plan, frame.picture.planes, row if planner.channels_last else np.moveaxis(row, 0, -1))
        windows = tuple(window_of(p.placement, p.hidden) for p in plans)
        return InputBatch(tuple(frames), tensor, transforms_of([p.placement for p in plans]), self.model_size, windows)


def to_rgb(picture: Picture) -> npt.NDArray[np.uint8]:
    """The picture as a person sees it.

    Returns:
        (height, width, 3) uint8, R, G, B: upright and with square pixels, sampled bilinearly.
    """
    size = picture.width, picture.height
    whole = place(region_of(None, size, ""), size, "stretch")
    rgb = np.empty((picture.height, picture.width, 3), np.uint8)
    render(plan(Kind.of(picture), whole, "bilinear", Values()), picture.planes, rgb)
    return rgb
