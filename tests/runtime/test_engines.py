"""How the `cuda` engine divides the device's memory before it takes any; everything that needs a device is left out."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import fakes
import pytest
from fake_cupy import OutOfMemoryError
from media_maker import make_clip

from pipeline.config.load import config_from_mapping
from pipeline.config.models import Config
from pipeline.config.sources import Source
from pipeline.errors import ConfigError, DeviceError, DeviceMemoryError
from pipeline.observe import machine
from pipeline.observe.machine import Driver, Gpu, GpuSetup
from pipeline.observe.status import RunStatus
from pipeline.runtime import build
from pipeline.runtime.engines import Job, cuda_stages
from pipeline.runtime.outputs import Outputs
from pipeline.sources import VideoSpec
from pipeline.vram import MIB

FREE = 20_000 * MIB
READY = GpuSetup(
    Driver((13, 0), (Gpu("NVIDIA H200", 140 << 30),)),
    True,
    {"cupy-cuda12x": "14.2.0", "pynvvideocodec": "2.2.4"},
)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    make_clip(tmp_path / "a.mp4", width=320, height=240)
    (tmp_path / "m.pb").write_bytes(b"x" * 1000)
    return config_from_mapping(
        {
            "sources": [str(tmp_path / "a.mp4")],
            "pipeline": {
                "model": {"path": str(tmp_path / "m.pb")},
                "preprocess": {"size": [300, 200], "dtype": "float32", "layout": "nhwc"},
                "postprocess": {"family": "boxes", "boxes": "b", "scores": "s"},
            },
        }
    )


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What was asked of the device, in order."""
    from pipeline.decode import download, nvdec
    from pipeline.inference import shared_stream, signature, tensorflow
    from pipeline.postprocess import cuda
    from pipeline.preprocess import engines

    calls: list[tuple[str, Any]] = []

    def note(name: str, result: Any) -> Any:
        def called(*arguments: Any, **options: Any) -> Any:
            calls.append((name, options or arguments))
            return result

        return called

    stream = SimpleNamespace(ordinal=0, tf=None)
    model = SimpleNamespace(batch_size=16, input=None, outputs=(), name="m@0")
    monkeypatch.setattr(shared_stream, "free_memory", note("free", (FREE, 0)))
    monkeypatch.setattr(shared_stream, "open_shared_stream", note("stream", stream))
    monkeypatch.setattr(shared_stream, "limit_cupy", note("cupy", None))
    monkeypatch.setattr("pipeline.inference.shared_stream.library.library_path", lambda tf: Path("op.so"))
    monkeypatch.setattr("pipeline.sinks.native_texts.use_library", note("texts", None))
    monkeypatch.setattr("pipeline.decode.apart.DecodeStream", lambda shared: SimpleNamespace(handle=7))
    monkeypatch.setattr("pipeline.decode.capabilities.gpu_capabilities", note("capabilities", None))
    monkeypatch.setattr(tensorflow, "load_model", note("load", model))
    monkeypatch.setattr(signature, "resolve_input", lambda image, preprocess, model: preprocess)
    monkeypatch.setattr(engines, "device_preprocessor", note("preprocess", SimpleNamespace(model_size=(300, 200))))
    monkeypatch.setattr(cuda, "build_cuda_postprocessor", note("postprocess", None))
    monkeypatch.setattr(download, "Download", note("download", None))
    decoder = fakes.FakeDecoder("a", 1)
    monkeypatch.setattr(nvdec, "open_nvdec", note("decoder", decoder))
    return calls


def job(config: Config) -> Job:
    path = str(config.sources[0].path)
    specs = [VideoSpec("a", path, "a.mp4", False, Source(path=path))]
    return Job(config, Path(str(config.pipeline.model.path)), "m", {}, specs=specs)


