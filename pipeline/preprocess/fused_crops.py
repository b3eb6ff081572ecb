"""The `cuda` engine of cutting crops: one kernel launch for all of them, whatever frames and sources they come from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.config.stages import Preprocess
from pipeline.frames import Frame, InputBatch, SurfaceLayout
from pipeline.preprocess.crop_plans import pack_crops
from pipeline.preprocess.crops import place_all
from pipeline.preprocess.device_inputs import DeviceInputs
from pipeline.preprocess.device_plans import launch, surface_of
from pipeline.preprocess.kernels import fused_kernel
from pipeline.preprocess.planner import Planner
from pipeline.preprocess.render import Kind
from pipeline.preprocess.upload import Uploader
from pipeline.stages import DeviceStream

# Room for the plans of some thousand crops of 224 x 224 pixels: with less, a crowd would make the host wait for the device.
_STAGING_BYTES = 16 << 20


class FusedCropper:
    """See `pipeline.stages.Cropper`: surfaces in device memory -> the model's input in device memory, as the reference does it.

    The kernel and what holds of tensors are those of `pipeline.preprocess.fused.FusedPreprocessor`. Surfaces may be let go of
    as soon as the call returns. Calls come from one thread.
    """

    def __init__(self, preprocess: Preprocess, *, stream: DeviceStream, max_rows: int, kept: int = 2) -> None:
        """Args:
            preprocess: With `size`, `layout` and `dtype` set.
            stream: Where all work is put.
            max_rows: Most crops of a call.
            kept: How many input tensors take turns.

        Raises:
            ConfigError: uint8 input, for which pixels stay as they are, with a scale, mean or std.
        """
        self._planner = planner = Planner(preprocess)
        self.model_size = planner.model_size
        self._stream = stream
        self._kernel = fused_kernel(stream.ordinal, planner.dtype, planner.channels_last, planner.channels)
        self._inputs = DeviceInputs(stream, planner, max_rows=max_rows, number=kept)
        self._uploader = Uploader(stream, _STAGING_BYTES)

    def __call__(self, frames: Sequence[Frame], regions: npt.NDArray[np.float64], rows: int) -> InputBatch:
        """Enqueues the batch; see `pipeline.stages.Cropper`. Its tensor is a CuPy array in C order."""
        self._inputs.check(len(frames), rows)
        planner = self._planner
        placements = place_all(regions, self.model_size, planner.preprocess.fit)
        addresses = np.zeros(len(frames), np.uint64)
        with self._stream.cupy:
            memory: list[Any] = []  # until the launch that reads it has been enqueued
            for (kind, layout), members in _kinds(frames).items():
                chosen = np.array(members, np.intp)
                plans = pack_crops(
                    kind,
                    layout,
                    placements,
                    chosen,
                    model_size=self.model_size,
                    interpolation=planner.preprocess.interpolation,
                    values=planner.values,
                )
                memory.append(self._uploader.upload(plans.ravel()))
                addresses[chosen] = memory[-1].ptr + np.arange(len(chosen)) * plans.shape[1]
            tensor = self._inputs.next(rows)
            surfaces = [surface_of(frame).pointer for frame in frames]
            launch(self._kernel, tensor, self.model_size, surfaces, addresses.tolist())
        return InputBatch(tuple(frames), tensor, placements.transforms, self.model_size, placements.windows)


def _kinds(frames: Sequence[Frame]) -> dict[tuple[Kind, SurfaceLayout], list[int]]:
    """Which of the crops are cut from pictures of one kind; crops of a frame stand together."""
    found: dict[tuple[Kind, SurfaceLayout], list[int]] = {}
    last: tuple[Frame, list[int]] | None = None
    for i, frame in enumerate(frames):
        if last is None or last[0] is not frame:
            last = frame, found.setdefault((Kind.of(frame.picture), surface_of(frame).layout), [])
        last[1].append(i)
    return found
