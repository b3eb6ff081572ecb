"""Which scores are high, and which are enough to start a track."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.config.labels import load_labels
from pipeline.config.postprocess import DetectionPost
from pipeline.frames import FloatArray
from pipeline.postprocess.class_rules import ClassRules

_NEW_TRACK_MARGIN = 0.1


class ScoreLimits:
    """The user's thresholds by class id, and those of new tracks.

    Args:
        postprocess: The user's section.
        new_track_score: Least score of the first detection of a track, where the threshold is not above it. None: 0.1
            above the threshold, or half of the way from there to 1 if that is less.

    Raises:
        ConfigError: labels cannot be read, or a class that is named does not exist.
    """

    def __init__(self, postprocess: DetectionPost, *, new_track_score: float | None = None) -> None:
        rules = ClassRules(postprocess, load_labels(postprocess.labels))
        # Classes above the largest that has a rule are all treated alike: the last entry is theirs.
        self._high = rules.thresholds(np.arange(rules.largest_id + 2))
        if new_track_score is None:
            # Classes that are not wanted have infinite thresholds.
            self._new = self._high + np.clip((1 - self._high) / 2, 0, np.float32(_NEW_TRACK_MARGIN))
        else:
            self._new = np.maximum(np.float32(new_track_score), self._high)

    def __call__(self, class_ids: npt.NDArray[np.int32]) -> tuple[FloatArray, FloatArray]:
        """(D,) the least high score and the least score of a new track of each detection's class."""
        rows = np.minimum(class_ids, len(self._high) - 1)
        return self._high[rows], self._new[rows]
