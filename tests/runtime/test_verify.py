"""Ranges around stages, and a whole verification: real threads and a real account, with stages and a tracer that are none."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fakes import FakeDecoder, FakeModel, FakePreprocessor, FakeSink, fake_postprocess, frame
from media_maker import make_clip

from pipeline.config.load import config_from_mapping
from pipeline.config.models import Config
from pipeline.errors import DeviceError, ModelError, VramlineError
from pipeline.frames import ResultBatch
from pipeline.observe import machine
from pipeline.observe.status import RunStatus
from pipeline.observe.trace.records import Call, Copy, Direction, Launch, Trace, Wait, Window
from pipeline.observe.trace.verdict import Limits
from pipeline.observe.trace.windows import StageWindows
from pipeline.runtime import build
from pipeline.runtime import verify as verify_module
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.ranges import with_ranges
from pipeline.runtime.rehearsal import rehearsal
from pipeline.runtime.steps import Stages
from pipeline.runtime.verify import Plan, Verification, Verifier
from pipeline.stages import DecodeStats, StreamInfo

WIDTH, HEIGHT = 40, 20
PICTURE = WIDTH * HEIGHT * 3 // 2


class FakeTracer:
    """Records what the fake stages say that they do, as CUPTI would: with thread and time."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.is_recording = False
        self._numbers = itertools.count(1)

    def now_ns(self) -> int:
        return time.perf_counter_ns()

    def start(self) -> None:
        self.is_recording = True

    def begin(self) -> None:
        self.trace.start_ns = self.now_ns()

    def end(self) -> None:
        self.trace.end_ns = self.now_ns()

    def stop(self) -> Trace:
        self.is_recording = False
        return self.trace

    def _call(self, name: str) -> tuple[int, int]:
        number, now_ns = next(self._numbers), self.now_ns()
        self.trace.calls.append(Call(name, threading.get_native_id(), now_ns, now_ns, number))
        return now_ns, number

    def copy(self, direction: Direction, size: int) -> None:
        if self.is_recording:
            self.trace.copies.append(Copy(direction, size, *self._call("cudaMemcpyAsync")))

    def launch(self) -> None:
        if self.is_recording:
            self.trace.launches.append(Launch(*self._call("cuLaunchKernel")))

    def wait(self) -> None:
        if self.is_recording:
            self.trace.waits.append(Wait("event", *self._call("cudaEventSynchronize")))


class Pending:
    def __init__(self, tracer: FakeTracer, found: Any) -> None:
        self._tracer, self._found = tracer, found

    def result(self) -> Any:
        self._tracer.wait()
        return self._found


@pytest.fixture
def tracer() -> FakeTracer:
    return FakeTracer()


