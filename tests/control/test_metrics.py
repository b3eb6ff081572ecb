"""The metrics, read back with Prometheus' own parser and compared with the status they come from."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from control_fakes import Answer, FakeControl, add_live, fill_queues
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from pipeline import __version__
from pipeline.observe.latency import LatencyHistogram
from pipeline.observe.status import SourceState, SourceStatus
from pipeline.stages import DecodeStats, DropCause

Ask = Callable[..., Answer]


def scrape(request_: Ask) -> dict[str, Metric]:
    answer = request_("GET", "/metrics")
    assert answer.status == 200
    assert answer.headers.get_content_type() == "text/plain"
    families = list(text_string_to_metric_families(answer.text))
    assert len({family.name for family in families}) == len(families)
    samples = [(s.name, *sorted(s.labels.items())) for family in families for s in family.samples]
    assert len(set(samples)) == len(samples)
    return {family.name: family for family in families}


def values(family: Metric, *labels: str) -> dict[tuple[str, ...], float]:
    return {tuple(s.labels[label] for label in labels): s.value for s in family.samples}


def test_counters_and_gauges_are_the_status(control: FakeControl, request_: Ask) -> None:
    add_live(control.status, "door")
    control.status.sources["a/b"] = SourceStatus("a/b", "b.mp4", results=5)
    control.status.errors.append("one")
    found = scrape(request_)
    for name, number in {
        "packets": 120,
        "decoded_frames": 110,
        "results": 90,
        "corrupt_frames": 2,
        "decode_errors": 1,
        "connects": 3,
        "reconnects": 2,
    }.items():
        family = found[f"vramline_stream_{name}"]
        assert family.type == "counter"
        assert {sample.name for sample in family.samples} == {f"vramline_stream_{name}_total"}
        assert values(family, "stream")[("door",)] == number
        assert values(family, "stream")[("a/b",)] == (5 if name == "results" else 0)
    dropped = values(found["vramline_stream_dropped_frames"], "stream", "cause")
    assert {cause: n for (stream, cause), n in dropped.items() if stream == "door" and n} == {
        "corrupt": 2,
        "superseded": 7,
    }
    assert {cause for stream, cause in dropped if stream == "a/b"} == {cause.value for cause in DropCause}
    assert values(found["vramline_stream_in_flight_frames"], "stream") == {("door",): 21, ("a/b",): 0}
    assert values(found["vramline_stream_priority"], "stream") == {("door",): 4, ("a/b",): 1}
    assert 42 <= values(found["vramline_stream_state_seconds"], "stream")[("door",)] < 42 + 60
    assert values(found["vramline_errors"]) == {(): 1}
    assert values(found["vramline_batch_size_frames"]) == {(): 32}
    assert 50 <= values(found["vramline_elapsed_seconds"])[()] < 50 + 60
    info = values(found["vramline_run_info"], "version", "device", "model")
    assert info == {(__version__, "cuda", "mine@0123"): 1}
    assert values(found["vramline_stage_busy_seconds"], "stage") == {("infer",): 2.5}
    assert values(found["vramline_stage_batches"], "stage") == {("infer",): 10}
    assert values(found["vramline_stage_frames"], "stage") == {("infer",): 300}
    assert "process_resident_memory_bytes" in found


@pytest.mark.parametrize("state", SourceState)
def test_exactly_one_state_is_set(state: SourceState, control: FakeControl, request_: Ask) -> None:
    add_live(control.status).state = state
    states = values(scrape(request_)["vramline_stream_state"], "state")
    assert len(states) == len(SourceState)
    assert [name for (name,), value in states.items() if value] == [state.value]


def test_histograms_hold_what_was_measured(control: FakeControl, request_: Ask) -> None:
    source = add_live(control.status)
    control.status.sources["file"] = SourceStatus("file", "a.mp4")
    measured = [0.0, 1e-6, 0.0005, *(0.001 * 1.17**power for power in range(70)), 300.0]
    for seconds in measured:
        source.latency["emit"].add(seconds)
    family = scrape(request_)["vramline_stream_latency_seconds"]
    assert family.type == "histogram"
    assert {(s.labels["stream"], s.labels["stage"]) for s in family.samples} == {("door", "emit")}
    buckets = [(float(s.labels["le"]), s.value) for s in family.samples if s.name.endswith("_bucket")]
    assert [bound for bound, _ in buckets] == sorted({bound for bound, _ in buckets})
    assert len(buckets) > 10
    assert buckets[0][0] < 0.002
    assert 60 < buckets[-2][0] < math.inf
    for bound, number in buckets:
        assert number == sum(seconds <= bound for seconds in measured), bound
    (count,) = [s.value for s in family.samples if s.name.endswith("_count")]
    (total,) = [s.value for s in family.samples if s.name.endswith("_sum")]
    assert buckets[-1] == (math.inf, len(measured))
    assert count == len(measured)
    assert math.isclose(total, sum(measured))


class Growing(LatencyHistogram):
    """Measures once more whenever its buckets have been read."""

    def cumulative(self, bounds_s: Iterable[float]) -> list[int]:
        counts = super().cumulative(bounds_s)
        self.add(0.001)
        return counts


def test_histograms_are_consistent_while_they_grow(control: FakeControl, request_: Ask) -> None:
    histogram = add_live(control.status).latency["emit"] = Growing()
    histogram.add(0.001)
    for number in (1, 2, 3):
        samples = scrape(request_)["vramline_stream_latency_seconds"].samples
        assert [s.value for s in samples if s.labels.get("le") == "+Inf"] == [number]
        assert [s.value for s in samples if s.name.endswith("_count")] == [number]


class Multiplying(SourceStatus):
    """Another source is added and one removed whenever this one's counters are read."""

    @property
    def totals(self) -> DecodeStats:
        self.others[f"new-{len(self.others)}"] = SourceStatus("new", "x")
        self.others.pop("old", None)
        return self.decode


