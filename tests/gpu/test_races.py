"""That one stream is order enough: 21 sources, memory poisoned between uses, every bit as in a run that waits after every call.

`races` says how. Batches come about by chance in a pipeline, and a convolution's rounding may depend on the number of rows; so
the pipeline runs a detector whose arithmetic is exact. A real detector runs on batches that are the same in every run, and both
runs have the same loaded model, hence the same algorithms.

A run that is looked at is kept busy by an idle kernel before every batch: on a device that is done at once with what it is told,
nothing could be overtaken.
"""

from __future__ import annotations

import ctypes
import itertools
import zlib
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact_detector import save_exact_detector
from in_turn import run_in_turn
from races import MISTAKES, POISON, Record, Watch, differences, spoil, spoil_preprocess

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.load import config_from_mapping
from pipeline.config.models import Config
from pipeline.errors import ExitCode
from pipeline.frames import ResultBatch
from pipeline.inference.shared_stream import SharedStream, open_shared_stream
from pipeline.inference.signature import resolve_input
from pipeline.observe.status import RunStatus
from pipeline.preprocess import device_plans
from pipeline.preprocess.engines import device_preprocessor
from pipeline.preprocess.upload import Uploader
from pipeline.runtime import build
from pipeline.runtime.engines import Job, cuda_stages
from pipeline.runtime.outputs import Outputs
from pipeline.runtime.steps import Stages
from pipeline.sources.resolve import VideoSpec, resolve

SOURCES, BATCH = 21, 8
BATCHES = 2000
MOST_FRAMES = 400  # of a source, so that many are opened and closed on the way
# More than the host takes for a batch, so that it is ahead of the device.
LAG_MS, MISTAKEN_LAG_MS = 4, 20
MOST_FINGERPRINTS = 1 << 18
# The GPU has no decoder for AV1: it is uploaded.
CLIPS = (
    *("motorway_1080p60_h264.mp4", "motorway_1080p60_hevc.mp4", "motorway_1080p60_av1.mp4", "vtest_h264.mp4"),
    *("vtest_hevc.mp4", "Retail02_short.mp4", "bikes.mp4", "TUD-Stadtmitte.mp4", "TUD-Campus.mp4"),
)

KERNELS = r"""
extern "C" __global__ void fingerprint(unsigned long long address, unsigned long long size, unsigned long long out) {
  const unsigned* words = reinterpret_cast<const unsigned*>(address);
  const unsigned char* bytes = reinterpret_cast<const unsigned char*>(address);
  const unsigned long long count = size / 4, step = (unsigned long long)gridDim.x * blockDim.x;
  unsigned long long sum = 0, first = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
  for (unsigned long long i = first; i < count + size % 4; i += step) {
    const unsigned long long value = i < count ? words[i] : bytes[count * 4 + i - count];
    unsigned long long x = (value << 32 | (i & 0xffffffffull)) + 0x9e3779b97f4a7c15ull;  // SplitMix64
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    sum += x ^ x >> 31;
  }
  atomicAdd(reinterpret_cast<unsigned long long*>(out), sum);  // of whole numbers, in any order
}
extern "C" __global__ void idle(long long ns) {
  unsigned long long start, now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(start));
  do { asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)); } while ((long long)(now - start) < ns);
}
"""


