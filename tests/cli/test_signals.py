from __future__ import annotations

import signal

import pytest

from pipeline.cli.signals import SIGNALS, interrupt, on_interrupt


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
