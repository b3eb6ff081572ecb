"""The bounded queues, the decoders' surfaces and the device's memory as Prometheus metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.observe.status import RunStatus, SourceStatus
from pipeline.queues import QueueStats

_GAUGES: tuple[tuple[str, str, Callable[[QueueStats], float]], ...] = (
    ("{}", "In it now.", lambda s: s.items),
    ("capacity_{}", "Most that it takes.", lambda s: s.capacity),
    ("high_water_{}", "Most that were in it at the same time.", lambda s: s.high_water),
)
_COUNTERS: tuple[tuple[str, str, Callable[[QueueStats], float]], ...] = (
    ("put_waits", "How often a producer waited for space.", lambda s: s.put_waits),
    ("put_wait_seconds", "How long producers waited for space.", lambda s: s.put_wait_s),
)
_GET_COUNTERS: tuple[tuple[str, str, Callable[[QueueStats], float]], ...] = (
    ("get_waits", "How often a consumer waited for an item.", lambda s: s.get_waits),
    ("get_wait_seconds", "How long consumers waited for items.", lambda s: s.get_wait_s),
)


def queue_metrics(status: RunStatus, sources: Mapping[str, SourceStatus]) -> Iterator[Metric]:
    """Of the queues between threads, and of every stream's frames and surfaces."""
    queues = list(status.queues.items())
    yield from _families("vramline_queue", "batches", "queue", queues)
    for name, text, read in _GET_COUNTERS:
        yield _counter(f"vramline_queue_{name}", text, "queue", queues, read)
    slots = [(name, source.slot) for name, source in sources.items()]
    yield from _families("vramline_stream_slot", "frames", "stream", slots)
    surfaces = [(name, stats) for name, source in sources.items() if (stats := source.decode.surfaces) is not None]
    if surfaces:
        yield from _families("vramline_stream_surfaces", "buffers", "stream", surfaces)
        yield _gauge("vramline_stream_surfaces_bytes", "On loan.", "stream", surfaces, lambda s: s.items * s.item_bytes)
        text = "Most on loan at the same time."
        yield _gauge(
            "vramline_stream_surfaces_high_water_bytes", text, "stream", surfaces, lambda s: s.high_water_bytes
        )


def memory_metrics(status: RunStatus) -> Iterator[Metric]:
    """Of the device's memory, on the `cuda` engine."""
    plan, decoders = status.memory, status.decoder_memory
    if plan is not None:
        parts = GaugeMetricFamily("vramline_gpu_memory_planned_bytes", "The plan, by part.", labels=["part"])
        for part in plan.parts:
            parts.add_metric([part.name], part.size_bytes)
        yield parts
        if plan.budget_bytes is not None:
            yield GaugeMetricFamily(
                "vramline_gpu_memory_budget_bytes", "What the run may take.", value=plan.budget_bytes
            )
    if decoders is not None:
        name, high = "vramline_gpu_memory_decoders_bytes", "vramline_gpu_memory_decoders_high_water_bytes"
        yield GaugeMetricFamily(name, "What decoders have taken.", value=decoders.taken_bytes)
        yield GaugeMetricFamily(high, "The most that decoders had taken.", value=decoders.high_water_bytes)
        if decoders.limit_bytes is not None:
            limit = "vramline_gpu_memory_decoders_limit_bytes"
            yield GaugeMetricFamily(limit, "What decoders may take.", value=decoders.limit_bytes)


Stats = Iterable[tuple[str, QueueStats]]


def _families(prefix: str, unit: str, label: str, stats: Stats) -> Iterator[Metric]:
    stats = list(stats)
    for name, text, read in _GAUGES:
        yield _gauge(f"{prefix}_{name.format(unit)}", text, label, stats, read)
    for name, text, read in _COUNTERS:
        yield _counter(f"{prefix}_{name}", text, label, stats, read)


def _gauge(name: str, text: str, label: str, stats: Stats, read: Callable[[QueueStats], float]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, each in stats:
        family.add_metric([key], read(each))
    return family


def _counter(name: str, text: str, label: str, stats: Stats, read: Callable[[QueueStats], float]) -> Metric:
    family = CounterMetricFamily(name, text, labels=[label])
    for key, each in stats:
        family.add_metric([key], read(each))
    return family
