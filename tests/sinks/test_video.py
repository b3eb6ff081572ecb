"""The annotated video, read back by FFmpeg."""

from __future__ import annotations

import json
import logging
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from pipeline.config.sinks import VideoSink
from pipeline.errors import SinkError
from pipeline.frames import Colour, Frame, Picture, Predictions, Result, ResultBatch
from pipeline.sinks import build_sink
from pipeline.sinks._colour import class_rgb, to_sample
from pipeline.sinks.video import encoder_threads
from pipeline.stages import Sink, SinkSource

MakePicture = Callable[..., Picture]
MakeBatch = Callable[..., ResultBatch]
MakeSource = Callable[..., SinkSource]


def opened(source: SinkSource, path: Path, **options: Any) -> Sink:
    sink = build_sink(VideoSink(path=path, preset="ultrafast", **options), several_sources=False)
    assert sink.needs_pixels
    sink.open()
    sink.source_started(source)
    return sink


def decoded(path: Path) -> tuple[list[int], list[list[np.ndarray]]]:
    """Times in 1/90000 s and the planes of every frame."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert all(f.format.name in ("yuv420p", "yuvj420p") for f in frames)
        ticks = [f.pts * f.time_base * 90000 for f in frames if f.pts is not None and f.time_base is not None]
        planes = [
            [
                np.frombuffer(memoryview(p), np.uint8).reshape(-1, p.line_size)[: p.height, : p.width].copy()
                for p in f.planes
            ]
            for f in frames
        ]
    return [round(t) for t in ticks], planes


def probe(path: Path) -> dict[str, Any]:
    done = subprocess.run(
        ["ffprobe", "-v", "error", "-show_streams", "-show_format", "-of", "json", str(path)],
        capture_output=True,
        check=True,
        timeout=60,
    )
    found = json.loads(done.stdout)
    return {**found["streams"][0], "container_start": found["format"]["start_time"]}


def frames_at(times: Sequence[float | None], picture: Picture) -> list[Frame]:
    return [Frame("cam", i, pts_s, 0.0, picture) for i, pts_s in enumerate(times)]


VARIABLE = [7.5 + t for t in (0, 0.033, 0.067, 0.4, 0.5001, 1.0, 1.0001, 3.25, 3.3, 3.333, 9.0, 9.04)]


@pytest.mark.parametrize("preset", ["ultrafast", "veryfast"])
def test_variable_times_survive(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource, preset: str
) -> None:
    """Also with a preset that would reorder frames."""
    sink = build_sink(VideoSink(path=tmp_path / "out.mp4", preset=preset), several_sources=False)
    sink.open()
    sink.source_started(make_source())
    pictures = [make_picture(64, 48, seed=None) for _ in VARIABLE]
    frames = [Frame("cam", i, t, 0.0, p) for i, (t, p) in enumerate(zip(VARIABLE, pictures, strict=True))]
    for start in range(0, len(frames), 5):
        sink.write(make_batch(frames[start : start + 5]))
    sink.source_finished("cam")
    assert sink.close() == [tmp_path / "out.mp4"]
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4"]
    ticks, _ = decoded(tmp_path / "out.mp4")
    np.testing.assert_allclose(ticks, (np.array(VARIABLE) - VARIABLE[0]) * 90000, atol=1)
    info = probe(tmp_path / "out.mp4")
    assert (info["codec_name"], info["pix_fmt"], info["start_time"]) == ("h264", "yuv420p", "0.000000")
    assert info["container_start"] == "0.000000"
    assert float(info["duration"]) == pytest.approx(9.04 + 0.04 - 0, abs=0.001)  # the last frame is shown too
    data = (tmp_path / "out.mp4").read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")
    assert b"moof" not in data


def test_repaired_times_are_counted_in_the_log(
    tmp_path: Path,
    make_picture: MakePicture,
    make_batch: MakeBatch,
    make_source: MakeSource,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    sink = opened(make_source(), tmp_path / "out.mp4")
    sink.write(make_batch(frames_at([1.0, 1.04, 1.04, 1.0, None, 1.2], make_picture())))
    sink.close()
    assert decoded(tmp_path / "out.mp4")[0] == [0, 3600, 3601, 3602, 7202, 18000]
    assert "3 frames had no usable time" in caplog.text


@pytest.mark.parametrize("rotation", [0, 90])
@pytest.mark.parametrize("matrix", ["bt601", "bt709"])
@pytest.mark.parametrize("full_range", [False, True])
def test_lossless_video_differs_only_where_something_is_drawn(
    tmp_path: Path,
    make_picture: MakePicture,
    make_batch: MakeBatch,
    make_source: MakeSource,
    matrix: Any,
    full_range: bool,
    rotation: int,
) -> None:
    colour = Colour(matrix, full_range)
    pictures = [make_picture(96, 96, colour=colour, seed=i, rotation=rotation) for i in range(3)]
    frames = [Frame("cam", i, i / 25, 0.0, p) for i, p in enumerate(pictures)]
    sink = opened(make_source(), tmp_path / "out.mp4", crf=0, labels=False, caption=False)
    x1, y1, x2, y2 = 21, 30, 60, 75
    sink.write(make_batch(frames, [[[x1, y1, x2, y2]]] * 3))
    sink.close()
    _, planes = decoded(tmp_path / "out.mp4")
    edge = np.zeros((96, 96), bool)
    edge[y1:y2, x1:x2] = True
    edge[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1] = False
    near = edge.reshape(48, 2, 48, 2).any((1, 3))
    luma = to_sample(class_rgb(0), colour)[0]
    for (y, cb, cr), picture in zip(planes, pictures, strict=True):
        shown = [np.rot90(p, -rotation // 90) for p in picture.planes]
        np.testing.assert_array_equal(y[~edge], shown[0][~edge])
        np.testing.assert_array_equal(cb[~near], shown[1][~near])
        np.testing.assert_array_equal(cr[~near], shown[2][~near])
        assert (y[edge] == luma).all()
    info = probe(tmp_path / "out.mp4")
    assert info["color_space"] == {"bt601": "smpte170m", "bt709": "bt709"}[matrix]
    assert info["color_range"] == ("pc" if full_range else "tv")
    assert info["chroma_location"] == ("left" if rotation == 0 else "top")


@pytest.mark.parametrize(
    ("matrix", "space"), [("bt2020", "bt2020nc"), ("smpte240m", "smpte240m"), ("rgb", "smpte170m")]
)
def test_other_matrices_are_tagged(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource, matrix: Any, space: str
) -> None:
    colour = Colour(matrix, bit_depth=10, siting="topleft")
    picture = make_picture(64, 48, colour=colour, shift=(0, 0) if matrix == "rgb" else (1, 1))
    sink = opened(make_source(), tmp_path / "out.mp4")
    sink.write(make_batch(frames_at([0.0], picture)))
    sink.close()
    info = probe(tmp_path / "out.mp4")
    assert (info["color_space"], info["color_range"], info["pix_fmt"]) == (space, "tv", "yuv420p")
    assert info["chroma_location"] == ("left" if matrix == "rgb" else "topleft")


def test_labels_caption_and_classes_are_drawn(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    y, cb, cr = (
        np.full(size, value, np.uint8) for size, value in (((240, 320), 100), ((120, 160), 128), ((120, 160), 128))
    )
    picture = Picture((y, cb, cr), (1, 1), Colour("bt601"), 320, 240)

    def drawn(batch: ResultBatch, **options: Any) -> np.ndarray:
        path = tmp_path / "out.mp4"
        sink = opened(make_source(), path, overwrite=True, crf=0, **options)
        sink.write(batch)
        sink.close()
        changed: np.ndarray = decoded(path)[1][0][0] != 100
        return changed

    boxes = make_batch(frames_at([1.5], picture), [[[100, 100, 180, 200]]], names={0: "Fußgänger 歩行者"})
    all_of_it = drawn(boxes)
    assert all_of_it[0, 0]  # the caption
    assert all_of_it[90:100, 100:150].mean() > 0.95  # the label's background, above the box
    no_labels = drawn(boxes, labels=False)
    assert not no_labels[80:100, 90:200].any()
    assert not drawn(boxes, caption=False)[:20].any()
    nothing = drawn(make_batch(frames_at([1.5], picture), [[]]), caption=False)
    assert not nothing.any()

    class Classified(ResultBatch):
        def __iter__(self) -> Any:
            yield Result(self.frames[0], self.model, None, [("happy", 0, 0.8), ("sad", 1, 0.2)])

    lines = drawn(Classified(frames_at([1.5], picture), Predictions(), "m@0"))
    heights = lines[:, 1].nonzero()[0]
    assert heights.max() + 1 == pytest.approx(3 * (all_of_it[:, 1].nonzero()[0].max() + 1))


def test_a_source_without_times_is_captioned_and_paced(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    sink = opened(make_source(rate=Fraction(10)), tmp_path / "out.mp4")
    sink.write(make_batch(frames_at([None] * 3, make_picture())))
    sink.close()
    assert decoded(tmp_path / "out.mp4")[0] == [0, 9000, 18000]


def test_a_video_per_source_and_none_for_a_source_without_frames(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    sink = build_sink(VideoSink(path=tmp_path / "{source}.mp4", preset="ultrafast"), several_sources=True)
    sink.open()
    for source_id in ("a", "b", "none"):
        sink.source_started(make_source(source_id))
    pictures = {"a": make_picture(64, 48), "b": make_picture(32, 80)}
    sink.write(make_batch([Frame(s, i, i / 25, 0.0, pictures[s]) for i in range(5) for s in "ab"]))
    sink.source_finished("none")
    sink.source_finished("a")
    assert len(decoded(tmp_path / "a.mp4")[0]) == 5
    assert sorted(sink.close()) == [tmp_path / "a.mp4", tmp_path / "b.mp4"]
    assert probe(tmp_path / "b.mp4")["width"] == 32
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.mp4", "b.mp4"]


def test_several_sources_need_several_files(tmp_path: Path, make_source: MakeSource) -> None:
    with pytest.raises(SinkError, match=r"cannot share one annotated video .*\{source\}\.mp4"):
        build_sink(VideoSink(path=tmp_path / "out.mp4"), several_sources=True)
    sink = opened(make_source("a"), tmp_path / "out.mp4")
    with pytest.raises(SinkError, match=r"'b' would go into the video of 'a'"):
        sink.source_started(make_source("b"))
    assert sink.abort() == []


def test_other_containers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SinkError, match=r"out\.mkv: the annotated video is an MP4 file"):
        build_sink(VideoSink(path=tmp_path / "out.mkv"), several_sources=False)


def test_abort_leaves_a_playable_file(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    sink = opened(make_source(), tmp_path / "out.mp4")
    sink.write(make_batch(frames_at([i / 25 for i in range(30)], make_picture())))
    assert sink.abort() == [tmp_path / "out.mp4.partial"]
    assert len(decoded(tmp_path / "out.mp4.partial")[0]) == 30


def test_a_killed_run_leaves_a_playable_file(
    tmp_path: Path, make_picture: MakePicture, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    """What lies on the disk in the middle of a run is what a kill would leave."""
    sink = opened(make_source(), tmp_path / "out.mp4")
    for start in range(0, 200, 20):
        sink.write(make_batch(frames_at([(start + i) / 25 for i in range(20)], make_picture())))
    (tmp_path / "out.mp4.partial.final").write_text("a kill while completing would leave this too")
    (tmp_path / "left.mp4").write_bytes((tmp_path / "out.mp4.partial").read_bytes())
    assert len(decoded(tmp_path / "left.mp4")[0]) >= 100
    sink.abort()
    sink = opened(make_source(), tmp_path / "out.mp4")
    sink.write(make_batch(frames_at([0.0], make_picture())))
    sink.abort()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["left.mp4", "out.mp4.partial"]


def test_an_encoder_that_refuses_is_a_sink_error(
    tmp_path: Path, make_batch: MakeBatch, make_source: MakeSource
) -> None:
    wide = np.zeros((2, 20_000), np.uint8)
    chroma = np.full((1, 10_000), 128, np.uint8)
    picture = Picture((wide, chroma, chroma), (1, 1), Colour("bt601"), 20_000, 2)
    sink = opened(make_source(), tmp_path / "out.mp4")
    with pytest.raises(SinkError, match=r"out\.mp4: the video cannot be encoded"):
        sink.write(make_batch(frames_at([0.0], picture)))
    assert sink.abort() == []
    assert list(tmp_path.iterdir()) == []


def test_many_encoders_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    for cores, one, many in ((1, 1, 1), (2, 1, 1), (8, 4, 2), (64, 4, 2)):
        monkeypatch.setattr("os.sched_getaffinity", lambda _, n=cores: set(range(n)))
        assert encoder_threads(several_sources=False) == one
        assert encoder_threads(several_sources=True) == many


def test_odd_path_characters(
    tmp_path: Path,
    make_picture: MakePicture,
    make_batch: MakeBatch,
    make_source: MakeSource,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    sink = opened(make_source(), Path("a:b %d 自.mp4"))
    sink.write(make_batch(frames_at([0.0], make_picture())))
    assert sink.close() == [Path("a:b %d 自.mp4")]
    assert (tmp_path / "a:b %d 自.mp4").stat().st_size > 0
