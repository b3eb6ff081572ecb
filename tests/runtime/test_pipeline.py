"""The runtime's promises, on stages without video or TensorFlow."""

from __future__ import annotations

import os
import threading
from collections import defaultdict

import pytest
from fakes import FakeDecoder, FakeModel, FakePreprocessor, FakeSink
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.errors import ExitCode, ModelError, SourceError, SourceErrorCode
from pipeline.observe.status import SourceState
from pipeline.runtime import engines


@pytest.fixture(autouse=True)
def no_thread_is_left():
    before = set(threading.enumerate())
    yield
    left = [thread for thread in set(threading.enumerate()) - before if thread.is_alive()]
    assert not left


def by_source(frames):
    found = defaultdict(list)
    for source_id, index, class_id in frames:
        found[source_id].append((index, class_id))
    return found


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    counts=st.lists(st.integers(0, 23), min_size=1, max_size=6),
    batch_size=st.integers(1, 7),
    open_sources=st.integers(1, 8),
    queue_batches=st.integers(1, 3),
    on_device=st.booleans(),
)
def test_every_frame_of_every_source_arrives_once_in_order_with_its_own_result(
    make, counts, batch_size, open_sources, queue_batches, on_device
):
    decoders = {f"s{i}": FakeDecoder(f"s{i}", count) for i, count in enumerate(counts)}
    sink = FakeSink()
    pipeline = make(
        decoders,
        sinks=[sink],
        model=FakeModel(batch_size),
        open_sources=open_sources,
        queue_batches=queue_batches,
        on_device=on_device,
    )
    status = pipeline.run()
    found = by_source(sink.frames)
    for i, count in enumerate(counts):
        assert found[f"s{i}"] == [(k, k) for k in range(count)]
        events = [kind for kind, source_id in sink.events if source_id == f"s{i}"]
        assert events == ["started", *["frame"] * count, "finished"]
    assert status.results == sum(counts)
    assert status.exit_code is ExitCode.DONE
    assert sink.end == "closed"
    assert sum(status.labels.values()) == sum(counts)


def test_a_source_that_cannot_be_opened_and_one_that_breaks_do_not_stop_the_others(make):
    sink = FakeSink()
    status = make(
        {
            "missing": "missing.mp4: no such file",
            "broken": FakeDecoder("broken", 5, error="broken.mp4: damaged after 5 frames"),
            "good": FakeDecoder("good", 9),
        },
        sinks=[sink],
    ).run()
    assert status.sources["missing"].state is SourceState.FAILED
    assert status.sources["missing"].error_code is SourceErrorCode.NOT_FOUND
    assert status.sources["broken"].error == "broken.mp4: damaged after 5 frames"
    assert status.sources["good"].state is SourceState.DONE
    assert len(by_source(sink.frames)["broken"]) == 5
    assert len(by_source(sink.frames)["good"]) == 9
    assert ("finished", "broken") in sink.events
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED


def test_if_all_sources_fail_nothing_could_run(make):
    status = make({"a": "a: no such file", "b": "b: no such file"}).run()
    assert status.exit_code is ExitCode.NOTHING_COULD_RUN


def test_on_error_stop_ends_the_run_and_keeps_what_there_is(make):
    sink = FakeSink()
    gate = threading.Semaphore(0)
    status = make(
        {"broken": FakeDecoder("broken", 3, error="damaged"), "endless": FakeDecoder("endless", 10**9, gate=gate)},
        sinks=[sink],
        settings={"on_error": "stop"},
        open_sources=2,
    ).run()
    assert len(by_source(sink.frames)["broken"]) == 3
    assert status.sources["endless"].state is SourceState.STOPPED
    assert sink.end == "closed"
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED


def test_a_sink_that_breaks_is_reported_and_the_other_completes(make):
    bad, good = FakeSink(fails_at=1), FakeSink()
    status = make({"a": FakeDecoder("a", 20)}, sinks=[bad, good]).run()
    assert bad.end == "aborted"
    assert good.end == "closed"
    assert len(good.frames) == 20
    assert status.errors == ["out.jsonl: the disk is full"]
    assert [str(path) for path in status.partial_outputs] == ["out.partial"]
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED


def test_without_any_sink_left_the_run_ends(make):
    sink = FakeSink(fails_at=0)
    status = make({"a": FakeDecoder("a", 10**9)}, sinks=[sink]).run()
    assert status.sources["a"].state is SourceState.STOPPED
    assert status.errors == ["out.jsonl: the disk is full"]


def test_an_output_that_cannot_be_completed_is_an_error(make):
    status = make({"a": FakeDecoder("a", 2)}, sinks=[FakeSink(fails_to_close=True)]).run()
    assert status.errors == ["out.mp4: cannot be completed"]
    assert status.outputs == []


