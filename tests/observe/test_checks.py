from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.observe import facts as facts_module
from pipeline.observe import machine
from pipeline.observe.checks import CORE_PACKAGES, Check, Level, checks, cpu_engine_works
from pipeline.observe.facts import CODECS, GPU_PACKAGES, Facts, GpuPackage, gather
from pipeline.observe.gpu_memory import DeviceMemory
from pipeline.observe.machine import Driver, Gpu, Trial

AV = {"version": "18.1.0", "ffmpeg": "8.1", "decoders": list(CODECS), "x264": True}
TENSORFLOW = {"version": "2.21.0", "gpus": [], "cuda": True}
H100 = Driver((13, 0), (Gpu("NVIDIA H100 80GB HBM3", 80 * 2**30),))

CPU_ONLY = Facts(
    python=(3, 11, 7),
    packages=dict.fromkeys(CORE_PACKAGES, "1.0"),
    tensorflow=Trial(TENSORFLOW),
    av=Trial(AV),
    driver=Driver(problem="no NVIDIA driver"),
    nvidia_hardware=False,
    nvdec_library=False,
    gpu_packages=GPU_PACKAGES,
    compiler="/usr/bin/g++",
    npm="/usr/bin/npm",
    cache=Path("/home/ann/.cache/vramline"),
    cache_writable=True,
    free_bytes=50 * 10**9,
    cores=8,
    terminal=True,
)
WITH_GPU = replace(
    CPU_ONLY,
    driver=H100,
    nvidia_hardware=True,
    nvdec_library=True,
    tensorflow=Trial({**TENSORFLOW, "gpus": ["/physical_device:GPU:0"]}),
    packages={
        **CPU_ONLY.packages,
        **{"cupy-cuda12x": "14.2.0", "cvcuda-cu12": "0.19.0", "pynvvideocodec": "2.2.4", "nvidia-ml-py": "13.6"},
    },
    gpu_packages=(
        GpuPackage("cupy", "cupy", ("cupy-cuda12x",), Trial("14.2.0")),
        GpuPackage("cvcuda", "cvcuda", ("cvcuda-cu12",), Trial("0.19.0")),
        GpuPackage("PyNvVideoCodec", "pynvvideocodec", ("pynvvideocodec",), Trial("")),
    ),
)


def line(facts: Facts, name: str) -> Check:
    return next(check for check in checks(facts) if check.name == name)


def test_a_machine_without_gpu_is_no_cause_for_alarm() -> None:
    found = checks(CPU_ONLY)
    assert cpu_engine_works(found)
    assert {check.level for check in found} == {Level.OK, Level.MISSING}
    assert [check.remedy for check in found if check.remedy] == []


def test_a_machine_with_everything() -> None:
    found = checks(WITH_GPU)
    assert {check.level for check in found} == {Level.OK}
    assert line(WITH_GPU, "NVIDIA driver").detail == "CUDA 13.0; NVIDIA H100 80GB HBM3 (80 GiB)"
    assert line(WITH_GPU, "cupy").detail == "cupy-cuda12x 14.2.0"


def test_a_gpu_without_its_driver_in_a_container() -> None:
    check = line(replace(CPU_ONLY, nvidia_hardware=True), "NVIDIA driver")
    assert check.level is Level.PROBLEM
    assert "--gpus all" in str(check.remedy)


def test_a_driver_that_shows_no_gpu() -> None:
    check = line(replace(CPU_ONLY, driver=Driver((12, 8), problem="the NVIDIA driver shows no GPU")), "NVIDIA driver")
    assert check.level is Level.PROBLEM
    assert "shows no GPU" in check.detail


def test_a_driver_that_is_too_old_for_cuda_12() -> None:
    check = line(replace(WITH_GPU, driver=replace(H100, cuda_version=(11, 8))), "NVIDIA driver")
    assert (check.level, check.remedy) == (Level.PROBLEM, "install driver 525 or newer")


def test_a_container_without_the_video_capability() -> None:
    check = line(replace(WITH_GPU, nvdec_library=False), "NVDEC")
    assert check.level is Level.PROBLEM
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,video,utility" in str(check.remedy)


def test_the_memory_of_the_gpu() -> None:
    assert not [check for check in checks(CPU_ONLY) if check.name == "GPU memory"]
    free = line(replace(WITH_GPU, gpu_memory=(DeviceMemory(143_771 << 20, 130_000 << 20),)), "GPU memory")
    assert (free.level, free.detail) == (Level.OK, "130,000 of 143,771 MB free")
    full = line(replace(WITH_GPU, gpu_memory=(DeviceMemory(143_771 << 20, 500 << 20),)), "GPU memory")
    assert (full.level, full.remedy) == (Level.PROBLEM, "end what else uses the GPU: nvidia-smi shows it")


def test_auto_follows_what_tensorflow_sees() -> None:
    assert machine.choose_device("auto", lambda: WITH_GPU.gpu_setup)[0] == "cuda"
    blind = replace(WITH_GPU, tensorflow=Trial(TENSORFLOW))
    engine, reason = machine.choose_device("auto", lambda: blind.gpu_setup)
    assert engine == "cpu"
    assert "TensorFlow finds no GPU" in reason


