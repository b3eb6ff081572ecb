"""Keeping the process to a few CPUs: what the system says of its threads."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from pipeline import cpus
from pipeline.cpus import keep_to, use_all

pytestmark = pytest.mark.skipif(
    not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) < 2,
    reason="needs a Linux machine with two CPUs",
)


class Sleeper:
    """A thread that is asleep until it is asked where it may run."""

    def __init__(self) -> None:
        self._go, self._ready = threading.Event(), threading.Event()
        self.may_use: set[int] = set()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self._ready.wait(10)

    def _run(self) -> None:
        self._ready.set()
        self._go.wait()
        self.may_use = os.sched_getaffinity(0)

    def ask(self) -> set[int]:
        self._go.set()
        self.thread.join()
        return self.may_use


@contextmanager
def sleeping(number: int) -> Iterator[list[Sleeper]]:
    sleepers = [Sleeper() for _ in range(number)]
    try:
        yield sleepers
    finally:
        for sleeper in sleepers:
            sleeper.ask()


def test_all_threads_keep_to_them_and_may_use_all_again() -> None:
    everything = os.sched_getaffinity(0)
    with sleeping(3) as early, sleeping(3) as late:
        with keep_to(1):
            few = os.sched_getaffinity(0)
            assert len(few) == 1
            assert few < everything
            assert [sleeper.ask() for sleeper in early] == [few] * 3
            begun = Sleeper()  # inherits them
            assert Sleeper().ask() == few
        assert os.sched_getaffinity(0) == everything
        assert [sleeper.ask() for sleeper in (*late, begun)] == [everything] * 4


def test_they_lie_side_by_side_and_are_not_always_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[int, frozenset[int]] = {}
    monkeypatch.setattr(os, "sched_getaffinity", lambda task: set(given.get(task, range(10, 26))))
    monkeypatch.setattr(os, "sched_setaffinity", lambda task, wanted: given.__setitem__(task, frozenset(wanted)))
    seen = set()
    for _ in range(200):
        with keep_to(6):
            few = sorted(given[os.getpid()])
            assert len(few) == 6
            first = next(n for n in few if (n - 11) % 16 + 10 not in few)
            assert set(few) == {(first - 10 + i) % 16 + 10 for i in range(6)}
            seen.add(first)
        assert set(given.values()) == {frozenset(range(10, 26))}
    assert len(seen) > 8


@pytest.mark.parametrize("number", [None, len(os.sched_getaffinity(0)), 4096])
def test_nothing_happens_where_there_are_no_more(number: int | None, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    everything = os.sched_getaffinity(0)
    with keep_to(number):
        assert os.sched_getaffinity(0) == everything
        use_all()
    assert os.sched_getaffinity(0) == everything
    assert not caplog.records


def test_a_thread_with_cpus_of_its_own_keeps_them() -> None:
    everything = os.sched_getaffinity(0)
    with sleeping(1) as (sleeper,):
        own = {max(everything)}
        os.sched_setaffinity(sleeper.thread.native_id or 0, own)
        with keep_to(1):
            assert os.sched_getaffinity(sleeper.thread.native_id or 0) == own
        if len(own) < len(everything):
            assert sleeper.ask() in (own, everything)  # everything: the same single CPU was chosen for all


@pytest.mark.parametrize("is_strict", [False, True])
def test_shared_work_has_all_of_them_unless_it_was_asked_for(is_strict: bool) -> None:
    everything = os.sched_getaffinity(0)
    found: list[set[int]] = []

    def work() -> None:
        use_all()
        found.append(os.sched_getaffinity(0))
        found.append(Sleeper().ask())

    with keep_to(1, is_strict=is_strict):
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        few = os.sched_getaffinity(0)
        assert len(few) == 1
    assert found == [few if is_strict else everything] * 2


def test_a_second_run_beside_the_first_changes_nothing() -> None:
    everything = os.sched_getaffinity(0)
    with keep_to(1):
        few = os.sched_getaffinity(0)
        with keep_to(1):
            assert os.sched_getaffinity(0) == few
        assert os.sched_getaffinity(0) == few
    assert os.sched_getaffinity(0) == everything


def test_a_system_that_cannot_do_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity")
    with keep_to(1):
        use_all()
    monkeypatch.undo()

    def refuse(task: int, wanted: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", refuse)
    with keep_to(1):
        use_all()
    assert cpus._held is None
