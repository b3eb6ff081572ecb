"""The GPU's memory: the plan against what is really taken, running out of it, and a GPU that fails in the middle of a run.

Whatever limits TensorFlow, fills the card or breaks the context happens in a process of its own.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from media_maker import make_clip

from pipeline import Pipeline
from pipeline.config.cards import load_model_card
from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.memory import SurfaceMemory, decoder_size, picture_size
from pipeline.decode.nvdec import open_nvdec
from pipeline.errors import ConfigError, ExitCode
from pipeline.observe.gpu_memory import device_memory
from pipeline.sources import VideoSpec
from pipeline.stages import DecodeStats
from pipeline.vram import MIB, Allowance

ROOT = Path(__file__).parents[2]
LIMIT_S = 150
# What CUDA's context, its libraries and the kernels take beside the budget.
OVERHEAD_MB = 2500


def settings(assets: Path, sources: list[Any], **more: Any) -> dict[str, Any]:
    card = load_model_card("coco-ssd")
    return {
        "device": "cuda",
        "sources": sources,
        "pipeline": {
            "model": {"path": str(assets / "models" / "coco_ssd_core"), "xla": False},
            "preprocess": card.preprocess,
            "postprocess": dict(card.postprocess),
        },
        **more,
    }


def clip(assets: Path, codec: str = "h264") -> str:
    return str(assets / "media" / f"motorway_1080p60_{codec}.mp4")


def python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script in a process of its own; one that hangs fails the test."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=ROOT,
        check=False,
    )


@pytest.mark.assets
def test_a_tiny_budget_is_an_error_that_says_what_to_lower(assets: Path) -> None:
    config = settings(assets, [clip(assets)], runtime={"vram_budget_mb": 100})
    with pytest.raises(ConfigError) as caught:
        Pipeline.from_dict(config).run()
    text = str(caught.value)
    print(text)
    assert "runtime.vram_budget_mb: the run needs at least" in text
    assert "the budget is 100 MB" in text
    assert "raise it to" in text


@pytest.mark.assets
def test_a_run_stays_within_its_budget(assets: Path, tmp_path: Path) -> None:
    """As the driver counts it, over the whole run."""
    budget_mb = 2000
    sources = [{"path": clip(assets), "id": f"s{i}", "max_frames": 300} for i in range(4)]
    report = tmp_path / "report.json"
    runtime = {"vram_budget_mb": budget_mb, "batch_size": 32}
    config = settings(assets, sources, runtime=runtime, observe={"report": str(report)})
    config["sinks"] = [{"type": "jsonl", "path": str(tmp_path / "out.jsonl")}]
    (tmp_path / "run.yaml").write_text(json.dumps(config))
    before = device_memory()[0].free_bytes
    least = before
    with (tmp_path / "log").open("w") as log:
        child = subprocess.Popen(
            [sys.executable, str(ROOT / "run_pipeline.py"), str(tmp_path / "run.yaml")], stdout=log, stderr=log
        )
        end_s = time.monotonic() + LIMIT_S
        try:
            while time.monotonic() < end_s:
                least = min(least, device_memory()[0].free_bytes)
                try:
                    child.wait(0.05)
                    break
                except subprocess.TimeoutExpired:
                    continue
        finally:
            child.kill()
            child.wait()
    assert child.returncode == ExitCode.DONE, (tmp_path / "log").read_text()[-3000:]
    found = json.loads(report.read_text())
    assert found["results"] == 4 * 300
    assert found["memory"]["budget_bytes"] == budget_mb * MIB
    shares, decoders = found["memory"]["shares"], found["decoder_memory"]
    assert 0 < decoders["high_water_bytes"] <= decoders["limit_bytes"] == shares["decoders_bytes"]
    taken_mb = (before - least) / MIB
    print(
        f"taken at most {taken_mb:.0f} MB; budget {budget_mb} MB, of which {found['memory']['total_bytes'] / MIB:.0f} planned"
    )
    print("decoders", {k: v // MIB for k, v in decoders.items()}, "MB; surfaces", found["sources"][0]["surfaces"])
    assert taken_mb <= budget_mb + OVERHEAD_MB
    for source in found["sources"]:
        surfaces = source["surfaces"]
        assert 1 <= surfaces["high_water"] <= surfaces["capacity"]
        assert surfaces["item_bytes"] == 1920 * 1080 * 3 // 2


class Stream:
    """A stream of our own, as `DeviceStream`."""

    def __init__(self) -> None:
        import cupy

        self.cupy = cupy.cuda.Stream(non_blocking=True)
        self.handle, self.ordinal = self.cupy.ptr, 0


@pytest.mark.assets
@pytest.mark.parametrize("codec", ["h264", "hevc"])
@pytest.mark.parametrize("is_ahead", [False, True])
def test_a_decoder_takes_no_more_than_is_planned_for_it(assets: Path, codec: str, is_ahead: bool) -> None:
    import cupy

    path, ring, number = clip(assets, codec), 12, 4
    stream, allowance = Stream(), Allowance()

    def opened() -> tuple[Any, list[Any]]:
        spec = VideoSpec("cam", path, "clip", False, Source(path=path))
        memory = SurfaceMemory(allowance)
        decoder = open_nvdec(spec, Decode(), DecodeStats(), stream=stream, ring=ring, memory=memory, is_ahead=is_ahead)
        frames = iter(decoder)
        return decoder, [next(frames) for _ in range(ring)]

    first = opened()  # with what the driver takes once
    stream.cupy.synchronize()
    before = cupy.cuda.Device().mem_info[0]
    held = [opened() for _ in range(number)]
    stream.cupy.synchronize()
    taken = (before - cupy.cuda.Device().mem_info[0]) / number
    own = decoder_size(codec, 1920, 1080, "yuv420p", is_ahead=is_ahead)
    planned = own + ring * picture_size(1920, 1080, "yuv420p")
    assert allowance.taken_bytes == (number + 1) * planned
    print(f"{codec}: a 1080p decoder with {ring} surfaces takes {taken / MIB:.1f} MB, planned are {planned / MIB:.1f}")
    assert 0 <= taken <= planned  # the driver allocates in blocks, and some only when they are needed
    for one in (first, *held):
        one[0].close()
    del first, held, one
    gc.collect()
    assert allowance.taken_bytes == 0


@pytest.mark.assets
def test_a_card_that_is_full_is_told_before_anything_starts(assets: Path) -> None:
    done = python(
        """
        import json, sys
        import cupy
        from pipeline import Pipeline
        free = cupy.cuda.Device(0).mem_info[0]
        cupy.cuda.runtime.malloc(free - (700 << 20))
        try:
            Pipeline.from_dict(json.loads(sys.argv[1])).run()
        except Exception as e:
            print(type(e).__name__, e)
        """,
        json.dumps(settings(assets, [clip(assets)])),
    )
    print(done.stdout)
    assert done.stdout.startswith("ConfigError runtime.vram_budget_mb: the run needs at least"), done.stderr[-2000:]
    assert "can be had" in done.stdout
    assert "nvidia-smi" in done.stdout


@pytest.mark.assets
def test_decoders_that_find_the_card_full_fail_in_words(assets: Path) -> None:
    """What others have taken since the plan was made."""
    done = python(
        """
        import json, sys
        import cupy
        from pipeline import Pipeline
        pipeline = Pipeline.from_dict(json.loads(sys.argv[1]))
        pipeline.prepare()
        size = cupy.cuda.Device(0).mem_info[0]
        while size > 1 << 20:  # to the last MB
            try:
                cupy.cuda.runtime.malloc(size)
            except cupy.cuda.runtime.CUDARuntimeError:
                size //= 2
        status = pipeline.run()
        for source in status.sources.values():
            print(source.state.value, source.error_code and source.error_code.value, source.error)
        print("exit", int(status.exit_code))
        """,
        json.dumps(settings(assets, [clip(assets), clip(assets, "hevc")])),
    )
    print(done.stdout, done.stderr[-1500:])
    *lines, last = done.stdout.strip().splitlines()
    assert last == "exit 3"
    assert len(lines) == 2
    for line in lines:
        assert line.startswith("failed out_of_memory ")
        assert "GPU is out of memory" in line
        assert "runtime.open_sources" in line


@pytest.mark.assets
def test_a_model_that_is_too_large_for_tensorflows_share(assets: Path) -> None:
    done = python(
        """
        import sys
        from pathlib import Path
        from pipeline.config.stages import ModelSource
        from pipeline.device_errors import in_words
        from pipeline.errors import DeviceMemoryError
        from pipeline.inference import load_model
        from pipeline.inference.shared_stream import open_shared_stream
        stream = open_shared_stream(256 << 20)
        source = ModelSource(path=sys.argv[1], xla=False)
        try:
            with in_words():
                load_model(Path(sys.argv[1]), source, name="nanodet", batch_size=512, stream=stream)
        except DeviceMemoryError as e:
            print(e.message)
            print(e.remedy)
        """,
        str(assets / "models" / "nanodet"),
    )
    print(done.stdout, done.stderr[-1500:])
    assert "the GPU is out of memory" in done.stdout, done.stderr[-2000:]
    assert "runtime.batch_size" in done.stdout


@pytest.mark.assets
def test_tensorflow_takes_its_share_as_it_needs_it(assets: Path) -> None:
    done = python(
        """
        import cupy
        from pipeline.inference.shared_stream import open_shared_stream
        free = cupy.cuda.Device(0).mem_info[0]
        stream = open_shared_stream(8 << 30)
        stream.tf.ones([1000, 1000]).numpy()
        print(free - cupy.cuda.Device(0).mem_info[0])
        """
    )
    taken = int(done.stdout.strip().splitlines()[-1])
    print(f"TensorFlow with a share of 8192 MB has taken {taken / MIB:.0f} MB")
    assert taken < 4 << 30


@pytest.mark.assets
def test_a_gpu_that_is_lost_ends_the_run_and_keeps_what_was_written(assets: Path, tmp_path: Path) -> None:
    """A kernel that writes where it must not: nothing in the process can use the GPU after it."""
    make_clip(tmp_path / "a.mp4", width=640, height=368, frames=400)
    config = settings(assets, [str(tmp_path / "a.mp4")], runtime={"batch_size": 8})
    config["sinks"] = [{"type": "jsonl", "path": str(tmp_path / "out.jsonl")}]
    start = time.monotonic()
    done = python(
        """
        import dataclasses, json, os, sys
        import cupy
        from pipeline import Pipeline
        from pipeline.errors import DeviceLostError
        pipeline = Pipeline.from_dict(json.loads(sys.argv[1]))
        pipeline.prepare()
        stages = pipeline._stages
        kernel = cupy.RawKernel('extern "C" __global__ void f(int* p) { *p = 1; }', "f")
        calls = []
        def postprocess(outputs, batch):
            calls.append(len(batch.frames))
            if len(calls) == 10:
                with stages.download._stream.cupy:
                    kernel((1,), (1,), (cupy.uint64(8),))
            return stages.postprocess(outputs, batch)
        pipeline._stages = dataclasses.replace(stages, postprocess=postprocess)
        try:
            pipeline.run()
        except DeviceLostError as e:
            print("LOST", e, flush=True)
            print("PARTIAL", *pipeline.status.partial_outputs, flush=True)
            os._exit(3)
        """,
        json.dumps(config),
    )
    print(f"{time.monotonic() - start:.0f} s, ended with {done.returncode}\n{done.stdout}\n{done.stderr[-1500:]}")
    # TensorFlow may notice first, and ends the process then.
    assert done.returncode in (3, -6)
    if done.returncode == 3:
        assert "the GPU cannot be used any more: " in done.stdout
        assert "Xid" in done.stdout
    assert not (tmp_path / "out.jsonl").exists()
    [partial] = [path for path in tmp_path.iterdir() if "out.jsonl" in path.name]
    rows = [json.loads(line)["frame"] for line in partial.read_text().splitlines()]
    print(f"{len(rows)} records were kept")
    assert rows == list(range(len(rows)))
    if done.returncode == 3:
        assert len(rows) > 0
