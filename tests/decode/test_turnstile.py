"""Turns at reading: first come, first served, and nobody is stopped by a turn that never ends."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
from fake_nvcodec import FakeNvCodec, FakeStream
from media_maker import make_clip

from pipeline.config.models import Decode, Source
from pipeline.decode.nvdec import open_nvdec
from pipeline.decode.turnstile import DecodeTurns, Turn, Turnstile
from pipeline.sources import VideoSpec

LONG_S = 60.0


def test_who_has_waited_longest_is_next() -> None:
    turnstile = Turnstile(1, LONG_S)
    assert turnstile.enter()
    order: list[int] = []

    def work(number: int) -> None:
        turn = Turn(turnstile)
        turn.begin()
        order.append(number)
        turn.end()

    threads = []
    for number in range(8):
        thread = threading.Thread(target=work, args=(number,), daemon=True)
        thread.start()
        threads.append(thread)
        while len(turnstile._waiting) <= number:
            assert thread.is_alive()
    turnstile.leave()
    for thread in threads:
        thread.join(20)
    assert order == list(range(8))


def test_no_more_at_the_same_moment_than_there_are_turns() -> None:
    turnstile, inside, most, done, lock = Turnstile(2, LONG_S), [0], [0], [0] * 8, threading.Lock()

    def work(number: int) -> None:
        turn = Turn(turnstile)
        for _ in range(300):
            turn.begin()
            turn.begin()  # it has begun
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            turn.end()
            turn.end()
            done[number] += 1

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [300] * 8
    assert most[0] <= 2
    assert turnstile.enter() and turnstile.enter()  # all turns have come back


def test_a_turn_that_never_ends_stops_nobody() -> None:
    turnstile = Turnstile(1, 0.001)
    stuck, other = Turn(turnstile), Turn(turnstile)
    stuck.begin()
    for _ in range(3):
        other.begin()
        other.end()  # it had none to give back
    assert not turnstile.enter()
    stuck.end()
    assert turnstile.enter()


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "a.mp4", frames=50, gop=10)


def decoder_of(clip: Path, turns: DecodeTurns, **settings: Any) -> Any:
    spec = VideoSpec("cam", str(clip), str(clip), False, Source(path=str(clip), **settings))
    return open_nvdec(spec, Decode(threads=1), stream=FakeStream(), ring=4, turns=turns)


def all_free(turns: DecodeTurns) -> bool:
    """Whether nobody has a turn."""
    for turnstile in (turns.reading, turns.decoding):
        assert turnstile is not None
        if not turnstile.enter():
            return False
        turnstile.leave()
    return True


def test_decoders_read_in_turns_to_their_end(clip: Path, nvc: FakeNvCodec) -> None:
    turns = DecodeTurns(Turnstile(1, LONG_S), Turnstile(2, LONG_S))
    numbers: list[list[int]] = [[] for _ in range(6)]

    def read(found: list[int]) -> None:
        for frame in decoder_of(clip, turns):
            found.append(frame.index)
            frame.picture.surface.release()

    threads = [threading.Thread(target=read, args=(found,), daemon=True) for found in numbers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert numbers == [list(range(50))] * 6
    assert all_free(turns)


def test_frames_are_handed_out_and_decoders_closed_without_a_turn(clip: Path, nvc: FakeNvCodec) -> None:
    turns = DecodeTurns(Turnstile(1, 0.0), Turnstile(1, 0.0))
    decoder = decoder_of(clip, turns, loop=True)
    for count, frame in enumerate(decoder):
        assert all_free(turns), "who has a frame may do with it what it likes, for as long as it likes"
        frame.picture.surface.release()
        if count == 120:
            break
    decoder.close()
    assert all_free(turns)


def test_what_the_cpu_decodes_takes_no_turns(tmp_path: Path, nvc: FakeNvCodec) -> None:
    turns = DecodeTurns(Turnstile(1, 0.0), Turnstile(1, 0.0))
    path = make_clip(tmp_path / "b.mp4", frames=20, pix_fmt="yuv422p")
    for frame in decoder_of(path, turns):
        assert all_free(turns)
        frame.picture.surface.release()


def test_a_decoder_that_breaks_gives_its_turn_back(clip: Path, nvc: FakeNvCodec) -> None:
    turns = DecodeTurns(Turnstile(1, 0.0), Turnstile(1, 0.0))
    nvc.fail_at = {15}
    numbers = []
    for frame in decoder_of(clip, turns):
        assert all_free(turns)
        numbers.append(frame.index)
        frame.picture.surface.release()
    assert all_free(turns)
    assert 20 < len(numbers) < 50
