"""Whose work was what: on a real recording, and on small ones made by hand."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from trace_recording import recorded

from pipeline.observe.trace.account import ELSEWHERE, Account, account
from pipeline.observe.trace.records import Call, Copy, Direction, Launch, Trace, Wait, Window

ORDER = ("open", "decode", "preprocess", "infer", "results", "sinks")
SOURCE, LANE, OUT, POOL = 1, 2, 3, 9  # threads


def accounted(trace: Trace, windows: list[Window], order: tuple[str, ...] = ORDER) -> Account:
    return account(trace, windows, order, frame_stages=("open", "decode"), batch_stage="sinks", model="infer")


# ------------------------------------------------------------------------------------------------- a real recording


def test_a_recorded_run_on_a_gpu() -> None:
    """What was recorded is known from other sources: 1080p NV12 is 3,110,400 bytes, results are 2,416 bytes a frame."""
    trace, windows = recorded()
    found = accounted(trace, windows, (*ORDER, "postprocess"))
    stages = found.stages
    assert ELSEWHERE not in stages
    assert (found.batches, found.frames_per_batch) == (5, 8)
    decode = stages["decode"]
    assert decode.per_frame(decode.device_bytes) == 1920 * 1080 * 3 / 2
    assert decode.per_frame(decode.launches) == 1
    assert decode.waited_for == {"cuEventSynchronize": decode.frames}
    post = stages["postprocess"]
    assert post.per_frame(post.down_bytes) == 2416
    assert post.largest_down_bytes == 8 * 2416
    assert stages["results"].per_batch(stages["results"].waits) == 1
    assert stages["results"].waited_for == {"cudaEventSynchronize": stages["results"].ranges}
    # TensorFlow launches from threads of its own.
    assert stages["infer"].per_batch(stages["infer"].launches) > 300
    assert sum(stage.up_bytes for stage in stages.values()) == 0
    assert sum(stage.down_bytes for stage in stages.values()) == post.down_bytes


# ------------------------------------------------------------------------------------------------------ made by hand


def window(stage: str, thread: int, start: int, end: int, frames: int = 4) -> Window:
    return Window(stage, thread, start, end, frames)


def test_work_belongs_to_the_stage_whose_thread_asked_for_it() -> None:
    """Also where the device does it later, while another stage is at work."""
    windows = [
        window("decode", SOURCE, 110, 120, 1),
        window("preprocess", LANE, 110, 140),
        window("sinks", OUT, 150, 160),
    ]
    trace = Trace(
        100,
        200,
        calls=[
            Call("cuMemcpyHtoDAsync", SOURCE, 115, 116, 1),
            Call("cuLaunchKernel", LANE, 115, 116, 2),
            Call("cuLaunchKernel", LANE, 141, 142, 3),  # between its windows
        ],
        copies=[Copy(Direction.UP, 10, 155, 1)],
        launches=[Launch(190, 2), Launch(191, 3)],
    )
    stages = accounted(trace, windows).stages
    assert (stages["decode"].up_bytes, stages["decode"].launches) == (10, 0)
    assert stages["preprocess"].launches == 1
    assert stages[ELSEWHERE].launches == 1
    assert stages["sinks"].launches == 0


def test_calls_of_tensorflows_own_threads_are_the_models() -> None:
    windows = [window("infer", LANE, 110, 130, 0), window("sinks", OUT, 150, 160)]
    calls = [Call("cudaLaunchKernel", POOL, start, start + 1, start) for start in (109, 110, 120, 130, 131)]
    stages = accounted(
        Trace(100, 200, calls, launches=[Launch(c.start_ns, c.correlation) for c in calls]), windows
    ).stages
    assert stages["infer"].launches == 3
    assert stages[ELSEWHERE].launches == 2


def test_a_window_that_the_measurement_cuts_is_left_out_with_its_work() -> None:
    windows = [
        window("preprocess", LANE, 90, 110),
        window("preprocess", LANE, 120, 130),
        window("preprocess", LANE, 190, 210),
        window("preprocess", LANE, 220, 230),
        window("sinks", OUT, 140, 150),
    ]
    calls = [Call("cuLaunchKernel", LANE, start, start, start) for start in (95, 105, 125, 195, 205, 225)]
    found = accounted(Trace(100, 200, calls, launches=[Launch(150, c.correlation) for c in calls]), windows)
    assert found.stages["preprocess"].launches == 1
    assert found.stages["preprocess"].ranges == 1
    assert ELSEWHERE not in found.stages


def test_work_whose_call_nobody_recorded_counts_if_it_ran_in_the_measurement() -> None:
    windows = [window("sinks", OUT, 140, 150)]
    trace = Trace(100, 200, copies=[Copy(Direction.DOWN, 5, 99, 7), Copy(Direction.DOWN, 7, 150, 8)])
    trace.waits = [Wait("device", 150, 9), Wait("device", 201, 10)]
    found = accounted(trace, windows).stages[ELSEWHERE]
    assert (found.down_bytes, found.waited_for) == (7, {"device": 1})
    assert found.per_batch(found.waits) == 1


def test_asking_is_not_waiting() -> None:
    """CUPTI notes `cuStreamQuery` as a synchronisation."""
    windows = [window("decode", SOURCE, 110, 120, 1), window("sinks", OUT, 150, 160)]
    calls = [Call("cuStreamQuery", SOURCE, 111, 112, 1), Call("cuStreamSynchronize", SOURCE, 113, 114, 2)]
    trace = Trace(100, 200, calls, waits=[Wait("stream", 111, 1), Wait("stream", 113, 2)])
    assert accounted(trace, windows).stages["decode"].waited_for == {"cuStreamSynchronize": 1}


@pytest.mark.parametrize(
    ("copy", "call", "waits"),
    [
        (Copy(Direction.DOWN, 1, 0, 1, is_pageable=True), "cudaMemcpyAsync", True),
        (Copy(Direction.DOWN, 1, 0, 1), "cudaMemcpyAsync", False),
        (Copy(Direction.UP, 1, 0, 1, is_pageable=True), "cudaMemcpyAsync", False),
        (Copy(Direction.DOWN, 1, 0, 1), "cuMemcpyDtoH_v2", True),
        (Copy(Direction.UP, 1, 0, 1), "cudaMemcpy", True),
        (Copy(Direction.DEVICE, 1, 0, 1), "cuMemcpyDtoD_v2", False),
    ],
)
def test_copies_that_hold_up_the_host_are_waits(copy: Copy, call: str, waits: bool) -> None:
    windows = [window("infer", LANE, 110, 120), window("sinks", OUT, 150, 160)]
    trace = Trace(100, 200, [Call(call, LANE, 111, 112, 1)], [copy])
    assert accounted(trace, windows).stages["infer"].waited_for == ({call: 1} if waits else {})


def test_frames_and_batches_of_a_stage() -> None:
    """The model does not know how many of its rows are frames; a decoder works on single ones; a sink's last word is no batch."""
    windows = [
        *(window("decode", SOURCE, 101 + i, 101 + i, 1) for i in range(12)),
        *(window("infer", LANE, 120 + 2 * i, 121 + 2 * i, 0) for i in range(3)),
        window("sinks", OUT, 130, 131, 4),
        window("sinks", OUT, 132, 133, 2),
        window("sinks", OUT, 134, 135, 0),
    ]
    found = accounted(Trace(100, 200), windows)
    assert (found.batches, found.frames_per_batch) == (2, 3)
    assert found.stages["decode"].batches == 4
    assert (found.stages["infer"].frames, found.stages["infer"].batches) == (9, 3)


