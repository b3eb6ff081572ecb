"""The `cuda` engine of preprocessing: one kernel launch per batch, over frames of any sizes, colours and orientations."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pipeline.config.models import Preprocess, Roi
from pipeline.frames import Frame, InputBatch, Surface, SurfaceLayout
from pipeline.preprocess.geometry import Placement
from pipeline.preprocess.kernels import fused_kernel
from pipeline.preprocess.packing import BATCH, BLOCK, MAX_ROWS, TILE, pack
from pipeline.preprocess.planner import Planner, transforms_of
from pipeline.preprocess.render import Plan
from pipeline.preprocess.upload import Uploader
from pipeline.stages import DeviceStream

# How many sources, and how many plans, are remembered; what is forgotten is worked out and uploaded again.
_KEPT = 512


@dataclass(frozen=True, slots=True, eq=False)
class DevicePlan:
    """A plan in device memory.

    Attributes:
        memory: Owns it.
        address: Where it starts.
        placement: Where the picture comes to lie.
    """

    memory: Any
    address: int
    placement: Placement


class FusedPreprocessor:
    """Frames in device memory -> the model's input in device memory; the arithmetic is the reference's.

    Nothing here makes the host wait for the device. The input tensors take turns (`kept` of them): a tensor is written to
    again `kept` batches later. Since all that reads it has been enqueued on the same stream by then, reading it before is
    safe by order, and whoever wants to keep one copies it on the stream. Plans and surfaces are safe for the same reason:
    they may be let go of as soon as the call returns. Calls come from one thread.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        rois: Mapping[str, Roi] | None = None,
        *,
        stream: DeviceStream,
        max_rows: int,
        kept: int = 2,
    ) -> None:
        """Args:
            preprocess: With `size`, `layout` and `dtype` set.
            rois: Region of interest by source id, for the sources that have one.
            stream: Where all work is put.
            max_rows: Most rows of a batch.
            kept: How many input tensors take turns.

        Raises:
            ConfigError: uint8 input, for which pixels stay as they are, with a scale, mean or std.
        """
        import cupy

        self._planner = planner = Planner(preprocess, rois)
        self.model_size = planner.model_size
        self._stream = stream
        self._kernel = fused_kernel(stream.ordinal, planner.dtype, planner.channels_last, planner.channels)
        with stream.cupy:
            self._tensors = [cupy.empty(planner.shape(max_rows), planner.dtype) for _ in range(max(kept, 1))]
        self._max_rows = max_rows
        self._seen: OrderedDict[str, tuple[tuple[object, ...], DevicePlan]] = OrderedDict()
        self._on_device = lru_cache(maxsize=_KEPT)(partial(to_device, Uploader(stream)))

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """Enqueues the batch; see `pipeline.stages.Preprocessor`. Its tensor is a CuPy array in C order.

        Raises:
            SourceError: a source's region of interest holds no pixel of its picture; nothing is enqueued.
        """
        if not len(frames) <= rows <= self._max_rows:
            raise ValueError(f"{len(frames)} frames in {rows} rows; there is room for {self._max_rows}")
        with self._stream.cupy:
            plans = [self._plan(frame) for frame in frames]
            self._tensors.append(self._tensors.pop(0))
            tensor = self._tensors[-1][:rows]
            surfaces = [surface_of(frame).pointer for frame in frames]
            launch(self._kernel, tensor, self.model_size, surfaces, [plan.address for plan in plans])
        transforms = transforms_of([plan.placement for plan in plans])
        return InputBatch(tuple(frames), tensor, transforms, self.model_size)

    def _plan(self, frame: Frame) -> DevicePlan:
        picture, source_id = frame.picture, frame.source_id
        layout = surface_of(frame).layout
        look = (
            layout,
            picture.colour,
            picture.chroma_shift,
            picture.width,
            picture.height,
            picture.rotation,
            picture.mirror,
        )
        seen = self._seen.get(source_id)
        # The frames of a stream share their layout and colour: as a rule this compares addresses.
        if seen is not None and seen[0] == look:
            return seen[1]
        # Sources whose pictures look alike and are placed alike share a plan.
        found = self._on_device(self._planner.plan(picture, source_id), layout)
        self._seen[source_id] = look, found
        if len(self._seen) > _KEPT:
            self._seen.popitem(last=False)
        return found


def surface_of(frame: Frame) -> Surface:
    """Where the frame's samples lie in device memory."""
    surface = frame.picture.surface
    if surface is None:
        raise ValueError(f"{frame.source_id}: frame {frame.index} is not in device memory")
    return surface


def to_device(uploader: Uploader, plan: Plan, layout: SurfaceLayout) -> DevicePlan:
    """Uploads a plan for surfaces that are laid out like this."""
    memory = uploader.upload(pack(plan, layout))
    return DevicePlan(memory, memory.ptr, plan.placement)


def launch(kernel: Any, tensor: Any, size: tuple[int, int], surfaces: Sequence[int], plans: Sequence[int]) -> None:
    """Enqueues the kernel on the current stream: once, or, for very large batches, once per `MAX_ROWS` rows.

    Args:
        kernel: From `fused_kernel`, for tensors like this one.
        tensor: (rows, H, W, C) or (rows, C, H, W), C order; rows behind the plans become zeros.
        size: W, H.
        surfaces: Address of the first sample of every frame.
        plans: Address of every frame's plan.
    """
    width, height = size
    for first in range(0, len(tensor), MAX_ROWS):
        part = tensor[first : first + MAX_ROWS]
        batch = np.zeros(1, BATCH)
        batch["output"], batch["width"], batch["height"] = part.data.ptr, width, height
        count = len(plans[first : first + MAX_ROWS])
        batch["rows"]["surface"][0, :count] = surfaces[first : first + MAX_ROWS]
        batch["rows"]["plan"][0, :count] = plans[first : first + MAX_ROWS]
        kernel((-(-width // TILE[0]), -(-height // TILE[1]), len(part)), BLOCK, (batch,))
