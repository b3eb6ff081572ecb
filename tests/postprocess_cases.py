"""Outputs and options for every family, as a postprocessor meets them; what two engines make of them is compared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.config.postprocess import Postprocess
from pipeline.errors import ModelError
from pipeline.frames import Colour, Frame, InputBatch, Picture, Predictions, Window
from pipeline.postprocess import build_postprocessor
from pipeline.stages import TensorInfo

DETECTORS = ("od_api", "ssd", "yolo", "gfl", "boxes", "boxes_with_classes")
SIZE = (96, 64)


@dataclass
class Case:
    """One batch, and what is asked of it."""

    fields: dict[str, Any]
    outputs: dict[str, np.ndarray]
    batch: InputBatch
    shapes_known: bool = True

    @property
    def config(self) -> Any:
        return TypeAdapter(Postprocess).validate_python(self.fields)

    @property
    def infos(self) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(n, str(a.dtype), (None, *a.shape[1:]) if self.shapes_known else None)
            for n, a in self.outputs.items()
        )

    def reference(self) -> Predictions:
        """What the `cpu` engine makes of it."""
        return build_postprocessor(self.config, self.infos, model_size=self.batch.model_size)(self.outputs, self.batch)


def make_batch(rng: np.random.Generator, frames: int, rows: int, size: tuple[int, int] = SIZE) -> InputBatch:
    """Pictures of many sizes and places in the model's input."""
    pictures = [Picture((), (0, 0), Colour(), *(int(v) for v in rng.integers(20, 2000, 2))) for _ in range(frames)]
    transforms = np.column_stack([rng.uniform(0.05, 3, (frames, 2)), rng.uniform(-20, 20, (frames, 2))])
    return InputBatch(
        tuple(Frame("camera", i, None, 0.0, p) for i, p in enumerate(pictures)),
        np.zeros((rows, 1, 1, 3), np.float32),
        transforms.reshape(-1, 4),
        size,
    )


