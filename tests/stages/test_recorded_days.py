"""Recorded ticks of two brokers, 2014-05-01 to 05-05: the product, the oracle, and the brokers' own minute bars.

EXAMPLES=2 compares whole days (minutes of time); otherwise the hours that matter.
"""

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from heapq import merge
from pathlib import Path
from zipfile import ZipFile

import pytest

from schemas import flags, topics
from schemas.instrument import load, mantissa
from schemas.record import Candle, Quote
from tests.market import HOUR, MINUTE, SECOND, Piped, clock, moment
from tests.reference import calendar
from tests.reference.compare import disagreement
from topology.driver import TopologyDriver

DATA = Path("/work/shared/data/lean/forex")
WHOLE = int(os.environ.get("EXAMPLES", "1")) > 1
#: FXCM's files are in UTC-5 all the year round, OANDA's in UTC.
BEHIND = {"fxcm": 5 * HOUR, "oanda": 0}
CALENDARS = {"fxcm": "fx", "oanda": "fx-oanda"}
INSTRUMENTS = load()

pytestmark = pytest.mark.skipif(not DATA.exists(), reason=f"the recorded days are not at {DATA}")


def rows(broker: str, kind: str, symbol: str, start: int) -> Iterator[tuple[int, list[int]]]:
    """(UTC time in ns, price mantissas) of the file for the broker's own day that holds ``start``."""
    day = datetime.fromtimestamp((start - BEHIND[broker]) // SECOND, UTC).replace(hour=0, minute=0, second=0)
    path = DATA / broker / kind / symbol.lower() / f"{day:%Y%m%d}_quote.zip"
    if not path.exists():
        return
    midnight = moment(day.strftime("%Y-%m-%dT%H:%M:%S")) + BEHIND[broker]
    with ZipFile(path) as archive:
        for line in archive.read(archive.namelist()[0]).decode().splitlines():
            time, *prices = line.split(",")
            yield midnight + int(time) * 1_000_000, [mantissa(price, 5) for price in prices]


def between(broker: str, kind: str, symbol: str, start: int, end: int) -> Iterator[tuple[int, list[int]]]:
    """The rows in [start, end), over as many of the broker's days as that takes."""
    for day in range(start, end + 24 * HOUR, 24 * HOUR):
        yield from (row for row in rows(broker, kind, symbol, day) if start <= row[0] < end)


def recorded(symbol: str, start: int, end: int) -> list[Piped]:
    """Both brokers' ticks merged by time, with a clock record every ten seconds, as an importer does."""
    sources = [
        [Quote(symbol, broker, at, at, bid, ask) for at, (bid, ask) in between(broker, "tick", symbol, start, end)]
        for broker in BEHIND
    ]
    log: list[Piped] = []
    tock = start
    for tick in merge(*sources, key=lambda tick: tick.ts_event):
        while tock <= tick.ts_event:
            log.append(Piped(clock(tock), tock))
            tock += 10 * SECOND
        log.append(Piped(tick, tick.ts_recv))
    return [*log, Piped(clock(end + 2 * MINUTE), end + 2 * MINUTE)]


HOURS = {
    "a calm hour": ("EURUSD", "2014-05-01T05:00:00", "2014-05-01T06:00:00"),
    "the payrolls": ("EURUSD", "2014-05-02T12:25:00", "2014-05-02T12:40:00"),
    "the payrolls in New Zealand dollars": ("NZDUSD", "2014-05-02T12:25:00", "2014-05-02T12:40:00"),
    "the end of the week": ("EURUSD", "2014-05-02T20:30:00", "2014-05-02T21:10:00"),
    "the begin of the week": ("EURUSD", "2014-05-04T20:30:00", "2014-05-04T21:40:00"),
}
DAYS = {
    f"{symbol} on the whole {day}": (symbol, f"2014-05-{day}T00:00:00", f"2014-05-{day}T23:59:59")
    for symbol, day in (("EURUSD", "01"), ("EURUSD", "02"), ("EURUSD", "04"), ("EURUSD", "05"), ("NZDUSD", "02"))
}


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [*HOURS, *(DAYS if WHOLE else {})])
def test_recorded_ticks_give_the_same_through_product_and_oracle(name: str) -> None:
    symbol, start, end = (HOURS | DAYS)[name]
    log = recorded(symbol, moment(start), moment(end))
    sources = {piped.record.source for piped in log if isinstance(piped.record, Quote)}
    assert len(log) > 1000
    assert sources == {"fxcm", "oanda"}
    assert disagreement(log, {symbol: INSTRUMENTS[symbol]}) == ""


