"""Rates of counters whose course is known, CPU and GPU counters that are given."""

from __future__ import annotations

import sys
import threading
import time
import types
from pathlib import Path
from typing import Any

import pytest

from pipeline.bench import gpu as bench_gpu
from pipeline.bench import meter as bench_meter
from pipeline.bench.cpu import machine_busy_s, usable_cores
from pipeline.bench.gpu import GpuSampler, watch_gpu
from pipeline.bench.meter import BenchError, Meter, Timing
from pipeline.bench.parts import Workers


class Clock:
    """Time that passes only while somebody sleeps; a batch is done every `interval_s`."""

    def __init__(self, batch: int, interval_s: float) -> None:
        self.now_s, self.batch, self.interval_s = 1000.0, batch, interval_s

    def monotonic(self) -> float:
        return self.now_s

    def process_time(self) -> float:
        return 2.0 * self.now_s

    def thread_time(self) -> float:
        return 0.5 * self.now_s

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds

    def frames(self) -> int:
        return self.batch * int((self.now_s - 1000.0) / self.interval_s)


def watch(meter: Meter, clock: Clock, **options: Any) -> Any:
    known = {"note": lambda: clock.now_s, "is_ready": lambda: True, "check": lambda: None, **options}
    return meter.watch("it", clock.frames, **known)


@pytest.mark.parametrize(("batch", "interval_s"), [(1, 0.02), (32, 0.5), (8, 3.7), (64, 25.0)])
def test_batches_are_not_cut_in_two(monkeypatch: pytest.MonkeyPatch, batch: int, interval_s: float) -> None:
    clock = Clock(batch, interval_s)
    monkeypatch.setattr(bench_meter, "time", clock)
    measured, start, end = watch(Meter(Timing(1.3, 5.0)), clock)
    assert measured.frames_per_s == pytest.approx(batch / interval_s, rel=0.006)
    assert measured.seconds >= 5.0
    assert measured.frames % batch == 0
    assert measured.cores_busy == pytest.approx(1.5), "without the thread that watches"
    assert (start.note, end.note) == (start.time_s, end.time_s)


def test_what_stands_still_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(1, 1e9)
    monkeypatch.setattr(bench_meter, "time", clock)
    with pytest.raises(BenchError, match="it: nothing happens for 60 s"):
        watch(Meter(Timing()), clock)
    with pytest.raises(BenchError, match="it: nothing happens for 180 s"):
        watch(Meter(Timing()), clock, is_ready=lambda: False)

    def broken() -> None:
        raise ValueError("broke")

    with pytest.raises(ValueError, match="broke"):
        watch(Meter(Timing()), clock, check=broken)


def test_workers_tell_what_went_wrong_and_end() -> None:
    def work(workers: Workers) -> None:
        while not workers.is_stopping:
            time.sleep(0.001)

    def fail(workers: Workers) -> None:
        raise RuntimeError("the disk is gone")

    before = threading.active_count()
    with pytest.raises(RuntimeError, match="the disk is gone"), Workers("it", [work, work, fail]) as workers:
        end_s = time.monotonic() + 10
        while time.monotonic() < end_s:
            workers.check()
            time.sleep(0.001)
    assert threading.active_count() == before
    with pytest.raises(BenchError, match="it: ended by itself"), Workers("it", [lambda _: None]) as workers:
        while True:
            workers.check()
            time.sleep(0.001)


def test_the_cores_of_the_machine(tmp_path: Path) -> None:
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  900 0 0 900 0 0 0 0 0 0\ncpu0 100 20 30 1000 50 5 5 40 7 0\ncpu1 1 1 1 1 1 1 1 1 0 0\nintr 1 2 3\n"
    )
    assert machine_busy_s([0], stat) == pytest.approx(2.0)
    assert machine_busy_s([0, 1], stat) == pytest.approx(2.06)
    assert machine_busy_s([7], stat) is None
    assert machine_busy_s([0], tmp_path / "none") is None


@pytest.mark.skipif(not Path("/proc/stat").exists(), reason="only Linux counts so")
def test_this_machine_counts() -> None:
    before = machine_busy_s(usable_cores())
    end_s = time.process_time() + 0.3
    while time.process_time() < end_s:
        pass
    after = machine_busy_s(usable_cores())
    assert before is not None and after is not None
    assert after - before >= 0.2


