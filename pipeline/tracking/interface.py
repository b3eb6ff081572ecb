"""The interface of trackers."""

from __future__ import annotations

from typing import Protocol

from pipeline.frames import FloatArray, ResultBatch


class Tracker(Protocol):
    """Tells which detections of successive frames are the same object. All calls come from one thread."""

    def __call__(self, batch: ResultBatch, looks: FloatArray | None = None) -> ResultBatch:
        """The batch with `track_ids` of its detections; which detections it holds is the tracker's choice.

        Frames of a source come in display order, in one batch or over several. A batch without detections stays as it is.

        Args:
            batch: The results.
            looks: (D, E) what each detection looks like, NaN where that is not known; None: of none.
        """

    def forget(self, source_id: str) -> None:
        """A source has ended: its tracks are given up. Should it come again, its ids go on from where they were."""
