from __future__ import annotations

import signal
import threading
import time

import pytest

from pipeline.cli.signals import SIGNALS, interrupt, interruptible, on_interrupt


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_signal_asks_for_the_end_and_the_next_has_its_default_effect(number: signal.Signals) -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    asked: list[str] = []
    with on_interrupt(lambda: asked.append("stop")):
        signal.raise_signal(number)
        assert asked == ["stop"]
        assert [signal.getsignal(n) for n in SIGNALS] == [signal.SIG_DFL] * len(SIGNALS)
    assert [signal.getsignal(n) for n in SIGNALS] == before


def test_an_ignored_signal_is_left_alone() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with on_interrupt(lambda: pytest.fail("stopped")):
            signal.raise_signal(signal.SIGTERM)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_sigterm_can_end_the_program_as_ctrl_c_does() -> None:
    with pytest.raises(KeyboardInterrupt):
        interrupt(signal.SIGTERM, None)


def test_work_that_hears_a_signal_ends_by_its_handler() -> None:
    before = [signal.getsignal(n) for n in SIGNALS]
    with pytest.raises(KeyboardInterrupt), interruptible(deaf_s=0.05):
        signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(n) for n in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert not any(thread.name == "signals" for thread in threading.enumerate())


def test_a_handler_that_was_called_is_left_its_time_however_long_it_takes() -> None:
    """Also where several signals make one call, and where an outer handler only asks for the end."""
    asked: list[str] = []
    with on_interrupt(lambda: asked.append("stop")), interruptible(deaf_s=0.05):
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.2)  # were it taken for deaf, the process would end
    assert asked == ["stop"]


def test_a_handler_that_was_set_inside_is_in_charge() -> None:
    heard: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    try:
        with interruptible(deaf_s=0.05):
            signal.signal(signal.SIGINT, lambda number, _frame: heard.append(number))
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.2)
        assert heard == [signal.SIGINT]
        assert signal.getsignal(signal.SIGINT) is not before  # it was changed on purpose
    finally:
        signal.signal(signal.SIGINT, before)