@pytest.mark.parametrize("error", [ModelError, RuntimeError])
def test_a_model_that_breaks_ends_the_run_with_its_error_and_keeps_what_was_written(make, error):
    sink = FakeSink()
    model = FakeModel(fails_at=2, error=error)
    pipeline = make({"a": FakeDecoder("a", 10**9)}, sinks=[sink], model=model)
    with pytest.raises(error, match="the model broke"):
        pipeline.run()
    assert sink.end == "aborted"
    assert [index for _, index, _ in sink.frames] == list(range(len(sink.frames)))
    assert model.closed


def test_stop_finishes_what_is_being_worked_on(make):
    sink = FakeSink()
    model = FakeModel()
    pipeline = make({"a": FakeDecoder("a", 10**9)}, sinks=[sink], model=model)
    sink.on_write = pipeline.stop
    status = pipeline.run()
    assert sink.end == "closed"
    # Every call of the model has reached the sinks, and nothing but a last, partial batch is short of four frames.
    assert 4 * len(model.calls) - 3 <= len(sink.frames) <= 4 * len(model.calls)
    assert [index for _, index, _ in sink.frames] == list(range(status.results))
    assert ("finished", "a") in sink.events
    assert status.sources["a"].state is SourceState.STOPPED


def test_stop_before_the_start_runs_nothing(make):
    sink = FakeSink()
    pipeline = make({"a": FakeDecoder("a", 5)}, sinks=[sink])
    pipeline.stop()
    status = pipeline.run()
    assert status.results == 0
    assert status.sources["a"].state is SourceState.STOPPED


def test_iterating_yields_results_with_pixels(make):
    with make({"a": FakeDecoder("a", 10)}) as pipeline:
        results = list(pipeline)
    assert [result.frame.index for result in results] == list(range(10))
    assert all(result.frame.picture.planes for result in results)
    assert results[3].detections.label(0) == "zero"
    assert results[0].model == "fake@0"


def test_leaving_the_loop_ends_the_run_and_completes_the_outputs(make):
    sink = FakeSink()
    with make({"a": FakeDecoder("a", 10**9)}, sinks=[sink]) as pipeline:
        for result in pipeline:
            if result.frame.index == 5:
                break
    assert sink.end == "closed"
    assert [index for _, index, _ in sink.frames] == list(range(len(sink.frames)))
    assert len(sink.frames) > 5


def test_an_error_while_iterating_reaches_the_consumer(make):
    with (
        make({"a": FakeDecoder("a", 10**9)}, model=FakeModel(fails_at=1)) as pipeline,
        pytest.raises(RuntimeError, match="the model broke"),
    ):
        list(pipeline)


@pytest.mark.parametrize("needs_pixels", [True, False])
def test_pixels_are_kept_only_for_who_needs_them(make, needs_pixels):
    sink = FakeSink(needs_pixels=needs_pixels)
    make({"a": FakeDecoder("a", 6)}, sinks=[sink]).run()
    assert set(sink.had_pixels) == {needs_pixels}


def test_a_batch_does_not_wait_longer_than_its_timeout(make):
    sink = FakeSink()
    gate = threading.Semaphore(1)
    model = FakeModel(batch_size=4)
    written = threading.Event()
    sink.on_write = written.set
    pipeline = make({"slow": FakeDecoder("slow", 2, gate=gate)}, sinks=[sink], model=model, batch_timeout_ms=20)
    runner = threading.Thread(target=pipeline.run, daemon=True)
    runner.start()
    # The second frame is not there yet: only the timeout can have closed the first batch.
    assert written.wait(20)
    gate.release()
    runner.join(20)
    assert not runner.is_alive()
    assert [index for _, index, _ in sink.frames] == [0, 1]
    assert model.calls == [4, 4]


def test_a_pipeline_runs_once(make):
    pipeline = make({"a": FakeDecoder("a", 1)})
    pipeline.run()
    with pytest.raises(RuntimeError, match="runs once"):
        pipeline.run()


def test_a_prepared_pipeline_that_never_ran_leaves_nothing_behind(make):
    sink = FakeSink()
    model = FakeModel()
    with make({"a": FakeDecoder("a", 1)}, sinks=[sink], model=model) as pipeline:
        pipeline.prepare()
    assert sink.end == "aborted"
    assert model.closed


def test_stage_times_and_counts_add_up(make):
    status = make({"a": FakeDecoder("a", 10)}, model=FakeModel(batch_size=4)).run()
    assert [(name, times.frames) for name, times in status.stages.items()] == [
        ("decode", 10),
        ("preprocess", 10),
        ("infer", 10),
        ("postprocess", 10),
        ("sinks", 10),
    ]
    assert status.stages["infer"].batches == 3
    assert status.frames_per_s > 0
    assert status.sources["a"].last_pts_s == pytest.approx(0.9)


