"""What limits a pipeline, from how its parts do alone and how busy everything is when they work together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.bench.meter import Measurement
from pipeline.bench.whole import StageCost, Whole
from pipeline.observe.text import rate

# A pipeline that comes so close to one of its parts is limited by that part.
_NEAR = 0.9
# Cores, or a thread, that are busy for so much of the time have nothing left to give.
_FULL = 0.9
_ALONE = ("decode", "preprocess", "model", "postprocess")
_NAMES = {"decode": "decoding", "model": "the model", "preprocess": "preprocessing", "postprocess": "postprocessing"}
_NAMES |= {"track": "tracking", "sinks": "writing the outputs"}
# On a device each of these has a thread that enqueues it.
_FEEDING = {"preprocess": "preprocessing", "infer": "the model", "postprocess": "postprocessing"}
# What shares a thread.
_RESULTS = ("track", "sinks")
# A device with a kernel running for so much of the time has nothing left to give, in percent.
_GPU_FULL = 95.0
# Clocks that differ by less are the same.
_SAME_CLOCK = 0.98


@dataclass(frozen=True, slots=True)
class Limit:
    """What limits.

    Attributes:
        by: `decode`, `preprocess`, `model` or `postprocess`; `gpu` where it is busy, which the parts share; `track` or
            `sinks` where they keep the thread that does them busy; `cpu` where cores are; `host` where a thread that feeds
            the device is; `none` where nothing is used up.
        slowest: The slowest of the parts that can be measured alone.
        share: The pipeline's rate as a share of that part's.
        sentence: The same for people.
    """

    by: str
    slowest: str
    share: float
    sentence: str


def find_limit(parts: Mapping[str, Measurement], whole: Whole, *, on_device: bool) -> Limit:
    """The limit.

    Args:
        parts: By name, each alone.
        whole: All together.
        on_device: Whether all but the outputs is enqueued on one device stream.
    """
    rates = {name: parts[name].frames_per_s for name in _ALONE if name in parts}
    slowest = min(rates, key=lambda name: rates[name])
    full = whole.measured
    share = full.frames_per_s / rates[slowest]
    by, why = _why(parts, whole, slowest, share, on_device=on_device)
    compared = f"the full pipeline does {rate(full.frames_per_s)}, {100 * share:.0f} % of {_NAMES[slowest]} alone"
    return Limit(by, slowest, share, f"{why}; {compared} ({rate(rates[slowest])})")


def _why(
    parts: Mapping[str, Measurement], whole: Whole, slowest: str, share: float, *, on_device: bool
) -> tuple[str, str]:
    if share >= _NEAR:
        return slowest, f"{_NAMES[slowest]} limits"
    full, stages, cores = whole.measured, whole.stages, whole.cores
    if full.gpu is not None and full.gpu.gpu_percent >= _GPU_FULL:
        return (
            "gpu",
            f"the GPU limits: it is busy {full.gpu.gpu_percent:.0f} % of the time{_clocks(parts[slowest], full)}",
        )
    # On the CPU they share it with postprocessing.
    results = [name for name in (*_RESULTS, *(() if on_device else ("postprocess",))) if name in stages]
    if results and _busy(stages, results) >= _FULL:
        most = max(results, key=lambda name: stages[name].busy)
        return most, f"{_NAMES[most]} limits: it takes {stages[most].ms_per_frame:.2f} ms a frame"
    busy = max(full.cores_busy, full.machine_cores_busy or 0.0)
    if busy >= _FULL * cores:
        others = busy - full.cores_busy
        with_others = f", {others:.1f} of them with other programs" if others >= 0.1 * cores else ""
        costs = {name: parts[name].cpu_ms_per_frame for name in _ALONE if name in parts}
        most = max(costs, key=lambda name: costs[name])
        return "cpu", (
            f"the CPU limits: {busy:.1f} of {cores} cores are busy{with_others}; of the {full.cpu_ms_per_frame:.2f} CPU-ms "
            f"a frame, {_NAMES[most]} takes {costs[most]:.2f}"
        )
    feeding = {name: stages[name].busy for name in _FEEDING if name in stages}
    most = max(feeding, key=lambda name: feeding[name], default="")
    if on_device and most and feeding[most] >= _FULL:
        return (
            "host",
            f"the host limits: the thread that enqueues {_FEEDING[most]} is busy {100 * feeding[most]:.0f} % of the time",
        )
    return "none", "nothing is used up: the parts wait for each other"


def _clocks(part: Measurement, full: Measurement) -> str:
    """Where the pipeline ran at a lower clock than the part that it is compared with."""
    alone = None if part.gpu is None else part.gpu.sm_clock_mhz
    clock = None if full.gpu is None else full.gpu.sm_clock_mhz
    if not alone or not clock or clock >= _SAME_CLOCK * alone:
        return ""
    return f", at {clock:,.0f} MHz, {alone:,.0f} alone"


def _busy(stages: Mapping[str, StageCost], names: Iterable[str]) -> float:
    return sum(stages[name].busy for name in names if name in stages)
