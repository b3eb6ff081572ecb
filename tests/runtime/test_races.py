"""That one stream is order enough, on a device that does everything later; tests/gpu does the same on a real one."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_detector import SIZE, save_exact_detector
from in_turn import run_in_turn
from late_device import LateDevice, LateModel, Libraries, build_kernels, forget_kernels
from media_maker import make_clip
from races import MISTAKES, Watch, differences, spoil

from pipeline.config.models import Config
from pipeline.config.postprocess import BoxesPost
from pipeline.config.sources import Roi, Source
from pipeline.config.stages import Decode, ModelSource, Preprocess
from pipeline.decode import capabilities
from pipeline.decode.download import surface_bytes
from pipeline.decode.nvdec import open_nvdec
from pipeline.inference import load_model
from pipeline.observe.machine import Driver, Gpu
from pipeline.observe.status import RunStatus, SourceStatus, StageTimes
from pipeline.postprocess.cuda import build_cuda_postprocessor, detection
from pipeline.preprocess import device_plans
from pipeline.preprocess.fused import FusedPreprocessor
from pipeline.preprocess.upload import Uploader
from pipeline.runtime import pipeline as runtime
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.steps import STAGES, Stages
from pipeline.sources.resolve import VideoSpec

SOURCES, BATCH = 21, 8
# The last one is decoded on the CPU and uploaded.
CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"width": 96, "height": 64, "options": {"bf": "3"}},
    "hevc.mp4": {"codec": "libx265", "width": 80, "height": 60},
    "rotated.mp4": {"width": 64, "height": 80, "rotation": 90, "colour": ("bt709", "full")},
    "planar.mp4": {"width": 64, "height": 48, "pix_fmt": "yuv422p"},
}


@pytest.fixture(scope="module")
def specs(tmp_path_factory: pytest.TempPathFactory) -> list[VideoSpec]:
    folder = tmp_path_factory.mktemp("clips")
    paths = [make_clip(folder / name, frames=24, **how) for name, how in CLIPS.items()]
    found = []
    for i in range(SOURCES):
        path = str(paths[i % len(paths)])
        roi = Roi(polygon=[(0.1, 0), (1, 0.2), (0.8, 1)], unit="fraction") if i % 3 == 0 else None
        found.append(VideoSpec(f"s{i}", path, path, False, Source(path=path, roi=roi)))
    return found


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Libraries:
    return build_kernels(tmp_path_factory.mktemp("kernels"))


@pytest.fixture
def device(libraries: Libraries, monkeypatch: pytest.MonkeyPatch) -> Iterator[LateDevice]:
    device = LateDevice(libraries, monkeypatch)
    monkeypatch.setattr(capabilities, "driver", lambda: Driver((13, 0), (Gpu("a GPU", 1),)))
    monkeypatch.setattr(capabilities, "has_library", lambda name: True)
    monkeypatch.setattr(detection, "CAPACITY", 256)
    # So few that they are worked out and uploaded over and over, through little memory.
    monkeypatch.setattr(device_plans, "_KEPT", 3)
    monkeypatch.setattr(device_plans, "Uploader", partial(Uploader, staging_bytes=40_000))
    capabilities.gpu_capabilities.cache_clear()
    yield device
    capabilities.gpu_capabilities.cache_clear()
    forget_kernels()


def new_stages(device: LateDevice, specs: list[VideoSpec], status: RunStatus | None = None) -> Stages:
    stream = device.stream
    rois = {spec.source_id: spec.settings.roi for spec in specs if spec.settings.roi is not None}
    model = LateModel(stream, device.cupy.pool, BATCH)
    settings = Preprocess(size=(32, 32), layout="nhwc", dtype="float32")
    post = BoxesPost(boxes="boxes", scores="scores", score_threshold=0.6)
    return spoil(
        Stages(
            open_decoder=lambda spec, stats: open_nvdec(spec, Decode(), stats, stream=stream, ring=6),
            preprocess=FusedPreprocessor(settings, rois, stream=stream, max_rows=BATCH),
            model=model,
            postprocess=build_cuda_postprocessor(
                post, model.outputs, model_size=(32, 32), stream=stream, max_frames=BATCH
            ),
            outputs=Outputs([], status or RunStatus()),
            rois=rois,
            on_device=True,
        )
    )


def in_turn(device: LateDevice, specs: list[VideoSpec], batches: int, **how: Any) -> Watch:
    watch = Watch(device, **how)
    run_in_turn(watch.stages(new_stages(device, specs)), specs, batches * BATCH)
    return watch


def through_the_pipeline(device: LateDevice, specs: list[VideoSpec], patch: pytest.MonkeyPatch, **how: Any) -> Watch:
    """The product's own run: sessions, intake, whatever batches come about."""
    watch = Watch(device, **how)

    def resolve(config: Config, status: RunStatus, progress: Any) -> list[VideoSpec]:
        status.sources |= {spec.source_id: SourceStatus(spec.source_id, spec.shown) for spec in specs}
        return specs

    def build(config: Config, specs: list[VideoSpec], status: RunStatus, progress: Any) -> Stages:
        status.device = "cuda"
        status.stages = {name: StageTimes() for name in STAGES}
        return watch.stages(new_stages(device, specs, status))

    patch.setattr(runtime, "resolve_sources", resolve)
    patch.setattr(runtime, "build_stages", build)
    config = {"sources": ["x"], "pipeline": {"model": "late", "postprocess": {"family": "raw"}}}
    with patch.context() as meanwhile:
        watch.codec(meanwhile)
        status = runtime.Pipeline(Config.model_validate({**config, "runtime": {"open_sources": SOURCES}})).run()
    assert status.results == 24 * SOURCES
    return watch


