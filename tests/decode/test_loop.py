"""`loop` of a source: the frames of the file again and again, as if it were as many files one after another."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from media_maker import make_clip, read_number
from pydantic import ValidationError

from pipeline.config.sources import Source
from pipeline.decode import _video
from pipeline.decode._loop import Loop
from pipeline.errors import SourceError, SourceErrorCode

# All at 30 frames/s, so that a round lasts as many thirtieths of a second as it has frames.
CLIPS: dict[str, dict[str, Any]] = {
    "bframes.mp4": {"frames": 40, "gop": 15, "options": {"bf": "3"}},  # has an edit list
    "open_gop.mp4": {"frames": 30, "gop": 12, "options": {"bf": "3", "x264-params": "open-gop=1:keyint=12"}},
    "fragmented.mp4": {"frames": 30, "format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "with_sound.mp4": {"frames": 30, "audio": True},
    "hevc.mkv": {"codec": "libx265", "frames": 20},
    "vp9.webm": {"codec": "libvpx-vp9", "frames": 20},
    "without_pts.avi": {"codec": "mpeg4", "options": {"bf": "2"}, "frames": 25},
    "bframes.ts": {"frames": 30, "options": {"bf": "2"}},
    "raw.h264": {"frames": 20, "options": {"bf": "2"}},
    "one_frame.mp4": {"frames": 1},
}


def facts(frames: Any) -> list[tuple[Any, ...]]:
    return [(f.index, f.pts_s, [hash(plane.tobytes()) for plane in f.picture.planes]) for f in frames]


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("name", CLIPS)
def test_the_file_so_many_times(tmp_path: Path, open_video: Any, name: str, threads: int) -> None:
    path = make_clip(tmp_path / name, **CLIPS[name])
    count = CLIPS[name]["frames"]
    once = facts(open_video(path, threads=threads))
    decoder = open_video(path, threads=threads, loop=3)
    found = facts(decoder)
    assert len(once) == count
    assert [f[0] for f in found] == list(range(3 * count))
    assert [f[2] for f in found] == 3 * [f[2] for f in once]
    # Matroska rounds each time to a millisecond.
    tolerance_s = 2e-3 if path.suffix in (".mkv", ".webm") else 2e-5
    want_s = [f[1] + k * count / 30 for k in range(3) for f in once]
    assert [f[1] for f in found] == pytest.approx(want_s, abs=tolerance_s)
    assert (decoder.stats.frames, decoder.stats.errors) == (3 * count, 0)


@given(
    st.lists(st.integers(1, 10_000), min_size=1, max_size=20),
    st.integers(-100_000, 10**9),
    st.sampled_from([Fraction(1, 30), Fraction(1, 1000), Fraction(1, 90_000), Fraction(1001, 30_000)]),
    st.integers(1, 6),
    st.integers(1, 8),
)
def test_rounds_follow_each_other_as_frames_do(
    steps: list[int], start: int, tick_s: Fraction, times: int, together: int
) -> None:
    ticks = list(itertools.accumulate(steps, initial=start))
    loop = Loop(times, SimpleNamespace(time_base=tick_s, average_rate=None, guessed_rate=None))  # type: ignore[arg-type]
    found: list[int] = []

    def groups() -> Iterator[Any]:
        for first in range(0, len(ticks), together):
            times_in_group = [tick + loop.offset for tick in ticks[first : first + together]]
            found.extend(times_in_group)
            yield [SimpleNamespace(pts_s=float(time * tick_s)) for time in times_in_group]

    rounds = 0
    while True:
        rounds += sum(map(len, loop.watched(groups()))) == len(ticks)
        if not loop.goes_on():
            break
    assert rounds == times
    assert [b - a for a, b in itertools.pairwise(found)] == ([*steps, steps[-1]] * times)[:-1]


def test_the_last_frame_stands_as_long_as_the_one_before(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "vfr.mp4", frames=4, pts=[0, 3, 5, 20], time_base=Fraction(1, 100))
    times = [f.pts_s for f in open_video(path, loop=2)]
    assert times == pytest.approx([0, 0.03, 0.05, 0.20, 0.35, 0.38, 0.40, 0.55])


def test_a_single_frame_without_a_rate_stands_for_a_while(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.ts", frames=1, codec="mpeg2video")
    times = [f.pts_s for f in open_video(path, loop=3)]
    assert [b - a for a, b in itertools.pairwise(times)] == pytest.approx([0.04, 0.04])


@pytest.mark.assets
@pytest.mark.parametrize(
    "name", ["edit_list_cut.mp4", "start_at_5s.mp4", "starts_mid_gop.ts", "res_change.ts", "lost_packets.mp4"]
)
def test_odd_files(assets: Path, open_video: Any, name: str) -> None:
    path = assets / "odd_media" / "made" / name
    once, found = facts(open_video(path)), facts(open_video(path, loop=2))
    assert [f[2] for f in found] == 2 * [f[2] for f in once]
    assert [f[1] for f in found[: len(once)]] == [f[1] for f in once]
    first_s, again_s = once[0][1], found[len(once)][1]
    assert [f[1] - again_s for f in found[len(once) :]] == pytest.approx([f[1] - first_s for f in once])
    assert again_s > once[-1][1]


def test_only_what_cannot_be_rewound_is_opened_again(
    tmp_path: Path, open_video: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    real = _video.open_container
    monkeypatch.setattr(_video, "open_container", lambda spec: opened.append(spec.location) or real(spec))
    for name, times in (("bframes.mp4", 1), ("hevc.mkv", 1), ("bframes.ts", 4), ("without_pts.avi", 4)):
        opened.clear()
        path = make_clip(tmp_path / name, **CLIPS[name])
        assert len(list(open_video(path, loop=4))) == 4 * CLIPS[name]["frames"]
        assert len(opened) == times, name


def test_for_ever_is_up_to_the_frame_limit(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=7)
    decoder = open_video(path, loop=True, max_frames=100)
    found = list(decoder)
    assert [read_number(f.picture.planes[0]) for f in found] == [i % 7 for i in range(100)]
    assert (decoder.info.frame_count, decoder.info.duration_s) == (None, None)
    assert open_video(path, loop=5).info.frame_count == 35


def test_for_ever_ends_when_it_is_closed(tmp_path: Path, open_video: Any) -> None:
    decoder = open_video(make_clip(tmp_path / "a.ts", frames=12), loop=True)
    some, count = threading.Event(), itertools.count()

    def watch() -> None:
        for _ in decoder:
            if next(count) == 20:
                some.set()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    assert some.wait(20)
    decoder.close()
    thread.join(20)
    assert not thread.is_alive()


def test_a_damaged_file_is_not_played_again(tmp_path: Path, open_video: Any) -> None:
    whole = make_clip(tmp_path / "a.mp4", frames=60, format_options={"movflags": "faststart"})
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    frames: list[Any] = []
    with pytest.raises(SourceError, match="cut off") as error:
        frames += open_video(cut, loop=True)
    assert error.value.code is SourceErrorCode.DAMAGED
    assert len({f.index for f in frames}) == len(frames) < 60


def test_a_file_that_is_gone_ends_with_an_error(tmp_path: Path, open_video: Any) -> None:
    path = make_clip(tmp_path / "a.ts", frames=4)
    decoder = open_video(path, loop=True)
    path.unlink()
    count = 0
    with pytest.raises(SourceError, match="no such file"):
        for _ in decoder:
            count += 1
    assert count == 4


def test_a_rate_is_kept_from_round_to_round(tmp_path: Path, open_video: Any) -> None:
    """Of a clip that is shorter than the interval of the rate, the packets of each round are looked at anew."""
    path = make_clip(tmp_path / "a.mp4", frames=9, options={"bf": "0"})
    decoder = open_video(path, loop=10, max_fps=5)
    list(decoder)
    assert decoder.stats.packets == 90


def test_what_loop_may_be() -> None:
    assert [Source(path="a.mp4", loop=value).loop for value in (True, False, 1, 7)] == [True, False, 1, 7]
    for wrong in (0, -1, "yes", 2.5):
        with pytest.raises(ValidationError):
            Source(path="a.mp4", loop=wrong)
    with pytest.raises(ValidationError, match="loop is for files"):
        Source(url="rtsp://camera/a", loop=True)
