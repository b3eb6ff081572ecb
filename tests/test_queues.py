import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.queues import BoundedQueue, Closed


@given(st.lists(st.integers(), max_size=50), st.integers(1, 5), st.integers(1, 3))
def test_every_item_arrives_once_and_in_order(items: list[int], capacity: int, consumers: int) -> None:
    queue: BoundedQueue[int] = BoundedQueue(capacity)
    taken: list[int] = []
    lock = threading.Lock()

    def consume() -> None:
        while True:
            try:
                item = queue.get(timeout_s=10)
            except Closed:
                return
            with lock:
                taken.append(item)

    threads = [threading.Thread(target=consume) for _ in range(consumers)]
    for thread in threads:
        thread.start()
    for item in items:
        queue.put(item)
    queue.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert taken == items if consumers == 1 else sorted(taken) == sorted(items)
    assert queue.stats.high_water <= capacity


def test_a_full_queue_holds_the_producer_back() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.put(1)
    done = threading.Event()

    def produce() -> None:
        queue.put(2)
        done.set()

    producer = threading.Thread(target=produce)
    producer.start()
    assert not done.wait(0.05)
    assert queue.get(timeout_s=10) == 1
    assert done.wait(10)
    producer.join(10)
    assert queue.stats.put_wait_s > 0


def test_closing_wakes_up_a_blocked_producer_and_a_blocked_consumer() -> None:
    full: BoundedQueue[int] = BoundedQueue(1)
    full.put(1)
    empty: BoundedQueue[int] = BoundedQueue(1)
    ended: list[str] = []

    def blocked(name: str, call: object) -> None:
        try:
            call()  # type: ignore[operator]
        except Closed:
            ended.append(name)

    threads = [
        threading.Thread(target=blocked, args=("producer", lambda: full.put(2))),
        threading.Thread(target=blocked, args=("consumer", empty.get)),
    ]
    for thread in threads:
        thread.start()
    full.close()
    empty.close()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert sorted(ended) == ["consumer", "producer"]


def test_what_is_in_a_closed_queue_can_still_be_taken_unless_it_is_discarded() -> None:
    kept: BoundedQueue[int] = BoundedQueue(3)
    dropped: BoundedQueue[int] = BoundedQueue(3)
    for queue in (kept, dropped):
        queue.put(7)
    kept.close()
    dropped.close(discard=True)
    assert kept.get() == 7
    for queue in (kept, dropped):
        with pytest.raises(Closed):
            queue.get()
        with pytest.raises(Closed):
            queue.put(8)


def test_waiting_for_an_item_is_bounded() -> None:
    with pytest.raises(TimeoutError):
        BoundedQueue[int](1).get(timeout_s=0.01)


def test_a_capacity_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        BoundedQueue[int](0)


def test_room_is_waited_for_and_its_end_told() -> None:
    queue: BoundedQueue[int] = BoundedQueue(1)
    queue.wait_for_room()
    queue.put(1)
    told: list[str] = []
    is_full = threading.Event()

    def wait() -> None:
        queue.wait_for_room()
        told.append("room")
        queue.put(2)
        is_full.set()
        try:
            queue.wait_for_room()
        except Closed:
            told.append("closed")

    waiter = threading.Thread(target=wait, daemon=True)
    waiter.start()
    assert queue.get(timeout_s=10) == 1
    assert is_full.wait(10)
    queue.close()
    waiter.join(10)
    assert told == ["room", "closed"]


def test_waits_are_counted_only_when_somebody_waits() -> None:
    queue: BoundedQueue[int] = BoundedQueue(2)
    queue.put(1)
    queue.wait_for_room()
    queue.put(2)
    stats = queue.stats
    assert (stats.capacity, stats.items, stats.high_water) == (2, 2, 2)
    assert (stats.put_waits, stats.get_waits, stats.put_wait_s) == (0, 0, 0.0)
    producer = threading.Thread(target=lambda: queue.put(3), daemon=True)
    producer.start()
    while producer.is_alive() and not queue._not_full._waiters:  # type: ignore[attr-defined]
        producer.join(0.01)
    assert [queue.get(timeout_s=20) for _ in range(3)] == [1, 2, 3]
    producer.join(20)
    assert stats.put_waits == 1
    assert stats.put_wait_s > 0
    with pytest.raises(TimeoutError):
        queue.get(timeout_s=0.01)
    assert stats.get_waits >= 1
    assert stats.get_wait_s >= 0.01
    assert stats.items == 0
    queue.put(4)
    assert queue.close(discard=True) == [4]
    assert stats.items == 0
