"""Detections as JSON text, for the records that hold most of them.

A busy scene has a hundred in a frame: as many dictionaries and lists, times thousands of frames/s, cost more than all else
on their way, and the garbage collector goes through them as well. Here the numbers of a batch are written in two calls, and
the text around them is joined to them. Where the `cuda` engine has brought its library along, that does it all.
"""

from __future__ import annotations

import itertools

import orjson

from pipeline.frames import Detections, FloatArray
from pipeline.sinks._records import BOX_DECIMALS, SCORE_DECIMALS, PerClass, rounded_array
from pipeline.sinks.native_texts import NativeTexts


class DetectionTexts:
    """Writes what `orjson.dumps` writes of `TaskRecords`' dictionaries of detections."""

    def __init__(self) -> None:
        self._heads = PerClass(detection_head)
        self._native = NativeTexts(self._heads)

    def __call__(self, detections: Detections) -> list[bytes]:
        """A JSON array for each frame of the batch."""
        offsets = detections.offsets.tolist()
        if not len(detections):
            return [b"[]"] * (len(offsets) - 1)
        if (found := self._native(detections)) is not None:
            return found
        heads = self._heads.of(detections.names, detections.class_ids.tolist())
        scores = _numbers(detections.scores, SCORE_DECIMALS)[1:-1].split(b",")
        boxes = _numbers(detections.boxes, BOX_DECIMALS)[2:-2].split(b"],[")
        if detections.track_ids is None:
            texts = [b'%b%b,"box":[%b]}' % parts for parts in zip(heads, scores, boxes, strict=True)]
        else:
            tracks = [b',"track_id":%d' % number if number >= 0 else b"" for number in detections.track_ids.tolist()]
            texts = [b'%b%b,"box":[%b]%b}' % parts for parts in zip(heads, scores, boxes, tracks, strict=True)]
        return [b"[%b]" % b",".join(texts[start:end]) for start, end in itertools.pairwise(offsets)]


def detection_head(class_id: int, label: str) -> bytes:
    """All that stands in front of a detection's score."""
    return b'{"label":%b,"class_id":%d,"score":' % (orjson.dumps(label), class_id)


def _numbers(values: FloatArray, decimals: int) -> bytes:
    return orjson.dumps(rounded_array(values, decimals), option=orjson.OPT_SERIALIZE_NUMPY)
