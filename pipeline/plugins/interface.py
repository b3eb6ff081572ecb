"""What a plug-in looks like: one method that it must have for its kind, and some that it may have.

Nothing has to be derived from these protocols; they are what type checkers and the loader go by. A plug-in's calls never
overlap. Results and their arrays belong to everyone behind it: they are not to be changed in place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from pipeline.frames import Array, InputBatch, Predictions, ResultBatch
from pipeline.stages import DeviceStream, PendingPredictions, SinkSource


@runtime_checkable
class SinkPlugin(Protocol):
    """`sinks: [{type: plugin}]`: takes results somewhere.

    It may also have `open`, `source_started`, `source_finished` and `close` (below), and an attribute `needs_pixels`: True
    if frames must still have their pixels (`result.frame.picture`), which on a GPU costs a copy of each.
    """

    def write(self, batch: ResultBatch) -> None:
        """Takes the results of a batch; iterating it gives a `Result` for each frame.

        Frames of a source come in display order. A batch without frames brings events of a source that has ended.
        """


@runtime_checkable
class StagePlugin(Protocol):
    """`pipeline.plugins`: sees every batch behind tracking and analytics, and may change what the sinks get.

    It may also have `source_finished` and `close` (below).
    """

    def __call__(self, batch: ResultBatch) -> ResultBatch | None:
        """What goes on in place of `batch`: the same frames, with other predictions or events; None: the batch as it is.

        Make it with `dataclasses.replace`. Frames cannot be left out; their detections can.
        """


@runtime_checkable
class PostprocessPlugin(Protocol):
    """`pipeline.postprocess: {family: plugin}`: from a model's outputs to predictions.

    It may declare with the class attribute `arrays` what it wants to see on a GPU: "numpy" (the default): the outputs are
    copied to the host first; "device": CuPy arrays, in `use_stream`'s stream. On the CPU both get NumPy arrays.
    It may also have `use_stream` and `close` (below).
    """

    def __call__(self, outputs: Mapping[str, Array], batch: InputBatch) -> Predictions | PendingPredictions:
        """What was found in the N frames of `batch`, as NumPy arrays in display pixels (`detections_of` helps).

        Args:
            outputs: Output name -> array of N rows, padding left out.
            batch: The frames, without their pixels, and `transforms`, the way back from the model's input to the picture.

        Returns:
            The predictions; with `arrays = "device"` also an object whose `result()` waits for the device and gives them.
        """


@runtime_checkable
class Opens(Protocol):
    """A plug-in that must be ready before the first frame."""

    def open(self) -> None:
        """Called once; an exception ends the run before it begins."""


@runtime_checkable
class Closes(Protocol):
    """A plug-in that has something to complete."""

    def close(self) -> None:
        """Called once, after the last batch, also when the run was stopped or has failed; from another thread than the batches.

        Not called if the plug-in was never used: not opened, told of no source and given no batch.
        """


@runtime_checkable
class HearsStarts(Protocol):
    """A plug-in that wants to know of sources that begin."""

    def source_started(self, source: SinkSource) -> None:
        """Before the first frame of a source: its id, size and rate."""


@runtime_checkable
class HearsEnds(Protocol):
    """A plug-in that wants to know of sources that end."""

    def source_finished(self, source_id: str) -> None:
        """After the last frame of a source, also of one that failed."""


@runtime_checkable
class UsesStream(Protocol):
    """A postprocess plug-in with `arrays = "device"` that enqueues work by other means than CuPy."""

    def use_stream(self, stream: DeviceStream) -> None:
        """Called once before the first batch, on a GPU only. All device work goes on this stream; CuPy's current one is it."""
