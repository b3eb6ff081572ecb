from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.observe.estimate import Speed, expected_frames, expected_total, remaining_s
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.stages import StreamInfo


def running(info: StreamInfo | None, results: int = 0, **rest: object) -> SourceStatus:
    return SourceStatus("a", "a.mp4", SourceState.RUNNING, info, results=results, **rest)  # type: ignore[arg-type]


class Clock:
    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_container_says_how_many_frames_there_are(info: StreamInfo) -> None:
    assert expected_frames(running(info, 10)) == 300


def test_duration_times_rate_stands_in_for_a_missing_count(info: StreamInfo) -> None:
    assert expected_frames(running(replace(info, frame_count=None, duration_s=4.0))) == 120


def test_without_a_rate_the_position_in_the_video_tells(info: StreamInfo) -> None:
    unknown = replace(info, frame_count=None, frame_rate=None)
    assert expected_frames(running(unknown, 50, last_pts_s=2.5)) == 200
    assert expected_frames(running(unknown)) is None


@pytest.mark.parametrize(("limit", "expected"), [(20, 20), (1000, 300)])
def test_a_frame_limit_shortens_what_is_expected(info: StreamInfo, limit: int, expected: int) -> None:
    assert expected_frames(running(info, frame_limit=limit)) == expected


def test_a_live_stream_ends_at_its_limit_or_nobody_knows(info: StreamInfo) -> None:
    live = replace(info, frame_count=None, duration_s=None)
    assert expected_frames(running(live, frame_limit=100)) == 100
    assert expected_frames(running(live)) is None


def test_more_frames_than_the_container_declares_are_no_negative_remainder(info: StreamInfo) -> None:
    assert expected_frames(running(info, 301)) == 301


def test_what_has_ended_is_as_long_as_it_was(info: StreamInfo) -> None:
    for state in (SourceState.DONE, SourceState.FAILED, SourceState.STOPPED):
        assert expected_frames(SourceStatus("a", "a.mp4", state, info, results=7)) == 7


def test_sources_that_wait_count_like_the_mean_of_the_others(info: StreamInfo) -> None:
    done = SourceStatus("b", "b.mp4", SourceState.DONE, info, results=100)
    failed = SourceStatus("c", "c.mp4", SourceState.FAILED)
    waiting = [SourceStatus(name, f"{name}.mp4") for name in "de"]
    assert expected_total([running(info), done, failed, *waiting]) == 300 + 100 + 0 + 2 * 200


def test_one_live_stream_leaves_the_end_open(info: StreamInfo) -> None:
    assert expected_total([running(info), running(replace(info, frame_count=None, duration_s=None))]) is None
    assert expected_total([SourceStatus("a", "a.mp4")]) is None
    assert expected_total([]) is None


def test_remaining_time_is_what_is_left_at_this_rate(info: StreamInfo) -> None:
    status = RunStatus(sources={"a": running(info, 60)})
    assert remaining_s(status, 40.0) == pytest.approx(6.0)
    assert remaining_s(status, 0.0) is None


def test_speed_forgets_what_is_older_than_its_window(info: StreamInfo) -> None:
    clock = Clock()
    source = running(info)
    status = RunStatus(sources={"a": source})
    speed = Speed(window_s=10.0, clock=clock)
    rates = []
    for second in range(31):
        clock.now_s = float(second)
        source.results = min(second, 15) * 20  # 20 frames/s for 15 s, then a stall
        rates.append(speed.update(status))
    assert rates[10] == pytest.approx(20.0)
    assert rates[15] == pytest.approx(20.0)
    assert rates[20] == pytest.approx(10.0)
    assert rates[30] == 0.0


def test_the_first_reading_is_the_rate_of_the_run_so_far(info: StreamInfo) -> None:
    status = RunStatus(sources={"a": running(info, 60)}, first_frame_s=100.0, ended_s=104.0)
    assert Speed(clock=Clock()).update(status) == pytest.approx(15.0)
