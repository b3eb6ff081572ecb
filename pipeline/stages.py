"""The interfaces between the runtime and the stages. A stage knows neither the one before nor the one behind it.

Every stage has two engines behind its interface, `cpu` and `cuda`; the `cpu` one is the reference.
"""

from __future__ import annotations

import enum
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from pipeline.frames import Array, Frame, InputBatch, Predictions, ResultBatch
from pipeline.queues import QueueStats

# The input tensors that preprocessing on a device fills in turn: the model's, one that waits for it, one that is being filled.
DEVICE_INPUTS = 3


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


class DropCause(str, enum.Enum):
    """Why a frame that a source sent has no result; stable names for metrics, summaries and programs."""

    NON_KEY = "non_key"  # policy keyframes: not decoded
    BEHIND = "behind"  # not decoded, because the decoder lagged
    RATE = "rate"  # every and max_fps
    CORRUPT = "corrupt"  # decoded, damaged
    NO_PICTURE = "no_picture"  # the decoder made nothing of it
    SUPERSEDED = "superseded"  # a newer frame came before the model could take it
    STALE = "stale"  # too old when the model could take it
    CLOSED = "closed"  # under way when the stream was paused, removed or broken off
    FAILED = "failed"  # could not be preprocessed, or the user's own postprocessor failed on it


class Drops:
    """How many frames were dropped, by cause. Any thread may add."""

    __slots__ = ("_counts", "_lock")

    def __init__(self) -> None:
        self._counts: Counter[DropCause] = Counter()
        self._lock = threading.Lock()

    def add(self, cause: DropCause, count: int = 1) -> None:
        """Counts `count` more."""
        with self._lock:
            self._counts[cause] += count

    def __getitem__(self, cause: DropCause) -> int:
        return self._counts.get(cause, 0)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Drops) and self.by_cause() == other.by_cause()

    __hash__ = None  # type: ignore[assignment]  # it changes

    def __repr__(self) -> str:
        return f"Drops({', '.join(f'{cause.value}: {n}' for cause, n in self.by_cause().items())})"

    @property
    def total(self) -> int:
        """Of all causes."""
        with self._lock:
            return self._counts.total()

    def by_cause(self) -> dict[DropCause, int]:
        """The causes that there were, in the order of a frame's way."""
        with self._lock:
            return {cause: self._counts[cause] for cause in DropCause if self._counts.get(cause)}


@dataclass(slots=True)
class DecodeStats:
    """Counters of one open video; the decoder writes, anyone reads.

    Attributes:
        frames: Frames handed out.
        corrupt: Frames that the codec flagged as damaged (handed out or dropped by policy).
        dropped: Frames dropped because they were corrupt.
        uploaded: Frames that the CPU decoded for the `cuda` engine, which copied them to the device.
        errors: Packets that could not be read or decoded.
        last_error: The last of these in words.
        packets: Packets read: for most codecs one is a frame.
        packet_bytes: Their size, compressed.
        decoded: Frames that the codec gave.
        drops: Frames that the decoder left out, before or after decoding.
        last_packet_s: `time.monotonic()` when the last packet came.
        surfaces: Of the `cuda` engine: the pictures in device memory that are out of the decoder's hands.
    """

    frames: int = 0
    corrupt: int = 0
    dropped: int = 0
    uploaded: int = 0
    errors: int = 0
    last_error: str | None = None
    packets: int = 0
    packet_bytes: int = 0
    decoded: int = 0
    drops: Drops = field(default_factory=Drops)
    last_packet_s: float | None = field(default=None, compare=False)
    surfaces: QueueStats | None = field(default=None, compare=False)

    def __add__(self, later: DecodeStats) -> DecodeStats:
        """Those of two connections to one source, one after the other."""
        drops = Drops()
        for cause in DropCause:
            drops.add(cause, self.drops[cause] + later.drops[cause])
        return DecodeStats(
            packets=self.packets + later.packets,
            packet_bytes=self.packet_bytes + later.packet_bytes,
            decoded=self.decoded + later.decoded,
            frames=self.frames + later.frames,
            corrupt=self.corrupt + later.corrupt,
            dropped=self.dropped + later.dropped,
            uploaded=self.uploaded + later.uploaded,
            errors=self.errors + later.errors,
            last_error=later.last_error or self.last_error,
            drops=drops,
            last_packet_s=later.last_packet_s or self.last_packet_s,
            surfaces=later.surfaces or self.surfaces,
        )


class Decoder(Protocol):
    """One open video. Iterating yields every decodable frame once, in display order; errors are `SourceError`.

    Attributes:
        info: What is known of it.
        stats: Its counters.
        open_aside: What is entered around that part of its work which it does in a thread of its own, if any.
    """

    info: StreamInfo
    stats: DecodeStats
    open_aside: Callable[[], AbstractContextManager[object]]

    def __iter__(self) -> Iterator[Frame]: ...

    def groups(self) -> Iterator[Sequence[Frame]]:
        """The same frames, those that come out of the decoder together in one sequence, which is never empty."""

    def close(self) -> None:
        """Releases everything; may be called twice and from another thread than the one that iterates."""


class DeviceStream(Protocol):
    """A CUDA stream: what was enqueued on it first runs first. All stages share one; decoders may have their own."""

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


class Cropper(Protocol):
    """Crops of frames of any size and colour space -> the model's input tensor."""

    model_size: tuple[int, int]

    def __call__(self, frames: Sequence[Frame], regions: npt.NDArray[np.float64], rows: int) -> InputBatch:
        """A batch with `rows` rows; those behind the crops are zero.

        Args:
            frames: The frame of each of the C crops, one after another as they stand in the batch.
            regions: (C, 4) x1, y1, x2, y2 in display pixels, with an area inside the picture.
            rows: At least C.

        Returns:
            A batch with a crop where others have a frame: `transforms` lead from display pixels of the whole picture.
        """


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
