"""What stands in front of the results in a frame's JSON record: as text, since dictionaries would take several times as long."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import orjson

from pipeline.frames import Frame
from pipeline.sinks._names import encodable
from pipeline.sinks._records import FRAME_SCHEMA, pts, utc
from pipeline.sinks.native_texts import Fronts, Pieces

# More than there are at a time: of sources that come and go.
_MOST_KINDS = 4096


def head(frame: Frame, pts_text: bytes, model: str) -> bytes:
    """All of it, without a comma behind it; `pts_text` is of `pts_texts`."""
    captured = b"" if frame.captured_s is None else b',"captured":"%b"' % utc(frame.captured_s).encode()
    numbers = b'%d,"pts_s":%b,"time":"%b"' % (frame.index, pts_text, utc(frame.time_s).encode())
    return _source(frame.source_id) + numbers + captured + _shape_of(frame, model)


def pts_texts(frames: Sequence[Frame]) -> list[bytes]:
    """The presentation time of each frame."""
    return orjson.dumps([pts(frame.pts_s) for frame in frames])[1:-1].split(b",") if frames else []


class FrontMaker:
    """What the library needs to write the same in front of detections."""

    def __init__(self) -> None:
        self._forget()

    def __call__(self, frames: Sequence[Frame], model: str) -> Fronts | None:
        """Of the frames of a batch; None where a frame has what the library does not write."""
        if any(frame.captured_s is not None for frame in frames):
            return None
        if len(self._kinds) > _MOST_KINDS:
            self._forget()
        kinds = [self._kind(frame, model) for frame in frames]
        return Fronts(
            self._pieces,
            kinds,
            [frame.index for frame in frames],
            [frame.pts_s for frame in frames],
            [frame.time_s for frame in frames],
        )

    def _kind(self, frame: Frame, model: str) -> int:
        picture = frame.picture
        shape = (picture.width, picture.height, picture.rotation, picture.sar, model)
        latest = self._latest.get(frame.source_id)
        # The frames of a stream share what takes long to compare.
        if latest is not None and latest[0] == shape:
            return latest[1]
        kind = self._kinds.get((frame.source_id, shape))
        if kind is None:
            kind = self._kinds[frame.source_id, shape] = len(self._kinds)
            self._pieces.add(_source(frame.source_id))
            self._pieces.add(b'"' + _shape_of(frame, model) + b',"detections":')
        self._latest[frame.source_id] = shape, kind
        return kind

    def _forget(self) -> None:
        self._pieces = Pieces()
        self._kinds: dict[tuple[str, tuple[object, ...]], int] = {}
        self._latest: dict[str, tuple[tuple[object, ...], int]] = {}


@lru_cache(maxsize=4096)
def _source(source_id: str) -> bytes:
    return b'{"schema":%b,"source":%b,"frame":' % (orjson.dumps(FRAME_SCHEMA), orjson.dumps(encodable(source_id)))


def _shape_of(frame: Frame, model: str) -> bytes:
    picture = frame.picture
    sar = picture.sar
    return _shape((picture.width, picture.height), picture.rotation, (sar.numerator, sar.denominator), model)


@lru_cache(maxsize=1024)
def _shape(size: tuple[int, int], rotation: int, sar: tuple[int, int], model: str) -> bytes:
    words = orjson.dumps(encodable(model))
    return b',"width":%d,"height":%d,"rotation":%d,"sar":"%d:%d","model":%b' % (*size, rotation, *sar, words)
