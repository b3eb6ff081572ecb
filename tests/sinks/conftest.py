"""Pictures, frames and batches made from arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.stages import SinkSource, StreamInfo

NAMES = {0: "person", 1: "bicycle", 2: "car"}


def _picture(
    width: int = 64, height: int = 48, *, shift: tuple[int, int] = (1, 1), seed: int | None = 0, **more: Any
) -> Picture:
    """Noise, or smooth ramps with `seed=None`; `width` x `height` is the coded size."""
    colour = more.pop("colour", Colour("bt601"))
    dtype = np.uint8 if colour.bit_depth == 8 else np.uint16
    top = 1 << colour.bit_depth
    sizes = [(height, width)] + [(-(-height // (1 << shift[1])), -(-width // (1 << shift[0])))] * 2
    if seed is None:
        planes = [
            np.add.outer(np.linspace(0.2, 0.5, h), np.linspace(0, 0.1 * (i + 1), w)) * top
            for i, (h, w) in enumerate(sizes)
        ]
    else:
        rng = np.random.default_rng(seed)
        planes = [rng.integers(top // 8, top * 7 // 8, size) for size in sizes]
    shown = more.pop("shown", (height, width) if more.get("rotation", 0) in (90, 270) else (width, height))
    return Picture(tuple(p.astype(dtype) for p in planes), shift, colour, *shown, **more)


def _batch(
    frames: Sequence[Frame] | None = None,
    boxes: Sequence[Sequence[Sequence[float]]] | None = None,
    *,
    tracks: bool = False,
    names: dict[int, str] | None = None,
) -> ResultBatch:
    """Frames with these boxes each; class ids and scores follow from the box's number."""
    if boxes is None:
        boxes = [[[4, 4, 20, 30], [10, 8, 40.126, 44]] for _ in frames or [0]]
    if frames is None:
        picture = _picture()
        frames = [Frame("cam", i, i / 25, 1.7e9 + i, picture) for i in range(len(boxes))]
    counts = [len(own) for own in boxes]
    flat = np.array([box for own in boxes for box in own], np.float32).reshape(-1, 4)
    number = np.concatenate([np.arange(c) for c in counts]).astype(np.int32)
    detections = Detections(
        flat,
        (0.93 - 0.1 * number).astype(np.float32),
        number % 3,
        np.cumsum([0, *counts]).astype(np.int64),
        NAMES if names is None else names,
        np.arange(len(flat), dtype=np.int64) + 100 if tracks else None,
    )
    return ResultBatch(frames, Predictions(detections=detections), "model@0123456789ab")


@pytest.fixture
def make_picture() -> Callable[..., Picture]:
    return _picture


@pytest.fixture
def make_batch() -> Callable[..., ResultBatch]:
    return _batch


@pytest.fixture
def make_source() -> Callable[..., SinkSource]:
    def make(source_id: str = "cam", rate: Fraction | None = Fraction(25)) -> SinkSource:
        return SinkSource(source_id, StreamInfo("h264", 64, 48, rate, None, None))

    return make
