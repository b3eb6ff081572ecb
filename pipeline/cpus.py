"""Keeping this process to a few of the machine's CPUs.

Of threads that share the interpreter's lock one runs at a time. Spread over many CPUs each of them sleeps on one of its own:
to wake it up takes long, most of all on a virtual machine, and what it needs has left that CPU's caches by then. On a few
CPUs they find one that is awake.
"""

from __future__ import annotations

import contextlib
import logging
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

log = logging.getLogger(__name__)

_TASKS = Path("/proc/self/task")
# Threads that start while others are looked through are found when it is done again.
_MOST_ROUNDS = 8

_lock = threading.Lock()


class _Held(NamedTuple):
    """The CPUs that the process may use, those that it keeps to, and whether it does so whatever it works at."""

    everything: frozenset[int]
    few: frozenset[int]
    is_strict: bool


_held: _Held | None = None


@contextlib.contextmanager
def keep_to(number: int | None, *, is_strict: bool = True) -> Iterator[None]:
    """Keeps all threads of the process, those that start from now on too, to so many CPUs until it is left.

    Threads that somebody has put on CPUs of their own stay there. Does nothing with None, where there are no more CPUs, where
    it is in force already, or where the system cannot do it.

    Args:
        number: At least 1.
        is_strict: Whether `use_all` has no effect.
    """
    global _held
    with _lock:
        is_ours = number is not None and _held is None and _take(number, is_strict=is_strict)
    try:
        yield
    finally:
        if is_ours:
            with _lock:
                assert _held is not None
                held, _held = _held, None
                _move(held.few, held.everything)


def use_all() -> None:
    """The calling thread, and those that it starts from now on, may use all CPUs again: for work that many threads share."""
    held = _held
    if held is not None and not held.is_strict:
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, held.everything)


def _take(number: int, *, is_strict: bool) -> bool:
    global _held  # noqa: PLW0603
    if not hasattr(os, "sched_setaffinity") or not _TASKS.is_dir():
        return False
    everything = frozenset(os.sched_getaffinity(0))
    if number >= len(everything):
        return False
    # Neighbours as a rule share a cache; and two processes should not choose the same ones.
    numbers = sorted(everything)
    first = random.randrange(len(numbers))  # noqa: S311 - no secret
    few = frozenset((numbers + numbers)[first : first + number])
    _held = _Held(everything, few, is_strict)
    _move(everything, few)
    log.info("the process keeps to %d of %d CPUs: %s", number, len(numbers), ", ".join(map(str, sorted(few))))
    return True


def _move(source: frozenset[int], target: frozenset[int]) -> None:
    """Lets the threads that may use `source` use `target` in its place."""
    for _ in range(_MOST_ROUNDS):
        moved = False
        for task in _TASKS.iterdir():
            with contextlib.suppress(OSError):  # it has just ended
                if os.sched_getaffinity(int(task.name)) == source:
                    os.sched_setaffinity(int(task.name), target)
                    moved = True
        if not moved:
            return
