"""The JSON records, against their JSON Schema and two other parsers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.config.sinks import JsonlSink
from pipeline.errors import SinkError
from pipeline.frames import Classifications, Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.sinks import build_sink
from pipeline.sinks._records import utc
from pipeline.sinks._task_records import TaskRecords
from pipeline.sinks.jsonl import JsonRecords
from pipeline.stages import SinkSource

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "record.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
MakeBatch = Callable[..., ResultBatch]
MakeSource = Callable[..., SinkSource]


def records(path: Path) -> list[dict[str, Any]]:
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line) for line in lines] == [orjson.loads(line) for line in lines]
    return [json.loads(line) for line in lines]


def test_a_record_says_what_was_found(tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "out.jsonl"), several_sources=False)
    assert not sink.needs_pixels
    sink.open()
    sink.source_started(make_source())
    sink.write(make_batch(boxes=[[[4, 4.125, 20.3, 30]], []], tracks=True))
    sink.source_finished("cam")
    assert sink.close() == [tmp_path / "out.jsonl"]
    first, second = records(tmp_path / "out.jsonl")
    assert list(first) == [*SCHEMA["required"], "detections"]
    assert first == {
        "schema": "vramline.frame/1",
        "source": "cam",
        "frame": 0,
        "pts_s": 0.0,
        "time": "2023-11-14T22:13:20.000000Z",
        "width": 64,
        "height": 48,
        "rotation": 0,
        "sar": "1:1",
        "model": "model@0123456789ab",
        "detections": [
            {"label": "person", "class_id": 0, "score": 0.93, "box": [4.0, 4.12, 20.3, 30.0], "track_id": 100}
        ],
    }
    assert second["detections"] == []
    assert second["pts_s"] == 0.04


def test_a_cameras_own_time_is_in_the_record_where_it_is_known(make_batch: MakeBatch) -> None:
    batch = make_batch(boxes=[[], []])
    frames = [dataclasses.replace(batch.frames[0], captured_s=1700000000.25), batch.frames[1]]
    first, second = map(json.loads, JsonRecords()(dataclasses.replace(batch, frames=frames)))
    assert first["captured"] == "2023-11-14T22:13:20.250000Z"
    assert "captured" not in second
    for record in (first, second):
        VALIDATOR.validate(record)


def test_classes_of_a_classifier(make_picture: Callable[..., Picture]) -> None:
    classes = Classifications(
        np.array([[2, 7], [7, 2]], np.int32),
        np.array([[0.7, 0.3], [0.6, 0.1]], np.float32),
        np.array([2, 1]),
        {2: "happy"},
    )
    frames = [Frame("cam", i, None, 1.5, make_picture(sar=Fraction(16, 15), rotation=90)) for i in range(2)]
    batch = ResultBatch(frames, Predictions(classes=classes), "m@0")
    first, second = (json.loads(line) for line in JsonRecords()(batch))
    VALIDATOR.validate(first)
    assert "detections" not in first
    assert first["pts_s"] is None
    assert (first["sar"], first["rotation"]) == ("16:15", 90)
    assert first["classes"] == [
        {"label": "happy", "class_id": 2, "score": 0.7},
        {"label": "7", "class_id": 7, "score": 0.3},
    ]
    assert [c["label"] for c in second["classes"]] == ["7"]


def test_empty_frames_can_be_left_out(tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "out.jsonl", empty_frames=False), several_sources=False)
    sink.open()
    sink.source_started(make_source())
    sink.write(make_batch(boxes=[[], [[1, 1, 2, 2]], []]))
    sink.close()
    assert [r["frame"] for r in records(tmp_path / "out.jsonl")] == [1]


def test_labels_follow_a_new_mapping(make_batch: MakeBatch) -> None:
    convert = JsonRecords()
    for name in ("one", "other"):
        (line,) = convert(make_batch(boxes=[[[1, 1, 2, 2]]], names={0: name}))
        assert json.loads(line)["detections"][0]["label"] == name


def test_a_file_per_source_is_complete_when_its_source_is(
    tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource, make_picture: Callable[..., Picture]
) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "new" / "{source}.jsonl"), several_sources=True)
    sink.open()
    assert (tmp_path / "new").is_dir()
    for source_id in ("a/1", "b"):
        sink.source_started(make_source(source_id))
    picture = make_picture()
    frames = [Frame(source_id, i, i / 25, 0.0, picture) for i in range(3) for source_id in ("a/1", "b")]
    sink.write(make_batch(frames))
    sink.source_finished("b")
    assert [r["frame"] for r in records(tmp_path / "new" / "b.jsonl")] == [0, 1, 2]
    assert not (tmp_path / "new" / "a%2F1.jsonl").exists()
    assert sink.close() == [tmp_path / "new" / "b.jsonl", tmp_path / "new" / "a%2F1.jsonl"]
    assert {r["source"] for r in records(tmp_path / "new" / "a%2F1.jsonl")} == {"a/1"}


def test_an_existing_file_per_source_is_refused_when_the_source_starts(tmp_path: Path, make_source: MakeSource) -> None:
    (tmp_path / "b.jsonl").write_text("old")
    sink = build_sink(JsonlSink(path=tmp_path / "{source}.jsonl"), several_sources=True)
    sink.open()
    sink.source_started(make_source("a"))
    with pytest.raises(SinkError, match=r"b\.jsonl: already exists"):
        sink.source_started(make_source("b"))
    sink.source_finished("b")
    assert sink.abort() == []
    assert [p.name for p in tmp_path.iterdir()] == ["b.jsonl"]


def test_an_existing_file_is_refused_at_open(tmp_path: Path) -> None:
    (tmp_path / "out.jsonl").write_text("old")
    sink = build_sink(JsonlSink(path=tmp_path / "out.jsonl"), several_sources=False)
    with pytest.raises(SinkError, match="already exists"):
        sink.open()


def test_a_path_that_is_none() -> None:
    with pytest.raises(SinkError, match=r"'a\\x00b': is not a path"):
        build_sink(JsonlSink(path=Path("a\0b")), several_sources=False)


def test_abort_keeps_what_was_written(tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "out.jsonl"), several_sources=False)
    sink.open()
    sink.source_started(make_source())
    sink.write(make_batch())
    assert sink.abort() == [tmp_path / "out.jsonl.partial"]
    assert sink.abort() == []
    assert len(records(tmp_path / "out.jsonl.partial")) == 1


def test_no_frames_make_an_empty_file(tmp_path: Path) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "out.jsonl"), several_sources=False)
    sink.open()
    sink.close()
    assert (tmp_path / "out.jsonl").read_bytes() == b""


def test_close_completes_the_others_when_one_fails(
    tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource, make_picture: Callable[..., Picture]
) -> None:
    sink = build_sink(JsonlSink(path=tmp_path / "{source}.jsonl"), several_sources=True)
    sink.open()
    for source_id in "ab":
        sink.source_started(make_source(source_id))
    sink.write(make_batch([Frame(s, 0, 0.0, 0.0, make_picture()) for s in "ab"]))
    (tmp_path / "a.jsonl").write_text("taken")
    with pytest.raises(SinkError, match=r"a\.jsonl: already exists"):
        sink.close()
    assert len(records(tmp_path / "b.jsonl")) == 1
    assert sink.abort() == [tmp_path / "a.jsonl.partial"]


texts = st.text(st.characters(codec=None, exclude_categories=()), max_size=12)


@st.composite
def batches(draw: st.DrawFn) -> ResultBatch:
    counts = draw(st.lists(st.integers(0, 4), min_size=1, max_size=4))
    total = sum(counts)
    picture = Picture(
        (np.zeros((2, 2), np.uint8),),
        (0, 0),
        Colour(),
        draw(st.integers(1, 9000)),
        draw(st.integers(1, 9000)),
        draw(st.sampled_from([0, 90, 180, 270])),
        sar=draw(st.fractions(Fraction(1, 100), 100, max_denominator=1000)),
    )
    pts = st.none() | st.floats(-1e6, 1e9)
    frames = [
        Frame(draw(texts), draw(st.integers(0, 2**40)), draw(pts), draw(st.floats(0, 4e9)), picture) for _ in counts
    ]
    detections = Detections(
        draw(hnp.arrays(np.float32, (total, 4), elements=st.floats(-10, 9000, width=32))),
        draw(hnp.arrays(np.float32, total, elements=st.floats(0, 1, width=32))),
        draw(hnp.arrays(np.int32, total)),
        np.cumsum([0, *counts]),
        draw(st.dictionaries(st.integers(-5, 5), texts)),
        draw(st.none() | hnp.arrays(np.int64, total)),
    )
    return ResultBatch(frames, Predictions(detections=detections), draw(texts))


@settings(max_examples=80, deadline=None)
@given(batches())
def test_every_record_fits_the_schema(batch: ResultBatch) -> None:
    detections = batch.predictions.detections
    assert detections is not None
    for i, line in enumerate(JsonRecords()(batch)):
        assert line.endswith(b"}\n")
        assert line.count(b"\n") == 1
        record = json.loads(line)
        assert record == orjson.loads(line)
        VALIDATOR.validate(record)
        own = detections.frame(i)
        boxes = np.array([d["box"] for d in record["detections"]]).reshape(-1, 4)
        np.testing.assert_allclose(boxes, own.boxes.astype(np.float64), atol=0.005 + 1e-9)
        for number in boxes.ravel().tolist():
            assert len(repr(number).partition(".")[2]) <= 2
        for score in (d["score"] for d in record["detections"]):
            assert score == round(score, 4)
        if record["pts_s"] is not None:
            pts_s = batch.frames[i].pts_s
            assert pts_s is not None
            assert record["pts_s"] == pytest.approx(pts_s, abs=5.1e-7, rel=1e-15)


@given(st.floats(0, 4e9))
def test_times_are_utc_to_the_microsecond(time_s: float) -> None:
    parsed = datetime.strptime(utc(time_s), "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=timezone.utc)
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert abs((parsed - epoch) / timedelta(seconds=1) - time_s) <= 1e-6


@settings(max_examples=80, deadline=None)
@given(batches())
def test_detections_are_written_as_text_as_orjson_writes_their_dictionaries(batch: ResultBatch) -> None:
    dictionaries = TaskRecords(None)(batch.predictions).fields["detections"]
    text = TaskRecords(None)(batch.predictions, as_text=True).fields["detections"]
    assert orjson.dumps(text) == orjson.dumps(dictionaries)
    assert [bool(frame) for frame in text] == [bool(frame) for frame in dictionaries]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -0.0])
def test_numbers_that_json_has_not(make_batch: MakeBatch, number: float) -> None:
    predictions = make_batch(boxes=[[[number, 1, 2, number]]]).predictions
    fields = [TaskRecords(None)(predictions, as_text=as_text).fields for as_text in (False, True)]
    assert orjson.dumps(fields[0]) == orjson.dumps(fields[1])
    assert orjson.loads(orjson.dumps(fields[1]))["detections"][0][0]["box"][0] in (None, 0.0)
