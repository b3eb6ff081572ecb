"""The annotated video's times."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.sinks._timestamps import TICKS_PER_S, Timestamps, clock


@given(st.floats(-1e5, 1e5), st.lists(st.integers(1, 10**6), max_size=30))
def test_distances_of_any_variable_rate_are_kept(offset_s: float, steps: list[int]) -> None:
    times = Timestamps(Fraction(25))
    ticks = list(itertools.accumulate(steps, initial=0))
    assert [times.ticks(offset_s + t / TICKS_PER_S) for t in ticks] == ticks
    assert times.repaired == 0


@given(st.lists(st.none() | st.floats(-1e4, 1e4), max_size=30))
def test_any_times_become_strictly_increasing(pts: list[float | None]) -> None:
    times = Timestamps(Fraction(30))
    ticks = [times.ticks(p) for p in pts]
    assert all(a < b for a, b in itertools.pairwise(ticks))
    assert ticks[:1] in ([], [0])


def test_duplicates_and_small_steps_back_cost_one_tick() -> None:
    times = Timestamps(Fraction(25))
    assert [times.ticks(p) for p in (5.0, 5.04, 5.04, 5.02, 5.08)] == [0, 3600, 3601, 3602, 7200]
    assert times.repaired == 2


def test_a_jump_back_goes_on_one_frame_later() -> None:
    times = Timestamps(Fraction(25))
    assert [times.ticks(p) for p in (100.0, 100.04, 0.0, 0.04, 0.08)] == [0, 3600, 7200, 10800, 14400]
    assert times.repaired == 1


@pytest.mark.parametrize(("rate", "step"), [(Fraction(30000, 1001), 3003), (None, 3600), (Fraction(0), 3600)])
def test_missing_times_follow_the_frame_rate(rate: Fraction | None, step: int) -> None:
    times = Timestamps(rate)
    assert [times.ticks(p) for p in (None, None, float("nan"))] == [0, step, 2 * step]
    assert times.repaired == 3
    assert times.ticks(7.0) == 3 * step


@pytest.mark.parametrize(
    ("pts_s", "text"),
    [
        (12.345, "00:00:12.345"),
        (59.9996, "00:01:00.000"),
        (3723.4, "01:02:03.400"),
        (360_000.0, "100:00:00.000"),
        (-0.04, "-00:00:00.040"),
        (-0.0001, "00:00:00.000"),
    ],
)
def test_clock(pts_s: float, text: str) -> None:
    assert clock(pts_s) == text
