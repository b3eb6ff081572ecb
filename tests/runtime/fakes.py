"""Stages without video or TensorFlow, that tell what was asked of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.config.sources import Source
from pipeline.errors import SinkError, SourceError, SourceErrorCode
from pipeline.frames import (
    Colour,
    Detections,
    Frame,
    InputBatch,
    Picture,
    Predictions,
    ResultBatch,
    Surface,
    SurfaceLayout,
)
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, SinkSource, StreamInfo, TensorInfo

INFO = StreamInfo("fake", 4, 2, None, None, None)


def spec(source_id: str, **settings: Any) -> VideoSpec:
    return VideoSpec(source_id, source_id, source_id, False, Source(path=source_id, **settings))


def frame(source_id: str, index: int) -> Frame:
    planes = (np.full((2, 4), index % 256, np.uint8),)
    return Frame(source_id, index, index / 10, 0.0, Picture(planes, (0, 0), Colour(), 4, 2))


class FakeDecoder:
    """Yields `count` frames; then fails if `error`; waits for `gate` before each frame if given."""

    def __init__(self, source_id: str, count: int, error: str | None = None, gate: threading.Semaphore | None = None):
        self.source_id, self.count, self.error, self.gate = source_id, count, error, gate
        self.info, self.stats = INFO, DecodeStats()
        self.closed = False

    def groups(self) -> Iterator[Sequence[Frame]]:
        return ((frame,) for frame in self)

    def __iter__(self) -> Iterator[Frame]:
        for index in range(self.count):
            if self.gate is not None:
                self.gate.acquire()
            if self.closed:
                return
            self.stats.frames += 1
            yield frame(self.source_id, index)
        if self.error:
            raise SourceError(self.error, source_id=self.source_id, code=SourceErrorCode.DAMAGED)

    def close(self) -> None:
        self.closed = True
        if self.gate is not None:
            self.gate.release()


LAYOUT = SurfaceLayout(4, 2, 4, 0, 0, 0, 0, 1)


class Loans:
    """Surfaces that are on loan; a source has only so many, and waits for one to come back."""

    def __init__(self, ring: int = 100) -> None:
        self.out: set[tuple[str, int]] = set()
        self.given = 0
        self.slots = threading.Semaphore(ring)
        self.lock = threading.Lock()

    def lend(self, source_id: str, index: int) -> Surface | None:
        if not self.slots.acquire(timeout=20):
            raise AssertionError("no surface came back")
        key = source_id, index
        with self.lock:
            self.out.add(key)
            self.given += 1

        def release() -> None:
            with self.lock:
                self.out.remove(key)  # KeyError: let go of twice
            self.slots.release()

        return Surface(index, LAYOUT, release)


class SurfaceDecoder(FakeDecoder):
    """Frames in device memory, which is NumPy's: `planes` stay, so that the fake preprocessor can look at them."""

    def __init__(self, source_id: str, count: int, loans: Loans, **more: Any) -> None:
        super().__init__(source_id, count, **more)
        self.loans = loans

    def __iter__(self) -> Iterator[Frame]:
        for one in super().__iter__():
            surface = self.loans.lend(one.source_id, one.index)
            yield replace(one, picture=replace(one.picture, surface=surface))


class FakePreprocessor:
    model_size = (4, 2)

    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        tensor = np.zeros((rows, 1), np.float32)
        for row, item in enumerate(frames):
            tensor[row] = item.picture.planes[0][0, 0]
        return InputBatch(tuple(frames), tensor, np.tile([1.0, 1.0, 0.0, 0.0], (len(frames), 1)), (4, 2))


class FakeModel:
    name = "fake@0"
    input = TensorInfo("x", "float32", (None, 1))
    outputs = (TensorInfo("y", "float32", (None, 1)),)

    def __init__(self, batch_size: int = 4, fails_at: int | None = None, error: type[Exception] = RuntimeError):
        self.batch_size, self.fails_at, self.error = batch_size, fails_at, error
        self.calls: list[int] = []
        self.closed = False

    def rows(self, frames: int) -> int:
        return self.batch_size

    def __call__(self, tensor: Any) -> Mapping[str, Any]:
        if self.fails_at is not None and len(self.calls) >= self.fails_at:
            raise self.error("the model broke")
        self.calls.append(len(tensor))
        return {"y": tensor}

    def close(self) -> None:
        self.closed = True


def fake_postprocess(outputs: Mapping[str, Any], batch: InputBatch) -> Predictions:
    """One box a frame whose class is the number that the frame's pixels hold."""
    n = len(batch.frames)
    ids = outputs["y"][:n, 0].astype(np.int32)
    boxes = np.tile(np.array([0, 0, 1, 1], np.float32), (n, 1))
    return Predictions(Detections(boxes, np.ones(n, np.float32), ids, np.arange(n + 1), {0: "zero"}))


class FakeSink:
    def __init__(self, needs_pixels: bool = False, fails_at: int | None = None, fails_to_close: bool = False):
        self.needs_pixels, self.fails_at, self.fails_to_close = needs_pixels, fails_at, fails_to_close
        self.events: list[tuple[str, str]] = []
        self.frames: list[tuple[str, int, int]] = []
        self.had_pixels: list[bool] = []
        self.writes = 0
        self.end = ""
        self.completed: list[Path] = []
        self.on_write: Callable[[], None] | None = None

    def open(self) -> None:
        self.end = "open"

    def source_started(self, source: SinkSource) -> None:
        self.events.append(("started", source.source_id))

    def write(self, batch: ResultBatch) -> None:
        if self.fails_at is not None and self.writes >= self.fails_at:
            raise SinkError("out.jsonl: the disk is full")
        self.writes += 1
        for result in batch:
            assert result.detections is not None
            self.frames.append((result.frame.source_id, result.frame.index, int(result.detections.class_ids[0])))
            self.had_pixels.append(bool(result.frame.picture.planes))
            self.events.append(("frame", result.frame.source_id))
        if self.on_write is not None:
            self.on_write()

    def source_finished(self, source_id: str) -> None:
        self.events.append(("finished", source_id))

    def close(self) -> list[Path]:
        if self.fails_to_close:
            raise SinkError("out.mp4: cannot be completed")
        self.end = "closed"
        return [Path("out")]

    def abort(self) -> list[Path]:
        self.end = "aborted"
        return [Path("out.partial")]
