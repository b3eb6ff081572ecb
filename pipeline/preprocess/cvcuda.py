"""The `cuda` engine of preprocessing by CV-CUDA: its resize, padding and normalisation behind our conversion to RGB.

CV-CUDA has no conversion from BT.709 limited range, which most video is, so colours are the fused kernel's. Pixels are
rounded to 8 bits twice on the way (after the conversion, after the resize), hence results are within 2 of 255 of the
reference.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import groupby
from typing import Any

import numpy as np

from pipeline.config.sources import Roi
from pipeline.config.stages import Preprocess
from pipeline.errors import ConfigError, ConfigIssue, DeviceError
from pipeline.frames import Frame, InputBatch, Picture
from pipeline.preprocess.device_inputs import DeviceInputs
from pipeline.preprocess.device_plans import DevicePlan, DevicePlans, launch, surface_of
from pipeline.preprocess.geometry import Placement, place
from pipeline.preprocess.kernels import fused_kernel
from pipeline.preprocess.planner import Planner, transforms_of, window_of
from pipeline.preprocess.render import Kind, Plan, Values, plan
from pipeline.preprocess.roi import region_of
from pipeline.stages import DEVICE_INPUTS, DeviceStream

# RGB pictures of full size that are in memory at a time.
_FULL_SIZE_BYTES = 256 << 20


def _import_cvcuda() -> Any:
    try:
        return importlib.import_module("cvcuda")
    except (ImportError, RuntimeError, OSError) as e:  # also where its wheel is for another CUDA
        words = next(iter(str(e).splitlines()), type(e).__name__)
        raise DeviceError(
            f"pipeline.preprocess.engine: cvcuda cannot be used: {words}",
            remedy="pip install 'vramline[cuda12]', or engine: fused; vramline doctor shows more",
        ) from e


@dataclass(frozen=True, slots=True)
class _Step:
    """An operator: what a row of its output looks like, and the call: (destination, source)."""

    shape: tuple[int, int, int]
    dtype: str
    layout: str
    run: Callable[[Any, Any], object]


class CvCudaPreprocessor:
    """As `pipeline.preprocess.fused.FusedPreprocessor`, with CV-CUDA's operators; whole pictures only.

    Consecutive frames of one kind go through the operators together.
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
        """Arguments as those of `FusedPreprocessor`.

        Raises:
            ConfigError: a region of interest, `fit: crop` or `scale: 0`: this engine cannot do that.
            DeviceError: CV-CUDA is not installed, or cannot be used.
        """
        import cupy

        cvcuda = _import_cvcuda()
        self._planner = planner = Planner(preprocess, rois)
        reasons = {"a region of interest": bool(rois), "fit: crop": preprocess.fit == "crop"}
        reasons["scale: 0"] = not np.all(preprocess.scale)
        for reason, found in reasons.items():
            if found:
                issue = ConfigIssue(
                    f"cvcuda cannot do {reason}", "pipeline.preprocess.engine", hint="use engine: fused"
                )
                raise ConfigError([issue])
        self._cupy, self._cvcuda, self._stream = cupy, cvcuda, stream
        self.model_size = planner.model_size
        self._kernel = fused_kernel(stream.ordinal, "uint8", True, planner.channels)
        self._full_size = Values.of(Preprocess(dtype="uint8", channels=preprocess.channels))
        self._plans = DevicePlans(stream, self._full_size_plan)
        self._cv_stream = cvcuda.as_stream(stream.handle)
        self._wrap = lru_cache(maxsize=1024)(self._wrap_memory)
        self._placement = lru_cache(maxsize=1024)(self._place)
        self._steps = lru_cache(maxsize=256)(self._steps_for)
        self._inputs = DeviceInputs(stream, planner, max_rows=max_rows, number=kept)

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """Enqueues the batch; see `pipeline.stages.Preprocessor`. Its tensor is a CuPy array in C order."""
        self._inputs.check(len(frames), rows)
        placements = [self._placement(frame.picture.width, frame.picture.height) for frame in frames]
        with self._stream.cupy:
            tensor = self._inputs.next(rows)
            first = 0
            work = ((surface_of(f).pointer, self._plans.of(f), p) for f, p in zip(frames, placements, strict=True))
            for (full_size, placement), run in groupby(work, key=lambda one: (one[1].placement, one[2])):
                members = [(pointer, device_plan) for pointer, device_plan, _ in run]
                room = max(1, _FULL_SIZE_BYTES // (full_size.width * full_size.height * self._planner.channels))
                for start in range(0, len(members), room):
                    part = members[start : start + room]
                    self._fill(tensor[first : first + len(part)], part, full_size, placement)
                    first += len(part)
            if first < rows:
                tensor[first:] = 0
        windows = tuple(map(window_of, placements))
        return InputBatch(tuple(frames), tensor, transforms_of(placements), self.model_size, windows)

    def _fill(
        self, out: Any, members: list[tuple[int, DevicePlan]], full_size: Placement, placement: Placement
    ) -> None:
        """Some rows of the tensor. What is allocated here may go at once: CuPy's pool keeps to the stream's order."""
        size, channels = (full_size.width, full_size.height), self._planner.channels
        source = self._cupy.empty((len(members), *size[::-1], channels), "uint8")
        launch(self._kernel, source, size, [m[0] for m in members], [m[1].address for m in members])
        source_layout = "NHWC"
        steps = self._steps(placement)
        for step in steps:
            ours = step is steps[-1] and step.dtype == self._planner.dtype
            target = out if ours else self._cupy.empty((len(members), *step.shape), step.dtype)
            step.run(self._tensor(target, step.layout), self._tensor(source, source_layout))
            source, source_layout = target, step.layout
        if source is not out:
            # CV-CUDA's operators know no float16.
            out[...] = source

    def _steps_for(self, placement: Placement) -> list[_Step]:
        cvcuda, planner, stream = self._cvcuda, self._planner, self._cv_stream
        preprocess, channels = planner.preprocess, planner.channels
        interpolation = getattr(
            cvcuda.Interp, {"bilinear": "LINEAR"}.get(preprocess.interpolation, preprocess.interpolation.upper())
        )
        width, height = self.model_size
        shape = height, width, channels
        picture = placement.height, placement.width, channels
        steps = [_Step(picture, "uint8", "NHWC", lambda d, s: cvcuda.resize_into(d, s, interpolation, stream=stream))]
        if picture != shape:
            constant, pixel, top, left = cvcuda.Border.CONSTANT, self._border(), placement.top, placement.left

            def pad(to: Any, source: Any) -> None:
                cvcuda.copymakeborder_into(to, source, constant, pixel, top=top, left=left, stream=stream)

            steps.append(_Step(shape, "uint8", "NHWC", pad))
        if planner.dtype != "uint8":
            steps += self._number_steps(shape)
        if not planner.channels_last:
            last = channels, height, width
            dtype = steps[-1].dtype
            steps.append(_Step(last, dtype, "NCHW", lambda d, s: cvcuda.reformat_into(d, s, stream=stream)))
        return steps

    def _number_steps(self, shape: tuple[int, int, int]) -> list[_Step]:
        """(pixel * scale - mean) / std."""
        cvcuda, stream, preprocess = self._cvcuda, self._cv_stream, self._planner.preprocess
        given = (np.broadcast_to(v, 3) for v in (preprocess.scale, preprocess.mean, preprocess.std))
        scale, mean, std = (np.asarray(v, np.float64) for v in given)
        gain, bias, base = scale / std, -mean / std, mean / scale
        alike = bool((gain == gain[0]).all() and (bias == bias[0]).all())
        one_gain, one_bias = (float(gain[0]), float(bias[0])) if alike else (1.0, 0.0)

        def convert(to: Any, source: Any) -> None:
            cvcuda.convertto_into(to, source, one_gain, one_bias, stream=stream)

        def normalize(to: Any, source: Any) -> None:
            cvcuda.normalize_into(to, source, base.tolist(), gain.tolist(), stream=stream)

        steps = [_Step(shape, "float32", "NHWC", convert)]
        return steps if alike else [*steps, _Step(shape, "float32", "NHWC", normalize)]

    def _border(self) -> list[float]:
        """The padding's pixel."""
        values = self._full_size
        pad = np.array(Values.of(self._planner.preprocess).pad)
        if self._planner.channels == 1:
            return [float(np.floor((pad * values.gain).sum() + 0.5))]
        return [float(v) for v in pad]

    def _full_size_plan(self, picture: Picture, source_id: str) -> Plan:
        """Upright, every sample a pixel: the sample aspect ratio is left to the resize."""
        size = picture.coded_size
        if picture.rotation in (90, 270):
            size = size[::-1]
        whole = place(region_of(None, size, source_id), size, "stretch")
        kind = Kind.of(replace(picture, width=size[0], height=size[1]))
        return plan(kind, whole, "bilinear", self._full_size)

    def _place(self, width: int, height: int) -> Placement:
        return place(region_of(None, (width, height), ""), self.model_size, self._planner.preprocess.fit)

    def _tensor(self, array: Any, layout: str) -> Any:
        return self._wrap(array.data.ptr, array.shape, array.dtype.str, layout)

    def _wrap_memory(self, pointer: int, shape: tuple[int, ...], kind: str, layout: str) -> Any:
        return self._cvcuda.as_tensor(_Memory(pointer, shape, kind), layout)


class _Memory:
    """Device memory as CV-CUDA takes it. Stream -1 says that nobody has to wait: with any other it synchronises."""

    def __init__(self, pointer: int, shape: tuple[int, ...], kind: str) -> None:
        self.__cuda_array_interface__ = {
            "version": 3,
            "shape": shape,
            "typestr": kind,
            "data": (pointer, False),
            "strides": None,
            "stream": -1,
        }