def test_a_source_that_cannot_be_preprocessed_fails_alone(make, monkeypatch):
    def refuse(self, frames, rows):
        for item in frames:
            if item.source_id == "bad" and item.index >= 2:
                raise SourceError("bad: roi lies outside", source_id="bad", code=SourceErrorCode.UNSUPPORTED)
        return prepare(self, frames, rows)

    prepare = FakePreprocessor.__call__
    monkeypatch.setattr(FakePreprocessor, "__call__", refuse)
    sink = FakeSink()
    decoders = {"bad": FakeDecoder("bad", 10**9), "good": FakeDecoder("good", 30)}
    status = make(decoders, sinks=[sink], open_sources=2).run()
    found = by_source(sink.frames)
    assert len(found["good"]) == 30
    assert [index for index, _ in found["bad"]] == [0, 1][: len(found["bad"])]
    assert status.sources["bad"].state is SourceState.FAILED
    assert status.sources["bad"].error == "bad: roi lies outside"
    assert status.sources["good"].state is SourceState.DONE


def test_a_run_that_cannot_end_is_given_up_in_time_and_says_so(make):
    """A sink that hangs, as on a network disk that is gone."""
    stuck, released = threading.Event(), threading.Event()

    def hang():
        stuck.set()
        released.wait(60)

    sink = FakeSink()
    sink.on_write = hang
    pipeline = make({"a": FakeDecoder("a", 10_000)}, sinks=[sink], drain_s=0.3)
    runner = threading.Thread(target=pipeline.run, daemon=True)
    runner.start()
    assert stuck.wait(20)
    pipeline.stop()
    runner.join(20)
    assert not runner.is_alive()
    released.set()
    assert pipeline.status.errors == ["the run did not end within 0.3 s of being stopped"]
    assert sink.end == "aborted"
    for thread in threading.enumerate():
        if thread.name.startswith("lane-"):
            thread.join(20)


@pytest.mark.parametrize(
    ("needs_pixels", "loops", "expected"), [(False, False, False), (False, True, True), (True, False, True)]
)
def test_only_a_loop_over_results_or_a_sink_that_draws_needs_pixels(make, needs_pixels, loops, expected):
    """Decoders ask, before they make pictures smaller."""
    asked = []

    class Asking(FakeDecoder):
        def __iter__(self):
            asked.append(pipeline._stages.outputs.needs_pixels)
            return super().__iter__()

    pipeline = make({"a": Asking("a", 3)}, sinks=[FakeSink(needs_pixels)])
    if loops:
        assert len(list(pipeline)) == 3
    else:
        pipeline.run()
    assert asked == [expected]


TWO_CPUS = hasattr(os, "sched_getaffinity") and len(os.sched_getaffinity(0)) > 1


@pytest.mark.skipif(not TWO_CPUS, reason="needs a Linux machine with two CPUs")
@pytest.mark.parametrize(
    ("options", "on_device", "needs_pixels", "loops", "keeps"),
    [
        ({"cpus": 1}, False, False, False, True),
        ({"cpus": 1}, True, True, True, True),
        ({}, True, False, False, True),
        ({}, False, False, False, False),
        ({}, True, True, False, False),  # an encoder has many threads
        ({}, True, False, True, False),  # and who takes the results may have
    ],
)
def test_a_run_keeps_to_few_cpus_while_it_lasts(make, monkeypatch, options, on_device, needs_pixels, loops, keeps):
    monkeypatch.setattr(engines, "_CPUS_BESIDE_GPU", 1)
    everything = os.sched_getaffinity(0)
    seen = []
    sink = FakeSink(needs_pixels)
    sink.on_write = lambda: seen.append(os.sched_getaffinity(0))
    pipeline = make({"a": FakeDecoder("a", 3)}, sinks=[sink], on_device=on_device, **options)
    if loops:
        assert len(list(pipeline)) == 3
    else:
        pipeline.run()
    assert {len(cpus) for cpus in seen} == {1 if keeps else len(everything)}
    assert os.sched_getaffinity(0) == everything


@pytest.mark.skipif(not TWO_CPUS, reason="needs a Linux machine with two CPUs")
def test_a_run_that_fails_may_use_all_cpus_again(make):
    everything = os.sched_getaffinity(0)
    with pytest.raises(ModelError, match="broke"):
        make({"a": FakeDecoder("a", 9)}, model=FakeModel(2, fails_at=1, error=ModelError), cpus=1).run()
    assert os.sched_getaffinity(0) == everything
