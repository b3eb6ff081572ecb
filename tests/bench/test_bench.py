"""A real pipeline on the CPU is measured: what comes out, what is written where, and which stage is named."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import Report, bench
from pipeline.bench.meter import BenchError, Timing
from pipeline.bench.run import KeptModel
from pipeline.config.load import config_from_mapping
from pipeline.errors import SourceError
from pipeline.runtime.build import build_stages

SHORT = Timing(warm_s=0.05, measure_s=0.3)
PARTS = {"decode", "preprocess", "decode_and_preprocess", "model", "postprocess"}
MEASURED = {"frames_per_s", "frames", "seconds", "cpu_ms_per_frame", "cores_busy", "machine_cores_busy", "gpu"}


def measure(settings: dict[str, Any], **options: Any) -> Report:
    return bench(config_from_mapping(settings), name="my.yaml", timing=SHORT, **options)


def test_the_report(settings: Any, clip: Path) -> None:
    report = json.loads(json.dumps(measure(settings(), sources=3).as_dict()))
    assert set(report) == {
        "report", "config", "device", "device_reason", "model", "batch_size", "sources", "timing", "clips", "sinks",
        "left_out", "machine", "gpu_reason", "versions", "parts", "pipeline", "limit", "ratio_to_ceiling",
    }  # fmt: skip
    assert (report["report"], report["config"], report["device"], report["batch_size"]) == (1, "my.yaml", "cpu", 4)
    assert set(report["parts"]) == PARTS
    assert all(set(part) == MEASURED for part in report["parts"].values())
    assert set(report["pipeline"]) == MEASURED | {"latency", "stages", "cores"}
    assert set(report["pipeline"]["latency"]) == {"p50_ms", "p95_ms", "p99_ms", "max_ms"}
    assert set(report["pipeline"]["stages"]) == {"decode", "preprocess", "infer", "postprocess", "sinks"}
    assert set(report["limit"]) == {"by", "slowest", "share", "sentence"}
    assert set(report["machine"]) == {"system", "cpu", "cores", "gpu"}
    assert report["gpu_reason"] == "the pipeline runs on the CPU"
    assert {"vramline", "python", "tensorflow", "av", "numpy"} <= set(report["versions"])
    (facts,) = report["clips"]
    assert facts.pop("bit_rate") > 0
    assert facts == {
        "name": clip.name, "codec": "h264", "width": 64, "height": 48, "frame_rate": 30, "frames": 20, "used": 3,
    }  # fmt: skip


def test_the_figures_hold_together(settings: Any) -> None:
    report = measure(settings(sinks=[]))
    for part in (*report.parts.values(), report.whole.measured):
        assert part.seconds >= SHORT.measure_s
        assert part.frames_per_s == pytest.approx(part.frames / part.seconds)
        assert part.cores_busy == pytest.approx(part.cpu_ms_per_frame * part.frames_per_s / 1e3)
    latency = report.whole.latency
    assert latency is not None
    assert 0 < latency.p50_ms <= latency.p95_ms <= latency.p99_ms <= latency.max_ms < 60_000
    # Queues hold a few batches; none of them waits for longer than a run has lasted.
    assert report.whole.measured.frames_per_s <= 1.5 * report.parts["model"].frames_per_s
    text = report.render()
    assert "decode alone" in text
    assert "full pipeline" in text
    assert text.splitlines()[-1].endswith("frames/s).")


def test_nothing_of_the_users_is_written(settings: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    mine = tmp_path / "out.jsonl"
    mine.write_text("precious\n")
    sinks = [
        {"type": "jsonl", "path": "out.jsonl"},
        {"type": "csv", "path": "new.csv", "overwrite": True},
        {"type": "video", "path": str(tmp_path / "videos" / "out.mp4")},
    ]
    report = measure(settings(sinks=sinks, observe={"report": "report.json"}), sources=2)
    assert list(report.sinks) == ["jsonl", "csv", "video"]
    assert mine.read_text() == "precious\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "temporary"]
    assert list(temporary.iterdir()) == []


class Slow:
    """Calls something, and takes its time."""

    def __init__(self, call: Any, seconds: float) -> None:
        self._call, self._seconds = call, seconds

    def __call__(self, *arguments: Any) -> Any:
        time.sleep(self._seconds)
        return self._call(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._call, name)


class SlowDecoder:
    def __init__(self, decoder: Any) -> None:
        self.info, self.stats, self.close, self._decoder = decoder.info, decoder.stats, decoder.close, decoder

    def __iter__(self) -> Any:
        for group in self.groups():
            yield from group

    def groups(self) -> Any:
        for group in self._decoder.groups():
            time.sleep(0.01 * len(group))
            yield group


class SlowSink:
    needs_pixels = False
    completed: tuple[Path, ...] = ()

    def write(self, batch: Any) -> None:
        time.sleep(0.04)

    def source_started(self, source: Any) -> None: ...

    def source_finished(self, source_id: str) -> None: ...

    def close(self) -> list[Path]:
        return []

    abort = close


@pytest.mark.parametrize("stage", ["decode", "preprocess", "model", "postprocess", "sinks"])
def test_the_slow_stage_is_named(settings: Any, stage: str) -> None:
    def build(*arguments: Any) -> Any:
        stages = build_stages(*arguments)
        if stage == "sinks":
            stages.outputs.add(SlowSink())
            return stages
        if stage == "decode":
            return dataclasses.replace(stages, open_decoder=lambda *a: SlowDecoder(arguments_open(*a)))
        return dataclasses.replace(stages, **{stage: Slow(getattr(stages, stage), 0.04)})

    def arguments_open(*arguments: Any) -> Any:
        from pipeline.config.stages import Decode
        from pipeline.decode.ffmpeg import FfmpegDecoder

        return FfmpegDecoder(arguments[0], Decode(threads=1), arguments[1])

    report = measure(settings(sinks=[]), build=build)
    assert report.limit.by == stage, report.render()
    assert report.whole.measured.frames_per_s <= 102, "4 frames take 40 ms"


def test_parts_that_are_known_are_not_measured_again(settings: Any) -> None:
    kept, seen = KeptModel(), []
    first = measure(settings(), build=kept.build)
    second = measure(settings(), build=kept.build, known=first.parts, on_part=lambda name, _: seen.append(name))
    assert seen == ["prepare", "pipeline", "pipeline"]
    assert second.parts == first.parts
    assert second.model == first.model
    kept.close()


def test_a_model_is_loaded_once(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.inference import tensorflow

    loads = []
    real = tensorflow.load_model
    monkeypatch.setattr(tensorflow, "load_model", lambda *a, **k: loads.append(a) or real(*a, **k))
    kept = KeptModel()
    reports = [measure(settings(), build=kept.build, sources=n) for n in (1, 2)]
    assert len(loads) == 1
    assert [report.sources for report in reports] == [1, 2]
    measure(settings())
    assert len(loads) == 2


def test_more_videos_than_are_open_at_a_time(settings: Any, clip: Path) -> None:
    sources = [{"path": str(clip), "id": name, "max_frames": 3} for name in "abc"]
    report = measure(settings(sources=sources, sinks=[]), sources=2)
    assert report.clips[0].used == 2
    assert list(report.left_out) == [
        "1 of the 3 videos: 2 are open at a time",
        "max_frames: videos are played in a loop",
    ]


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("rtsp://user:secret@camera.example/1", r"camera.example/1: is a live stream"),
        ("https://example.org/clip.mp4", r"clip: is a URL"),
    ],
)
def test_what_cannot_be_measured(settings: Any, source: str, words: str) -> None:
    with pytest.raises(BenchError, match=words) as error:
        measure(settings(sources=[source]))
    assert "ffmpeg -i URL" in str(error.value)
    assert "secret" not in str(error.value)


def test_a_missing_file(settings: Any, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="there is no such file"):
        measure(settings(sources=[str(tmp_path / "nothing.mp4")]))


def test_a_damaged_file(settings: Any, clip: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(clip.read_bytes()[: clip.stat().st_size // 2])
    with pytest.raises(BenchError, match=r"decode alone: .*broken.mp4"):
        measure(settings(sources=[str(broken)]))


def test_an_output_that_breaks(settings: Any) -> None:
    from pipeline.errors import SinkError

    class Full(SlowSink):
        def write(self, batch: Any) -> None:
            raise SinkError("out.jsonl: the disk is full")

    def build(*arguments: Any) -> Any:
        stages = build_stages(*arguments)
        stages.outputs.add(Full())
        return stages

    with pytest.raises(BenchError, match=r"full pipeline: out\.jsonl: the disk is full"):
        measure(settings(sinks=[]), build=build)
