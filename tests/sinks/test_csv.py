"""The CSV rows, read back by the standard library's reader."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np

from pipeline.config.sinks import CsvSink
from pipeline.frames import Classifications, Frame, Picture, Predictions, ResultBatch
from pipeline.sinks import build_sink
from pipeline.stages import SinkSource

MakeBatch = Callable[..., ResultBatch]
MakeSource = Callable[..., SinkSource]


def written(path: Path, batches: list[ResultBatch], source: SinkSource) -> list[dict[str, str]]:
    sink = build_sink(CsvSink(path=path), several_sources=False)
    sink.open()
    sink.source_started(source)
    for batch in batches:
        sink.write(batch)
    sink.source_finished(source.source_id)
    assert sink.close() == [path]
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def test_a_row_a_detection(tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource) -> None:
    batch = make_batch(boxes=[[[4, 4, 20, 30], [10, 8, 40.126, 44]], [], [[1, 2, 3, 4]]], tracks=True)
    rows = written(tmp_path / "out.csv", [batch, batch], make_source())
    assert [(r["frame"], r["label"], r["track_id"]) for r in rows[:3]] == [
        ("0", "person", "100"),
        ("0", "bicycle", "101"),
        ("2", "person", "102"),
    ]
    assert rows[3:] == rows[:3]
    assert rows[1] == {
        "schema": "vramline.row/1",
        "source": "cam",
        "frame": "0",
        "pts_s": "0.0",
        "time": "2023-11-14T22:13:20.000000Z",
        "width": "64",
        "height": "48",
        "model": "model@0123456789ab",
        "kind": "detection",
        "label": "bicycle",
        "class_id": "1",
        "score": "0.83",
        "x1": "10.0",
        "y1": "8.0",
        "x2": "40.13",
        "y2": "44.0",
        "track_id": "101",
        "name": "",
    }


def test_a_row_a_class(tmp_path: Path, make_source: MakeSource, make_picture: Callable[..., Picture]) -> None:
    classes = Classifications(
        np.array([[1, 0]], np.int32), np.array([[0.75, 0.25]], np.float32), np.array([2]), {1: "happy"}
    )
    batch = ResultBatch([Frame("cam", 0, None, 0.0, make_picture())], Predictions(classes=classes), "m@0")
    rows = written(tmp_path / "out.csv", [batch], make_source())
    assert [(r["kind"], r["label"], r["score"], r["x1"], r["pts_s"]) for r in rows] == [
        ("class", "happy", "0.75", "", ""),
        ("class", "0", "0.25", "", ""),
    ]


def test_quoting_survives_any_text(
    tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource, make_picture: Callable[..., Picture]
) -> None:
    odd = 'a,"b"\r\nc\n,=1+1 \udc80'
    frame = Frame(odd, 0, 0.0, 0.0, make_picture())
    batch = make_batch([frame], [[[0, 0, 1, 1]]], names={0: '"x",\ry'})
    (row,) = written(tmp_path / "out.csv", [batch], make_source(odd))
    assert row["source"] == 'a,"b"\r\nc\n,=1+1 \\udc80'
    assert row["label"] == '"x",\ry'
    assert (tmp_path / "out.csv").read_bytes().endswith(b",\r\n")


def test_a_run_without_rows_has_a_header(tmp_path: Path, make_source: MakeSource) -> None:
    assert written(tmp_path / "out.csv", [], make_source()) == []
    assert (tmp_path / "out.csv").read_bytes() == (
        b"schema,source,frame,pts_s,time,width,height,model,kind,label,class_id,score,x1,y1,x2,y2,track_id,name\r\n"
    )
