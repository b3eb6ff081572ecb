"""The `cpu` engine of preprocessing, in NumPy: what every other engine is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.config.models import Preprocess, Roi
from pipeline.errors import ConfigError, ConfigIssue
from pipeline.frames import Frame, InputBatch, Picture
from pipeline.preprocess.buffers import TensorPool
from pipeline.preprocess.geometry import place
from pipeline.preprocess.render import Kind, Plan, Values, plan, render
from pipeline.preprocess.roi import empty_region, region_of


class ReferencePreprocessor:
    """Frames of any size and colour space -> the model's input tensor.

    A batch's tensor is not written to again for as long as anything refers to it (see `buffers`). Calls from several
    threads are safe.
    """

    def __init__(self, preprocess: Preprocess, rois: Mapping[str, Roi] | None = None) -> None:
        """Args:
            preprocess: With `size`, `layout` and `dtype` set.
            rois: Region of interest by source id, for the sources that have one.

        Raises:
            ConfigError: uint8 input, for which pixels stay as they are, with a scale, mean or std.
        """
        if preprocess.size is None or preprocess.layout is None or preprocess.dtype is None:
            raise ValueError(f"size, layout and dtype are not all known: {preprocess!r}")
        self.model_size: tuple[int, int] = preprocess.size
        self._preprocess = preprocess
        self._dtype: str = preprocess.dtype
        self._rois = dict(rois or {})
        self._values = Values.of(preprocess)
        self._tensors = TensorPool()
        if self._dtype == "uint8" and (self._values.gain, self._values.bias) != (Values().gain, Values().bias):
            message = "the model takes uint8, pixels as they are: leave out scale, mean and std"
            raise ConfigError([ConfigIssue(message, field="pipeline.preprocess")])

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """The batch of these frames; see `pipeline.stages.Preprocessor`.

        Raises:
            SourceError: a source's region of interest holds no pixel of its picture.
        """
        width, height = self.model_size
        channels_last = self._preprocess.layout == "nhwc"
        shape = (rows, height, width, 3) if channels_last else (rows, 3, height, width)
        tensor = self._tensors.take(shape, self._dtype)
        tensor[len(frames) :] = 0
        plans = [self._plan(frame) for frame in frames]
        for row, frame, frame_plan in zip(tensor[: len(frames)], frames, plans, strict=True):
            render(frame_plan, frame.picture.planes, row if channels_last else np.moveaxis(row, 0, -1))
        transforms = np.array([p.placement.transform for p in plans], np.float64).reshape(-1, 4)
        return InputBatch(tuple(frames), tensor, transforms, self.model_size)

    def _plan(self, frame: Frame) -> Plan:
        picture, source_id = frame.picture, frame.source_id
        display_size = picture.width, picture.height
        region = region_of(self._rois.get(source_id), display_size, source_id)
        placement = place(region, self.model_size, self._preprocess.fit)
        found = plan(Kind.of(picture), placement, self._preprocess.interpolation, self._values, region.polygon)
        if found.hidden is not None and found.hidden.all():
            raise empty_region(display_size, source_id)
        return found


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
