"""Detections as text, and their lines, written by the library of the `cuda` engine: what orjson writes of dictionaries, byte for byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from fractions import Fraction
from pathlib import Path

import numpy as np
import orjson
import pytest
from host_compiler import compile_for_host
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.frames import Colour, Detections, Frame, Picture, Predictions, ResultBatch
from pipeline.inference import shared_stream
from pipeline.sinks import _frame_heads, native_texts
from pipeline.sinks._detection_texts import DetectionTexts
from pipeline.sinks._records import rounded
from pipeline.sinks.jsonl import JsonRecords
from pipeline.sinks.native_texts import use_library

NAMES = {0: "person", 2: 'car "red"', 7: "Straße \udcff", 80: "x" * 300}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = Path(shared_stream.__file__).with_name("detection_texts.cc")
    return Path(compile_for_host(source.read_text(), tmp_path_factory.mktemp("texts"), "-O1")._name)


@pytest.fixture(autouse=True)
def library(built: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(native_texts, "_write", None)
    use_library(built)
    yield


def expected(detections: Detections) -> list[bytes]:
    """By orjson alone, from dictionaries."""
    scores, boxes = rounded(detections.scores, 4), rounded(detections.boxes, 2)
    tracks = [-1] * len(scores) if detections.track_ids is None else detections.track_ids.tolist()
    records = []
    for class_id, score, box, track in zip(detections.class_ids.tolist(), scores, boxes, tracks, strict=True):
        label = NAMES.get(class_id, str(class_id)).encode("utf-8", "backslashreplace").decode()
        record = {"label": label, "class_id": class_id, "score": score, "box": box}
        records.append(record if track < 0 else {**record, "track_id": track})
    ends = detections.offsets.tolist()
    return [orjson.dumps(records[start:end]) for start, end in itertools.pairwise(ends)]


def some(
    counts: list[int], numbers: float = 1000.0, classes: tuple[int, ...] = (0, 2, 7, 80, 5), tracks: bool = False
) -> Detections:
    rng, total = np.random.default_rng(3), sum(counts)
    return Detections(
        (rng.standard_normal((total, 4)) * numbers).astype(np.float32),
        rng.random(total, np.float32),
        rng.choice(classes, total).astype(np.int32),
        np.cumsum([0, *counts]),
        NAMES,
        rng.integers(-1, 3, total) if tracks else None,
    )


@given(
    boxes=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e8, 1e8, width=32)),
    scores=hnp.arrays(np.float32, 3, elements=st.floats(0, 1, width=32)),
    classes=hnp.arrays(np.int32, 3, elements=st.sampled_from([0, 2, 7, 80, 81, 1000])),
    tracks=st.none() | hnp.arrays(np.int64, 3, elements=st.sampled_from([-1, 0, 9, 10, 2**63 - 1])),
    between=st.integers(0, 3),
)
@settings(deadline=None, max_examples=300)
def test_what_orjson_writes(boxes, scores, classes, tracks, between) -> None:  # type: ignore[no-untyped-def]
    detections = Detections(boxes, scores, classes, np.array([0, between, 3]), NAMES, tracks)
    texts = DetectionTexts()
    assert texts._native(detections) == expected(detections)
    assert texts(detections) == expected(detections)


@given(st.integers(-(10**8), 10**8), st.sampled_from([1, 10, 100, 1000, 200, 2000, 8, 80]))
@settings(deadline=None, max_examples=300)
def test_numbers_in_the_middle_of_two_and_with_few_decimals(number: int, divisor: int) -> None:
    box = np.full((1, 4), number / divisor, np.float32)
    score = np.full(1, abs(number) % 20_001 / 20_000, np.float32)
    detections = Detections(box, score, np.zeros(1, np.int32), np.array([0, 1]), NAMES)
    assert DetectionTexts()._native(detections) == expected(detections)


@pytest.mark.parametrize("tracks", [False, True])
def test_a_busy_batch(tracks: bool) -> None:
    detections = some([0, 100, 1, 0, 300, 0], tracks=tracks)
    texts = DetectionTexts()
    for _ in range(2):  # its classes are new the first time
        assert texts(detections) == expected(detections)
    for text in texts(detections):
        json.loads(text)


def test_other_names_are_other_classes() -> None:
    texts = DetectionTexts()
    first = some([2, 1])
    assert texts(first) == expected(first)
    other = Detections(first.boxes, first.scores, first.class_ids, first.offsets, {0: "bird"})
    assert texts(other) == DetectionTexts()(other)
    assert b"bird" in b"".join(
        texts(Detections(first.boxes, first.scores, first.class_ids * 0, first.offsets, {0: "bird"}))
    )


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e9, 3e38])
@pytest.mark.parametrize("where", ["box", "score"])
def test_numbers_that_only_python_can_write(odd: float, where: str) -> None:
    detections = some([3])
    (detections.boxes[1] if where == "box" else detections.scores)[1] = odd
    texts = DetectionTexts()
    assert texts._native(detections) is None
    assert texts(detections) == expected(detections)


@pytest.mark.parametrize("class_id", [-1, 65536, 2**31 - 1])
def test_classes_that_only_python_can_write(class_id: int) -> None:
    detections = some([3], classes=(0, class_id))
    detections.class_ids[1] = class_id
    texts = DetectionTexts()
    assert texts._native(detections) is None
    assert texts(detections) == expected(detections)


def test_arrays_that_are_views_or_of_another_type() -> None:
    plain = some([4, 4], tracks=True)
    view = Detections(
        np.repeat(plain.boxes, 2, axis=1)[:, ::2],
        plain.scores[::-1][::-1],
        plain.class_ids.astype(np.int64),  # type: ignore[arg-type]
        plain.offsets.astype(np.int32),  # type: ignore[arg-type]
        NAMES,
        plain.track_ids,
    )
    assert DetectionTexts()._native(view) == expected(plain)


def line_of(frame: Frame, detections: bytes, model: str) -> bytes:
    """By orjson alone, from a dictionary; the time by `datetime`."""
    picture = frame.picture
    microseconds = round(frame.time_s * 1e6)
    time = datetime(1970, 1, 1, tzinfo=timezone.utc) + timedelta(microseconds=microseconds)
    record = {
        "schema": "vramline.frame/1",
        "source": frame.source_id.encode("utf-8", "backslashreplace").decode(),
        "frame": frame.index,
        "pts_s": None if frame.pts_s is None else round(frame.pts_s, 6) + 0.0,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S.%fZ").rjust(27, "0"),
        **({} if frame.captured_s is None else {"captured": "1970-01-01T00:00:01.500000Z"}),
        "width": picture.width,
        "height": picture.height,
        "rotation": picture.rotation,
        "sar": f"{picture.sar.numerator}:{picture.sar.denominator}",
        "model": model,
        "detections": orjson.Fragment(detections),
    }
    return orjson.dumps(record, option=orjson.OPT_APPEND_NEWLINE)


def batch_of(frames: list[Frame], counts: list[int], model: str = 'm "x"@0123') -> ResultBatch:
    return ResultBatch(frames, Predictions(some(counts, tracks=True)), model)


def frame_of(
    pts_s: float | None,
    time_s: float = 1.7e9,
    *,
    source_id: str = "a",
    index: int = 0,
    size: tuple[int, int] = (1920, 1080),
    rotation: int = 0,
    sar: Fraction = Fraction(1),
    captured_s: float | None = None,
) -> Frame:
    picture = Picture((), (1, 1), Colour(), *size, rotation, False, sar)
    return Frame(source_id, index, pts_s, time_s, picture, captured_s=captured_s)


def check(records: JsonRecords, batch: ResultBatch, *, natively: bool = True) -> None:
    assert batch.predictions.detections is not None
    want = [
        line_of(frame, text, batch.model)
        for frame, text in zip(batch.frames, expected(batch.predictions.detections), strict=True)
    ]
    lines = records._native_lines(batch)
    assert (lines is not None) == natively
    assert lines is None or lines == want
    assert records(batch) == want
    assert records._lines(batch) == want


usual_pts = (
    st.none()
    | st.sampled_from([0.0, -0.0, 1e-9, 3.9e-7, -3e-7, 2e-5, -1.5, 999_999_999.0])
    | st.floats(2e-5, 1e8)
    | st.floats(-1e8, -2e-5)
    | st.integers(40, 10**14).map(lambda n: n / 2e6)  # in the middle of two microseconds, or next to it
    | st.integers(2, 10**9).map(lambda n: n * 1001 / 60000)
)


@given(
    frames=st.lists(
        st.builds(
            frame_of,
            usual_pts,
            st.floats(0, 253402300798) | st.integers(0, 5 * 10**9).map(lambda n: n / 2),
            source_id=st.sampled_from(["a", 'b "2"', "ü", "\udcff"]),
            index=st.integers(0, 2**40),
            size=st.sampled_from([(1, 1), (1920, 1080)]),
            rotation=st.sampled_from([0, 90]),
            sar=st.sampled_from([Fraction(1), Fraction(4, 3)]),
        ),
        max_size=5,
    )
)
@settings(deadline=None, max_examples=300)
def test_lines(frames: list[Frame]) -> None:
    check(JsonRecords(), batch_of(frames, [i % 3 for i in range(len(frames))]))


@given(st.integers(0, 253402300798), st.integers(0, 999_999))
@settings(deadline=None, max_examples=300)
def test_every_day(seconds: int, microseconds: int) -> None:
    check(JsonRecords(), batch_of([frame_of(0.0, seconds + microseconds / 1e6)], [1]))


@pytest.mark.parametrize("day", ["1970-01-01", "1999-12-31", "2000-02-29", "2100-02-28", "2100-03-01", "9999-12-31"])
def test_days_at_the_calendars_edges(day: str) -> None:
    start_s = datetime.fromisoformat(day).replace(tzinfo=timezone.utc).timestamp()
    check(JsonRecords(), batch_of([frame_of(1.0, start_s), frame_of(2.0, start_s + 86398.75)], [0, 2]))


def test_sources_change_their_shape_and_models_their_name() -> None:
    records = JsonRecords()
    for size in ((640, 480), (480, 640), (640, 480)):
        frames = [frame_of(float(i), source_id=f"s{i % 3}", index=i, size=size) for i in range(7)]
        for model in ("one@0", "other@1"):
            check(records, batch_of(frames, [1, 0, 2, 0, 0, 3, 1], model))


def test_thousands_of_sources_come_and_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_frame_heads, "_MOST_KINDS", 10)
    records = JsonRecords()
    for number in range(40):
        check(records, batch_of([frame_of(0.5, source_id=f"s{number + i}") for i in range(3)], [1, 0, 2]))
    assert len(records._fronts._pieces) <= 2 * 13


@pytest.mark.parametrize(
    "odd",
    [
        *(frame_of(pts_s) for pts_s in (5e-6, -5e-6, 1e9, -2e9)),
        *(frame_of(1.0, captured_s=1.5), frame_of(1.0, 2e9, captured_s=1.5)),
    ],
)
def test_frames_that_only_python_can_write(odd: Frame) -> None:
    check(JsonRecords(), batch_of([frame_of(1.0), odd], [2, 1]), natively=False)


def test_frames_without_detections_may_be_left_out() -> None:
    batch = batch_of([frame_of(float(i), index=i) for i in range(4)], [1, 0, 0, 2])
    some_lines = JsonRecords(empty_frames=False)
    want = JsonRecords()(batch)
    for lines in (some_lines._native_lines(batch), some_lines._lines(batch)):
        assert lines == [want[0], b"", b"", want[3]]


def test_what_else_a_model_finds_is_python_s() -> None:
    batch = batch_of([frame_of(1.0)], [1])
    assert JsonRecords()._native_lines(batch) is not None
    more = Predictions(batch.predictions.detections, embeddings=np.ones((1, 3), np.float32))
    assert JsonRecords()._native_lines(replace(batch, predictions=more)) is None
    assert b'"embedding":' in JsonRecords()(replace(batch, predictions=more))[0]


def test_a_library_without_the_function(tmp_path: Path) -> None:
    use_library(Path(compile_for_host('extern "C" int something() { return 1; }\n', tmp_path, "-O1")._name))
    detections = some([2, 3])
    assert DetectionTexts()._native(detections) is None
    assert DetectionTexts()(detections) == expected(detections)
    check(JsonRecords(), batch_of([frame_of(1.0)], [3]), natively=False)
