"""Latency quantiles against NumPy's."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.observe.latency import LatencyHistogram


@given(st.lists(st.floats(1e-4, 1000), min_size=1, max_size=300), st.sampled_from([0.5, 0.95, 0.99]))
def test_quantiles_are_within_a_bucket(values: list[float], fraction: float) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    exact = float(np.quantile(values, fraction, method="inverted_cdf"))
    assert histogram.quantile(fraction) == pytest.approx(exact, rel=0.046)
    assert histogram.max_s == max(values)
    assert histogram.sum_s == pytest.approx(sum(values))


@given(st.lists(st.floats(-1, 2000), max_size=100))
def test_cumulative_counts_never_fall_and_end_at_all(values: list[float]) -> None:
    histogram = LatencyHistogram()
    for value in values:
        histogram.add(value)
    counts = histogram.cumulative([1e-6, 1e-3, 0.1, 1, 10, 1e9])
    assert counts == sorted(counts)
    assert counts[-1] == len(values) == histogram.count


def test_nothing_is_known_before_the_first() -> None:
    assert LatencyHistogram().quantile(0.5) is None
    assert LatencyHistogram().quantiles_ms() is None


def test_counts_are_right_from_several_threads() -> None:
    histogram = LatencyHistogram()

    def add() -> None:
        for _ in range(5000):
            histogram.add(0.01)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert histogram.count == 20_000
    assert (histogram.quantiles_ms() or {})["p99_ms"] == pytest.approx(10, rel=0.05)
