"""Calls in a thread of their own: their order, their results, their errors, and nothing that stays behind."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial

import pytest

from pipeline.decode._aside import Aside

PATIENCE_S = 20


def thread_of(name: str) -> threading.Thread | None:
    return next((t for t in threading.enumerate() if t.name == name), None)


def test_calls_are_done_in_order_while_their_thread_is_free_to_do_something_else() -> None:
    aside, may_go_on, seen = Aside[int]("aside"), threading.Event(), []

    def call(number: int) -> int:
        assert may_go_on.wait(PATIENCE_S)
        seen.append((number, threading.current_thread().name))
        return number * number

    for number in range(3):
        aside.begin(partial(call, number), 10 + number)
    assert (seen, len(aside), aside.oldest) == ([], 3, 10)
    may_go_on.set()
    assert [(aside.oldest, aside.end()) for _ in range(3)] == [(10, 0), (11, 1), (12, 4)]
    assert not aside
    assert seen == [(0, "aside"), (1, "aside"), (2, "aside")]
    aside.close()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    aside = Aside[int]("aside")

    def fail() -> int:
        raise ValueError("no picture")

    aside.begin(fail, 0)
    aside.begin(lambda: 7, 1)
    with pytest.raises(ValueError, match="no picture"):
        aside.end()
    assert aside.end() == 7, "the next call is none the worse for it"
    aside.close()


def test_calls_that_are_forgotten_tell_what_they_were_about() -> None:
    aside, may_go_on = Aside[str]("aside"), threading.Event()

    def fail() -> int:
        raise ValueError

    aside.begin(fail, "fails")
    aside.begin(lambda: 0, "works")
    assert aside.forget() == ["fails", "works"]
    aside.begin(lambda: int(may_go_on.wait(PATIENCE_S)), "hangs")
    aside.begin(lambda: 0, "waits")
    assert aside.forget(0.01) == ["hangs", "waits"]
    assert not aside
    may_go_on.set()
    aside.close()


def test_nothing_is_kept_of_a_call_that_is_over() -> None:
    class Decoder:
        def decode(self) -> int:
            return 1

        def fail(self) -> int:
            raise ValueError

    aside, decoder = Aside[int]("aside"), Decoder()
    gone = weakref.ref(decoder)
    aside.begin(decoder.decode, 0)
    assert aside.end() == 1
    aside.begin(decoder.fail, 0)
    with pytest.raises(ValueError):
        aside.end()
    del decoder
    gc.collect()
    assert gone() is None
    aside.close()


def test_the_thread_ends_when_it_is_closed() -> None:
    aside = Aside[int]("an aside that is closed")
    assert thread_of("an aside that is closed") is None, "it has nothing to do yet"
    aside.begin(lambda: 0, 0)
    assert aside.end() == 0
    thread = thread_of("an aside that is closed")
    assert thread is not None
    assert thread.daemon
    aside.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
