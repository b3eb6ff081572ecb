from __future__ import annotations

import gc
import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from pipeline.vram import Allowance, Reservation


@given(st.integers(0, 100), st.lists(st.integers(0, 60), max_size=30), st.data())
def test_never_more_is_taken_than_there_is_and_all_comes_back(
    limit: int, sizes: list[int], data: st.DataObject
) -> None:
    allowance, held, high = Allowance(limit), [], 0
    for size in sizes:
        fits = sum(held) + size <= limit
        assert allowance.take(size) is fits
        if fits:
            held.append(size)
        high = max(high, sum(held))
        if held and data.draw(st.booleans()):
            allowance.give_back(held.pop())
        assert (allowance.taken_bytes, allowance.left_bytes) == (sum(held), limit - sum(held))
    assert allowance.high_water_bytes == high
    for size in held:
        allowance.give_back(size)
    assert allowance.taken_bytes == 0


def test_without_a_limit_it_only_counts() -> None:
    allowance = Allowance()
    assert allowance.take(1 << 50)
    assert (allowance.taken_bytes, allowance.left_bytes) == (1 << 50, None)


def test_who_waits_gets_what_comes_back() -> None:
    allowance = Allowance(10)
    assert allowance.take(8)
    got: list[bool] = []
    waiting = threading.Event()

    def gives_up() -> bool:
        waiting.set()
        return False

    thread = threading.Thread(target=lambda: got.append(allowance.take(5, 20, gives_up)), daemon=True)
    thread.start()
    assert waiting.wait(20)
    allowance.give_back(8)
    thread.join(20)
    assert got == [True]
    assert allowance.taken_bytes == 5


def test_nobody_waits_for_what_cannot_be_had_or_is_not_wanted_any_more() -> None:
    allowance = Allowance(10)
    start = time.monotonic()
    assert not allowance.take(11, 60)
    assert allowance.take(10)
    assert not allowance.take(1, 60, lambda: True)
    assert time.monotonic() - start < 10
    assert allowance.taken_bytes == 10


def test_a_reservation_is_given_back_with_its_owner() -> None:
    allowance = Allowance(10)
    assert allowance.take(7)
    owner = [Reservation(allowance, 7)]
    assert allowance.taken_bytes == 7
    owner.clear()
    gc.collect()
    assert allowance.taken_bytes == 0
