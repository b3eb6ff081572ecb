"""What models of the cascade and beside the first one found, in records, rows and on the annotated video."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from pipeline.crops import Crops
from pipeline.frames import Classifications, Detections, Predictions, ResultBatch, SideResults
from pipeline.masks import Segmentations
from pipeline.poses import Poses
from pipeline.sinks import video
from pipeline.sinks.csv import COLUMNS, CsvRows
from pipeline.sinks.jsonl import JsonRecords

MakeBatch = Callable[..., ResultBatch]
VALIDATOR = jsonschema.Draft202012Validator(
    json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())
)
MOODS = {0: "calm", 1: "happy"}


def classes(ids: list[int]) -> Predictions:
    column = np.array(ids, np.int32)[:, None]
    return Predictions(
        classes=Classifications(column, np.full_like(column, 0.75, np.float32), np.ones(len(ids), np.int64), MOODS)
    )


def boxes(counts: list[int], label: str) -> Predictions:
    total = sum(counts)
    corners = np.array([(i, i, i + 4, i + 6.126) for i in range(total)], np.float32).reshape(-1, 4)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Predictions(
        Detections(corners, np.full(total, 0.5, np.float32), np.zeros(total, np.int32), offsets, {0: label})
    )


def crops(
    of: str | None, parents: list[int], parent_offsets: Any, predictions: Predictions, numbers: list[int]
) -> Crops:
    return Crops(
        "second@0123456789ab",
        of,
        np.array(parents, np.int64),
        np.array(parent_offsets, np.int64),
        np.zeros((len(parents), 4), np.float32),
        np.array(numbers, np.int64),
        predictions,
    )


@pytest.fixture
def batch(make_batch: MakeBatch) -> ResultBatch:
    """Two frames with two detections each: faces in three of them, moods of two faces and of two detections."""
    whole = make_batch(boxes=[[[4, 4, 20, 30], [10, 8, 40, 44]]] * 2, tracks=True)
    offsets = whole.predictions.detections.offsets
    face = crops(None, [0, 1, 3], offsets, boxes([1, 2, 1], "face"), [0, 0, 1])
    return replace(
        whole,
        crops={
            "mood": crops(None, [1, 2], offsets, classes([0, 1]), [0, 0]),  # that of frame 1 is kept from frame 0
            "face": face,
            "face_mood": crops("face", [0, 3], face.found_offsets, classes([1, 0]), [0, 1]),
        },
        models={
            "scene": SideResults("scene@ba9876543210", classes([1, 0])),
            "cars": SideResults("cars@0", boxes([0, 2], "car")),
        },
    )


def records(batch: ResultBatch, **options: Any) -> list[dict[str, Any] | None]:
    found = [json.loads(line) if line else None for line in JsonRecords(**options)(batch)]
    for record in found:
        if record is not None:
            VALIDATOR.validate(record)
    return found


def mood(name: str, class_id: int, **more: Any) -> dict[str, Any]:
    return {name: {"classes": [{"label": MOODS[class_id], "class_id": class_id, "score": 0.75}], **more}}


def test_attributes_stand_in_their_detections(batch: ResultBatch) -> None:
    first, second = records(batch)
    assert [d.get("attributes") for d in first["detections"]] == [None, mood("mood", 0)]
    assert [d.get("attributes") for d in second["detections"]] == [mood("mood", 1, frame=0), None]


def test_detections_in_crops_have_a_list_of_their_own(batch: ResultBatch) -> None:
    first, second = records(batch)
    second_model = "second@0123456789ab"
    assert {name: set(own) for name, own in first["cascade"].items()} == {
        "mood": {"model"},
        "face": {"model", "detections"},
        "face_mood": {"model"},
    }
    assert all(own["model"] == second_model for own in first["cascade"].values())
    faces = first["cascade"]["face"]["detections"]
    assert [(f["label"], f["parent"], f["box"]) for f in faces] == [
        ("face", 0, [0, 0, 4, 6.13]),
        ("face", 1, [1, 1, 5, 7.13]),
        ("face", 1, [2, 2, 6, 8.13]),
    ]
    assert [f.get("attributes") for f in faces] == [mood("face_mood", 1), None, None]
    (face,) = second["cascade"]["face"]["detections"]
    assert (face["parent"], face["attributes"]) == (1, mood("face_mood", 0))


def test_models_beside_have_a_place_of_their_own(batch: ResultBatch) -> None:
    first, second = records(batch)
    assert first["models"]["scene"] == {"model": "scene@ba9876543210", **mood("x", 1)["x"]}
    assert first["models"]["cars"]["detections"] == []
    assert [d["label"] for d in second["models"]["cars"]["detections"]] == ["car", "car"]


def test_a_frame_in_which_only_another_model_found_something_gets_a_record(make_batch: MakeBatch) -> None:
    empty = replace(make_batch(boxes=[[], []]), models={"cars": SideResults("cars@0", boxes([0, 2], "car"))})
    assert [record is None for record in records(empty, empty_frames=False)] == [True, False]


def test_every_task_in_a_crop(make_batch: MakeBatch) -> None:
    whole = make_batch(boxes=[[[4, 4, 20, 30], [10, 8, 40, 44]]])
    offsets = whole.predictions.detections.offsets
    found = boxes([1, 0], "x").detections
    poses = Poses(
        found.boxes,
        found.scores,
        np.ones((1, 2, 2), np.float32),
        np.ones((1, 2), np.float32),
        np.ones((1, 2), bool),
        found.offsets,
        ("nose", "tail"),
        (),
    )
    maps = Segmentations(
        np.array([[[0, 255]], [[255, 255]]], np.uint8),
        np.tile([2 / 64, 1 / 48, 0, 0], (2, 1)),
        np.tile([64.0, 48.0], (2, 1)),
        {0: "skin"},
    )
    vectors = np.array([[0.5, 0.25], [np.nan, 1]], np.float32)
    several = {
        "pose": Predictions(poses=poses),
        "skin": Predictions(segmentations=maps),
        "vector": Predictions(embeddings=vectors),
    }
    batch = replace(whole, crops={name: crops(None, [0, 1], offsets, p, [0, 0]) for name, p in several.items()})
    (record,) = records(batch)
    one, two = (d["attributes"] for d in record["detections"])
    assert len(one["pose"]["poses"][0]["keypoints"]) == 2
    assert two["pose"] == {"poses": []}
    assert one["skin"]["masks"][0]["share"] == 0.5
    assert two["skin"] == {"masks": []}
    assert (one["vector"], two["vector"]) == ({"embedding": [0.5, 0.25]}, {"embedding": None})


def test_rows_say_whose_they_are(batch: ResultBatch) -> None:
    text = b"".join(CsvRows()(batch)).decode()
    rows = list(csv.DictReader(io.StringIO(text, newline=""), COLUMNS))
    first = [r for r in rows if r["frame"] == "0"]
    told = [(r["name"], r["kind"], r["label"], r["x1"], r["y2"], r["track_id"]) for r in first]
    assert told == [
        ("", "detection", "person", "4.0", "30.0", "100"),
        ("", "detection", "bicycle", "10.0", "44.0", "101"),
        ("scene", "class", "happy", "", "", ""),
        ("mood", "class", "calm", "10.0", "44.0", "101"),
        ("face", "detection", "face", "0.0", "6.13", "100"),
        ("face", "detection", "face", "1.0", "7.13", "101"),
        ("face", "detection", "face", "2.0", "8.13", "101"),
        ("face_mood", "class", "happy", "0.0", "6.13", "100"),
    ]
    assert {r["name"]: r["model"] for r in first} == {
        "": "model@0123456789ab",
        "scene": "scene@ba9876543210",
        **dict.fromkeys(("mood", "face", "face_mood"), "second@0123456789ab"),
    }


def test_labels_on_the_video_end_with_the_best_attribute(batch: ResultBatch) -> None:
    texts: list[str] = []

    class Canvas:
        def outline(self, *_: Any) -> None:
            pass

        def text(self, text: str, *_: Any, **__: Any) -> int:
            texts.append(text)
            return 0

    class Placement:
        def box(self, *corners: float) -> tuple[int, ...]:
            return tuple(map(int, corners))

    first, _ = batch
    video.annotate(Canvas(), Placement(), first, caption=False)  # type: ignore[arg-type]
    assert texts == [
        "bicycle #101 0.83 | calm 0.75",
        "person #100 0.93",
        "face 0.50",
        "face 0.50",
        "face 0.50 | happy 0.75",
        "scene: happy 0.75",
    ]
    texts.clear()
    video.annotate(Canvas(), Placement(), first, caption=False, labels=False)  # type: ignore[arg-type]
    assert texts == ["scene: happy 0.75"]
