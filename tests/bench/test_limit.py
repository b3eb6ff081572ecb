"""Which part is named, from figures that are given."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.bench.gpu import GpuUse
from pipeline.bench.limit import find_limit
from pipeline.bench.meter import Measurement
from pipeline.bench.whole import StageCost, Whole

ALONE = {"decode": 400.0, "preprocess": 900.0, "decode_and_preprocess": 200.0, "model": 100.0, "postprocess": 5000.0}


def measured(
    frames_per_s: float, *, cores: float = 0.5, machine: float | None = None, gpu: GpuUse | None = None
) -> Measurement:
    return Measurement(frames_per_s, 1000, 1000 / frames_per_s, 1e3 * cores / frames_per_s, cores, machine, gpu)


def limit(
    full: float, *, alone: Any = None, busy: Any = None, on_device: bool = False, cores: int = 4, **cpu: Any
) -> Any:
    stages = {name: StageCost(1e3 * share / full, share) for name, share in (busy or {}).items()}
    parts = {name: measured(value) for name, value in {**ALONE, **(alone or {})}.items()}
    whole = Whole(measured(full, **cpu), None, stages, cores)
    return find_limit(parts, whole, on_device=on_device)


@pytest.mark.parametrize("part", ["decode", "preprocess", "model", "postprocess"])
def test_a_pipeline_that_is_as_quick_as_its_slowest_part(part: str) -> None:
    found = limit(48.0, alone={part: 50.0})
    assert (found.by, found.slowest, found.share) == (part, part, pytest.approx(0.96))
    assert "96 %" in found.sentence
    assert "48.0 frames/s" in found.sentence
    assert "(50.0 frames/s)" in found.sentence


def test_a_thread_that_is_always_busy() -> None:
    found = limit(30.0, busy={"postprocess": 0.01, "track": 0.2, "sinks": 0.75})
    assert (found.by, found.slowest) == ("sinks", "model")
    assert "25.00 ms a frame" in found.sentence
    assert limit(30.0, busy={"postprocess": 0.01, "track": 0.8, "sinks": 0.15}).by == "track"


def test_cores_that_are_shared() -> None:
    found = limit(60.0, cores=4, alone={"decode": 99.0})
    assert found.by == "none"
    alone = limit(60.0, machine=3.9)
    assert alone.by == "cpu"
    assert "3.4 of them with other programs" in alone.sentence
    ours = find_limit(
        {"decode": measured(400, cores=2.0), "model": measured(100, cores=3.5)},
        Whole(measured(60, cores=3.9, machine=3.95), None, {}, 4),
        on_device=False,
    )
    assert ours.by == "cpu"
    assert "other programs" not in ours.sentence
    assert "the model takes 35.00" in ours.sentence


def test_a_host_that_cannot_feed_its_device() -> None:
    busy = {"preprocess": 0.3, "infer": 0.95, "postprocess": 0.15, "sinks": 0.2}
    found = limit(60.0, busy=busy, on_device=True)
    assert found.by == "host"
    assert "the thread that enqueues the model is busy 95 % of the time" in found.sentence
    assert limit(60.0, busy=busy).by == "none"
    # Each has a thread of its own.
    assert limit(60.0, busy={"preprocess": 0.5, "infer": 0.5, "postprocess": 0.5}, on_device=True).by == "none"


def test_a_gpu_that_has_nothing_left() -> None:
    busy = {"infer": 0.95, "sinks": 0.95}
    found = limit(85.0, busy=busy, on_device=True, gpu=GpuUse(99.0, 60.0, 1 << 30, 1755.0))
    assert found.by == "gpu"
    assert found.sentence.startswith("the GPU limits: it is busy 99 % of the time; the full pipeline does 85.0")
    assert limit(85.0, busy=busy, on_device=True, gpu=GpuUse(80.0, 60.0, 1 << 30)).by == "sinks"
    assert limit(95.0, gpu=GpuUse(100.0, 60.0, 1 << 30)).by == "model"


@pytest.mark.parametrize(("clock_mhz", "says_so"), [(1755.0, True), (1975.0, False), (None, False)])
def test_a_gpu_that_ran_at_another_clock(clock_mhz: float | None, says_so: bool) -> None:
    alone = {"model": measured(100, gpu=GpuUse(100.0, 0.0, 1 << 30, 1980.0)), "decode": measured(400)}
    whole = Whole(measured(85, gpu=GpuUse(99.0, 60.0, 1 << 30, clock_mhz)), None, {}, 8)
    found = find_limit(alone, whole, on_device=True)
    assert found.by == "gpu"
    assert ("at 1,755 MHz, 1,980 alone" in found.sentence) is says_so


@given(
    st.fixed_dictionaries({name: st.floats(0.1, 1e5) for name in ALONE}),
    st.floats(0.1, 1e5),
    st.fixed_dictionaries({name: st.floats(0, 1) for name in ("infer", "sinks", "track")}),
    st.floats(0.01, 8),
    st.booleans(),
    st.none() | st.builds(GpuUse, st.floats(0, 100), st.none(), st.just(0), st.none() | st.floats(0, 3000)),
)
def test_there_is_always_an_answer(
    alone: Any, full: float, busy: Any, cores: float, on_device: bool, gpu: GpuUse | None
) -> None:
    found = limit(full, alone=alone, busy=busy, on_device=on_device, cores=8, machine=cores, gpu=gpu)
    rates = {name: value for name, value in alone.items() if name != "decode_and_preprocess"}
    assert rates[found.slowest] == min(rates.values())
    assert found.share == pytest.approx(full / min(rates.values()))
    if found.share >= 0.9:
        assert found.by == found.slowest
    assert found.by in {*rates, "gpu", "track", "sinks", "cpu", "host", "none"}
    assert found.sentence
