"""What travels between the runtime's threads: batches, and the beginnings and ends of sources in their order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from pipeline.frames import Array, Frame, InputBatch, Predictions
from pipeline.queues import BoundedQueue, Closed
from pipeline.stages import PendingPredictions, SinkSource


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


def collect(queue: BoundedQueue[SourceItem], size: int, timeout_s: float | None) -> Batch | None:
    """The next batch: closed by `size`, by `timeout_s` after the last frame came, or by the end of all sources.

    Args:
        queue: What the source threads fill.
        size: Most frames in a batch.
        timeout_s: How long to wait for one more frame once there is one; None: as long as it takes.

    Returns:
        The batch; None when all sources have ended and nothing is left.
    """
    batch = Batch()
    while len(batch.frames) < size:
        try:
            item = queue.get(timeout_s if batch.frames else None)
        except TimeoutError:
            break
        except Closed:
            return batch if batch.frames or batch.started or batch.finished else None
        if isinstance(item, Frame):
            batch.frames.append(item)
        elif isinstance(item, SinkSource):
            batch.started.append(item)
        else:
            batch.finished.append(item.source_id)
    return batch
