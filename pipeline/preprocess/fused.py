"""The `cuda` engine of preprocessing: one kernel launch per batch, over frames of any sizes, colours and orientations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.frames import Frame, InputBatch
from pipeline.preprocess.device_inputs import DeviceInputs
from pipeline.preprocess.device_plans import DevicePlans, launch, surface_of
from pipeline.preprocess.kernels import fused_kernel
from pipeline.preprocess.planner import Planner, transforms_of
from pipeline.stages import DEVICE_INPUTS, DeviceStream


class FusedPreprocessor:
    """Frames in device memory -> the model's input in device memory; the arithmetic is the reference's.

    Nothing here makes the host wait for the device. The input tensors take turns (`kept` of them; see `DeviceInputs`): three
    are enough for a thread that enqueues the model while this one goes on, with one batch between them. Plans and surfaces
    are safe for the same reason: they may be let go of as soon as the call returns. Calls come from one thread.
    """

    def __init__(
        self,
        preprocess: Preprocess,
        rois: Mapping[str, Roi] | None = None,
        *,
        stream: DeviceStream,
        max_rows: int,
        kept: int = DEVICE_INPUTS,
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
        self._planner = planner = Planner(preprocess, rois)
        self.model_size = planner.model_size
        self._stream = stream
        self._kernel = fused_kernel(stream.ordinal, planner.dtype, planner.channels_last, planner.channels)
        self._inputs = DeviceInputs(stream, planner, max_rows=max_rows, number=kept)
        self._plans = DevicePlans(stream, planner.plan, rois)

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """Enqueues the batch; see `pipeline.stages.Preprocessor`. Its tensor is a CuPy array in C order.

        Raises:
            SourceError: a source's region of interest holds no pixel of its picture; nothing is enqueued.
        """
        self._inputs.check(len(frames), rows)
        with self._stream.cupy:
            plans = [self._plans.of(frame) for frame in frames]
            tensor = self._inputs.next(rows)
            surfaces = [surface_of(frame).pointer for frame in frames]
            launch(self._kernel, tensor, self.model_size, surfaces, [plan.address for plan in plans])
        transforms = transforms_of([plan.placement for plan in plans])
        return InputBatch(tuple(frames), tensor, transforms, self.model_size, tuple(plan.window for plan in plans))
