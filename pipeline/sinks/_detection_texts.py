"""Detections as JSON text, for the records that hold most of them.

A busy scene has a hundred in a frame: as many dictionaries and lists, times thousands of frames/s, cost more than all else
on their way, and the garbage collector goes through them as well. Here the numbers of a batch are written in two calls, and
the text around them is joined to them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import orjson

from pipeline.frames import Detections, FloatArray
from pipeline.sinks._names import encodable
from pipeline.sinks._records import BOX_DECIMALS, SCORE_DECIMALS


class DetectionTexts:
    """Writes what `orjson.dumps` writes of `TaskRecords`' dictionaries of detections."""

    def __init__(self) -> None:
        self._names: Mapping[int, str] = {}
        self._heads: dict[int, bytes] = {}  # class id -> all that is in front of the score

    def __call__(self, detections: Detections) -> list[bytes]:
        """A JSON array for each frame of the batch."""
        offsets = detections.offsets.tolist()
        if not len(detections):
            return [b"[]"] * (len(offsets) - 1)
        heads = self._heads_of(detections.names, detections.class_ids.tolist())
        scores = _numbers(detections.scores, SCORE_DECIMALS)[1:-1].split(b",")
        boxes = _numbers(detections.boxes, BOX_DECIMALS)[2:-2].split(b"],[")
        if detections.track_ids is None:
            texts = [b'%b%b,"box":[%b]}' % parts for parts in zip(heads, scores, boxes, strict=True)]
        else:
            tracks = [b',"track_id":%d' % number if number >= 0 else b"" for number in detections.track_ids.tolist()]
            texts = [b'%b%b,"box":[%b]%b}' % parts for parts in zip(heads, scores, boxes, tracks, strict=True)]
        return [b"[%b]" % b",".join(texts[start:end]) for start, end in itertools.pairwise(offsets)]

    def _heads_of(self, names: Mapping[int, str], class_ids: list[int]) -> list[bytes]:
        if names is not self._names:
            self._names, self._heads = names, {}
        heads = self._heads
        for class_id in set(class_ids).difference(heads):
            label = orjson.dumps(encodable(names.get(class_id, str(class_id))))
            heads[class_id] = b'{"label":%b,"class_id":%d,"score":' % (label, class_id)
        return [heads[class_id] for class_id in class_ids]


def _numbers(values: FloatArray, decimals: int) -> bytes:
    """Rounded in double precision, as `rounded` does."""
    shown = np.round(np.asarray(values, np.float64), decimals) + 0.0
    return orjson.dumps(np.ascontiguousarray(shown), option=orjson.OPT_SERIALIZE_NUMPY)
