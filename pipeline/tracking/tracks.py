"""The tracks of all streams, as arrays with a column a track."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from pipeline.tracking.kalman import STATE_ROWS, States

Tags = npt.NDArray[np.int64]

# Rows of the tags.
STREAM, TRACK_ID, CLASS_ID, HITS, MISSES = range(5)
TAG_ROWS = 5

NO_ID = -1


@dataclass(slots=True, eq=False)
class Tracks:
    """Tracks without gaps between them; those of one stream are in the order in which they were born.

    A track is tentative while it has no id. With an id it is confirmed, and lost while it has misses.

    Attributes:
        states: (10, T) float64, see `pipeline.tracking.kalman`.
        seen_s: (T,) float64: the stream's clock when it was found last.
        tags: (5, T) int64: number of the stream, id or -1, class id, in how many frames it was found, and in how many it
            was not since it was found last.
        looks: (T, E) float32: unit vectors of what they look like, NaN where that is not known. E is 0 where nobody looks.
    """

    states: States = field(default_factory=lambda: np.zeros((STATE_ROWS, 0)))
    seen_s: npt.NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    tags: Tags = field(default_factory=lambda: np.zeros((TAG_ROWS, 0), np.int64))
    looks: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    def __len__(self) -> int:
        return len(self.seen_s)

    def __getitem__(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.int64]) -> Tracks:
        return Tracks(self.states[:, chosen], self.seen_s[chosen], self.tags[:, chosen], self.looks[chosen])

    def __setitem__(self, chosen: npt.NDArray[np.int64], tracks: Tracks) -> None:
        self.states[:, chosen], self.seen_s[chosen], self.tags[:, chosen] = tracks.states, tracks.seen_s, tracks.tags
        self.looks[chosen] = tracks.looks

    def __add__(self, born: Tracks) -> Tracks:
        return Tracks(
            np.concatenate([self.states, born.states], axis=1),
            np.concatenate([self.seen_s, born.seen_s]),
            np.concatenate([self.tags, born.tags], axis=1),
            np.concatenate([self.looks, born.looks]),
        )
