"""The run's status as Prometheus metrics, read when they are asked for: a run that nobody watches pays nothing."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from pipeline import __version__
from pipeline.control._queue_metrics import memory_metrics, queue_metrics
from pipeline.control._schemas import Counters
from pipeline.control._views import counters, snapshot
from pipeline.observe.latency import LatencyHistogram
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.observe.text import safe
from pipeline.stages import DropCause

# 1.28 ms to 84 s. Each is an edge of the histogram's own buckets, so that the counts are exact.
LATENCY_BOUNDS_S = tuple(1e-5 * 2**power for power in range(7, 24))
_BEYOND_S = 1e9

_COUNTERS: tuple[tuple[str, str, Callable[[_Seen], int]], ...] = (
    ("packets", "Packets read; for most codecs one is a frame.", lambda s: s.counters.packets),
    ("decoded_frames", "Frames that the codec gave.", lambda s: s.counters.decoded),
    ("results", "Frames whose results have been handed to the sinks.", lambda s: s.counters.results),
    ("corrupt_frames", "Frames that the codec flagged as damaged.", lambda s: s.counters.corrupt),
    ("decode_errors", "Packets that could not be read or decoded.", lambda s: s.counters.decode_errors),
    ("connects", "Connections of a live stream.", lambda s: s.source.connects),
    ("reconnects", "Connections of a live stream after the first.", lambda s: s.source.reconnects),
)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A stream at the time of a scrape."""

    stream: str
    source: SourceStatus
    counters: Counters


def make_registry(status: RunStatus) -> CollectorRegistry:
    """The metrics of a run and of this process, apart from prometheus-client's global registry."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(status))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


class StatusCollector(Collector):
    """Reads a `RunStatus` at each scrape."""

    def __init__(self, status: RunStatus) -> None:
        self._status = status

    def collect(self) -> Iterable[Metric]:
        """All metrics of the run."""
        seen = [_Seen(safe(s.source_id), s, counters(s)) for s in snapshot(self._status)]
        yield from _run(self._status)
        yield from _stages(self._status)
        yield from memory_metrics(self._status)
        yield from queue_metrics(self._status, {each.stream: each.source for each in seen})
        yield _crops(self._status)
        yield from _counters(seen)
        yield from _gauges(seen)
        yield _latency(seen)


def _run(status: RunStatus) -> Iterator[Metric]:
    info = GaugeMetricFamily("vramline_run_info", "What runs; always 1.", labels=["version", "device", "model"])
    info.add_metric([__version__, status.device, safe(status.model)], 1)
    yield info
    yield GaugeMetricFamily("vramline_batch_size_frames", "Frames per model call.", value=status.batch_size)
    yield GaugeMetricFamily(
        "vramline_elapsed_seconds", "Time since the first frame was decoded.", value=status.elapsed_s
    )
    yield CounterMetricFamily("vramline_errors", "Errors that belong to no stream.", value=len(status.errors))


def _stages(status: RunStatus) -> Iterator[Metric]:
    stages = list(status.stages.items())
    busy = CounterMetricFamily("vramline_stage_busy_seconds", "Time that a stage's thread was busy.", labels=["stage"])
    batches = CounterMetricFamily("vramline_stage_batches", "Batches that a stage has done.", labels=["stage"])
    frames = CounterMetricFamily("vramline_stage_frames", "Frames that a stage has done.", labels=["stage"])
    for name, times in stages:
        busy.add_metric([name], times.busy_s)
        batches.add_metric([name], times.batches)
        frames.add_metric([name], times.frames)
    yield from (busy, batches, frames)


def _crops(status: RunStatus) -> Metric:
    crops = CounterMetricFamily(
        "vramline_cascade_detections",
        "Detections that a model of the cascade might look at.",
        labels=["model", "outcome"],
    )
    for name, second in list(status.models.items()):
        if second.crops is not None:
            for outcome, number in dataclasses.asdict(second.crops).items():
                crops.add_metric([name, outcome], number)
    return crops


def _counters(seen: list[_Seen]) -> Iterator[Metric]:
    for name, text, read in _COUNTERS:
        counter = CounterMetricFamily(f"vramline_stream_{name}", text, labels=["stream"])
        for each in seen:
            counter.add_metric([each.stream], read(each))
        yield counter
    dropped = CounterMetricFamily(
        "vramline_stream_dropped_frames", "Frames without a result, by cause.", labels=["stream", "cause"]
    )
    for each in seen:
        for cause in DropCause:  # those of 0 too: a rate needs the sample before the first
            dropped.add_metric([each.stream, cause.value], each.counters.dropped_by_cause.get(cause, 0))
    yield dropped


def _gauges(seen: list[_Seen]) -> Iterator[Metric]:
    now_s = time.monotonic()
    state = GaugeMetricFamily("vramline_stream_state", "1 for the state it is in.", labels=["stream", "state"])
    age = GaugeMetricFamily("vramline_stream_state_seconds", "Time in this state.", labels=["stream"])
    in_flight = GaugeMetricFamily(
        "vramline_stream_in_flight_frames", "Frames with neither a result nor dropped yet.", labels=["stream"]
    )
    priority = GaugeMetricFamily("vramline_stream_priority", "Share of the model.", labels=["stream"])
    for each in seen:
        current = each.source.state
        for possible in SourceState:
            state.add_metric([each.stream, possible.value], int(possible is current))
        age.add_metric([each.stream], max(0.0, now_s - each.source.changed_s))
        in_flight.add_metric([each.stream], each.counters.in_flight)
        priority.add_metric([each.stream], each.source.priority)
    yield from (state, age, in_flight, priority)


def _latency(seen: list[_Seen]) -> Metric:
    family = HistogramMetricFamily(
        "vramline_stream_latency_seconds", "How long a live stream's frames took.", labels=["stream", "stage"]
    )
    for each in seen:
        for stage, histogram in each.source.latency.items():
            if histogram.count:
                buckets, sum_s = _buckets(histogram)
                family.add_metric([each.stream, stage], buckets, sum_s)
    return family


def _buckets(histogram: LatencyHistogram) -> tuple[list[tuple[str, float]], float]:
    """Prometheus' buckets, and the sum. All counts are from one moment: the last is what the count becomes."""
    *counts, total = histogram.cumulative((*LATENCY_BOUNDS_S, _BEYOND_S))
    pairs = [(f"{bound:.10g}", float(count)) for bound, count in zip(LATENCY_BOUNDS_S, counts, strict=True)]
    return [*pairs, ("+Inf", float(total))], histogram.sum_s
