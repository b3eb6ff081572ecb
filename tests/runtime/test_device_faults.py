"""A device that runs out of memory or fails in the middle of a run: what is told, what is kept, and that nothing hangs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import fakes
import numpy as np
import pytest
from fake_cupy import CUDARuntimeError, OutOfMemoryError
from fake_nvcodec import FakeNvCodec, FakeStream, failure_text
from media_maker import make_clip

from pipeline.config.models import Config
from pipeline.config.sinks import JsonlSink
from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.memory import SurfaceMemory, decoder_size
from pipeline.decode.nvdec import open_nvdec
from pipeline.errors import DeviceLostError, DeviceMemoryError, ExitCode, SourceErrorCode
from pipeline.frames import Frame, InputBatch, Predictions
from pipeline.observe.status import SourceState, SourceStatus, StageTimes
from pipeline.runtime import pipeline as runtime
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.steps import STAGES, Stages
from pipeline.sinks import build_sink
from pipeline.sources import VideoSpec
from pipeline.vram import Allowance

LOST = "cudaErrorLaunchFailure: unspecified launch failure"


class Pending:
    """Predictions that are asked for later, as the `cuda` engine gives them."""

    def __init__(self, predictions: Predictions, wait: Callable[[], None]) -> None:
        self._predictions, self._wait = predictions, wait

    def result(self) -> Predictions:
        self._wait()
        return self._predictions


class Preprocessor(fakes.FakePreprocessor):
    def __call__(self, frames: Sequence[Frame], rows: int) -> InputBatch:
        transforms = np.tile([1.0, 1.0, 0.0, 0.0], (len(frames), 1))
        return InputBatch(tuple(frames), np.zeros((rows, 1), np.float32), transforms, (4, 2))


@pytest.fixture
def run_on(monkeypatch: pytest.MonkeyPatch) -> Callable[..., runtime.Pipeline]:
    """A pipeline on stages of a device that is not there."""

    def build(
        specs: Sequence[VideoSpec], sinks: Sequence[Any], *, open_decoder: Any, **options: Any
    ) -> runtime.Pipeline:
        model = options.pop("model", None) or fakes.FakeModel()
        wait = options.pop("wait", lambda: None)

        def resolve(config: Config, status: Any, progress: Any) -> list[VideoSpec]:
            for spec in specs:
                status.sources[spec.source_id] = SourceStatus(spec.source_id, spec.shown)
            return list(specs)

        def postprocess(outputs: Mapping[str, Any], batch: InputBatch) -> Pending:
            return Pending(fakes.fake_postprocess(outputs, batch), wait)

        def stages(config: Config, specs: Any, status: Any, progress: Any) -> Stages:
            outputs = Outputs(sinks, status)
            outputs.open()
            status.stages = {stage: StageTimes() for stage in STAGES}
            return Stages(open_decoder, Preprocessor(), model, postprocess, outputs, on_device=True)

        monkeypatch.setattr(runtime, "resolve_sources", resolve)
        monkeypatch.setattr(runtime, "build_stages", stages)
        config = {"sources": ["x"], "pipeline": {"model": "fake", "postprocess": {"family": "raw"}}, "runtime": options}
        return runtime.Pipeline(Config.model_validate(config))

    return build


def endless(spec: VideoSpec, stats: Any) -> fakes.FakeDecoder:
    return fakes.FakeDecoder(spec.source_id, 10**9)


@pytest.mark.parametrize(
    ("original", "kind"),
    [
        (CUDARuntimeError(LOST), DeviceLostError),
        (OutOfMemoryError("Out of memory allocating 1,024 bytes (allocated so far: 0 bytes)."), DeviceMemoryError),
    ],
)
@pytest.mark.parametrize("where", ["model", "results"])
def test_a_fault_ends_the_run_in_words_and_keeps_what_was_delivered(
    run_on: Any, tmp_path: Path, original: Exception, kind: type[Exception], where: str
) -> None:
    class Model(fakes.FakeModel):
        def __call__(self, tensor: Any) -> Mapping[str, Any]:
            if where == "model" and len(self.calls) == 3:
                raise original
            return super().__call__(tensor)

    waits = iter(range(10**9))

    def wait() -> None:
        if where == "results" and next(waits) == 3:
            raise original

    path = tmp_path / "out.jsonl"
    sink = build_sink(JsonlSink(type="jsonl", path=path), several_sources=False)
    pipeline = run_on([fakes.spec("a")], [sink], open_decoder=endless, model=Model(), wait=wait)
    with pytest.raises(kind, match="the GPU") as caught:
        pipeline.run()
    assert caught.value.__cause__ is original
    assert caught.value.exit_code is ExitCode.NOTHING_COULD_RUN  # as a model's error has
    [partial] = pipeline.status.partial_outputs
    assert not path.exists()
    rows = [json.loads(line)["frame"] for line in partial.read_text().splitlines()]
    assert rows == list(range(pipeline.status.results))
    assert len(rows) == 12 if where == "results" else len(rows) <= 12
    assert str(caught.value) in pipeline.status.errors


def test_a_lost_gpu_that_never_answers_does_not_keep_the_run(run_on: Any) -> None:
    """One thread gets the error; the other waits for an event that will not come."""
    released, waiting = threading.Event(), threading.Event()

    class Model(fakes.FakeModel):
        def __call__(self, tensor: Any) -> Mapping[str, Any]:
            if self.calls:
                assert waiting.wait(20)
                raise CUDARuntimeError(LOST)
            return super().__call__(tensor)

    def wait() -> None:
        waiting.set()
        released.wait(60)

    sink = fakes.FakeSink()
    pipeline = run_on([fakes.spec("a")], [sink], open_decoder=endless, model=Model(), wait=wait)
    assert pipeline.config.runtime.drain_s == 20
    start = time.monotonic()
    try:
        with pytest.raises(DeviceLostError):
            pipeline.run()
        assert time.monotonic() - start < 12
        assert sink.end == "aborted"
        assert any("did not end" in error for error in pipeline.status.errors)
    finally:
        released.set()
    for thread in threading.enumerate():
        if thread.name.startswith(("lane-", "source")):
            thread.join(20)


def clips(folder: Path, sizes: Mapping[str, tuple[int, int]]) -> list[VideoSpec]:
    found = []
    for name, (width, height) in sizes.items():
        path = make_clip(folder / f"{name}.mp4", width=width, height=height, frames=30)
        found.append(VideoSpec(name, str(path), path.name, False, Source(path=str(path))))
    return found


def test_a_source_that_does_not_fit_fails_and_the_others_go_on(
    run_on: Any, nvc: FakeNvCodec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.decode.memory._REPLACED_S", 0.01)
    specs = clips(tmp_path, {"small": (64, 48), "large": (1280, 720), "other": (64, 48)})
    allowance = Allowance(3 * decoder_size("h264", 64, 48, "yuv420p"))
    memory = SurfaceMemory(allowance)

    def open_decoder(spec: VideoSpec, stats: Any) -> Any:
        return open_nvdec(spec, Decode(threads=1), stats, stream=FakeStream(), ring=6, memory=memory)

    sink = fakes.FakeSink()
    status = run_on(specs, [sink], open_decoder=open_decoder, open_sources=3).run()
    assert {name: s.state for name, s in status.sources.items()} == {
        "small": SourceState.DONE,
        "large": SourceState.FAILED,
        "other": SourceState.DONE,
    }
    large = status.sources["large"]
    assert large.error_code is SourceErrorCode.OUT_OF_MEMORY
    assert "large.mp4: decoding it takes at least" in str(large.error)
    assert status.results == 60
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED
    for name in ("small", "other"):
        surfaces = status.sources[name].totals.surfaces
        assert surfaces is not None
        assert (surfaces.items, surfaces.item_bytes) == (0, 64 * 48 * 3 // 2)
        assert 1 <= surfaces.high_water <= surfaces.capacity == 6
        slot = status.sources[name].slot
        assert slot.items == 0
        assert 1 <= slot.high_water <= slot.capacity
    assert status.queues["results"].high_water >= 1
    assert status.queues["results"].items == 0


def test_a_gpu_that_is_lost_while_decoding_ends_the_run(run_on: Any, nvc: FakeNvCodec, tmp_path: Path) -> None:
    nvc.fail_at, nvc.failure = {20}, failure_text(700)
    specs = clips(tmp_path, {"a": (64, 48), "b": (64, 48)})

    def open_decoder(spec: VideoSpec, stats: Any) -> Any:
        return open_nvdec(spec, Decode(threads=1), stats, stream=FakeStream(), ring=6)

    sink = fakes.FakeSink()
    with pytest.raises(DeviceLostError, match="decoding: the GPU cannot be used any more"):
        run_on(specs, [sink], open_decoder=open_decoder, open_sources=2).run()
    assert sink.end == "aborted"
