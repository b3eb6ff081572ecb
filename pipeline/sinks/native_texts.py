"""Detections as JSON text by the library of the `cuda` engine; see `detection_texts.cc` there."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.frames import Detections
from pipeline.sinks._records import PerClass

# Of others Python writes the text.
_LARGEST_CLASS_ID = (1 << 16) - 1
# A detection's numbers and what stands between them: five of at most 16 characters, a track id of 19, and 35.
_MOST_BYTES = 160
_UNUSUAL = -1

_write: Any = None


def use_library(path: Path) -> None:
    """From now on texts are written by this library, if it can."""
    global _write  # noqa: PLW0603 - a library is loaded once for the process
    # Keeps the interpreter's lock: it takes a tenth of a millisecond, and getting the lock back may take longer.
    library = ctypes.PyDLL(str(path))
    function = getattr(library, "vramline_detection_texts", None)
    if function is not None:
        function.restype = ctypes.c_int64
        pointer = ctypes.c_void_p
        function.argtypes = [ctypes.c_int64, *[pointer] * 5, ctypes.c_char_p, pointer, ctypes.c_int32, *[pointer] * 3]
    _write = function


class NativeTexts:
    """Writes what `DetectionTexts` would, or says that it cannot."""

    def __init__(self, heads: PerClass[bytes]) -> None:
        """`heads` are what stands in front of the score of each class."""
        self._per_class = heads
        self._names: Mapping[int, str] = {}
        self._forget()

    def __call__(self, detections: Detections) -> list[bytes] | None:
        """A JSON array for each frame; None where Python has to write them."""
        if _write is None:
            return None
        if detections.names is not self._names:
            self._names = detections.names
            self._forget()
        frames = len(detections.offsets) - 1
        offsets, class_ids = _plain(detections.offsets, np.int64), _plain(detections.class_ids, np.int32)
        boxes, scores = _plain(detections.boxes, np.float32), _plain(detections.scores, np.float32)
        tracks = None if detections.track_ids is None else _plain(detections.track_ids, np.int64)
        ends = np.empty(frames, np.int64)
        while True:
            text = np.empty(len(detections) * (_MOST_BYTES + self._longest) + 2 * frames, np.uint8)
            found: int = _write(
                frames,
                offsets.ctypes.data,
                boxes.ctypes.data,
                scores.ctypes.data,
                class_ids.ctypes.data,
                None if tracks is None else tracks.ctypes.data,
                self._heads,
                self._head_of.ctypes.data,
                len(self._head_of),
                self._head_ends.ctypes.data,
                text.ctypes.data,
                ends.ctypes.data,
            )
            if found == 0:
                break
            if found == _UNUSUAL or not self._add(int(class_ids[-2 - found])):
                return None
        whole = text.data
        return [bytes(whole[start:end]) for start, end in itertools.pairwise([0, *ends.tolist()])]

    def _forget(self) -> None:
        self._heads = b""
        self._head_of = np.full(1, -1, np.int32)
        self._head_ends = np.zeros(0, np.int64)
        self._longest = 0

    def _add(self, class_id: int) -> bool:
        """A class that has not been there before; whether there is a place for it."""
        if not 0 <= class_id <= _LARGEST_CLASS_ID:
            return False
        (head,) = self._per_class.of(self._names, [class_id])
        missing = class_id + 1 - len(self._head_of)
        if missing > 0:
            self._head_of = np.append(self._head_of, np.full(missing, -1, np.int32))
        self._head_of[class_id] = len(self._head_ends)
        self._heads += head
        self._head_ends = np.append(self._head_ends, len(self._heads))
        self._longest = max(self._longest, len(head))
        return True


def _plain(values: Any, kind: Any) -> Any:
    return np.ascontiguousarray(values, kind)