@pytest.mark.parametrize("path", ["/metrics", "/streams"])
def test_streams_may_come_and_go_while_they_are_read(path: str, control: FakeControl, request_: Ask) -> None:
    source = Multiplying("door", "x")
    source.others = control.status.sources  # type: ignore[attr-defined]
    control.status.sources.update(door=source, old=SourceStatus("old", "x"))
    answer = request_("GET", path)
    assert answer.status == 200
    assert '"door"' in answer.text
    assert '"old"' in answer.text
    assert '"new' not in answer.text
    assert "old" not in control.status.sources


def test_odd_ids_are_escaped(control: FakeControl, request_: Ask) -> None:
    odd = 'a"b\\c\nd{e="f"} é #'
    add_live(control.status, odd)
    assert values(scrape(request_)["vramline_stream_priority"], "stream") == {(odd,): 4}


def test_names_follow_the_conventions_and_are_documented(control: FakeControl, request_: Ask) -> None:
    door = add_live(control.status)
    door.latency["emit"].add(0.01)
    fill_queues(control.status, door)
    page = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
    ours = {name: family for name, family in scrape(request_).items() if name.startswith("vramline_")}
    assert len(ours) > 15
    for name, family in ours.items():
        assert re.fullmatch(r"[a-z]+(_[a-z]+)*", name)
        assert family.documentation
        assert not name.endswith(("_ms", "_s"))
        shown = f"{name}_total" if family.type == "counter" else name
        assert f"`{shown}`" in page, name
        for label in {label for sample in family.samples for label in sample.labels} - {"le"}:
            assert f"`{label}`" in page


def test_queues_surfaces_and_memory(control: FakeControl, request_: Ask) -> None:
    status = control.status
    door = add_live(status, "door")
    status.sources["file"] = SourceStatus("file", "f.mp4")
    assert "vramline_stream_surfaces_bytes" not in scrape(request_)
    fill_queues(status, door)
    found = scrape(request_)
    queue = {
        "batches": 1,
        "capacity_batches": 2,
        "high_water_batches": 2,
        "put_waits": 5,
        "put_wait_seconds": 0.25,
        "get_waits": 7,
        "get_wait_seconds": 1.5,
    }
    for name, value in queue.items():
        assert values(found[f"vramline_queue_{name}"], "queue") == {("results",): value}, name
    assert found["vramline_queue_put_waits"].type == "counter"
    assert values(found["vramline_stream_slot_frames"], "stream") == {("door",): 1, ("file",): 0}
    assert values(found["vramline_stream_slot_high_water_frames"], "stream")[("door",)] == 3
    assert values(found["vramline_stream_slot_put_wait_seconds"], "stream")[("door",)] == 0.5
    surfaces = {"buffers": 2, "capacity_buffers": 15, "high_water_buffers": 9, "bytes": 2000, "high_water_bytes": 9000}
    for name, value in surfaces.items():
        assert values(found[f"vramline_stream_surfaces_{name}"], "stream") == {("door",): value}, name
    assert values(found["vramline_gpu_memory_planned_bytes"], "part") == {("decoders",): 100, ("TensorFlow",): 600}
    memory = {"budget": 2000, "decoders": 200, "decoders_high_water": 300, "decoders_limit": 500}
    for name, value in memory.items():
        assert values(found[f"vramline_gpu_memory_{name}_bytes"]) == {(): value}, name