def test_nothing_was_measured() -> None:
    found = accounted(Trace(100, 200), [])
    assert (found.batches, found.stages) == (0, {})


@given(st.data())
def test_all_work_of_the_measurement_is_somebodys_and_only_once(data: st.DataObject) -> None:
    """Against looking through all windows for each call."""
    windows = []
    for thread, names in ((SOURCE, ["decode", "open"]), (LANE, ["preprocess", "infer"]), (OUT, ["results", "sinks"])):
        edges = sorted(data.draw(st.sets(st.integers(0, 300), max_size=20)))
        for start, end in zip(edges[::2], edges[1::2], strict=False):
            windows.append(Window(data.draw(st.sampled_from(names)), thread, start, end, 1))
    starts = data.draw(
        st.lists(st.tuples(st.sampled_from([SOURCE, LANE, OUT, POOL]), st.integers(0, 300)), max_size=30)
    )
    calls = [Call("f", thread, start, start, i) for i, (thread, start) in enumerate(starts)]
    trace = Trace(100, 200, calls, launches=[Launch(call.start_ns, call.correlation) for call in calls])
    expected: Counter[str] = Counter()
    has_windows = {w.thread for w in windows}
    for call in calls:
        mine = [w for w in windows if w.thread == call.thread]
        if call.thread not in has_windows:
            mine = [w for w in windows if w.stage == "infer"]
        inside = [w for w in mine if w.start_ns <= call.start_ns <= w.end_ns]
        if inside:
            if inside[0].start_ns >= 100 and inside[0].end_ns <= 200:
                expected[inside[0].stage] += 1
        elif 100 <= call.start_ns <= 200:
            expected[ELSEWHERE] += 1
    found = {name: stage.launches for name, stage in accounted(trace, windows).stages.items() if stage.launches}
    assert found == dict(expected)