def test_the_budget_is_divided_before_anything_is_taken(config: Config, done: list[tuple[str, Any]]) -> None:
    stages = cuda_stages(job(config), Outputs([], RunStatus()))
    assert [name for name, _ in done] == [
        *("free", "stream", "cupy", "texts", "capabilities", "load", "preprocess", "postprocess", "download"),
    ]
    (tensorflow,), (cupy,) = dict(done)["stream"], dict(done)["cupy"]
    assert tensorflow + cupy == FREE - FREE // 20
    assert tensorflow > FREE // 4
    memory = stages.memory
    assert memory is not None
    assert memory.shares is not None
    parts = {part.name: part for part in memory.parts}
    assert parts["preprocessing"].size_bytes == 3 * 16 * 300 * 200 * 3 * 4 + 8 * MIB  # as the model turned out to be
    assert memory.shares.tensorflow_bytes == tensorflow
    assert stages.decoders is not None
    assert stages.decoders.limit_bytes == memory.shares.decoders_bytes
    stages.open_decoder(fakes.spec("a"), None)  # type: ignore[arg-type]
    options = done[-1][1]
    assert options["memory"].allowance is stages.decoders
    assert options["memory"].source_bytes == memory.shares.source_bytes
    assert options["ring"] == 20 + 9 * 16
    assert options["stream"] is stages.decode_stream


def test_a_budget_that_is_too_small_is_told_before_anything_is_taken(
    config: Config, done: list[tuple[str, Any]]
) -> None:
    config = config.model_copy(update={"runtime": config.runtime.model_copy(update={"vram_budget_mb": 100})})
    with pytest.raises(ConfigError, match="the budget is 100 MB"):
        cuda_stages(job(config), Outputs([], RunStatus()))
    assert [name for name, _ in done] == ["free"]


def test_running_out_of_memory_at_the_start_is_told_in_words(
    config: Config, done: list[tuple[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise OutOfMemoryError("Out of memory allocating 23,040,000 bytes (allocated so far: 0 bytes).")

    monkeypatch.setattr("pipeline.preprocess.engines.device_preprocessor", fail)
    monkeypatch.setattr(build, "choose_engine", lambda config: ("cuda", "a GPU"))
    with pytest.raises(DeviceMemoryError, match="the GPU is out of memory: Out of memory allocating 23,040,000 bytes"):
        build.build_stages(config, job(config).specs, RunStatus(), None)


# ------------------------------------------------------------------------------------------------- the choice of engine


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine.choose_device, "__defaults__", (lambda: READY,))
    monkeypatch.setattr(machine, "gpu_setup", lambda: READY)


@pytest.mark.usefixtures("on_gpu")
@pytest.mark.parametrize("device", ["auto", "cuda"])
def test_the_gpu_is_taken_if_tensorflow_sees_it(config: Config, device: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference._tensorflow.sees_gpu", lambda: True)
    assert build.choose_engine(config.model_copy(update={"device": device})) == ("cuda", "NVIDIA H200")


@pytest.mark.usefixtures("on_gpu")
def test_tensorflow_without_a_gpu_means_the_cpu_and_says_so(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.inference._tensorflow.sees_gpu", lambda: False)
    engine, reason = build.choose_engine(config)
    assert engine == "cpu"
    assert "TensorFlow finds no GPU" in reason
    config = config.model_copy(update={"device": "cuda"})
    with pytest.raises(DeviceError, match="TensorFlow finds no GPU") as caught:
        build.choose_engine(config)
    assert "pip install 'vramline[cuda12]'" in str(caught.value.remedy)


def test_tensorflow_is_not_imported_to_choose_the_cpu(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden() -> bool:
        raise AssertionError("TensorFlow is asked")

    monkeypatch.setattr("pipeline.inference._tensorflow.sees_gpu", forbidden)
    assert build.choose_engine(config.model_copy(update={"device": "cpu"}))[0] == "cpu"


@pytest.mark.parametrize("problem", [ImportError("libnvcv_types.so.0: cannot open"), RuntimeError("CUDA 13 needed")])
def test_cv_cuda_that_cannot_be_used_is_told_with_the_remedy(
    config: Config, problem: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.preprocess import cvcuda

    def fail(name: str) -> ModuleType:
        raise problem

    monkeypatch.setitem(sys.modules, "cupy", ModuleType("cupy"))
    monkeypatch.setattr(cvcuda.importlib, "import_module", fail)
    with pytest.raises(DeviceError, match=r"pipeline\.preprocess\.engine: cvcuda cannot be used") as caught:
        cvcuda.CvCudaPreprocessor(config.pipeline.preprocess, stream=None, max_rows=1)  # type: ignore[arg-type]
    assert "engine: fused" in str(caught.value.remedy)