@pytest.fixture
def stages(tracer: FakeTracer, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Puts fake stages in the place of the cuda engine's; what the dictionary holds changes them."""
    options: dict[str, Any] = {"frames": 1_000_000}

    class Decoder(FakeDecoder):
        def __init__(self, source_id: str, stats: DecodeStats) -> None:
            super().__init__(source_id, options["frames"])
            self.info, self.stats = StreamInfo("fake", WIDTH, HEIGHT, None, None, None), stats

        def __iter__(self) -> Iterator[Any]:
            for item in super().__iter__():
                self.stats.packets += 1
                self.stats.packet_bytes += 5
                tracer.copy(Direction.DEVICE, PICTURE)
                yield item

    class Preprocessor(FakePreprocessor):
        def __call__(self, frames: Any, rows: int) -> Any:
            tracer.launch()
            return super().__call__(frames, rows)

    def postprocess(outputs: Any, batch: Any) -> Any:
        tracer.copy(Direction.DOWN, options.get("down", 3) * len(batch.frames))
        if options.get("waits"):
            tracer.wait()
        return Pending(tracer, fake_postprocess(outputs, batch))

    def download(frames: Any) -> Any:
        for _ in frames:
            tracer.copy(Direction.DOWN, PICTURE)
        return list(frames)

    def fake_stages(job: Any, outputs: Outputs) -> Stages:
        return Stages(
            open_decoder=lambda spec, stats: Decoder(spec.source_id, stats),
            preprocess=Preprocessor(),
            model=options.get("model") or FakeModel(4),
            postprocess=postprocess,
            outputs=outputs,
            download=download,
            on_device=True,
        )

    def choose(device: str, *_: object) -> tuple[str, str]:
        return ("cpu", "the configuration says so") if device == "cpu" else ("cuda", "fake")

    monkeypatch.setattr(build, "cuda_stages", fake_stages)
    monkeypatch.setattr(build, "locate_model", lambda model, progress: (Path("m"), "m"))
    monkeypatch.setattr(machine, "choose_device", choose)
    monkeypatch.setattr(verify_module, "choose_device", choose)
    yield options


def config(tmp_path: Path, **more: Any) -> Config:
    video = tmp_path / "a.mp4"
    video.write_bytes(b"")
    return config_from_mapping(
        {
            "sources": [str(video)],
            "pipeline": {"model": {"path": "m/"}, "postprocess": {"family": "od_api"}},
            "runtime": {"batch_size": 4},
            **more,
        }
    )


def verified(config: Config, tracer: FakeTracer, **plan: Any) -> Verification:
    chosen = Plan(**{"batches": 10, "warm_up": 3, "limits": Limits(4, 1.0), **plan})
    found = Verifier(config, chosen, lambda: tracer)()
    assert found is not None
    return found


# ---------------------------------------------------------------------------------------------------------- verifying


def test_a_run_that_keeps_its_frames_on_the_device(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    found = verified(config(tmp_path), tracer)
    assert found.passed, [v.message for v in found.verdicts]
    account = found.account
    assert account.batches >= 10
    assert account.frames_per_batch == 4
    by = account.stages
    assert by["decode"].per_frame(by["decode"].device_bytes) == PICTURE
    assert by["decode"].per_frame(by["decode"].packet_bytes) == pytest.approx(5)
    assert by["preprocess"].per_batch(by["preprocess"].launches) == 1
    assert by["postprocess"].per_frame(by["postprocess"].down_bytes) == 3
    assert by["results"].per_batch(by["results"].waits) == 1
    assert "elsewhere" not in by
    assert len(tracer.trace.waits) > account.batches  # others were recorded, but not measured


def test_too_much_going_down_and_a_wait_too_many(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    stages |= {"down": 5, "waits": True}
    found = verified(config(tmp_path), tracer)
    assert not found.passed
    assert {v.check: v.passed for v in found.verdicts} == {
        "raw_frames": True,
        "down_bytes_per_frame": False,
        "waits_per_batch": False,
    }
    assert {v.check: v.value for v in found.verdicts}["waits_per_batch"] == pytest.approx(2)


@pytest.mark.parametrize("allowed", [False, True])
def test_a_sink_that_draws(
    stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setattr("pipeline.sinks.build_sink", lambda *_, **__: FakeSink(needs_pixels=True))
    settings = config(tmp_path, sinks=[{"type": "video", "path": str(tmp_path / "out.mp4")}])
    found = verified(settings, tracer, allow_drawing=allowed)
    assert found.passed is allowed
    assert found.account.stages["download"].down_bytes > 0
    if not allowed:
        assert "because sinks[0] (video) draws on them" in found.verdicts[0].message


def test_a_device_of_the_cpu(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"nothing to verify without a GPU.*device: cpu"):
        verified(config(tmp_path, device="cpu"), tracer)
    assert tracer.trace == Trace()


def test_sources_that_end_too_soon(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    stages["frames"] = 0
    with pytest.raises(VramlineError, match="ended after 0 batches, before the warm-up was over"):
        verified(config(tmp_path), tracer)


def test_a_tracer_that_records_nothing_does_not_pass(
    stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeTracer, "start", lambda self: None)
    with pytest.raises(DeviceError, match=r"recorded no kernel in \d+ batches"):
        verified(config(tmp_path), tracer)


def test_a_tracer_that_lost_records_does_not_pass(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    tracer.trace.dropped = 7
    with pytest.raises(DeviceError, match="lost 7 records"):
        verified(config(tmp_path), tracer)


def test_an_error_of_the_run_is_told_as_it_is(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    stages["model"] = FakeModel(4, fails_at=6, error=ModelError)
    with pytest.raises(ModelError, match="the model broke"):
        verified(config(tmp_path), tracer)


def test_a_tracer_that_cannot_start_ends_the_run(
    stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: FakeTracer) -> None:
        raise DeviceError("another profiler is attached")

    stages["model"] = model = FakeModel(4)
    monkeypatch.setattr(FakeTracer, "start", start)
    with pytest.raises(DeviceError, match="another profiler"):
        verified(config(tmp_path), tracer)
    assert model.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("lane", "source", "verify"))]


def test_an_interruption(stages: dict[str, Any], tracer: FakeTracer, tmp_path: Path) -> None:
    verifier = Verifier(config(tmp_path), Plan(batches=10_000_000), lambda: tracer)
    outcome: list[Verification | None] = []
    thread = threading.Thread(target=lambda: outcome.append(verifier()))
    thread.start()
    deadline = time.monotonic() + 30
    while not tracer.trace.start_ns and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    verifier.interrupt()
    thread.join(30)
    assert outcome == [None]


# ------------------------------------------------------------------------------------------------------------- ranges


def test_stages_without_ranges_are_the_same_objects(stages: dict[str, Any], tmp_path: Path) -> None:
    """Nothing is put around them where nobody asked."""
    made = build.build_stages(config(tmp_path), [], RunStatus(), None)
    assert type(made.outputs) is Outputs
    assert type(made.model) is FakeModel


@pytest.mark.parametrize(("device", "has_ranges"), [("cuda", True), ("cpu", False)])
def test_nvtx_ranges_are_the_cuda_engines(
    stages: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, has_ranges: bool
) -> None:
    told: list[str] = []

    class Range:
        def __init__(self, stage: str, _frames: int) -> None:
            self.stage = stage

        def __enter__(self) -> None:
            told.append(self.stage)

        def __exit__(self, *_: object) -> None: ...

    monkeypatch.setattr("pipeline.observe.nvtx.nvtx_ranges", lambda: Range)
    monkeypatch.setattr(build, "cpu_stages", build.cuda_stages)
    settings = config(tmp_path, device=device, runtime={"nvtx": True})
    made = build.build_stages(settings, [], RunStatus(), None)
    made.model(FakePreprocessor()([frame("a", 0)], 4).tensor)
    assert told == (["infer"] if has_ranges else [])


def test_ranges_name_each_stages_work_and_frames() -> None:
    clock = itertools.count()
    windows = StageWindows(lambda: next(clock), "sinks")
    sink = FakeSink()
    tracer = FakeTracer()
    bare = Stages(
        open_decoder=lambda spec, stats: FakeDecoder("a", 2),
        preprocess=FakePreprocessor(),
        model=FakeModel(4),
        postprocess=lambda outputs, batch: Pending(tracer, fake_postprocess(outputs, batch)),
        outputs=Outputs([sink], RunStatus()),
        tracker=lambda batch: batch,
    )
    stages = with_ranges(bare, windows)
    decoder = stages.open_decoder(None, None)  # type: ignore[arg-type]
    assert decoder.info == FakeDecoder("a", 2).info
    with decoder.open_aside():  # what it does in a thread of its own
        pass
    frames = list(decoder)
    decoder.close()
    batch = stages.preprocess(frames, stages.model.rows(2))
    found = stages.postprocess(stages.model(batch.tensor), batch).result()
    assert stages.tracker is not None
    stages.outputs.write(stages.tracker(ResultBatch(frames, found, stages.model.name)))
    assert [(w.stage, w.frames) for w in windows.all()] == [
        ("open", 0),
        ("decode", 0),
        ("open", 1),  # up to its first frame
        ("decode", 1),
        ("decode", 0),  # the end
        ("open", 0),
        ("preprocess", 2),
        ("infer", 0),
        ("postprocess", 2),
        ("results", 2),
        ("track", 2),
        ("sinks", 2),
    ]
    assert all(w.thread == threading.get_native_id() and w.end_ns == w.start_ns + 1 for w in windows.all())
    assert windows.batches == 1
    assert [source for source, _, _ in sink.frames] == ["a", "a"]
    assert stages.analytics is None


def test_results_that_are_there_at_once_need_no_wait() -> None:
    windows = StageWindows(time.perf_counter_ns, "sinks")
    stages = with_ranges(
        Stages(
            lambda *_: FakeDecoder("a", 1), FakePreprocessor(), FakeModel(), fake_postprocess, Outputs([], RunStatus())
        ),
        windows,
    )
    batch = stages.preprocess([frame("a", 0)], 4)
    assert stages.postprocess({"y": batch.tensor}, batch).detections is not None  # type: ignore[union-attr]
    assert [w.stage for w in windows.all()] == ["preprocess", "postprocess"]


def test_waiting_for_batches_wakes_up_with_them() -> None:
    windows = StageWindows(time.perf_counter_ns, "sinks")
    assert not windows.wait_for_batches(1, 0.01)
    thread = threading.Thread(target=lambda: windows.add(Window("sinks", 1, 2, 3, 4)))
    thread.start()
    assert windows.wait_for_batches(1, 30)
    thread.join()
    windows.add(Window("sinks", 1, 4, 5, 0))  # what analytics says behind the last frame is no batch
    assert windows.batches == 1


# ---------------------------------------------------------------------------------------------------------- rehearsal


def clip(path: Path, frames: int) -> str:
    return str(make_clip(path, frames=frames, width=64, height=48))


def test_nothing_of_the_users_is_written(tmp_path: Path) -> None:
    heat = {"path": "maps/{source}.png"}
    settings = config(
        tmp_path,
        sources=[{"path": "rtsp-dump.mp4", "analytics": {"heatmap": heat}}],
        sinks=[
            {"type": "jsonl", "path": "/data/out.jsonl"},
            {"type": "csv", "path": "/data/{source}/out.csv"},
            {"type": "video", "path": "/data/out.mp4"},
        ],
        observe={"report": "report.json", "http": {"token": "0123456789abcdef"}},
        pipeline={"model": {"path": "m/"}, "postprocess": {"family": "od_api"}},
    )
    folder = tmp_path / "trial"
    tried = rehearsal(settings, folder, 10)
    paths = [Path(sink.path) for sink in tried.sinks]  # type: ignore[union-attr]
    assert paths == [folder / "sink0/out.jsonl", folder / "sink1/{source}/out.csv", folder / "sink2/{source}/out.mp4"]
    assert all(sink.overwrite for sink in tried.sinks)  # type: ignore[union-attr]
    analytics = tried.sources[0].analytics
    assert analytics is not None and analytics.heatmap is not None
    assert analytics.heatmap.path == folder / "heatmaps" / "{source}.png"
    assert (tried.observe.report, tried.observe.http) == (None, None)
    assert tried.is_live  # as with the interface: it says how batches are filled
    assert settings.observe.report == Path("report.json")


@pytest.mark.parametrize(("wanted", "copies"), [(20, 1), (21, 2), (65, 4)])
def test_files_are_repeated_until_they_are_long_enough(tmp_path: Path, wanted: int, copies: int) -> None:
    settings = config(
        tmp_path, sources=[{"path": clip(tmp_path / "b.mp4", 30), "max_frames": 12}, clip(tmp_path / "c.mp4", 8)]
    )
    tried = rehearsal(settings, tmp_path, wanted)
    assert tried.sources == settings.sources * copies
    assert tried.runtime.open_sources == (2 if copies > 1 else None)


def test_a_stream_is_not_repeated(tmp_path: Path) -> None:
    settings = config(tmp_path, sources=["rtsp://127.0.0.1:9/cam", clip(tmp_path / "c.mp4", 8)])
    assert rehearsal(settings, tmp_path, 10_000).sources == settings.sources
