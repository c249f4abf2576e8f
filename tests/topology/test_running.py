"""What ends an import, a replay or the demo in order."""

import os
import signal
from collections.abc import Iterator

import pytest

from topology.running import STOPS, stopping


@pytest.fixture(autouse=True)
def as_in_a_terminal() -> Iterator[None]:
    """CI may be started deaf to Ctrl-C."""
    before = {number: signal.signal(number, signal.SIG_DFL) for number in STOPS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOPS)
def test_whatever_asks_for_the_end_is_taken_as_ctrl_c(number: signal.Signals) -> None:
    with pytest.raises(KeyboardInterrupt), stopping():
        os.kill(os.getpid(), number)
    assert signal.getsignal(number) is signal.SIG_DFL


def test_ctrl_c_within_c_code_is_still_ctrl_c() -> None:
    """confluent_kafka's Consumer, asked for in that moment, raises this in its place (seen in an import)."""

    def consumer() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except KeyboardInterrupt:
            raise TypeError("expected configuration property name as type unicode string") from None

    with pytest.raises(KeyboardInterrupt), stopping():
        consumer()


def test_an_error_of_our_own_is_no_ctrl_c() -> None:
    with pytest.raises(TypeError), stopping():
        raise TypeError("a mistake")


def test_under_nohup_a_terminal_that_goes_away_ends_nothing() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stopping():
        os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
