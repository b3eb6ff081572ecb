"""A live stream's time."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sources.timeline import Timeline


def run(frames: list[tuple[float | None, float]]) -> list[float]:
    timeline = Timeline()
    return [timeline(pts_s, received_s) for pts_s, received_s in frames]


def test_a_healthy_stream_keeps_its_own_times() -> None:
    pts = [3600 + i / 25 for i in range(100)]
    assert run([(p, 5 + i / 25) for i, p in enumerate(pts)]) == pts


def test_a_burst_at_the_start_keeps_its_own_times() -> None:
    """What the server has buffered arrives at once, then at the camera's pace."""
    pts = [i / 10 for i in range(40)]
    assert run([(p, max(0, p - 2)) for p in pts]) == pytest.approx(pts)


@given(
    st.lists(
        st.tuples(st.one_of(st.none(), st.floats(-1e6, 1e6)), st.floats(-0.5, 10), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_times_always_increase(steps: list[tuple[float | None, float, bool]]) -> None:
    timeline, received_s, times = Timeline(), 1000.0, []
    for pts_s, elapsed_s, reconnected in steps:
        received_s += elapsed_s
        if reconnected:
            timeline.reconnected()
        times.append(timeline(pts_s, received_s))
    assert all(later > earlier for earlier, later in itertools.pairwise(times))


@pytest.mark.parametrize("jump_s", [-3600.0, -10.0, 60.0, 1e5])
def test_after_a_jump_time_goes_on_as_the_clock_here_says(jump_s: float) -> None:
    before = [(i / 10, i / 10) for i in range(10)]
    after = [(jump_s + 1.0 + i / 10, 1.0 + i / 10) for i in range(10)]
    assert run(before + after) == pytest.approx([i / 10 for i in range(20)])


def test_after_a_reconnect_the_time_that_passed_is_in_the_records() -> None:
    timeline = Timeline()
    assert [timeline(i / 10, i / 10) for i in range(5)][-1] == 0.4
    timeline.reconnected()
    assert [timeline(i / 10, 30.4 + i / 10) for i in range(3)] == pytest.approx([30.4, 30.5, 30.6])


def test_a_stream_without_times_is_timed_by_its_arrival() -> None:
    assert run([(None, 5.0), (None, 5.1), (None, 5.3)]) == pytest.approx([0, 0.1, 0.3])
    assert run([(None, 5.0), (7.0, 5.1), (7.1, 5.2)]) == pytest.approx([0, 0.1, 0.2], abs=1e-9)


def test_small_disorder_does_not_shift_what_follows() -> None:
    pts = [0.0, 0.1, 0.1, 0.08, 0.3, 0.4]
    times = run([(p, i / 10) for i, p in enumerate(pts)])
    assert times[0:2] == [0.0, 0.1]
    assert times[4:] == pytest.approx([0.3, 0.4])
