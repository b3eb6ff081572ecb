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
    aside, may_go_on, seen = Aside("aside"), threading.Event(), []

    def call(number: int) -> int:
        assert may_go_on.wait(PATIENCE_S)
        seen.append((number, threading.current_thread().name))
        return number * number

    for number in range(3):
        aside.begin(partial(call, number))
    assert seen == []
    may_go_on.set()
    assert [aside.end() for _ in range(3)] == [0, 1, 4]
    assert seen == [(0, "aside"), (1, "aside"), (2, "aside")]
    aside.close()


def test_an_error_is_raised_where_the_result_is_asked_for() -> None:
    aside = Aside("aside")

    def fail() -> int:
        raise ValueError("no picture")

    aside.begin(fail)
    aside.begin(lambda: 7)
    with pytest.raises(ValueError, match="no picture"):
        aside.end()
    assert aside.end() == 7, "the next call is none the worse for it"
    aside.close()


def test_who_does_not_want_to_wait_for_ever() -> None:
    aside, may_go_on = Aside("aside"), threading.Event()
    aside.begin(lambda: int(may_go_on.wait(PATIENCE_S)))
    with pytest.raises(TimeoutError):
        aside.end(0.01)
    may_go_on.set()
    assert aside.end(PATIENCE_S) == 1
    aside.close()


def test_nothing_is_kept_of_a_call_that_is_over() -> None:
    class Decoder:
        def decode(self) -> int:
            return 1

        def fail(self) -> int:
            raise ValueError

    aside, decoder = Aside("aside"), Decoder()
    gone = weakref.ref(decoder)
    aside.begin(decoder.decode)
    assert aside.end() == 1
    aside.begin(decoder.fail)
    with pytest.raises(ValueError):
        aside.end()
    del decoder
    gc.collect()
    assert gone() is None
    aside.close()


def test_the_thread_ends_when_it_is_closed() -> None:
    aside = Aside("an aside that is closed")
    assert thread_of("an aside that is closed") is None, "it has nothing to do yet"
    aside.begin(lambda: 0)
    assert aside.end() == 0
    thread = thread_of("an aside that is closed")
    assert thread is not None
    assert thread.daemon
    aside.close()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
