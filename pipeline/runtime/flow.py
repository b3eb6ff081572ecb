"""What travels between the runtime's threads: batches, and the beginnings and ends of sources in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.frames import Array, Frame, InputBatch, Predictions, ResultBatch
from pipeline.stages import PendingPredictions, SinkSource

if TYPE_CHECKING:
    from pipeline.cascade.second import Part
    from pipeline.cascade.stage import Started
    from pipeline.decode.apart import Reading


@dataclass(frozen=True, slots=True)
class SourceEnd:
    """Follows the last frame of a source."""

    source_id: str


SourceItem = Frame | SinkSource | SourceEnd


@dataclass(slots=True, eq=False)
class Batch:
    """Frames that go through the model together, with the sources that begin or end among them.

    A batch may have no frames at all: it then only carries beginnings and ends.
    """

    frames: list[Frame] = field(default_factory=list)
    started: list[SinkSource] = field(default_factory=list)
    finished: list[str] = field(default_factory=list)
    input: InputBatch | None = None
    outputs: Mapping[str, Array] | None = None
    predictions: Predictions | PendingPredictions | None = None
    side: dict[str, list[Part]] = field(default_factory=dict)  # of the other models on these frames
    held: list[Frame] = field(default_factory=list)  # the frames with their pixels, until nothing reads them any more
    reading: Reading | None = None  # what reads them, on a device
    results: ResultBatch | None = None
    crops: Started | None = None