@dataclass
class Day:
    """What the product made of some hours: rows by minute, and what it left out of them."""

    candles: dict[tuple[str, int], Candle] = field(default_factory=dict)
    left_out: dict[int, str] = field(default_factory=dict)  # by offset in the log, and why


def run(symbol: str, log: list[Piped]) -> Day:
    """Pipe a log through the product."""
    driver = TopologyDriver({symbol: INSTRUMENTS[symbol]})
    for piped in log:
        driver.pipe(piped.record, append=piped.append)
    day = Day()
    for output in driver.read(topics.CANDLE):
        row = output.record
        if row.revision >= 0:
            day.candles[row.source, row.start] = row
    for output in driver.read(topics.REJECTED):
        day.left_out[output.offset] = output.record.reason
    for output in driver.read(topics.TICK):
        tick = output.record
        if tick.flags & flags.NOT_CLEAN:
            day.left_out[output.offset] = flags.names(tick.flags & flags.NOT_CLEAN)[0]
        elif not calendar.is_open(CALENDARS[tick.source], tick.ts_recv):
            day.left_out[output.offset] = "closed"
    return day


def bar(quotes: list[Quote]) -> list[int]:
    """A broker's minute bar: open, high, low and close of bid and of ask, in the order of the file."""
    bids, asks = [quote.bid for quote in quotes], [quote.ask for quote in quotes]
    return [price for side in (bids, asks) for price in (side[0], max(side), min(side), side[-1])]


def ours(row: Candle) -> list[int]:
    """The same of our candle."""
    bids = [row.bid_open, row.bid_high, row.bid_low, row.bid_close]
    return [*bids, row.ask_open, row.ask_high, row.ask_low, row.ask_close]


COMPARED = [
    ("EURUSD", "2014-05-02T11:00:00", "2014-05-02T13:30:00", "CROSSED LOCKED"),
    ("NZDUSD", "2014-05-02T12:00:00", "2014-05-02T13:00:00", "CROSSED LOCKED"),
    ("EURUSD", "2014-05-04T19:00:00", "2014-05-04T23:00:00", "CROSSED LOCKED closed"),
]


@pytest.mark.parametrize(("symbol", "start", "end", "expected"), COMPARED)
def test_our_candles_are_the_brokers_own_bars_but_for_the_ticks_left_out(
    symbol: str, start: str, end: str, expected: str
) -> None:
    """LEAN's bars keep every tick: those of a minute in which nothing was left out are equal to ours to the unit.

    Where some were left out (refused, crossed, locked, before the open), the bars are first shown to be those of all
    ticks, and our candle then to be that of the ticks that remain; a minute of which none remains has no candle.
    """
    first, last = moment(start), moment(end)
    log = recorded(symbol, first, last)
    day = run(symbol, log)
    every: dict[tuple[str, int], list[Quote]] = defaultdict(list)
    kept: dict[tuple[str, int], list[Quote]] = defaultdict(list)
    reasons: dict[tuple[str, int], set[str]] = defaultdict(set)
    for offset, piped in enumerate(log):
        tick = piped.record
        if isinstance(tick, Quote):
            key = (tick.source, tick.ts_event - tick.ts_event % MINUTE)
            every[key].append(tick)
            if offset in day.left_out:
                reasons[key].add(day.left_out[offset])
            else:
                kept[key].append(tick)
    equal = explained = 0
    for broker in BEHIND:
        for at, prices in between(broker, "minute", symbol, first, last):
            theirs = prices[:4] + prices[5:9]
            assert theirs == bar(every[broker, at])
            row = day.candles.pop((broker, at), None)
            if not reasons[broker, at]:
                assert row is not None
                assert ours(row) == theirs
                equal += 1
            elif row is None:
                assert kept[broker, at] == []
                explained += 1
            else:
                assert ours(row) == bar(kept[broker, at])
                assert row.ticks == len(kept[broker, at])
                explained += 1
    assert {source for source, _ in day.candles} == {"best"}
    assert equal > 50
    assert explained > 30
    assert set().union(*reasons.values()) == set(expected.split())  # so: none is refused, least of all the news
