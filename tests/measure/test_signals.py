"""The first interrupt is a request, the second takes effect immediately, and the old handlers are restored."""

from __future__ import annotations

import os
import signal
import threading

import pytest

from joulecast.measure.signals import StopSignals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_is_noted_and_the_second_interrupts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with StopSignals() as stop:
        assert stop.received is None
        os.kill(os.getpid(), number)
        assert (stop.received, stop.number) == (number.name, number)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(number) is before
    assert stop.received == number.name, "the first one counts"


def test_outside_the_main_thread_nothing_changes() -> None:
    found = []

    def enter() -> None:
        with StopSignals() as stop:
            found.append(stop.received)

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert found == [None]
    assert signal.getsignal(signal.SIGINT) is before
