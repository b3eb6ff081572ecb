"""Ctrl-C and SIGTERM: the first ends the work cleanly, the second ends the program at once. SIGHUP reads the file again."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A reload that is under way when the run ends has nothing left to do.
_RELOAD_END_S = 2.0

_STDERR = 2
_SHOW_CURSOR = b"\x1b[?25h"


@contextlib.contextmanager
def on_interrupt(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` at the first SIGINT or SIGTERM, from the signal handler; after it both have their default effect.

    A signal that is ignored on entry (`nohup`, a background job) stays ignored.
    """

    def handle(_number: int, _frame: FrameType | None) -> None:
        for number in handled:
            signal.signal(number, signal.SIG_DFL)
        if os.isatty(_STDERR):  # the second signal ends the process with no chance to bring back a hidden cursor
            os.write(_STDERR, _SHOW_CURSOR)
        stop()

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, handle) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def on_reload(reload: Callable[[], None]) -> Iterator[None]:
    """Calls `reload` at each SIGHUP, one call after the other, in a thread of its own.

    A SIGHUP that is ignored on entry (`nohup`) stays ignored.
    """
    if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
        yield
        return
    asked: queue.SimpleQueue[bool] = queue.SimpleQueue()  # its put may be called from a signal handler

    def work() -> None:
        while asked.get():
            reload()

    thread = threading.Thread(target=work, name="reload", daemon=True)
    thread.start()
    before = signal.signal(signal.SIGHUP, lambda _number, _frame: asked.put(True))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)
        asked.put(False)
        thread.join(_RELOAD_END_S)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A handler that makes SIGTERM end the program as Ctrl-C does."""
    raise KeyboardInterrupt
