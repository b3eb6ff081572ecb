"""Rates, lag and which policy is whose."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.sources import Source
from pipeline.sources.freshness import Lag, RateGate, max_staleness_s, policy_of, replaces


def test_every_nth_frame() -> None:
    gate = RateGate(3, None)
    assert [gate.keeps(i / 25) for i in range(7)] == [True, False, False, True, False, False, True]


@given(st.floats(1, 120), st.floats(0.5, 120), st.floats(-1e5, 1e5))
def test_the_mean_rate_is_the_smaller_of_both_and_none_is_more_than_an_interval_late(
    source_fps: float, max_fps: float, start_s: float
) -> None:
    gate = RateGate(1, max_fps)
    times = [start_s + i / source_fps for i in range(round(source_fps * 20))]
    kept = [t for t in times if gate.keeps(t)]
    expected = 20 * min(source_fps, max_fps)
    assert expected * 0.95 - 2 <= len(kept) <= expected * 1.02 + 2
    gaps = [b - a for a, b in itertools.pairwise(kept)]
    assert max(gaps, default=0) <= 1 / max_fps + 2 / source_fps + 1e-3


def test_a_clock_that_is_set_back_does_not_silence_the_stream() -> None:
    gate = RateGate(1, 10)
    assert gate.keeps(5000.0)
    assert gate.keeps(10.0)
    assert not gate.keeps(10.05)
    assert gate.keeps(10.1)


def test_frames_without_a_time_are_kept() -> None:
    gate = RateGate(1, 1)
    assert [gate.keeps(None) for _ in range(3)] == [True] * 3


def test_lag_is_what_has_built_up_while_reading_never_waits() -> None:
    lag, seen = Lag(), []
    for i in range(100):  # 25 frames/s of video, read at 20 frames/s
        seen.append(lag.update(i / 25, 100 + i / 20, waited_s=0.0))
    assert seen[0] == 0
    assert seen[-1] == pytest.approx(99 / 20 - 99 / 25, abs=0.01)


def test_a_camera_whose_clock_runs_slow_does_not_lag() -> None:
    """100 parts in a million over a day are 8.6 s; the reader waits for each packet, so it is not behind."""
    lag = Lag()
    assert max(lag.update(t * (1 - 1e-4), 7.0 + t, waited_s=0.03) for t in range(0, 86_400, 1)) < 0.05


@pytest.mark.parametrize("jump_s", [-1000.0, -1.5, 3.0, 1000.0])
def test_a_clock_that_jumps_is_no_lag(jump_s: float) -> None:
    lag = Lag()
    for i in range(100):
        assert lag.update(2000 + i / 25, 1.0 + i / 25, 0.03) == pytest.approx(0, abs=1e-9)
    for i in range(100, 200):
        assert lag.update(2000 + jump_s + i / 25, 1.0 + i / 25, 0.03) == pytest.approx(0, abs=1e-9)


def test_frames_that_are_reordered_are_no_jump() -> None:
    lag = Lag()
    for i, pts in enumerate([0, 4, 2, 1, 3, 8, 6, 5, 7]):
        lag.update(pts / 25, 1.0 + i / 25, 0.03)
    behind = [lag.update((8 + pts) / 25, 5.0 + i / 25, 0.0) for i, pts in enumerate([4, 2, 1, 3])]
    assert min(behind) > 3


def test_defaults_fit_the_source() -> None:
    camera, clip = Source(url="rtsp://camera/1"), Source(path="clip.mp4")
    assert (policy_of(camera), replaces(camera), max_staleness_s(camera)) == ("latest", True, 2.0)
    assert (policy_of(clip), replaces(clip), max_staleness_s(clip)) == ("fifo", False, None)
    lossless = Source(url="rtsp://camera/1", policy="fifo")
    assert (replaces(lossless), max_staleness_s(lossless)) == (False, None)
    assert Source(url="https://host/live.m3u8", live=True).is_live
    assert not Source(url="https://host/clip.mp4").is_live
    assert not replaces(Source(path="clip.mp4", policy="keyframes"))
