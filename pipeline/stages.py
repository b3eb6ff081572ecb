"""The interfaces between the runtime and the stages. A stage knows neither the one before nor the one behind it.

Every stage has two engines behind its interface, `cpu` and `cuda`; the `cpu` one is the reference.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, Frame, InputBatch, Predictions, ResultBatch


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """What is known of a video stream once it is open.

    Attributes:
        codec: FFmpeg's name of the codec, such as `h264`.
        width: Display width in pixels (see `pipeline.frames`).
        height: Display height in pixels.
        frame_rate: Average rate in frames/s; None if unknown.
        frame_count: What the container declares; None if it declares nothing. An estimate, for progress only.
        duration_s: None if unknown (live).
    """

    codec: str
    width: int
    height: int
    frame_rate: Fraction | None
    frame_count: int | None
    duration_s: float | None


@dataclass(slots=True)
class DecodeStats:
    """Counters of one source; the decoder writes, anyone reads.

    Attributes:
        frames: Frames handed out.
        corrupt: Frames that the codec flagged as damaged (handed out or dropped by policy).
        dropped: Frames dropped because they were corrupt.
        uploaded: Frames that the CPU decoded for the `cuda` engine, which copied them to the device.
        errors: Packets that could not be read or decoded.
        last_error: The last of these in words.
    """

    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    uploaded: int = 0
    errors: int = 0
    last_error: str | None = None


class Decoder(Protocol):
    """One open video. Iterating yields every decodable frame once, in display order; errors are `SourceError`."""

    info: StreamInfo
    stats: DecodeStats

    def __iter__(self) -> Iterator[Frame]: ...

    def close(self) -> None:
        """Releases everything; may be called twice and from another thread than the one that iterates."""


class DeviceStream(Protocol):
    """The one CUDA stream of a device that all stages put their work on: what was enqueued first runs first."""

    @property
    def handle(self) -> int:
        """The CUstream."""

    @property
    def cupy(self) -> Any:
        """CuPy's stream object around it; used as a context it makes the stream CuPy's current one."""

    @property
    def ordinal(self) -> int:
        """The device's number."""


class Preprocessor(Protocol):
    """Frames of any size and colour space -> the model's input tensor."""

    model_size: tuple[int, int]

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        """A batch with `rows >= len(frames)` rows; rows behind the frames are zero."""


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One input or output of a model. `shape` holds None for free dimensions; dtype is NumPy's name."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


class Model(Protocol):
    """A loaded, warmed-up model.

    Attributes:
        name: `name@hash`: what results are stamped with.
        input: The image input.
        outputs: By name, in the model's order.
        batch_size: How many rows a call takes at most.
    """

    name: str
    input: TensorInfo
    outputs: tuple[TensorInfo, ...]
    batch_size: int

    def rows(self, frames: int) -> int:
        """How many rows the tensor for this many frames must have, so that nothing is traced anew."""

    def __call__(self, tensor: Array) -> Mapping[str, Array]:
        """Output name -> array with as many rows as `tensor`."""

    def close(self) -> None:
        """Releases the model."""


class PendingPredictions(Protocol):
    """Results that the device is still working on."""

    def result(self) -> Predictions:
        """Waits for them: the one place where the host waits for the device."""


class Postprocessor(Protocol):
    """A model's outputs -> results in display coordinates."""

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions | PendingPredictions:
        """Rows of `outputs` behind `len(batch.frames)` are padding and ignored. The `cuda` engine returns at once."""


@dataclass(frozen=True, slots=True)
class SinkSource:
    """What a sink is told of a source before its first frame."""

    source_id: str
    info: StreamInfo


class Sink(Protocol):
    """Where results go. All calls come from one thread; errors are `SinkError`.

    Attributes:
        needs_pixels: Whether it draws on the frames.
        completed: The outputs that are complete and have their names, so far.
    """

    needs_pixels: bool
    completed: list[Path]

    def open(self) -> None:
        """Checks that the output can be written, before the first frame is decoded."""

    def source_started(self, source: SinkSource) -> None:
        """Before the first frame of a source."""

    def write(self, batch: ResultBatch) -> None:
        """Takes the results of a batch; frames of a source come in display order."""

    def source_finished(self, source_id: str) -> None:
        """After the last frame of a source, also of one that failed."""

    def close(self) -> list[Path]:
        """Completes the outputs that are not yet, and gives them their names; returns all that are complete."""

    def abort(self) -> list[Path]:
        """Keeps what was written, under the temporary names; returns where. May be called after a failed `close`."""


def empty_tensor(shape: tuple[int, ...], dtype: str, alignment: int = 64) -> npt.NDArray[np.generic]:
    """A zeroed C-order array whose address is a multiple of `alignment` bytes, as TensorFlow's zero-copy import needs."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape)) * kind.itemsize
    raw = np.zeros(size + alignment, np.uint8)
    start = -raw.ctypes.data % alignment
    return raw[start : start + size].view(kind).reshape(shape)
