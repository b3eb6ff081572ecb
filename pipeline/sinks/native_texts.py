"""Detections as JSON text, and the lines that hold it, by the library of the `cuda` engine; see `detection_texts.cc` there."""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.frames import Detections
from pipeline.sinks._records import PerClass

# Of others Python writes the text.
_LARGEST_CLASS_ID = (1 << 16) - 1
# A detection's numbers and what stands between them: five of at most 16 characters, a track id of 19, and 35.
_MOST_BYTES = 160
# The brackets of a frame's detections; of a line, also its number, times and end: at most 19, 17, 27 and 19 characters.
_MOST_FRAME_BYTES = 2
_MOST_LINE_BYTES = 96
_UNUSUAL = -1

_write: Any = None


def use_library(path: Path) -> None:
    """From now on texts are written by this library, if it can."""
    global _write  # noqa: PLW0603 - a library is loaded once for the process
    # Keeps the interpreter's lock: it takes a tenth of a millisecond, and getting the lock back may take longer.
    library = ctypes.PyDLL(str(path))
    function = getattr(library, "vramline_detection_lines", None)
    if function is not None:
        function.restype = ctypes.c_int64
        pointer = ctypes.c_void_p
        function.argtypes = [ctypes.c_int64, *[pointer] * 8, ctypes.c_int32, *[pointer] * 2]
    _write = function


class Pieces(ctypes.Structure):
    """Pieces of text by their number, as the library knows them; they only become more."""

    _fields_ = (("text", ctypes.c_char_p), ("ends", ctypes.c_void_p))

    def __init__(self) -> None:
        super().__init__()
        self._whole = b""
        self._ends = np.zeros(0, np.int64)
        self.longest = 0

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, piece: bytes) -> None:
        """The next one."""
        self._whole += piece
        self._ends = np.append(self._ends, len(self._whole))
        self.text, self.ends = self._whole, self._ends.ctypes.data
        self.longest = max(self.longest, len(piece))


class Fronts(ctypes.Structure):
    """What stands in front of the detections of each frame of a batch, as the library knows it."""

    _fields_ = (
        ("pieces", Pieces),
        ("kinds", ctypes.c_void_p),
        ("numbers", ctypes.c_void_p),
        ("pts_s", ctypes.c_void_p),
        ("times_s", ctypes.c_void_p),
    )

    def __init__(
        self,
        pieces: Pieces,
        kinds: Sequence[int],
        numbers: Sequence[int],
        pts_s: Sequence[float | None],
        times_s: Sequence[float],
    ) -> None:
        """Args:
        pieces: Of each kind of frame two: what stands in front of its number, and what behind its time.
        kinds: Each frame's kind.
        numbers: Each frame's number.
        pts_s: Each frame's presentation time, if it has one.
        times_s: When it was decoded, in seconds since 1970.
        """
        self._columns: list[npt.NDArray[Any]] = [
            np.array(values, kind)
            for values, kind in ((kinds, np.int32), (numbers, np.int64), (pts_s, np.float64), (times_s, np.float64))
        ]
        super().__init__(pieces, *(column.ctypes.data for column in self._columns))
        self.most_bytes = 2 * pieces.longest + _MOST_LINE_BYTES


class NativeTexts:
    """Writes what `DetectionTexts` and `JsonRecords` would, or says that it cannot."""

    def __init__(self, heads: PerClass[bytes]) -> None:
        """`heads` are what stands in front of the score of each class."""
        self._per_class = heads
        self._names: Mapping[int, str] = {}
        self._forget()

    @staticmethod
    def is_there() -> bool:
        """Whether there is a library that can."""
        return _write is not None

    def __call__(self, detections: Detections, fronts: Fronts | None = None) -> list[bytes] | None:
        """A JSON array for each frame, or with `fronts` its line; None where Python has to write them."""
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
        frame_bytes = _MOST_FRAME_BYTES if fronts is None else fronts.most_bytes
        while True:
            text = np.empty(len(detections) * (_MOST_BYTES + self._heads.longest) + frame_bytes * frames, np.uint8)
            found: int = _write(
                frames,
                None if fronts is None else ctypes.addressof(fronts),
                offsets.ctypes.data,
                boxes.ctypes.data,
                scores.ctypes.data,
                class_ids.ctypes.data,
                None if tracks is None else tracks.ctypes.data,
                ctypes.addressof(self._heads),
                self._head_of.ctypes.data,
                len(self._head_of),
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
        self._heads = Pieces()
        self._head_of = np.full(1, -1, np.int32)

    def _add(self, class_id: int) -> bool:
        """A class that has not been there before; whether there is a place for it."""
        if not 0 <= class_id <= _LARGEST_CLASS_ID:
            return False
        missing = class_id + 1 - len(self._head_of)
        if missing > 0:
            self._head_of = np.append(self._head_of, np.full(missing, -1, np.int32))
        self._head_of[class_id] = len(self._heads)
        (head,) = self._per_class.of(self._names, [class_id])
        self._heads.add(head)
        return True


def _plain(values: Any, kind: Any) -> Any:
    return np.ascontiguousarray(values, kind)
