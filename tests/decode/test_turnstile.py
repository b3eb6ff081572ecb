"""Turns at reading, decoding and what is between: first come, first served, and nobody is stopped by a turn that never ends."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_nvcodec import FakeNvCodec, FakeStream
from media_maker import make_clip

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.nvdec import open_nvdec
from pipeline.decode.turnstile import DecodeTurns, Turn, Turnstile
from pipeline.errors import SourceError
from pipeline.sources import VideoSpec

LONG_S = 60.0


def is_free(turnstile: Turnstile, number: int) -> bool:
    """Whether so many turns can be had at once."""
    return len(turnstile._begun_s) + number == turnstile._number and not turnstile._waiting


def test_who_has_waited_longest_is_next() -> None:
    turnstile = Turnstile(1, LONG_S)
    first = turnstile.enter()
    order: list[int] = []

    def work(number: int) -> None:
        turn = Turn()
        turn.take(turnstile)
        order.append(number)
        turn.take(None)

    threads = []
    for number in range(8):
        thread = threading.Thread(target=work, args=(number,), daemon=True)
        thread.start()
        threads.append(thread)
        while len(turnstile._waiting) <= number:
            assert thread.is_alive()
    turnstile.leave(first)
    for thread in threads:
        thread.join(20)
    assert order == list(range(8))


def test_no_more_at_the_same_moment_than_there_are_turns() -> None:
    turnstile, inside, most, done, lock = Turnstile(2, LONG_S), [0], [0], [0] * 8, threading.Lock()

    def work(number: int) -> None:
        turn = Turn()
        for _ in range(300):
            turn.take(turnstile)
            turn.take(turnstile)  # it has it
            with lock:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            with lock:
                inside[0] -= 1
            turn.take(None)
            turn.take(None)
            done[number] += 1

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert done == [300] * 8
    assert most[0] <= 2
    assert is_free(turnstile, 2)


def test_a_turn_that_is_stuck_is_passed_on() -> None:
    turnstile = Turnstile(1, 0.001)
    stuck = Turn()
    stuck.take(turnstile)
    held = turnstile.enter()  # as soon as the other one has had its time
    stuck.take(None)  # it has lost its turn and ends none
    assert not is_free(turnstile, 1)
    turnstile.leave(held)
    assert is_free(turnstile, 1)


def test_a_turn_is_not_passed_on_before_its_time() -> None:
    """Who waits longer than a turn may take, as many are before him, takes nothing from those whose turn it is."""
    now_s = [0.0]
    turnstile = Turnstile(1, 0.001, lambda: now_s[0])
    held, looked = turnstile.enter(), threading.Event()
    got: list[object] = []

    def clock() -> float:
        looked.set()
        return now_s[0]

    turnstile._clock = clock
    thread = threading.Thread(target=lambda: got.append(turnstile.enter()), daemon=True)
    thread.start()
    for _ in range(3):
        looked.clear()
        assert looked.wait(20), "it looks again and again"
    assert not got
    now_s[0] = 0.001
    thread.join(20)
    assert len(got) == 1
    turnstile.leave(held)
    turnstile.leave(got[0])
    assert is_free(turnstile, 1)


def test_nobody_has_two_turns() -> None:
    """Who went from one to another with the first in hand could wait for who goes the other way."""
    one, other = Turnstile(1, LONG_S), Turnstile(1, LONG_S)
    turn, held = Turn(), other.enter()
    turn.take(one)
    thread = threading.Thread(target=turn.take, args=(other,), daemon=True)
    thread.start()
    one.leave(one.enter())  # it has left that, though it waits
    other.leave(held)
    thread.join(20)
    assert is_free(one, 1)
    assert not is_free(other, 1)
    turn.take(None)
    assert is_free(other, 1)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return make_clip(tmp_path / "a.mkv", frames=50, gop=10)


def decoder_of(clip: Path, turns: DecodeTurns, *, live: bool = False, **settings: Any) -> Any:
    source = Source(url="rtsp://camera/x", policy="fifo") if live else Source(path=str(clip), **settings)
    spec = VideoSpec("cam", str(clip), str(clip), False, source)
    return open_nvdec(spec, Decode(threads=1), stream=FakeStream(), ring=4, turns=turns)


def frames_of(clip: Path, turns: DecodeTurns, *, live: bool) -> Iterator[Any]:
    """To the end, which is an error of a live stream."""
    with pytest.raises(SourceError, match="ended the stream") if live else contextlib.nullcontext():
        yield from decoder_of(clip, turns, live=live)


def one_each() -> DecodeTurns:
    return DecodeTurns(Turnstile(1, LONG_S), Turnstile(1, LONG_S), Turnstile(1, LONG_S))


def all_free(turns: DecodeTurns) -> bool:
    """Whether nobody has a turn."""
    turnstiles = (turns.reading, turns.decoding, turns.handling)
    return all(not turnstile._begun_s for turnstile in turnstiles if turnstile is not None)


@pytest.mark.parametrize("live", [False, True])
def test_decoders_read_in_turns_to_their_end(clip: Path, nvc: FakeNvCodec, live: bool) -> None:
    turns = DecodeTurns(Turnstile(1, LONG_S), Turnstile(2, LONG_S), Turnstile(1, LONG_S))
    numbers: list[list[int]] = [[] for _ in range(6)]

    def read(found: list[int]) -> None:
        for frame in frames_of(clip, turns, live=live):
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
    turns = one_each()
    decoder = decoder_of(clip, turns, loop=True)
    for count, frame in enumerate(decoder):
        assert all_free(turns), "who has a frame may do with it what it likes, for as long as it likes"
        frame.picture.surface.release()
        if count == 120:
            break
    decoder.close()
    assert all_free(turns)


def test_a_live_streams_frame_is_handed_out_without_a_turn(clip: Path, nvc: FakeNvCodec) -> None:
    turns, numbers = one_each(), []
    for frame in frames_of(clip, turns, live=True):
        assert all_free(turns)
        numbers.append(frame.index)
        frame.picture.surface.release()
    assert numbers == list(range(50))
    assert all_free(turns)


def test_a_live_stream_that_has_been_opened_has_no_turn(clip: Path, nvc: FakeNvCodec) -> None:
    """Opening it decodes its first frame; when its thread asks for that is not known."""
    turns = one_each()
    decoder = decoder_of(clip, turns, live=True)
    assert all_free(turns)
    decoder.close()
    assert all_free(turns)


def test_who_waits_for_room_lets_others_have_the_turn(clip: Path, nvc: FakeNvCodec) -> None:
    turns, waits, held = one_each(), threading.Event(), []

    def hold() -> None:
        for frame in frames_of(clip, turns, live=True):
            held.append(frame)
            if len(held) == 4:  # all that may be out
                waits.set()

    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    assert waits.wait(30)
    other = []
    for frame in frames_of(clip, turns, live=True):
        other.append(frame.index)
        frame.picture.surface.release()
    assert other == list(range(50))
    while thread.is_alive():
        for frame in held:
            frame.picture.surface.release()  # again does nothing
        thread.join(0.01)
    assert [frame.index for frame in held] == list(range(50))


@pytest.mark.parametrize("live", [False, True])
def test_what_the_cpu_decodes_takes_no_turns(tmp_path: Path, nvc: FakeNvCodec, live: bool) -> None:
    turns = one_each()
    path = make_clip(tmp_path / "b.mp4", frames=20, pix_fmt="yuv422p")
    for frame in frames_of(path, turns, live=live):
        assert all_free(turns)
        frame.picture.surface.release()


@pytest.mark.parametrize("live", [False, True])
def test_a_decoder_that_breaks_gives_its_turn_back(clip: Path, nvc: FakeNvCodec, live: bool) -> None:
    turns = one_each()
    nvc.fail_at = {15}
    numbers = []
    for frame in frames_of(clip, turns, live=live):
        assert all_free(turns)
        numbers.append(frame.index)
        frame.picture.surface.release()
    assert all_free(turns)
    assert 20 < len(numbers) < 50
