"""Manners among threads that share the interpreter's lock."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

_AT_A_TIME = 16


def giving_way(items: Iterable[T]) -> Iterator[T]:
    """The items of a batch; every few of them whoever waits for the interpreter's lock may have it.

    A decoding thread that comes back from the GPU waits for it, and the GPU's decoder soon for that thread. It would be asked
    for only after milliseconds (`sys.getswitchinterval`), in which a batch is handled.
    """
    for number, item in enumerate(items):
        if number and not number % _AT_A_TIME:
            time.sleep(0)
        yield item
