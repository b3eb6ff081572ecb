"""What the tests of all families share: batches without pixels, and a slow double-precision rendering of the common tail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter

from pipeline.config.postprocess import Postprocess
from pipeline.frames import Colour, Detections, Frame, InputBatch, Picture
from pipeline.postprocess import build_postprocessor
from pipeline.stages import TensorInfo

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Candidate:
    """A box in model pixels before any selection; `anchor` breaks ties."""

    anchor: int
    class_id: int
    score: float
    box: Box


@dataclass(frozen=True)
class Tail:
    """The options of the slow rendering."""

    threshold: float = 0.5
    thresholds: Mapping[int, float] = field(default_factory=dict)
    classes: Sequence[int] | None = None
    nms_iou: float | None = 0.5
    class_agnostic: bool = False
    max_detections: int = 100


class Tools:
    """Handed to tests as the fixture `tools`."""

    @staticmethod
    def batch(
        frames: int,
        model_size: tuple[int, int] = (100, 100),
        sizes: Sequence[tuple[int, int]] | None = None,
        transforms: Sequence[Sequence[float]] | None = None,
        rows: int | None = None,
    ) -> InputBatch:
        """A batch whose pictures have these display sizes; by default display pixels are model pixels."""
        pictures = [
            Picture((np.zeros((1, 1), np.uint8),), (0, 0), Colour(), width, height)
            for width, height in sizes or [model_size] * frames
        ]
        return InputBatch(
            tuple(Frame("camera", i, None, 0.0, picture) for i, picture in enumerate(pictures)),
            np.zeros((rows or frames, 1, 1, 3), np.float32),
            np.array(transforms or [[1, 1, 0, 0]] * frames, np.float64).reshape(-1, 4),
            model_size,
        )

    @staticmethod
    def config(**fields: Any) -> Any:
        return TypeAdapter(Postprocess).validate_python(fields)

    @classmethod
    def build(cls, outputs: Mapping[str, Any], model_size: tuple[int, int] = (100, 100), /, **fields: Any) -> Any:
        """A postprocessor for a model whose outputs have these arrays' shapes, or these shapes."""
        shapes = {
            name: value if isinstance(value, tuple) else (None, *np.shape(value)[1:]) for name, value in outputs.items()
        }
        types = {name: "float32" if isinstance(v, tuple) else str(np.asarray(v).dtype) for name, v in outputs.items()}
        infos = tuple(TensorInfo(name, types[name], shape) for name, shape in shapes.items())
        return build_postprocessor(cls.config(**fields), infos, model_size=model_size)

    @classmethod
    def detect(cls, outputs: Mapping[str, Any], batch: InputBatch, /, **fields: Any) -> Detections:
        """Boxes of one call of a freshly built postprocessor."""
        detections = cls.build(outputs, batch.model_size, **fields)(outputs, batch).detections
        assert detections is not None
        return detections

    @staticmethod
    def iou(a: Box, b: Box) -> float:
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        shared = max(width, 0.0) * max(height, 0.0)
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared
        return shared / union

    @classmethod
    def slow_tail(
        cls, candidates: Sequence[Candidate], tail: Tail, transform: Sequence[float], size: tuple[int, int]
    ) -> list[tuple[int, float, Box]]:
        """(class id, score, display box) of one frame, one candidate after another, in Python's doubles."""
        wanted = [
            c
            for c in candidates
            if np.isfinite(c.score)
            and c.score >= tail.thresholds.get(c.class_id, tail.threshold)
            and (tail.classes is None or c.class_id in tail.classes)
            and np.isfinite(c.box).all()
            and c.box[2] > c.box[0]
            and c.box[3] > c.box[1]
        ]
        kept: list[Candidate] = []
        for c in sorted(wanted, key=lambda c: (-c.score, c.anchor, c.class_id)):
            rivals = [k for k in kept if tail.class_agnostic or k.class_id == c.class_id]
            if tail.nms_iou is None or not any(cls.iou(k.box, c.box) > tail.nms_iou for k in rivals):
                kept.append(c)
        scale_x, scale_y, offset_x, offset_y = transform
        results = []
        for c in kept:
            x1, x2 = (min(max((x - offset_x) / scale_x, 0.0), size[0]) for x in c.box[::2])
            y1, y2 = (min(max((y - offset_y) / scale_y, 0.0), size[1]) for y in c.box[1::2])
            if x2 > x1 and y2 > y1:
                results.append((c.class_id, c.score, (x1, y1, x2, y2)))
        return results[: tail.max_detections]

    @staticmethod
    def assert_same(found: Detections, expected: Sequence[Sequence[tuple[int, float, Box]]]) -> None:
        """The same classes in the same order; scores and boxes within float32's rounding."""
        assert found.offsets.tolist() == np.cumsum([0, *map(len, expected)]).tolist()
        flat = [result for frame in expected for result in frame]
        assert found.class_ids.tolist() == [class_id for class_id, _, _ in flat]
        np.testing.assert_allclose(found.scores, [score for _, score, _ in flat], rtol=0, atol=2e-6)
        boxes = np.array([box for _, _, box in flat]).reshape(-1, 4)
        np.testing.assert_allclose(found.boxes, boxes, rtol=1e-6, atol=2e-4)

    @staticmethod
    def assert_equal(a: Detections, b: Detections) -> None:
        """Identical to the last bit."""
        for name in ("boxes", "scores", "class_ids", "offsets"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))

    Candidate: Callable[..., Candidate] = Candidate
    Tail: Callable[..., Tail] = Tail


@pytest.fixture(scope="session")
def tools() -> type[Tools]:
    return Tools
