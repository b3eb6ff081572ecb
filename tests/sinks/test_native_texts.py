"""Detections as text, written by the library of the `cuda` engine: what orjson writes of the rounded numbers, byte for byte."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import orjson
import pytest
from host_compiler import compile_for_host
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pipeline.frames import Detections
from pipeline.inference import shared_stream
from pipeline.sinks import native_texts
from pipeline.sinks._detection_texts import DetectionTexts
from pipeline.sinks._records import rounded
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


def test_a_library_without_the_function(tmp_path: Path) -> None:
    use_library(Path(compile_for_host('extern "C" int something() { return 1; }\n', tmp_path, "-O1")._name))
    detections = some([2, 3])
    assert DetectionTexts()._native(detections) is None
    assert DetectionTexts()(detections) == expected(detections)
