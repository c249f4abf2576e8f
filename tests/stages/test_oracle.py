"""The product and the oracle (tests/reference) give the same records, in the same order, on any market.

EXAMPLES=20 makes these tests try twenty times as much.
"""

import os
from datetime import UTC, datetime
from random import Random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests import market
from tests.market import Act, Setup
from tests.reference import calendar as obvious
from tests.reference.compare import disagreement
from topology.stages import calendar

MORE = int(os.environ.get("EXAMPLES", "1"))
MANY = settings(max_examples=150 * MORE, deadline=None, derandomize=MORE == 1)


@MANY
@given(market.SETUP, st.lists(market.ACT, max_size=60))
def test_any_small_market_gives_the_same_records(setup: Setup, acts: list[Act]) -> None:
    log = market.play(setup, acts)
    for number, piped in enumerate(log):
        note(f"{number} {piped}")
    assert disagreement(log, market.instruments_of(setup)) == ""


@pytest.mark.parametrize("seed", range(60 * MORE))
def test_a_long_market_gives_the_same_records(seed: int) -> None:
    random = Random(seed)
    setup = market.random_setup(random)
    log = market.play(setup, market.random_acts(random, 400))
    assert disagreement(log, market.instruments_of(setup)) == ""


@pytest.mark.parametrize("kind", sorted(market.ACTS))
def test_a_market_full_of_one_misbehaviour_gives_the_same_records(kind: str) -> None:
    for seed in range(3 * MORE):
        random = Random(seed)
        setup = market.random_setup(random)
        acts = market.random_acts(random, 150)
        often = [Act(kind, act.source, act.step, act.a, act.b) if random.random() < 0.3 else act for act in acts]
        assert disagreement(market.play(setup, often), market.instruments_of(setup)) == ""


@pytest.mark.parametrize("strategy", market.STRATEGIES)
@pytest.mark.parametrize("name", market.CALENDARS)
def test_every_strategy_on_every_calendar_gives_the_same_records(strategy: str, name: str) -> None:
    for seed in range(2 * MORE):
        random = Random(seed)
        setup = Setup(sources=4, calendar=name, strategy=strategy, start=seed % len(market.STARTS))
        log = market.play(setup, market.random_acts(random, 200))
        assert disagreement(log, market.instruments_of(setup)) == ""


@pytest.mark.parametrize(
    ("name", "first", "last"),
    [("fx", 2013, 2030), ("fx-oanda", 2013, 2030), ("metals", 2013, 2030), ("us-equity", 2022, 2026)],
)
def test_sessions_open_and_close_when_the_obvious_calendar_says(name: str, first: int, last: int) -> None:
    """Around every change of session in these years, with their changes of clock and their holidays."""
    at = obvious.nanoseconds(datetime(first, 1, 2, tzinfo=UTC))
    end = obvious.nanoseconds(datetime(last, 12, 20, tzinfo=UTC))
    changes = 0
    while at < end:
        edge = obvious.next_change(name, at)
        assert edge is not None
        for near in (at + 1, (at + edge) // 2, edge - 1, edge):
            following = obvious.next_change(name, near)
            assert calendar.session(name, near) == (obvious.is_open(name, near), following)
        at, changes = edge, changes + 1
    assert changes > 100 * (last - first)


def test_a_market_that_never_closes_has_no_sessions() -> None:
    is_open, changes_at = calendar.session("always", market.NOON)
    assert is_open
    assert changes_at > market.NOON + 50 * 365 * 24 * market.HOUR
