"""Crops of frames -> the model's input: the `cpu` engine, and where many crops at once come to lie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.stages import Preprocess
from pipeline.frames import Frame, InputBatch, Window
from pipeline.preprocess.buffers import TensorPool
from pipeline.preprocess.geometry import Fit, place
from pipeline.preprocess.planner import Planner, transforms_of, window_of
from pipeline.preprocess.render import Kind, plan_once, render
from pipeline.preprocess.resample import Axis
from pipeline.preprocess.roi import Region

Floats = npt.NDArray[np.float64]


class ReferenceCropper:
    """See `pipeline.stages.Cropper`; what every other engine is compared with. Arguments and errors are those of `Planner`."""

    def __init__(self, preprocess: Preprocess) -> None:
        self._planner = Planner(preprocess)
        self.model_size = self._planner.model_size
        self._tensors = TensorPool()

    def __call__(self, frames: Sequence[Frame], regions: Floats, rows: int) -> InputBatch:
        """The batch of these crops; see `pipeline.stages.Cropper`."""
        planner = self._planner
        tensor = self._tensors.take(planner.shape(rows), planner.dtype)
        tensor[len(frames) :] = 0
        fit, interpolation = planner.preprocess.fit, planner.preprocess.interpolation
        placements = [place(_region(corners), self.model_size, fit) for corners in regions.tolist()]
        for row, frame, placement in zip(tensor[: len(frames)], frames, placements, strict=True):
            crop = plan_once(Kind.of(frame.picture), placement, interpolation, planner.values)
            render(crop, frame.picture.planes, row if planner.channels_last else np.moveaxis(row, 0, -1))
        windows = tuple(map(window_of, placements))
        return InputBatch(tuple(frames), tensor, transforms_of(placements), self.model_size, windows)


@dataclass(frozen=True, slots=True, eq=False)
class Placements:
    """`pipeline.preprocess.geometry.Placement` of C crops; every field is a (C,) array."""

    scale_x: Floats
    scale_y: Floats
    offset_x: Floats
    offset_y: Floats
    left: Any
    top: Any
    width: Any
    height: Any

    @property
    def transforms(self) -> Floats:
        """(C, 4) as `InputBatch.transforms`."""
        return np.stack([self.scale_x, self.scale_y, self.offset_x, self.offset_y], axis=1)

    @property
    def windows(self) -> tuple[Window, ...]:
        """As `InputBatch.windows`."""
        columns = (values.tolist() for values in (self.left, self.top, self.width, self.height))
        return tuple(Window(*sides) for sides in zip(*columns, strict=True))

    def some(self, chosen: npt.NDArray[np.intp]) -> PlacedCrops:
        """What is needed to sample some of the crops."""
        scale_x, scale_y, offset_x, offset_y = (v[chosen, None] for v in self.transforms.T)
        left, top = self.left[chosen, None], self.top[chosen, None]
        x = Axis(1 / scale_x, (left - offset_x) / scale_x)
        return PlacedCrops(x, Axis(1 / scale_y, (top - offset_y) / scale_y))


@dataclass(frozen=True, slots=True, eq=False)
class PlacedCrops:
    """`pipeline.preprocess.render.Placed` of C crops: axes whose numbers are (C, 1) arrays."""

    columns: Axis
    rows: Axis


def place_all(regions: Floats, model_size: tuple[int, int], fit: Fit) -> Placements:
    """Fits many regions into the model's input: what `place` says of each.

    Args:
        regions: (C, 4) x1, y1, x2, y2 in display pixels.
        model_size: (width, height) of the model's input.
        fit: As for `place`.
    """
    x, y = regions[:, 0], regions[:, 1]
    region_width, region_height = regions[:, 2] - x, regions[:, 3] - y
    model_width, model_height = model_size
    width, height = np.full(len(regions), model_width), np.full(len(regions), model_height)
    ratio_x, ratio_y = model_width / region_width, model_height / region_height
    if fit == "crop":
        ratio = np.maximum(ratio_x, ratio_y)
        offset_x = model_width / 2 - (x + region_width / 2) * ratio
        offset_y = model_height / 2 - (y + region_height / 2) * ratio
        none = np.zeros(len(regions), np.int64)
        return Placements(ratio, ratio, offset_x, offset_y, none, none, width, height)
    if fit == "letterbox":
        ratio = np.minimum(ratio_x, ratio_y)
        width = np.minimum(width, np.maximum(1, np.rint(region_width * ratio).astype(np.int64)))
        height = np.minimum(height, np.maximum(1, np.rint(region_height * ratio).astype(np.int64)))
    left, top = (model_width - width) // 2, (model_height - height) // 2
    scale_x, scale_y = width / region_width, height / region_height
    return Placements(scale_x, scale_y, left - x * scale_x, top - y * scale_y, left, top, width, height)


def _region(corners: list[float]) -> Region:
    x1, y1, x2, y2 = corners
    return Region(x1, y1, x2 - x1, y2 - y1)
