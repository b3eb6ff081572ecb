"""Giving way to who waits for the interpreter's lock."""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Iterator

import pytest

from pipeline.interpreter import giving_way

_AFTER_A_SECOND = 10_000_000


@pytest.fixture
def greedy() -> Iterator[None]:
    """Nobody is asked for the lock while a test lasts."""
    before_s = sys.getswitchinterval()
    sys.setswitchinterval(60)
    yield
    sys.setswitchinterval(before_s)


@pytest.mark.parametrize("count", [0, 1, 16, 17, 100])
def test_all_items_come_in_their_order(count: int) -> None:
    assert list(giving_way(range(count))) == list(range(count))


def test_a_thread_that_waits_gets_the_lock_in_the_middle_of_a_batch(greedy: None) -> None:
    begun, go = threading.Event(), threading.Event()
    seen: list[int] = []
    done = 0

    def wait() -> None:
        begun.set()
        go.wait()
        seen.append(done)

    thread = threading.Thread(target=wait)
    thread.start()
    begun.wait()
    go.set()
    for done in giving_way(itertools.count()):
        if seen or done > _AFTER_A_SECOND:
            break
    thread.join()
    assert seen[0] <= _AFTER_A_SECOND, "it had to wait for all of it"
