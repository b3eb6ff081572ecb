"""When a stream is connected again."""

from __future__ import annotations

import random
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.sources import Reconnect
from pipeline.errors import SourceErrorCode
from pipeline.sources.backoff import Backoff

TRANSIENT = [code for code in SourceErrorCode if not code.is_permanent]
PERMANENT = [code for code in SourceErrorCode if code.is_permanent]


def test_what_waiting_mends_and_what_it_does_not() -> None:
    assert {c.value for c in PERMANENT} == {"not_found", "unauthorized", "tls", "no_video_stream", "unsupported"}


@given(
    st.floats(0.1, 10),
    st.floats(1, 100),
    st.lists(st.sampled_from(TRANSIENT), min_size=1, max_size=2000),
    st.integers(0, 2**32),
)
def test_every_wait_is_below_a_ceiling_that_doubles_up_to_the_cap(
    initial_s: float, factor: float, codes: list[SourceErrorCode], seed: int
) -> None:
    settings = Reconnect(initial_s=initial_s, max_s=initial_s * factor)
    backoff = Backoff(settings, random.Random(seed))
    for number, code in enumerate(codes):
        delay_s = backoff.delay_s(code, None)
        assert delay_s is not None
        assert 0.05 <= delay_s <= max(0.05, min(initial_s * 2.0 ** min(number, 1000), settings.max_s))
        assert backoff.failures == number + 1


def test_the_jitter_is_full() -> None:
    """Uniform between nothing and the ceiling: mean and spread are those of a uniform distribution."""
    settings = Reconnect(initial_s=10, max_s=10)
    waits = [Backoff(settings, random.Random(seed)).delay_s(SourceErrorCode.NETWORK, None) or 0 for seed in range(4000)]
    assert statistics.mean(waits) == pytest.approx(5, abs=0.2)
    assert statistics.stdev(waits) == pytest.approx(10 / 12**0.5, abs=0.2)
    assert max(waits) > 9.9
    assert min(waits) < 0.1


def test_a_stable_run_starts_over_and_a_short_one_does_not() -> None:
    backoff = Backoff(Reconnect(stable_s=30))
    for _ in range(5):
        backoff.delay_s(SourceErrorCode.NETWORK, None)
    backoff.delay_s(SourceErrorCode.ENDED, ran_s=29)
    assert backoff.failures == 6
    backoff.delay_s(SourceErrorCode.ENDED, ran_s=30)
    assert backoff.failures == 1


def test_it_gives_up_after_the_attempts_that_are_allowed() -> None:
    backoff = Backoff(Reconnect(attempts=2))
    assert backoff.delay_s(SourceErrorCode.TIMEOUT, None) is not None
    assert backoff.delay_s(SourceErrorCode.TIMEOUT, None) is not None
    assert backoff.delay_s(SourceErrorCode.TIMEOUT, None) is None


@pytest.mark.parametrize("code", PERMANENT)
def test_a_permanent_error_ends_a_stream_that_never_ran(code: SourceErrorCode) -> None:
    assert Backoff(Reconnect()).delay_s(code, None) is None
    retrying = Backoff(Reconnect(on_permanent="retry", permanent_s=300), random.Random(1))
    assert max(retrying.delay_s(code, None) or 0 for _ in range(100)) > 200


def test_a_stream_that_ran_once_survives_a_server_that_comes_back_in_pieces() -> None:
    backoff = Backoff(Reconnect(permanent_s=5))
    assert backoff.delay_s(SourceErrorCode.ENDED, ran_s=1) is not None
    delay_s = backoff.delay_s(SourceErrorCode.NOT_FOUND, None)
    assert delay_s is not None
    assert delay_s <= 5
