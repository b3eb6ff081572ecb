"""Latency as a distribution: constant memory, quantiles within a few per cent, cheap enough for every frame.

Buckets grow geometrically, as in HDR Histogram (hdrhistogram.org): the relative error is the same everywhere.
"""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterable

# Eight buckets each time the value doubles: a quantile is at most 4.5 % off.
_STEPS = 8
_LEAST_S = 1e-5
_BUCKETS = 8 * 27 + 1  # up to 1,342 s; what is longer counts as that
QUANTILES = (0.5, 0.95, 0.99)


class LatencyHistogram:
    """How long something took, over all the times that it happened. Any thread may add and read.

    Attributes:
        count: How many times.
        sum_s: Seconds in all.
        max_s: The longest.
    """

    __slots__ = ("_buckets", "_lock", "count", "max_s", "sum_s")

    def __init__(self) -> None:
        self._buckets = [0] * _BUCKETS
        self._lock = threading.Lock()
        self.count = 0
        self.sum_s = 0.0
        self.max_s = 0.0

    def add(self, seconds: float) -> None:
        """Counts one; what is negative (clocks that differ) counts as 0."""
        seconds = max(seconds, 0.0)
        index = 0 if seconds <= _LEAST_S else min(_BUCKETS - 1, math.ceil(_STEPS * math.log2(seconds / _LEAST_S)))
        with self._lock:
            self._buckets[index] += 1
            self.count += 1
            self.sum_s += seconds
            self.max_s = max(self.max_s, seconds)

    def quantile(self, fraction: float) -> float | None:
        """The value in seconds that `fraction` of all are not above; None before the first."""
        with self._lock:
            rank, seen = math.ceil(fraction * self.count), 0
            if not self.count:
                return None
            for index, number in enumerate(self._buckets):
                seen += number
                if number and seen >= rank:
                    # The middle of the bucket, on its own scale.
                    return min(_LEAST_S * 2 ** ((index - 0.5) / _STEPS), self.max_s)
            return self.max_s

    def quantiles_ms(self) -> dict[str, float] | None:
        """`p50_ms`, `p95_ms`, `p99_ms` and `max_ms`; None before the first."""
        if not self.count:
            return None
        values = {f"p{round(100 * fraction)}_ms": (self.quantile(fraction) or 0.0) * 1e3 for fraction in QUANTILES}
        return {**values, "max_ms": self.max_s * 1e3}

    def cumulative(self, bounds_s: Iterable[float]) -> list[int]:
        """How many were at most as long as each of the bounds (ascending), within a bucket."""
        with self._lock:
            counts = list(itertools.accumulate(self._buckets))
        return [counts[_bucket_up_to(bound)] for bound in bounds_s]


def _bucket_up_to(bound_s: float) -> int:
    """The last bucket that holds nothing longer."""
    if bound_s <= _LEAST_S:
        return 0
    return (
        _BUCKETS - 1 if math.isinf(bound_s) else min(_BUCKETS - 1, math.floor(_STEPS * math.log2(bound_s / _LEAST_S)))
    )
