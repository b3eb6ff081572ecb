"""Ctrl-C and SIGTERM: the first ends the work cleanly, the second ends the program at once. SIGHUP reads the file again."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

from pipeline.errors import ExitCode

SIGNALS = (signal.SIGINT, signal.SIGTERM)

# A reload that is under way when the run ends has nothing left to do.
_RELOAD_END_S = 2.0

# Loading a model calls libraries that return after seconds, or minutes where XLA compiles it.
_DEAF_S = 3.0

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
        _show_cursor()  # the second signal ends the process with no chance to do it
        stop()

    handled = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = [signal.signal(number, handle) for number in handled]
    try:
        yield
    finally:
        for number, handler in zip(handled, before, strict=True):
            signal.signal(number, handler)


@contextlib.contextmanager
def interruptible(deaf_s: float = _DEAF_S) -> Iterator[None]:
    """Ends the program by a SIGINT or SIGTERM that its handler does not get to see for `deaf_s`; for work that may be broken off.

    Python calls handlers between two steps of its own: a native call of minutes, such as compiling a model, lets none run.
    """
    # Its put may be called from a handler that is in the middle of another.
    seen: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def wrapped(before: Callable[[int, FrameType | None], object]) -> Callable[[int, FrameType | None], None]:
        def handle(number: int, frame: FrameType | None) -> None:
            seen.put(True)
            before(number, frame)

        return handle

    # What is ignored stays so, and the default effect waits for nobody.
    before = {int(number): found for number in SIGNALS if callable(found := signal.getsignal(number))}
    handlers = {number: wrapped(handler) for number, handler in before.items()}

    def is_deaf(number: int) -> bool:
        try:
            seen.put(seen.get(timeout=deaf_s))  # it stays: one handler may run for several signals
        except queue.Empty:
            # Who has taken another handler meanwhile is in charge.
            return signal.getsignal(number) is handlers.get(number)
        return False

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    thread = threading.Thread(target=_watch, args=(reader, is_deaf), name="signals", daemon=True)
    thread.start()
    earlier_fd = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if signal.getsignal(number) is handler:
                signal.signal(number, before[number])
        signal.set_wakeup_fd(earlier_fd)
        os.close(writer)
        thread.join()
        os.close(reader)


def _watch(reader: int, is_deaf: Callable[[int], bool]) -> None:
    """Reads the numbers of signals as they come, until the other end of the pipe is closed."""
    while numbers := os.read(reader, 64):
        if any(number in SIGNALS and is_deaf(number) for number in numbers):
            _show_cursor()
            os._exit(ExitCode.INTERRUPTED)


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


def _show_cursor() -> None:
    if os.isatty(_STDERR):
        os.write(_STDERR, _SHOW_CURSOR)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """A handler that makes SIGTERM end the program as Ctrl-C does."""
    raise KeyboardInterrupt