class Gpu:
    """What a watch asks for, on a stream."""

    def __init__(self, stream: SharedStream) -> None:
        import cupy

        self._runtime, self._stream = cupy.cuda.runtime, stream
        self._other = cupy.cuda.Stream(non_blocking=True)
        module = cupy.RawModule(code=KERNELS)
        self._fingerprint, self._idle = module.get_function("fingerprint"), module.get_function("idle")
        with stream.cupy:
            self._prints = cupy.zeros(MOST_FINGERPRINTS, "uint64")
        self._numbers = itertools.count()

    def fill(self, address: int, size: int, *, in_order: bool = True, stream: int | None = None) -> None:
        self._runtime.memsetAsync(
            address, POISON, size, stream or (self._stream.handle if in_order else self._other.ptr)
        )

    def fingerprint(self, address: int, size: int) -> int:
        assert address % 4 == 0
        number = next(self._numbers)
        assert number < MOST_FINGERPRINTS
        out = self._prints.data.ptr + 8 * number
        with self._stream.cupy:
            self._fingerprint(
                (min(64, size // 4096 + 1),), (256,), (np.uint64(address), np.uint64(size), np.uint64(out))
            )
        return number

    def fingerprints(self) -> Any:
        self.synchronize()
        return self._prints.get(stream=self._stream.cupy)

    def synchronize(self) -> None:
        self._runtime.deviceSynchronize()

    def lag(self, ms: int = LAG_MS) -> None:
        with self._stream.cupy:
            self._idle((1,), (1,), (np.int64(ms * 1_000_000),))


@pytest.fixture(scope="module")
def stream() -> SharedStream:
    return open_shared_stream(8 << 30)


@pytest.fixture(scope="module", autouse=True)
def poisoned_pools(stream: SharedStream) -> Iterator[None]:
    """CuPy's pools give out memory full of poison, written in the stream's order; plans are forgotten and uploaded again."""
    import cupy

    pool, pinned_pool = cupy.get_default_memory_pool(), cupy.get_default_pinned_memory_pool()

    def alloc(size: int) -> Any:
        memory = pool.malloc(size)
        if size and cupy.cuda.get_current_stream().ptr == stream.handle:
            cupy.cuda.runtime.memsetAsync(memory.ptr, POISON, size, stream.handle)
        return memory

    def alloc_pinned(size: int) -> Any:
        memory = pinned_pool.malloc(size)
        ctypes.memset(memory.ptr, POISON, size)
        return memory

    cupy.cuda.set_allocator(alloc)
    cupy.cuda.set_pinned_memory_allocator(alloc_pinned)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_plans, "_KEPT", 4)
        patch.setattr(device_plans, "Uploader", partial(Uploader, staging_bytes=512 << 10))
        yield
    cupy.cuda.set_allocator(pool.malloc)
    cupy.cuda.set_pinned_memory_allocator(pinned_pool.malloc)


@pytest.fixture(scope="module")
def clips(assets: Path) -> list[Path]:
    found = [assets / "media" / name for name in CLIPS if (assets / "media" / name).exists()]
    if len(found) < 2:
        pytest.skip(f"there are no clips in {assets / 'media'}")
    return found


def in_turn(
    gpu: Gpu, stages: Stages, specs: list[VideoSpec], batches: int, *, pixels: bool = False, **how: Any
) -> Record:
    """A run on the same batches as any other."""
    watch = Watch(gpu, **how)

    def deliver(batch: ResultBatch) -> None:
        for frame in batch.frames:
            sums = [zlib.crc32(np.ascontiguousarray(plane)) for plane in frame.picture.planes]
            assert sums
            watch.note(frame, "pixels", str(sums))

    with pytest.MonkeyPatch.context() as patch:
        watch.codec(patch)
        run_in_turn(watch.stages(stages), specs, batches * BATCH, deliver=deliver if pixels else None)
    assert watch.calls["model"] == batches
    return watch.record()


# ------------------------------------------------------------------------------------------------------- the pipeline


def many_sources(clips: list[Path]) -> list[dict[str, Any]]:
    """Enough for all batches; some with a region of interest."""
    import av

    sources: list[dict[str, Any]] = []
    frames = 0
    while frames < BATCHES * BATCH or len(sources) < SOURCES:
        i = len(sources)
        path = clips[i % len(clips)]
        with av.open(str(path)) as container:
            frames += min(container.streams.video[0].frames, MOST_FRAMES)
        source: dict[str, Any] = {"path": str(path), "id": f"s{i}", "max_frames": MOST_FRAMES}
        if i % 3 == 0:
            source["roi"] = {"polygon": [[0.1, 0], [1, 0.2], [0.8, 1]], "unit": "fraction"}
        sources.append(source)
    return sources


@pytest.mark.assets
def test_2000_batches_of_21_sources(
    stream: SharedStream, clips: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {
        "device": "cuda",
        "sources": many_sources(clips),
        "pipeline": {
            "model": {"path": str(save_exact_detector(tmp_path / "exact")), "precision": "fp32", "xla": False},
            "postprocess": {"family": "boxes", "boxes": "boxes", "scores": "scores", "score_threshold": 0.98},
        },
        "runtime": {"batch_size": BATCH, "open_sources": SOURCES},
    }
    gpu = Gpu(stream)

    def run(**how: Any) -> Record:
        watch = Watch(gpu, **how)

        def make(job: Job, outputs: Outputs) -> Stages:
            return watch.stages(spoil(cuda_stages(job, outputs)))

        with monkeypatch.context() as patch:
            watch.codec(patch)
            patch.setattr(build, "cuda_stages", make)
            status = Pipeline.from_dict(config).run()
        assert status.exit_code is ExitCode.DONE
        assert status.device == "cuda"
        record = watch.record()
        assert len(record) == status.results
        print(f"{dict(watch.calls)}, {status.ended_s - status.started_s:.1f} s")
        assert watch.calls["model"] >= BATCHES
        return record

    got, want = run(lag=gpu.lag), run(waits=True)
    wrong = differences(got, want)
    assert not wrong, f"{len(wrong)} differences, the first: {wrong[:10]}"
    results = [facts["result"] for facts in want.values()]
    assert len(set(results)) > len(results) // 10, "results hardly depend on the pictures"


# ---------------------------------------------------------------------------------------------------- a real detector


@pytest.fixture(scope="module")
def config(assets: Path, clips: list[Path]) -> Config:
    card = load_model_card("coco-ssd")
    return config_from_mapping(
        {
            "device": "cuda",
            "sources": [{"path": str(clips[i % len(clips)]), "id": f"s{i}"} for i in range(SOURCES)],
            "pipeline": {
                "model": {"path": str(assets / "models" / "coco_ssd_core"), "precision": "fp16", "xla": False},
                "preprocess": card.preprocess,
                "postprocess": card.postprocess,
            },
            "runtime": {"batch_size": BATCH, "open_sources": SOURCES},
        }
    )


@pytest.fixture(scope="module")
def stages(config: Config) -> Stages:
    """Loaded once, for all runs."""
    path = Path(str(config.pipeline.model.path))
    return spoil(cuda_stages(Job(config, path, "coco-ssd", {}, SOURCES), Outputs([], RunStatus())))


@pytest.fixture(scope="module")
def specs(config: Config) -> list[VideoSpec]:
    return [found for found in resolve(config.sources, Path) if isinstance(found, VideoSpec)]


@pytest.mark.assets
def test_the_real_detector_gives_the_same_bits_every_time(stream: SharedStream, stages: Stages) -> None:
    """Else the comparisons below would say nothing of order."""
    gpu, model = Gpu(stream), stages.model
    size = (BATCH, *(d for d in (model.input.shape or ())[1:] if d is not None))
    tensor = stream.empty(size, model.input.dtype)
    tensor.set(np.random.default_rng(0).uniform(-1, 1, size).astype(model.input.dtype), stream=stream.cupy)
    numbers = []
    for _ in range(50):
        outputs = model(tensor)
        numbers.append([gpu.fingerprint(array.data.ptr, array.nbytes) for array in outputs.values()])
    prints = gpu.fingerprints()
    assert len({tuple(int(prints[n]) for n in row) for row in numbers}) == 1


@pytest.mark.assets
@pytest.mark.parametrize("engine", ["fused", "cvcuda"])
def test_a_real_detector(
    stream: SharedStream, stages: Stages, specs: list[VideoSpec], config: Config, engine: str
) -> None:
    if engine == "cvcuda":
        settings = resolve_input(stages.model.input, config.pipeline.preprocess, model="coco-ssd")
        settings = settings.model_copy(update={"engine": "cvcuda"})
        preprocess = spoil_preprocess(device_preprocessor(settings, stream=stream, max_rows=BATCH))
        stages = replace(stages, preprocess=preprocess)
    gpu, batches = Gpu(stream), 300
    got = in_turn(gpu, stages, specs, batches, lag=gpu.lag)
    wrong = differences(got, in_turn(gpu, stages, specs, batches, waits=True))
    assert not wrong, f"{len(wrong)} differences, the first: {wrong[:10]}"


@pytest.mark.assets
def test_pictures_for_those_who_draw(stream: SharedStream, stages: Stages, specs: list[VideoSpec]) -> None:
    gpu = Gpu(stream)
    got = in_turn(gpu, stages, specs, 40, pixels=True, lag=gpu.lag)
    assert differences(got, in_turn(gpu, stages, specs, 40, pixels=True, waits=True)) == []
    assert all("pixels" in facts for facts in got.values())


@pytest.fixture(scope="module")
def faultless(stream: SharedStream, stages: Stages, specs: list[VideoSpec]) -> Record:
    return in_turn(Gpu(stream), stages, specs, 15, waits=True)


@pytest.mark.assets
# Pictures are given back when they have been read: from then on the order of the streams is theirs alone.
@pytest.mark.parametrize("mistake", [mistake for mistake in MISTAKES if mistake != "stream"])
def test_mistakes_show(
    stream: SharedStream, stages: Stages, specs: list[VideoSpec], faultless: Record, mistake: str
) -> None:
    gpu = Gpu(stream)
    got = in_turn(gpu, stages, specs, 15, mistake=mistake, lag=partial(gpu.lag, MISTAKEN_LAG_MS))
    found = {line.split(": ")[1] for line in differences(got, faultless)}
    order = ["surface", "input", "output boxes", "output scores", "result"]
    first = {"surface": 0, "input": 2, "outputs": 4, "results": 4}[mistake]
    assert found == set(order[first:]), "what lies behind it is wrong, and nothing before it"
