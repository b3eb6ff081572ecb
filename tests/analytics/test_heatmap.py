"""Heat maps against adding up one by one, and their files."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from analytics_world import batch_of, frame, settings
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.errors import SinkError
from pipeline.sinks.heatmap import HeatmapSink
from pipeline.stages import SinkSource, StreamInfo

INFO = StreamInfo("h264", 64, 48, None, None, None)
PLACES = st.dictionaries(st.integers(0, 5), st.tuples(st.integers(0, 64), st.integers(0, 48)), max_size=4)


def written(folder, seen, *, name="{source}.png", batch=3, finish=True, **keys):
    heatmap = {"path": str(folder / name), "cell": 10, "overwrite": True, **keys.pop("heatmap", {})}
    sink = HeatmapSink({"cam": settings(heatmap=heatmap, **keys)})
    sink.open()
    for source in ("cam", "other"):
        sink.source_started(SinkSource(source, INFO))
    for start in range(0, len(seen), batch):
        part = seen[start : start + batch]
        frames = [frame("cam", start + i, t, (64, 48)) for i, (t, _) in enumerate(part)]
        sink.write(batch_of([*frames, frame("other", 0, 0.0)], [*(p for _, p in part), {1: (3, 3)}], classes={2: 2}))
    if finish:
        sink.source_finished("cam")
        sink.source_finished("other")
    return sink


@given(st.lists(st.tuples(st.integers(1, 100), PLACES), min_size=1, max_size=12), st.integers(1, 5))
def test_every_object_counts_for_the_time_since_the_frame_before(tmp_path_factory, steps, batch) -> None:
    folder = tmp_path_factory.mktemp("heat")
    now, seen = 0.0, []
    for step, places in steps:
        now += step / 32
        seen.append((now, places))
    written(folder, seen, batch=batch, forget_s=2, classes=["car"])
    expected = np.zeros((5, 7))
    for (before, _), (time, places) in itertools.pairwise(seen):
        for track, (x, y) in places.items():
            if track != 2:  # that is a bus
                expected[min(int(y) // 10, 4), min(int(x) // 10, 6)] += min(time - before, 2)
    found = np.load(folder / "cam.npz")
    np.testing.assert_allclose(found["seconds"], expected, atol=1e-9)
    assert (found["cell"], found["size"].tolist()) == (10, [64, 48])
    with Image.open(folder / "cam.png") as image:
        assert (image.size, image.mode) == ((64, 48), "RGBA")
    assert not list(folder.glob("*.partial"))


def test_the_picture_is_transparent_where_nobody_was(tmp_path) -> None:
    written(tmp_path, [(0.0, {}), (1.0, {1: (15, 15)})], heatmap={"cell": 4})
    with Image.open(tmp_path / "cam.png") as image:
        alpha = np.asarray(image)[..., 3]
    assert alpha[40, 50] == 0
    assert alpha[14, 14] == alpha.max() > 150
    sink = written(tmp_path, [(0.0, {})], name="none-{source}.png")
    assert sink.completed == [tmp_path / "none-cam.png", tmp_path / "none-cam.npz"]
    with Image.open(tmp_path / "none-cam.png") as image:
        assert not np.asarray(image)[..., 3].any()


def test_a_source_without_frames_gets_none(tmp_path) -> None:
    assert written(tmp_path, []).completed == []
    assert list(tmp_path.iterdir()) == []


def test_what_exists_is_not_overwritten(tmp_path) -> None:
    (tmp_path / "cam.npz").write_text("old")
    with pytest.raises(SinkError, match="already exists"):
        written(tmp_path, [(0.0, {})], heatmap={"overwrite": False})
    assert [path.name for path in tmp_path.iterdir()] == ["cam.npz"]


def test_a_run_that_breaks_off_keeps_the_numbers(tmp_path) -> None:
    sink = written(tmp_path, [(0.0, {1: (5, 5)}), (1.0, {1: (5, 5)})], finish=False)
    (kept,) = sink.abort()
    assert kept == tmp_path / "cam.npz.partial"
    assert np.load(kept)["seconds"][0, 0] == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["cam.npz.partial"]


def test_closing_writes_what_is_left(tmp_path) -> None:
    sink = written(tmp_path, [(0.0, {})], finish=False)
    assert sink.close() == [tmp_path / "cam.png", tmp_path / "cam.npz"]


def test_pictures_of_another_size_are_laid_over_the_first(tmp_path) -> None:
    sink = HeatmapSink({"cam": settings(heatmap={"path": str(tmp_path / "h.png"), "cell": 8})})
    sink.source_started(SinkSource("cam", INFO))
    sink.write(batch_of([frame("cam", 0, 0.0, (64, 48)), frame("cam", 1, 1.0, (128, 96))], [{}, {1: (120, 90)}]))
    sink.close()
    assert np.argwhere(np.load(tmp_path / "h.npz")["seconds"]).tolist() == [[5, 7]]
