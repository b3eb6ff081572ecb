"""Plans in device memory, one per kind of picture, and the launch of the kernel that reads them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np

from pipeline.config.sources import Roi
from pipeline.frames import Frame, Picture, Surface, SurfaceLayout, Window
from pipeline.preprocess.geometry import Placement
from pipeline.preprocess.packing import BATCH, BLOCK, MAX_ROWS, TILE, pack
from pipeline.preprocess.planner import window_of
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
        window: What of the model's input is no padding.
    """

    memory: Any
    address: int
    placement: Placement
    window: Window


class DevicePlans:
    """Makes and uploads a plan when a new kind of picture appears; to be used with the stream current, from one thread."""

    def __init__(
        self, stream: DeviceStream, make: Callable[[Picture, str], Plan], rois: Mapping[str, Roi] | None = None
    ) -> None:
        """Args:
        stream: Where uploads are enqueued.
        make: The plan for a source's picture; the same object for the same kind of picture, where it remembers it.
        rois: Region of interest by source id; may change.
        """
        self._make = make
        self._rois = rois if rois is not None else {}
        self._seen: OrderedDict[str, tuple[tuple[object, ...], DevicePlan]] = OrderedDict()
        self._on_device = lru_cache(maxsize=_KEPT)(partial(_to_device, Uploader(stream)))

    def of(self, frame: Frame) -> DevicePlan:
        """The plan for a frame; what `make` raises."""
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
            self._rois.get(source_id),
        )
        seen = self._seen.get(source_id)
        # The frames of a stream share their layout and colour: as a rule this compares addresses.
        if seen is not None and seen[0] == look:
            return seen[1]
        # Sources whose pictures look alike and are placed alike share a plan.
        found = self._on_device(self._make(picture, source_id), layout)
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


def _to_device(uploader: Uploader, plan: Plan, layout: SurfaceLayout) -> DevicePlan:
    memory = uploader.upload(pack(plan, layout))
    return DevicePlan(memory, memory.ptr, plan.placement, window_of(plan.placement, plan.hidden))


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