@pytest.mark.parametrize(("cuda", "why"), [(True, "CUDA libraries are not here"), (False, "this build has no CUDA")])
def test_tensorflow_that_sees_no_gpu(cuda: bool, why: str) -> None:
    check = line(replace(WITH_GPU, tensorflow=Trial({**TENSORFLOW, "cuda": cuda})), "TensorFlow GPU")
    assert check.level is Level.PROBLEM
    assert why in check.detail
    assert check.remedy == "pip install 'vramline[cuda12]'"


def gpu_package(package: GpuPackage) -> Check:
    return line(replace(WITH_GPU, gpu_packages=(package,)), package.module)


def test_a_package_for_the_wrong_cuda() -> None:
    check = gpu_package(GpuPackage("cupy", "cupy", ("cupy-cuda13x",), Trial("14.2.0")))
    assert check.level is Level.PROBLEM
    assert "cupy-cuda13x is for another CUDA than TensorFlow's 12" in check.detail
    assert check.remedy == "pip uninstall cupy-cuda13x && pip install 'vramline[cuda12]'"


def test_two_packages_with_the_same_files() -> None:
    check = gpu_package(GpuPackage("cupy", "cupy", ("cupy", "cupy-cuda12x"), Trial("14.2.0")))
    assert check.level is Level.PROBLEM
    assert "overwrite each other's files" in check.detail


def test_a_package_that_cannot_be_imported() -> None:
    check = gpu_package(GpuPackage("cvcuda", "cvcuda", ("cvcuda-cu12",), Trial(problem="ImportError: libnvcv.so")))
    assert check.level is Level.PROBLEM
    assert "ImportError: libnvcv.so" in check.detail


def test_a_package_that_is_missing_beside_a_gpu_says_how_to_get_it() -> None:
    check = gpu_package(GpuPackage("cupy", "cupy"))
    assert (check.level, check.remedy) == (Level.MISSING, "pip install 'vramline[cuda12]'")


def test_the_management_library_is_asked_for_beside_a_gpu_only() -> None:
    assert line(WITH_GPU, "nvidia-ml-py").detail == "13.6"
    check = line(replace(WITH_GPU, packages=CPU_ONLY.packages), "nvidia-ml-py")
    assert (check.level, check.remedy) == (Level.MISSING, "pip install 'vramline[cuda12]'")
    assert line(CPU_ONLY, "nvidia-ml-py").remedy is None


@pytest.mark.parametrize(
    ("broken", "name", "remedy"),
    [
        (replace(CPU_ONLY, python=(3, 14, 0)), "Python", "use Python 3.10 to 3.13"),
        (replace(CPU_ONLY, packages={}), "packages", "pip install vramline"),
        (replace(CPU_ONLY, av=Trial(problem="ImportError: x")), "FFmpeg", "pip install --force-reinstall av"),
        (
            replace(CPU_ONLY, av=Trial({**AV, "decoders": ["h264"], "x264": False})),
            "FFmpeg",
            "pip install --only-binary av --force-reinstall av",
        ),
        (
            replace(CPU_ONLY, tensorflow=Trial(problem="no answer in 90 s")),
            "TensorFlow",
            "pip install --force-reinstall tensorflow",
        ),
        (
            replace(CPU_ONLY, tensorflow=Trial(problem="ended by SIGILL", ended_by=signal.SIGILL)),
            "TensorFlow",
            "TensorFlow's wheels need a CPU with AVX: use another machine, or a build for this one",
        ),
    ],
)
def test_what_the_cpu_engine_cannot_do_without(broken: Facts, name: str, remedy: str) -> None:
    check = line(broken, name)
    assert check.level is not Level.OK
    assert check.remedy == remedy
    assert not cpu_engine_works(checks(broken))


def test_ffmpeg_that_lacks_codecs_names_them() -> None:
    check = line(replace(CPU_ONLY, av=Trial({**AV, "decoders": ["h264", "hevc", "vp9", "mpeg4", "mjpeg"]})), "FFmpeg")
    assert check.detail.endswith("lacks decoder av1")


@pytest.mark.parametrize(
    ("changed", "name", "words"),
    [
        (replace(CPU_ONLY, npm=None), "npm", "pip install 'vramline[models]'"),
        (replace(CPU_ONLY, cache_writable=False), "cache", "make it writable"),
        (replace(CPU_ONLY, free_bytes=10), "cache", "free at least 1.0 GB there"),
        (replace(WITH_GPU, compiler=None), "C++ compiler", "apt install g++"),
    ],
)
def test_what_is_missing_around_it_comes_with_a_remedy(changed: Facts, name: str, words: str) -> None:
    check = line(changed, name)
    assert check.level is not Level.OK
    assert words in str(check.remedy)
    assert cpu_engine_works(checks(changed))


def test_the_facts_of_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = machine.try_python

    def without_tensorflow(code: str, **options: object) -> Trial:
        return Trial(TENSORFLOW) if "tensorflow" in code else real(code, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(machine, "try_python", without_tensorflow)
    monkeypatch.setattr(facts_module, "GPU_PACKAGES", (GpuPackage("numpy", "numpy"), GpuPackage("nobody", "nobody")))
    found = gather(tmp_path / "not" / "made" / "yet")
    assert "h264" in found.av.value["decoders"]
    assert found.free_bytes > 0
    assert found.cache_writable
    numpy, nobody = found.gpu_packages
    assert numpy.distributions == ("numpy",)
    assert numpy.trial.value == found.packages["numpy"]
    assert nobody.distributions == ()
    assert not (tmp_path / "not").exists()