class FakeNvml(types.ModuleType):
    """`sys.modules["pynvml"]`."""

    class NVMLError(Exception):
        pass

    def __init__(self, **broken: str) -> None:
        super().__init__("pynvml")
        self.broken = broken
        self.asked = 0

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        if name.startswith("NVML_CLOCK_"):
            return name.removeprefix("NVML_CLOCK_")
        answers: dict[str, Any] = {
            "nvmlInit": lambda: None,
            "nvmlDeviceGetHandleByPciBusId": lambda bus: f"handle of {bus}",
            "nvmlDeviceGetName": lambda handle: b"NVIDIA H200",
            "nvmlSystemGetDriverVersion": lambda: "580.1",
            "nvmlDeviceGetMemoryInfo": self._memory,
            "nvmlDeviceGetUtilizationRates": lambda handle: types.SimpleNamespace(gpu=40 + self.asked),
            "nvmlDeviceGetDecoderUtilization": lambda handle: [90, 166_000],
            "nvmlDeviceGetClockInfo": lambda handle, which: {"SM": 1900, "VIDEO": 1500}[which] + 10 * self.asked,
            "nvmlDeviceGetPowerUsage": lambda handle: 250_000 + 1000 * self.asked,
        }

        def call(*arguments: Any) -> Any:
            if name in self.broken:
                raise FakeNvml.NVMLError(self.broken[name])
            return answers[name](*arguments)

        return call

    def _memory(self, handle: str) -> Any:
        assert handle == "handle of 0000:4E:00.0"
        self.asked += 1
        return types.SimpleNamespace(used=1000 * self.asked, total=10**6)


@pytest.fixture
def on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(bench_gpu, "_bus_id", lambda: "0000:4E:00.0")

    def use(nvml: Any) -> Any:
        monkeypatch.setitem(sys.modules, "pynvml", nvml)
        return watch_gpu("cuda")

    return use


def test_the_gpu_is_watched(on_a_gpu: Any) -> None:
    watch = on_a_gpu(FakeNvml())
    assert (watch.facts.name, watch.facts.driver, watch.facts.memory_bytes) == ("NVIDIA H200", "580.1", 10**6)
    sampler: GpuSampler = watch.sampler
    sampler.sample()
    sampler.start()
    assert sampler.use() is None
    sampler.sample()
    sampler.sample()
    use = sampler.use()
    assert use is not None
    assert (use.gpu_percent, use.nvdec_percent, use.memory_bytes) == (43.5, 90, 4000)
    assert (use.sm_clock_mhz, use.video_clock_mhz, use.power_w) == (1935, 1535, 253.5)


def test_a_gpu_that_does_not_say_everything(on_a_gpu: Any) -> None:
    watch = on_a_gpu(FakeNvml(nvmlDeviceGetDecoderUtilization="Not Supported", nvmlDeviceGetPowerUsage="No Permission"))
    watch.sampler.start()
    watch.sampler.sample()
    use = watch.sampler.use()
    assert (use.gpu_percent, use.nvdec_percent, use.sm_clock_mhz, use.power_w) == (42, None, 1920, None)
    watch = on_a_gpu(FakeNvml(nvmlInit="Driver Not Loaded"))
    assert (watch.sampler, watch.facts) == (None, None)
    assert watch.reason == "NVIDIA's management library cannot be used: Driver Not Loaded"
    assert "nvidia-ml-py is not installed" in on_a_gpu(None).reason


def test_the_sampler_is_asked_while_it_is_measured(monkeypatch: pytest.MonkeyPatch, on_a_gpu: Any) -> None:
    clock, nvml = Clock(4, 0.05), FakeNvml()
    monkeypatch.setattr(bench_meter, "time", clock)
    watched = on_a_gpu(nvml)
    measured, _, _ = watch(Meter(Timing(1.0, 2.0), watched.sampler), clock)
    assert measured.gpu is not None
    assert 7 <= nvml.asked <= 10  # four times a second, and once for all the memory that there is
