"""What the textual records share: how numbers and times are written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.frames import Classifications, Detections
from pipeline.sinks._names import encodable

FRAME_SCHEMA = "vramline.frame/1"
ROW_SCHEMA = "vramline.row/1"
SCORE_DECIMALS, BOX_DECIMALS = 4, 2
# For more numbers NumPy gives up the interpreter's lock, in each of its steps; getting it back, on a machine where a dozen
# decoders wait for it, takes longer than the steps.
_WITH_THE_LOCK = 500

T = TypeVar("T")

text = lru_cache(maxsize=4096)(encodable)


class PerClass(Generic[T]):
    """Class id -> what is made of it and its label, once per class and mapping of names."""

    def __init__(self, make: Callable[[int, str], T]) -> None:
        """`make` gets a class id and its label, which can be stored; a class without a name has its number."""
        self._make = make
        self._names: Mapping[int, str] = {}
        self._cache: dict[int, T] = {}

    def of(self, names: Mapping[int, str], class_ids: list[int]) -> list[T]:
        """What is made of each of these."""
        if names is not self._names:
            self._names, self._cache = names, {}
        cache = self._cache
        for class_id in set(class_ids).difference(cache):
            cache[class_id] = self._make(class_id, encodable(names.get(class_id, str(class_id))))
        return [cache[class_id] for class_id in class_ids]


class Labels(PerClass[str]):
    """Class id -> label that can be stored."""

    def __init__(self) -> None:
        super().__init__(lambda class_id, label: label)


def rounded_array(values: Any, decimals: int) -> npt.NDArray[Any]:
    """Doubles whose shortest decimal form has at most this many decimals; a new array in C order.

    Rounded in double precision: a float32 0.3 is 0.30000001192 as a double, and would be written so.
    """
    values = np.asarray(values)
    flat = values.reshape(-1)
    result = np.empty(flat.size, np.float64)
    for first in range(0, flat.size, _WITH_THE_LOCK):
        some = slice(first, first + _WITH_THE_LOCK)
        result[some] = np.round(flat[some].astype(np.float64), decimals) + 0.0  # -0.0 becomes 0.0
    return result.reshape(values.shape)


def rounded(values: Any, decimals: int) -> list[Any]:
    """The same as Python floats."""
    result: list[Any] = rounded_array(values, decimals).tolist()
    return result


def pts(pts_s: float | None) -> float | None:
    """Seconds to the microsecond."""
    return None if pts_s is None else round(pts_s, 6) + 0.0


@lru_cache(maxsize=1024)  # frames that came out of a decoder together have one time
def utc(time_s: float) -> str:
    """RFC 3339 in UTC with microseconds, such as `2024-05-17T08:30:00.250000Z`."""
    seconds, microseconds = divmod(round(time_s * 1e6), 1_000_000)
    return f"{_second(seconds)}.{microseconds:06d}Z"


@lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    """Once a second, not once a frame."""
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat()[:19]


def detection_columns(
    detections: Detections, labels: Labels
) -> tuple[list[str], list[int], list[float], list[list[float]], list[int | None] | None]:
    """Labels, class ids, scores, boxes and track ids of a whole batch as lists, ready to be written.

    Instead of track ids there is None where nothing tracks, and a None among them for a detection without a track.
    """
    class_ids = detections.class_ids.tolist()
    return (
        labels.of(detections.names, class_ids),
        class_ids,
        rounded(detections.scores, SCORE_DECIMALS),
        rounded(detections.boxes, BOX_DECIMALS),
        None if detections.track_ids is None else [t if t >= 0 else None for t in detections.track_ids.tolist()],
    )


def class_columns(classes: Classifications, labels: Labels) -> list[list[tuple[str, int, float]]]:
    """(label, class id, score) of every valid class of every frame of a batch, best first."""
    rows = zip(
        classes.class_ids.tolist(), rounded(classes.scores, SCORE_DECIMALS), classes.counts.tolist(), strict=True
    )
    return [
        list(zip(labels.of(classes.names, ids[:count]), ids[:count], scores[:count], strict=True))
        for ids, scores, count in rows
    ]
