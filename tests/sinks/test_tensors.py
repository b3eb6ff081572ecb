"""The NPZ file, read back by numpy.load."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.sinks import TensorsSink
from pipeline.errors import SinkError
from pipeline.frames import Frame, Picture, Predictions, ResultBatch
from pipeline.sinks import build_sink
from pipeline.sinks.tensors import array_names
from pipeline.stages import Sink, SinkSource

MakeSource = Callable[..., SinkSource]


@pytest.fixture
def batch_of(make_picture: Callable[..., Picture]) -> Callable[..., ResultBatch]:
    picture = make_picture()

    def make(tensors: Mapping[str, Any] | None, start: int = 0, source_id: str = "cam") -> ResultBatch:
        count = 1 if tensors is None else len(next(iter(tensors.values())))
        frames = [Frame(source_id, i, i / 25 if i else None, 0.0, picture) for i in range(start, start + count)]
        return ResultBatch(frames, Predictions(tensors=tensors), "m@0")

    return make


def opened(path: Path, source: SinkSource) -> Sink:
    sink = build_sink(TensorsSink(path=path), several_sources=False)
    sink.open()
    sink.source_started(source)
    return sink


def test_arrays_of_all_frames(tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource) -> None:
    rng = np.random.default_rng(0)
    boxes = rng.normal(size=(70, 5, 4)).astype(np.float32)
    counts = rng.integers(0, 9, 70)
    flags = rng.integers(0, 2, (70, 3)).astype(bool)
    sink = opened(tmp_path / "out.npz", make_source())
    for start in range(0, 70, 32):
        part = slice(start, start + 32)
        sink.write(batch_of({"head/boxes:0": boxes[part], "counts": counts[part], "flags": flags[part]}, start))
    sink.source_finished("cam")
    assert sink.close() == [tmp_path / "out.npz"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert set(arrays) == {"source", "frame", "pts_s", "head_boxes_0", "counts", "flags"}
        for name, expected in (("head_boxes_0", boxes), ("counts", counts), ("flags", flags)):
            assert arrays[name].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[name], expected)
        np.testing.assert_array_equal(arrays["frame"], np.arange(70))
        np.testing.assert_array_equal(arrays["pts_s"][1:], np.arange(1, 70) / 25)
        assert np.isnan(arrays["pts_s"][0])
        assert set(arrays["source"].tolist()) == {"cam"}
    with zipfile.ZipFile(tmp_path / "out.npz") as archive:
        assert archive.testzip() is None


def test_longer_source_ids_widen_the_column(
    tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource
) -> None:
    ids = ["a", "b" * 40, "", "ü" * 200, "c\udc80"]
    sink = opened(tmp_path / "out.npz", make_source())
    for i, source_id in enumerate(ids):
        sink.write(batch_of({"x": np.array([i, i], np.int8)}, source_id=source_id))
    sink.close()
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["source"].tolist() == [i for i in [*ids[:4], "c\\udc80"] for _ in range(2)]
        assert arrays["x"].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_a_run_without_frames(tmp_path: Path, make_source: MakeSource) -> None:
    opened(tmp_path / "out.npz", make_source()).close()
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert {name: len(arrays[name]) for name in arrays} == {"source": 0, "frame": 0, "pts_s": 0}


def test_abort_keeps_each_array_readable(
    tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource
) -> None:
    sink = opened(tmp_path / "out.npz", make_source())
    sink.write(batch_of({"x": np.arange(6.0).reshape(2, 3)}))
    with pytest.raises(SinkError, match=r"out\.npz: the output 'x' changes .*\(3,\).*\(4,\)"):
        sink.write(batch_of({"x": np.zeros((1, 4))}))
    kept = {p.name: np.load(p, allow_pickle=False) for p in sink.abort()}
    assert sorted(kept) == sorted(f"out.npz.partial.{n}.npy" for n in ("source", "frame", "pts_s", "x"))
    np.testing.assert_array_equal(kept["out.npz.partial.x.npy"], np.arange(6.0).reshape(2, 3))
    assert {len(values) for values in kept.values()} == {2}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(kept)
    # The next run replaces them all, also those that it does not write itself.
    sink = opened(tmp_path / "out.npz", make_source())
    sink.write(batch_of({"y": np.zeros((1, 1))}))
    sink.close()
    assert [p.name for p in tmp_path.iterdir()] == ["out.npz"]


def test_abort_before_the_first_frame_leaves_nothing(tmp_path: Path, make_source: MakeSource) -> None:
    assert opened(tmp_path / "out.npz", make_source()).abort() == []
    assert list(tmp_path.iterdir()) == []


def test_a_shape_or_type_that_changes_is_an_error(
    tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource
) -> None:
    sink = opened(tmp_path / "out.npz", make_source())
    sink.write(batch_of({"x": np.zeros((1, 1), np.float32)}))
    with pytest.raises(SinkError, match=r"float32 and then .*float64"):
        sink.write(batch_of({"x": np.zeros((1, 1), np.float64)}))


def test_what_cannot_be_stored(tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource) -> None:
    sink = opened(tmp_path / "out.npz", make_source())
    with pytest.raises(SinkError, match=r"the tensors sink has nothing to write .*family: raw"):
        sink.write(batch_of(None))
    with pytest.raises(SinkError, match="'names' holds objects or texts"):
        sink.write(batch_of({"names": np.array([b"a", "b"], object)}))


def test_bfloat16_becomes_float32(
    tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource
) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    sink = opened(tmp_path / "out.npz", make_source())
    sink.write(batch_of({"x": np.array([[1.5, -2.0]], ml_dtypes.bfloat16)}))
    sink.close()
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["x"].dtype == np.float32
        assert arrays["x"].tolist() == [[1.5, -2.0]]


def test_array_names_do_not_collide() -> None:
    assert array_names(["a/b", "a:b", "frame", "a_b"]) == {
        "a/b": "a_b",
        "a:b": "a_b_2",
        "frame": "frame_2",
        "a_b": "a_b_3",
    }


def test_empty_rows(tmp_path: Path, batch_of: Callable[..., ResultBatch], make_source: MakeSource) -> None:
    sink = opened(tmp_path / "out.npz", make_source())
    sink.write(batch_of({"x": np.zeros((3, 0, 4))}))
    sink.close()
    with np.load(tmp_path / "out.npz", allow_pickle=False) as arrays:
        assert arrays["x"].shape == (3, 0, 4)