def make_case(
    family: str,
    seed: int,
    *,
    frames: int = 2,
    anchors: int = 30,
    classes: int = 3,
    padding: int = 1,
    dtype: str = "float32",
    odd: bool = True,
    options: dict[str, Any] | None = None,
) -> Case:
    """Random outputs on a coarse grid: many ties, which both engines must order alike; with `odd`, NaN and infinities.

    What goes through a softmax is not on a grid: whether scores are equal, or boxes touch, would be a matter of rounding.
    """
    rng = np.random.default_rng(seed)
    rows = frames + padding
    fields: dict[str, Any] = {"family": family.removesuffix("_with_classes")} | (options or {})
    activation = fields.get("activation", "none")
    fields["score_threshold"] = fields.get("score_threshold", 0.305)

    def scores(*shape: int) -> np.ndarray:
        if activation == "softmax":
            return spoilt(rng.normal(0, 2, shape), 0.03)
        return spoilt(
            rng.integers(0, 101, shape) / 100 if activation == "none" else rng.integers(-12, 13, shape) / 4, 0.03
        )

    def boxes(*shape: int) -> np.ndarray:
        """Eighths of pixels as corners, or what the format takes them for; some without area."""
        corner = rng.integers(-40, 8 * 90, (*shape, 2)) / 8
        size = rng.integers(-8, 300, (*shape, 2)) / 8
        kind = fields.get(
            "box_format", "cxcywh" if family == "yolo" else "yxyx" if family in {"ssd", "od_api"} else "xyxy"
        )
        values = np.concatenate([corner, size if kind in {"xywh", "cxcywh"} else corner + size], axis=-1)
        if fields.get("normalized", family in {"ssd", "od_api"}):
            values /= 64
        return spoilt(values, 0.01)

    def spoilt(values: np.ndarray, share: float) -> np.ndarray:
        if odd:
            where = rng.random(values.shape) < share
            values[where] = rng.choice([np.nan, np.inf, -np.inf, -0.0], int(where.sum()))
        return values

    outputs: dict[str, np.ndarray]
    if family == "od_api":
        ids = rng.integers(-1, classes, (rows, anchors)).astype(float)
        outputs = {
            "detection_boxes": boxes(rows, anchors),
            "detection_scores": scores(rows, anchors),
            "detection_classes": spoilt(ids, 0.02),
            "num_detections": rng.integers(0, anchors + 1, rows).astype(float),
        }
    elif family == "ssd":
        outputs = {"boxes": boxes(rows, anchors)[:, :, None], "scores": scores(rows, anchors, classes)}
    elif family == "yolo":
        objectness = bool(fields.setdefault("objectness", seed % 2 == 0))
        fields.setdefault("anchor_axis", 1 + seed // 2 % 2)
        head = np.concatenate([boxes(rows, anchors), scores(rows, anchors, classes + objectness)], axis=2)
        outputs = {"out": head.transpose(0, 2, 1) if fields["anchor_axis"] == 2 else head}
    elif family == "gfl":
        strides = fields.setdefault("strides", [8, 16])
        bins = fields.setdefault("reg_max", 7) + 1
        cells = [-(-SIZE[0] // s) * -(-SIZE[1] // s) for s in strides]
        score = [scores(rows, n, classes) for n in cells]
        sides = [spoilt(rng.normal(0, 2, (rows, n, 4 * bins)), 0.001) for n in cells]
        if seed % 2:
            outputs = {"out": np.concatenate([np.concatenate(score, axis=1), np.concatenate(sides, axis=1)], axis=2)}
        else:
            outputs = {f"{k}{i}": v[i] for i in range(len(strides)) for k, v in (("s", score), ("d", sides))}
            fields.setdefault("outputs", list(outputs))
    elif family == "boxes_with_classes":
        fields |= {"boxes": "b", "scores": "s", "class_ids": "c"}
        outputs = {
            "b": boxes(rows, anchors),
            "s": scores(rows, anchors),
            "c": rng.integers(-1, classes, (rows, anchors)),
        }
    elif family == "boxes":
        fields |= {"boxes": "b", "scores": "s"}
        outputs = {"b": boxes(rows, anchors), "s": scores(rows, anchors, classes)}
    else:
        raise AssertionError(family)
    outputs = {n: a if a.dtype.kind == "i" else np.ascontiguousarray(a, dtype) for n, a in outputs.items()}
    return Case(fields, outputs, make_batch(rng, frames, rows))


def make_pose_case(
    seed: int, *, persons: int | None, frames: int = 2, dtype: str = "float32", options: dict[str, Any] | None = None
) -> Case:
    """Keypoints on a coarse grid with ties and odd numbers; `persons` None: one person without box and score."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {"family": "pose"} | (options or {})
    count, rows, many = len(fields.get("keypoints") or range(17)), frames + 1, persons or 1
    scores = rng.integers(0, 101, (rows, many, count)) / 100
    points = rng.integers(-8, 72, (rows, many, count, 2)) / 64
    if not fields.get("normalized", True):
        points = points * SIZE
    values = np.concatenate([points, scores[..., None]], axis=-1)
    if persons is not None:
        corner, size = rng.integers(-8, 60, (rows, many, 2)) / 64, rng.integers(-2, 40, (rows, many, 2)) / 64
        box = np.concatenate([corner, corner + size], axis=-1) * (1 if fields.get("normalized", True) else 64)
        score = rng.integers(0, 11, (rows, many, 1)) / 10
        values = np.concatenate([values.reshape(rows, many, 3 * count), box, score], axis=-1)
    where = rng.random(values.shape) < 0.02
    values[where] = rng.choice([np.nan, np.inf, -np.inf, -0.0], int(where.sum()))
    # Infinite scores are improbable ones: an error, which has a test of its own.
    flat = values.reshape(rows, many, -1)
    of_scores = flat[..., [*range(2, 3 * count, 3), *([-1] if persons is not None else [])]]
    of_scores[of_scores == np.inf] = 0.5
    flat[..., [*range(2, 3 * count, 3), *([-1] if persons is not None else [])]] = of_scores
    return Case(fields, {"o": flat.reshape(values.shape).astype(dtype)}, make_batch(rng, frames, rows))


SEGMENT_OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "layout": st.sampled_from(["nhwc", "nchw"]),
        "activation": st.sampled_from(["none", "sigmoid", "softmax"]),
        "score_threshold": st.sampled_from([0.0, 0.123457, 0.612347]),
        "background": st.booleans(),
        "classes": st.sampled_from([[], [0], [1, 2, 5]]),
        "class_offset": st.sampled_from([0, 1, 900]),
    },
)


def segment_options_for(options: dict[str, Any], channels: int, dtype: str) -> dict[str, Any]:
    """Those that a map of one probability has a meaning for, too."""
    if channels == 1 and np.dtype(dtype).kind == "f":
        return {k: v for k, v in options.items() if k != "background" and (k, v) != ("activation", "softmax")}
    return options


def make_segment_case(
    seed: int,
    *,
    channels: int,
    size: tuple[int, int] = (6, 5),
    frames: int = 2,
    dtype: str = "float32",
    options: dict[str, Any] | None = None,
) -> Case:
    """Numbers on a coarse grid with ties and odd numbers, in (height, width) `size`; integers are class numbers."""
    rng = np.random.default_rng(seed)
    fields: dict[str, Any] = {"family": "segment"} | (options or {})
    rows = frames + 1
    shape: tuple[int, ...] = (rows, *size, channels)
    if np.dtype(dtype).kind in "iu":
        values = rng.integers(0, 256, shape[:3]) if dtype == "uint8" else rng.integers(-3, 300, shape[:3])
        values = np.minimum(values, np.iinfo(dtype).max)
    else:
        values = rng.integers(-10, 11, shape) / 10
        if fields.get("activation", "none") != "none":
            values *= 4
        where = rng.random(values.shape) < 0.02
        values[where] = rng.choice([np.nan, np.inf, -np.inf, -0.0], int(where.sum()))
        if fields.get("layout") == "nchw":
            values = np.moveaxis(values, -1, 1)
    batch = make_batch(rng, frames, rows)
    windows = []
    for _ in range(frames):
        left, top = (int(rng.integers(0, side // 2)) for side in SIZE)
        width, height = (int(rng.integers(1, side - start + 1)) for side, start in zip(SIZE, (left, top), strict=True))
        hidden = rng.random((height, width)) < 0.2 if rng.random() < 0.5 else None
        windows.append(Window(left, top, width, height, hidden))
    if rng.random() < 0.7:
        batch = replace(batch, windows=tuple(windows))
    return Case(fields, {"o": np.ascontiguousarray(values, dtype)}, batch)


def nearly_tied(case: Case) -> bool:
    """Whether a softmax gives scores so near to each other, or boxes that overlap so nearly as a threshold says, that rounding
    may decide.
    """
    return _has_near_scores(case) or _has_near_overlaps(case)


def _has_near_overlaps(case: Case) -> bool:
    limit = case.fields.get("nms_iou")
    if case.fields["family"] != "gfl" or limit is None:
        return False
    limits = max(limit - 1e-5, 0.0), limit + 1e-5
    less, more = (outcome(replace(case, fields=case.fields | {"nms_iou": value}).reference) for value in limits)
    if isinstance(less, str) or isinstance(more, str):
        return False
    assert less.detections is not None
    assert more.detections is not None
    return not np.array_equal(less.detections.boxes, more.detections.boxes)


def _has_near_scores(case: Case) -> bool:
    if case.fields.get("activation") != "softmax":
        return False
    with np.errstate(all="ignore"):
        raw = case.outputs.get("scores", case.outputs.get("s")).astype(np.float64)
        e = np.exp(raw - raw.max(axis=2, keepdims=True))
        scores = (e / e.sum(axis=2, keepdims=True)).ravel()
    limits = [case.fields["score_threshold"], *case.fields.get("thresholds", {}).values()]
    values = np.sort(np.concatenate([scores[scores > 0], limits]))
    return bool((np.diff(values) < 1e-6).any())


def outcome(run: Any) -> Predictions | str:
    """What came of it, or the message of the error."""
    try:
        return run()
    except ModelError as e:
        return str(e)


def assert_same(found: Predictions | str, expected: Predictions | str) -> None:
    """The same boxes in the same order, within rounding."""
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    if expected.classes is not None:
        a, b = found.classes, expected.classes
        assert a is not None
        np.testing.assert_array_equal(a.counts, b.counts)
        for i, count in enumerate(b.counts):
            np.testing.assert_array_equal(a.class_ids[i, :count], b.class_ids[i, :count])
        np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-5)
        assert (a.class_ids.dtype, a.scores.dtype, a.counts.dtype) == (
            b.class_ids.dtype,
            b.scores.dtype,
            b.counts.dtype,
        )
        return
    if expected.poses is not None:
        assert found.poses is not None
        for name in ("boxes", "scores", "points", "point_scores", "visible", "offsets"):
            x, y = getattr(found.poses, name), getattr(expected.poses, name)
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        assert (found.poses.names, found.poses.edges) == (expected.poses.names, expected.poses.edges)
        return
    if expected.segmentations is not None:
        assert found.segmentations is not None
        for name in ("classes", "transforms", "sizes", "shares"):
            x, y = getattr(found.segmentations, name), getattr(expected.segmentations, name)
            np.testing.assert_array_equal(x, y)
            assert x.dtype == y.dtype
        assert found.segmentations.names == expected.segmentations.names
        assert found.segmentations.class_offset == expected.segmentations.class_offset
        return
    if expected.embeddings is not None:
        assert found.embeddings is not None
        np.testing.assert_array_equal(found.embeddings, expected.embeddings)
        assert found.embeddings.dtype == expected.embeddings.dtype
        return
    a, b = found.detections, expected.detections
    assert a is not None
    assert b is not None
    np.testing.assert_array_equal(a.offsets, b.offsets)
    np.testing.assert_array_equal(a.class_ids, b.class_ids)
    np.testing.assert_allclose(a.scores, b.scores, rtol=0, atol=1e-5)
    np.testing.assert_allclose(a.boxes, b.boxes, rtol=1e-6, atol=1e-2)
    assert a.names == b.names
    for name in ("boxes", "scores", "class_ids", "offsets"):
        assert getattr(a, name).dtype == getattr(b, name).dtype
        assert getattr(a, name).flags.owndata or getattr(a, name).base.flags.owndata


# Anchors and classes of COCO-SSD, YOLOv8 and NanoDet-Plus-m.
HEADS = {"ssd": (1917, 90, (300, 300)), "yolo": (8400, 80, (640, 640)), "gfl": (3598, 80, (416, 416))}


def head_case(
    family: str, seed: int, frames: int, *, dtype: str = "float32", threshold: float = 0.5, objects: int = 20
) -> Case:
    """Outputs as of a picture with some objects: a cluster of good boxes around each, over a low background."""
    anchors, classes, size = HEADS[family]
    rng = np.random.default_rng(seed)
    scores = (rng.random((frames, anchors, classes)) ** 40 * 0.3).astype(np.float32)
    # A grid fine enough for half precision, so that thresholds never are a matter of rounding.
    scores = np.round(scores * 256) / 256
    centre = rng.uniform(0, size, (frames, anchors, 2))
    extent = rng.uniform(4, size[0] / 3, (frames, anchors, 2))
    for frame in range(frames):
        for _ in range(objects):
            cluster = rng.choice(anchors, 8, replace=False)
            centre[frame, cluster] = rng.uniform(0, size) + rng.normal(0, 3, (8, 2))
            extent[frame, cluster] = rng.uniform(10, size[0] / 3, 2) + rng.normal(0, 2, (8, 2))
            scores[frame, cluster, rng.integers(classes)] = rng.integers(80, 253, 8) / 256
    fields: dict[str, Any] = {"family": family, "score_threshold": threshold + 0.0007}
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], axis=2)
    if family == "ssd":
        outputs = {"boxes": corners[..., [1, 0, 3, 2]] / size[0], "scores": scores}
    elif family == "yolo":
        outputs = {"out": np.concatenate([centre, extent, scores], axis=2).transpose(0, 2, 1)}
    else:
        fields |= {"strides": [8, 16, 32, 64]}
        anchors = sum((-(-size[0] // s)) ** 2 for s in fields["strides"])
        assert anchors == HEADS[family][0]
        outputs = {"out": np.concatenate([scores, rng.normal(0, 2, (frames, anchors, 32))], axis=2)}
    outputs = {name: np.ascontiguousarray(value, dtype) for name, value in outputs.items()}
    return Case(fields, outputs, make_batch(rng, frames, frames, size))
