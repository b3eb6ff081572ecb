"""Detections without a track have no id in the records and in the annotated video."""

from __future__ import annotations

import csv
import io

import numpy as np
import orjson
import pytest
from tracking_scenes import batch, box, found, frame, tracker

from pipeline.sinks import video
from pipeline.sinks.csv import COLUMNS, CsvRows
from pipeline.sinks.jsonl import JsonRecords


@pytest.fixture
def half_tracked():
    made = tracker()
    made(batch([frame(0, 0.0)], [[box(100)]]))
    return made(batch([frame(1, 0.04)], [[box(100), box(300, score=0.8)]]))


def test_jsonl(half_tracked):
    (line,) = JsonRecords()(half_tracked)
    first, second = orjson.loads(line)["detections"]
    assert first["track_id"] == 1
    assert "track_id" not in second


def test_csv(half_tracked):
    (rows,) = CsvRows()(half_tracked)
    read = list(csv.DictReader(io.StringIO(rows.decode(), newline=""), COLUMNS))
    assert [row["track_id"] for row in read] == ["1", ""]


def test_video(half_tracked):
    texts = []

    class Canvas:
        def outline(self, *_):
            pass

        def text(self, text, *_, **__):
            texts.append(text)
            return 0

    class Placement:
        def box(self, *corners):
            return tuple(map(int, corners))

    video.annotate(Canvas(), Placement(), next(iter(half_tracked)), caption=False)
    assert texts == ["person 0.80", "person #1 0.90"]


def test_supervision(half_tracked):
    pytest.importorskip("supervision")
    np.testing.assert_array_equal(found(half_tracked).to_supervision().tracker_id, [1, -1])
