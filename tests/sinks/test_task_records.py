"""Poses, masks and embeddings in JSON records and CSV rows."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline import rle
from pipeline.frames import Frame, Picture, Predictions, ResultBatch
from pipeline.masks import NO_CLASS, Segmentations
from pipeline.poses import COCO_KEYPOINTS, Poses
from pipeline.sinks._task_records import mask_size
from pipeline.sinks.csv import COLUMNS, CsvRows
from pipeline.sinks.jsonl import JsonRecords

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MakePicture = Callable[..., Picture]


def frames(picture: Picture, count: int) -> list[Frame]:
    return [Frame("cam", i, i / 25, 1.7e9, picture) for i in range(count)]


def records(batch: ResultBatch, **options: Any) -> list[dict[str, Any]]:
    found = [json.loads(line) for line in JsonRecords(**options)(batch) if line]
    for record in found:
        VALIDATOR.validate(record)
    return found


def rows(batch: ResultBatch) -> list[dict[str, str]]:
    text = b"".join(CsvRows()(batch)).decode()
    return list(csv.DictReader(io.StringIO(text), fieldnames=COLUMNS, strict=True))


def some_poses(counts: tuple[int, ...] = (2, 0)) -> Poses:
    persons = sum(counts)
    rng = np.random.default_rng(1)
    scores = rng.random((persons, 17)).astype(np.float32)
    return Poses(
        np.tile(np.float32([1.256, 2, 30, 40]), (persons, 1)),
        np.linspace(0.91234, 0.5, persons).astype(np.float32),
        rng.uniform(-5, 60, (persons, 17, 2)).astype(np.float32),
        scores,
        scores >= 0.3,
        np.cumsum([0, *counts]),
    )


def test_persons_with_the_keypoints_that_are_seen(make_picture: MakePicture) -> None:
    poses = some_poses()
    batch = ResultBatch(frames(make_picture(), 2), Predictions(poses=poses), "m@0")
    first, second = records(batch)
    assert second["poses"] == []
    assert [person["score"] for person in first["poses"]] == [0.9123, 0.5]
    person = first["poses"][0]
    assert person["box"] == [1.26, 2.0, 30.0, 40.0]
    seen = poses.visible[0].nonzero()[0]
    assert [point["name"] for point in person["keypoints"]] == [COCO_KEYPOINTS[i] for i in seen]
    for point, i in zip(person["keypoints"], seen, strict=True):
        np.testing.assert_allclose([point["x"], point["y"]], poses.points[0, i], atol=0.005 + 1e-6)
        assert point["score"] == pytest.approx(float(poses.point_scores[0, i]), abs=5.1e-5)
    assert [r["frame"] for r in records(batch, empty_frames=False)] == [0]
    assert [(r["kind"], r["label"], r["class_id"], r["score"], r["x1"], r["y2"]) for r in rows(batch)] == [
        ("pose", "person", "", "0.9123", "1.26", "40.0"),
        ("pose", "person", "", "0.5", "1.26", "40.0"),
    ]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 90), st.integers(1, 90), st.none() | st.integers(1, 100), st.booleans()
)
def test_masks_are_the_upright_picture(seed: int, width: int, height: int, side: int | None, empty: bool) -> None:
    rng = np.random.default_rng(seed)
    classes = rng.choice([0, 2, NO_CLASS], (2, 6, 8)).astype(np.uint8)
    if empty:
        classes[1] = NO_CLASS
    transforms = np.tile([8 / width, 6 / height, 0, 0], (2, 1))
    found = Segmentations(classes, transforms, np.tile([width, height], (2, 1)).astype(float), {3: "cat"}, 1)
    picture = Picture((np.zeros((height, width), np.uint8),), (0, 0), None, width, height)  # type: ignore[arg-type]
    batch = ResultBatch(frames(picture, 2), Predictions(segmentations=found), "m@0")
    for i, record in enumerate(records(batch, mask_side=side)):
        size = mask_size((width, height), side)
        upright = found.frame(i).upright(size)
        shares = [mask["share"] for mask in record["masks"]]
        assert shares == sorted(shares, reverse=True)
        assert {mask["class_id"] for mask in record["masks"]} == {
            int(c) + 1 for c in np.unique(classes[i]) if c != NO_CLASS
        }
        for mask in record["masks"]:
            assert mask["label"] == {1: "1", 3: "cat"}[mask["class_id"]]
            np.testing.assert_array_equal(rle.decode(mask["rle"]), upright == mask["class_id"] - 1)
            assert mask["share"] == pytest.approx((classes[i] == mask["class_id"] - 1).mean(), abs=1e-6)
    kept = records(batch, mask_side=side, empty_frames=False)
    assert len(kept) == (1 if empty else 2)
    assert [(r["kind"], r["x1"]) for r in rows(batch)] == [("mask", "")] * sum(len(r["masks"]) for r in kept)


@pytest.mark.parametrize(
    ("picture", "side", "size"),
    [
        ((1920, 1080), 512, (512, 288)),
        ((1080, 1920), 512, (288, 512)),
        ((640, 272), 512, (512, 218)),
        ((300, 200), 512, (300, 200)),
        ((1920, 1080), None, (1920, 1080)),
        ((4000, 2), 512, (512, 1)),
    ],
)
def test_masks_are_scaled_down_only(picture: tuple[int, int], side: int | None, size: tuple[int, int]) -> None:
    assert mask_size(picture, side) == size


def test_embeddings(make_picture: MakePicture) -> None:
    vectors = np.array([[0.6, -0.8, 1 / 3], [np.nan] * 3], np.float32)
    batch = ResultBatch(frames(make_picture(), 2), Predictions(embeddings=vectors), "m@0")
    first, second = records(batch)
    assert first["embedding"] == [0.6, -0.8, 0.333333]
    assert second["embedding"] is None
    assert [r["frame"] for r in records(batch, empty_frames=False)] == [0]
    assert rows(batch) == []


def test_results_of_a_frame(make_picture: MakePicture) -> None:
    """What the Python API hands out, frame by frame."""
    found = Segmentations(np.zeros((2, 2, 2), np.uint8), np.ones((2, 4)), np.full((2, 2), 9.0))
    vectors = np.eye(2, dtype=np.float32)
    batch = ResultBatch(frames(make_picture(), 2), Predictions(None, None, None, some_poses(), found, vectors), "m@0")
    first, second = batch
    assert first.poses is not None
    assert second.poses is not None
    assert (len(first.poses), len(second.poses)) == (2, 0)
    assert repr(some_poses()) == "Poses(2 persons in 2 frames)"
    assert first.segmentation is not None
    assert first.segmentation.size == (9, 9)
    np.testing.assert_array_equal(second.embedding, [0, 1])
    with pytest.raises(ValueError, match="do not fit"):
        Poses(*(getattr(some_poses(), n) for n in ("boxes", "scores", "points", "scores", "visible", "offsets")))
    with pytest.raises(ValueError, match="offsets run from 0 to 3"):
        some = some_poses()
        Poses(some.boxes, some.scores, some.points, some.point_scores, some.visible, np.array([0, 3]))