def test_results_are_those_of_a_run_that_waits_after_every_call(
    device: LateDevice, specs: list[VideoSpec], monkeypatch: pytest.MonkeyPatch
) -> None:
    free = through_the_pipeline(device, specs, monkeypatch)
    waiting = through_the_pipeline(device, specs, monkeypatch, waits=True)
    assert waiting.calls["packet"] >= waiting.calls["decode"] * 0.3, "decoders are not waited for"
    got, want = free.record(), waiting.record()
    assert differences(got, want) == []
    assert len(want) == 24 * SOURCES
    pictures = 24 * len(CLIPS) * 2  # with a region of interest, and without
    assert len({facts["result"] for facts in want.values()}) == pictures, "in each something else is found"
    assert device.cupy.pool.reused > 300, "memory is not used again"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_show(device: LateDevice, specs: list[VideoSpec], mistake: str) -> None:
    want = in_turn(device, specs, 12, waits=True).record()
    assert differences(in_turn(device, specs, 12).record(), want) == []
    wrong = {name for facts in want.values() for name in facts} - {"pts_s"}
    order = ["surface", "input", "output boxes", "output scores", "result"]
    assert wrong == set(order)
    first = {"surface": 0, "input": 2, "outputs": 4, "results": 4, "stream": 0}[mistake]
    found: set[str] = set()
    # What nothing orders may, on a busy machine, overtake preprocessing alone and no fingerprint in any of the batches.
    for _ in range(5 if mistake == "stream" else 1):
        got = in_turn(device, specs, 12, mistake=mistake).record()
        found |= {line.split(": ")[1] for line in differences(got, want)}
        if "surface" in found:
            break
    assert found == set(order[first:]), "what lies behind it is wrong, and nothing before it"


def test_uploads_under_way_arrive_when_their_source_has_ended(device: LateDevice, tmp_path: Path) -> None:
    """Pinned memory of a source that has ended, or of a size that it no longer has, is given to the next who asks."""
    sizes = [(64, 48), (96, 64), (80, 48)]
    parts = [
        make_clip(tmp_path / f"{w}.ts", width=w, height=h, frames=6, pix_fmt="yuv422p").read_bytes() for w, h in sizes
    ]
    path = tmp_path / "all.ts"
    path.write_bytes(b"".join(parts))
    spec = VideoSpec("s", str(path), str(path), False, Source(path=str(path)))

    def prints(waits: bool) -> list[Any]:
        numbers = []
        for frame in open_nvdec(spec, Decode(), stream=device.stream, ring=6):
            surface = frame.picture.surface
            assert surface is not None
            size = surface_bytes(surface.layout, frame.picture.chroma_shift)
            numbers.append(device.fingerprint(surface.pointer, size))
            if waits:
                device.synchronize()
            surface.release()
        del frame, surface  # and with them the upload
        gc.collect()
        found = device.fingerprints()
        return [found[n] for n in numbers]

    want = prints(waits=True)
    assert len(set(want)) == 18
    assert prints(waits=False) == want


def test_what_runs_on_the_gpu_is_exact_in_any_batch(tmp_path: Path) -> None:
    path = save_exact_detector(tmp_path / "exact")
    model = load_model(path, ModelSource(path=str(path)), name="exact", batch_size=8)
    images = np.random.default_rng(0).integers(0, 256, (8, SIZE, SIZE, 3), np.uint8)
    together = {name: array.copy() for name, array in model(images).items()}
    order = [5, 0, 7]
    for name, array in model(images[order]).items():
        np.testing.assert_array_equal(array, together[name][order])
    assert len(np.unique(together["scores"])) > 1000
    images[0, 77, 31, 1] ^= 1
    changed = {name for name, array in model(images).items() if not np.array_equal(array[0], together[name][0])}
    assert changed, "a single bit of a single pixel shows"
