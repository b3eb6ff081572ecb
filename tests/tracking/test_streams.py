"""Clocks that never go back, numbers that are used again, ids that are not."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.tracking.streams import Streams


def clocks(times_s, indices=None):
    streams = Streams()
    numbers = streams.numbers(["cam"])
    result = []
    for index, time_s in zip(indices or range(len(times_s)), times_s, strict=True):
        pts_s = np.array([np.nan if time_s is None else time_s])
        result.append(float(streams.advance(numbers, pts_s, np.array([index]))[1][0]))
    return [clock - result[0] for clock in result]


@pytest.mark.parametrize(
    ("times_s", "expected"),
    [
        ([10, 10.5, 12], [0, 0.5, 2]),
        ([5, 5, 4, 4.5], [0, 0, 0, 0.5]),  # set back: goes on from there
        ([None, None, None], [0, 0.04, 0.08]),
        ([1, None, 1.5], [0, 0.04, 0.5]),
        ([1, float("nan"), float("inf"), 1.5], [0, 0.04, 0.08, 0.5]),
    ],
)
def test_clocks(times_s, expected):
    assert clocks(times_s) == pytest.approx(expected)


def test_without_times_dropped_frames_count():
    assert clocks([None, None], [3, 13]) == pytest.approx([0, 0.4])


@settings(deadline=None)
@given(st.lists(st.one_of(st.none(), st.floats(-1e9, 1e9)), min_size=1, max_size=30))
def test_clocks_never_go_back(times_s):
    assert (np.diff(clocks(times_s)) >= 0).all()


def test_numbers_are_used_again_and_ids_are_not():
    streams = Streams()
    first = streams.numbers(["a", "b"])
    assert streams.new_ids(np.array([first[0], first[0], first[1]])).tolist() == [1, 2, 1]
    assert streams.forget("a") == first[0]
    assert streams.forget("a") is None
    assert streams.numbers(["c"])[0] == first[0]
    assert streams.new_ids(streams.numbers(["c", "a", "b"])).tolist() == [1, 3, 2]


def test_there_may_be_many():
    streams = Streams()
    names = [f"cam{i}" for i in range(1000)]
    numbers = streams.numbers(names)
    assert len(set(numbers.tolist())) == 1000
    assert numbers.max() < streams.capacity <= 1024
    assert (streams.new_ids(numbers) == 1).all()
    for name in names:
        streams.forget(name)
    for i in range(5000):
        streams.numbers([f"other{i}"])
        streams.forget(f"other{i}")
    assert streams.capacity <= 1024
