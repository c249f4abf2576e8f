"""Builders of records for tests, and random markets that misbehave in every way the stages know.

``quote(1.09, 1.0902)`` and its siblings fill in what a test does not care about. ``play`` turns a list of
small acts (drawn by hypothesis, or by ``random_acts`` from a seed) into the log of one partition; ``market``
gives the records of several symbols for a real Kafka.
"""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from hypothesis import strategies as st

from schemas import flags
from schemas.instrument import Instrument, Rules, Source
from schemas.record import Candle, Clock, Link, Quote, Record, Tick, Trade, replace

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE
SYMBOL = "EURUSD"


def moment(text: str) -> int:
    """``2026-03-04T12:00:00`` (UTC) as nanoseconds."""
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


#: A Wednesday noon in UTC: every calendar but equities is open.
NOON = moment("2026-03-04T12:00:00")


def quote(bid: int = 109_000, ask: int = 109_010, at: int = NOON, source: str = "a", **fields: Any) -> Quote:
    """A quote received when it happened, unless ``ts_recv`` says otherwise."""
    values = {"symbol": SYMBOL, "source": source, "ts_event": at, "ts_recv": at, "bid": bid, "ask": ask}
    return Quote(**values | fields)


def trade(price: int = 109_005, at: int = NOON, source: str = "a", size: int = 1, **fields: Any) -> Trade:
    """A trade received when it happened, unless ``ts_recv`` says otherwise."""
    values = {"symbol": SYMBOL, "source": source, "ts_event": at, "ts_recv": at, "price": price}
    return Trade(**values | {"size": size} | fields)


def link(event: str = "heartbeat", at: int = NOON, source: str = "a", **fields: Any) -> Link:
    """A heartbeat, connected or disconnected."""
    values = {"symbol": SYMBOL, "source": source, "ts_event": at, "ts_recv": at, "event": event}
    return Link(**values | fields)


def clock(at: int = NOON) -> Clock:
    """Time passes."""
    return Clock(at)


def instrument(symbol: str = SYMBOL, **fields: Any) -> Instrument:
    """An instrument that is always open, without provisional candles."""
    values: dict[str, Any] = {
        "asset_class": "fx",
        "price_scale": 5,
        "calendar": "always",
        "rules": Rules(provisional_ns=0),
    }
    return Instrument(symbol=symbol, **values | fields)


# Random markets. An act is a tuple of small numbers, so that hypothesis can shrink a market to a few lines.

ACTS = {  # what happens, and how often in random_acts
    "quote": 40,
    "trade": 12,
    "same_price": 4,
    "spike": 5,
    "jump": 2,  # every source follows
    "shift": 1,  # this source alone moves
    "repeat": 3,
    "snapshot": 2,
    "late": 5,
    "crossed": 1,
    "locked": 1,
    "one_sided": 1,
    "not_tradeable": 1,
    "wide": 1,
    "bad": 1,
    "decimal": 2,
    "hole": 2,
    "step_back": 1,
    "heartbeat": 4,
    "connected": 1,
    "disconnected": 1,
    "fast_clock": 1,
    "slow_clock": 2,
    "no_time": 1,
    "clock": 6,
    "fetched": 1,
}
STEPS = (
    0,
    1_000_000,
    40_000_000,
    250_000_000,
    SECOND,
    3 * SECOND,
    5 * SECOND,
    5 * SECOND + 1,
    10 * SECOND,
    31 * SECOND,
    MINUTE,
    6 * MINUTE,
    10 * MINUTE,
    10 * MINUTE + 1,
    HOUR,
)
STEP_WEIGHTS = (8, 10, 20, 30, 20, 12, 3, 3, 3, 3, 2, 1, 0.5, 0.5, 0.3)
LATENESS = (1_000_000, SECOND, 2 * SECOND, 3 * SECOND, 40 * SECOND, 70 * SECOND, 9 * MINUTE, 15 * MINUTE)
SIZES = (12, 19, 21, 30, 60, 150, 900, 12_000)  # of spikes and jumps, in price units
STARTS = (
    NOON,
    moment("2026-03-06T21:56:30"),  # Friday, the FX week ends at 22:00
    moment("2026-03-08T20:58:00"),  # Sunday of the change to summer time: opens at 21:00
    moment("2025-11-02T21:58:30"),  # Sunday of the change back: opens at 22:00
    moment("2026-03-04T21:57:00"),  # the daily break of OANDA and of metals
    moment("2025-12-24T21:57:30"),  # Christmas
    moment("2026-03-04T11:59:40"),
)


@dataclass(frozen=True)
class Act:
    """One thing that happens: ``kind`` of ACTS, by which source, after which STEP; ``a``, ``b`` 0..99."""

    kind: str
    source: int
    step: int
    a: int
    b: int


@dataclass(frozen=True)
class Setup:
    """What kind of market it is."""

    sources: int = 3
    symbols: int = 1
    start: int = 0
    calendar: str = "fx"
    strategy: str = "best"
    provisional: bool = True
    ids: bool = False
    rules: int = 0


@dataclass(frozen=True)
class Piped:
    """A record and when Kafka appended it."""

    record: Record
    append: int


NAMES = ("oanda", "fxcm", "cboe", "abn")
CALENDARS = ("fx", "always", "metals")
STRATEGIES = ("best", "priority", "latest", "weighted", "consensus")
SYMBOLS = (SYMBOL, "NZDUSD")
FIVE = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "BTCUSDT")  # of ``market``: all in schemas/instruments.yaml
RULES = (
    {},
    {"skew_ns": 2 * SECOND, "outlier_bps": 2, "ttl_max_ns": 20 * SECOND, "silence_ns": 40 * SECOND},
    {"spike_mad": 3, "spike_ticks": 5, "spike_spreads": 1, "hold_ns": 2 * SECOND, "lateness_ns": 0},
)


def instruments_of(setup: Setup) -> dict[str, Instrument]:
    """The instruments of a market: sources of unequal rank, one with a calendar of its own."""
    ranks = ((1, 2, True), (2, 2, False), (2, 1, True), (4, 3, False))
    sources = {
        name: Source(
            priority=priority,
            weight=weight,
            contiguous=contiguous,
            calendar="fx-oanda" if name == "oanda" and setup.calendar == "fx" else "",
        )
        for name, (priority, weight, contiguous) in zip(NAMES, ranks, strict=True)
    }
    rules = Rules(**{"provisional_ns": SECOND if setup.provisional else 0} | RULES[setup.rules])
    return {
        symbol: Instrument(
            symbol=symbol,
            asset_class="fx",
            price_scale=5,
            calendar=setup.calendar,
            min_price=1000,
            max_price=50_000_000,
            strategy=setup.strategy,  # type: ignore[arg-type]
            rules=rules,
            sources=sources,
        )
        for symbol in SYMBOLS[: setup.symbols]
    }


def random_setup(random: Random) -> Setup:
    """Any market."""
    return Setup(
        sources=random.randint(1, 4),
        symbols=random.choice((1, 1, 1, 2)),
        start=random.randrange(len(STARTS)),
        calendar=random.choice(CALENDARS),
        strategy=random.choice((*STRATEGIES, "best", "best")),
        provisional=random.random() < 0.5,
        ids=random.random() < 0.3,
        rules=random.randrange(len(RULES)),
    )


def random_acts(random: Random, count: int) -> list[Act]:
    """Acts in the usual proportions, with calm stretches of one step length."""
    kinds, weights = list(ACTS), list(ACTS.values())
    acts = []
    usual = 3
    for kind in random.choices(kinds, weights, k=count):
        if random.random() < 0.02:
            usual = random.choices(range(len(STEPS) - 2), STEP_WEIGHTS[:-2])[0]
        step = usual if random.random() < 0.8 else random.choices(range(len(STEPS)), STEP_WEIGHTS)[0]
        acts.append(Act(kind, random.randrange(4), step, random.randrange(100), random.randrange(100)))
    return acts


_PART = st.integers(0, 99)
ACT = st.builds(
    Act,
    st.sampled_from(sorted(ACTS)) | st.just("quote"),
    st.integers(0, 3),
    st.integers(0, len(STEPS) - 1) | st.integers(1, 4),
    _PART,
    _PART,
)
SETUP = st.builds(
    Setup,
    st.integers(1, 4),
    st.integers(1, 2),
    st.integers(0, len(STARTS) - 1),
    st.sampled_from(CALENDARS),
    st.sampled_from(STRATEGIES),
    st.booleans(),
    st.booleans(),
    st.integers(0, len(RULES) - 1),
)


@dataclass
class _Market:
    setup: Setup
    now: int
    level: dict[str, int] = field(default_factory=dict)
    shift: dict[tuple[str, str], int] = field(default_factory=dict)
    seq: dict[tuple[str, str], int] = field(default_factory=dict)
    sent: dict[tuple[str, str], list[Tick]] = field(default_factory=dict)
    ids: int = 0


def play(setup: Setup, acts: list[Act]) -> list[Piped]:
    """The log that a market leaves. Kafka appends each record at the market's own time."""
    market = _Market(setup, STARTS[setup.start])
    log = []
    for act in acts:
        market.now += STEPS[act.step % len(STEPS)]
        log.append(Piped(_record(market, act), market.now))
    return log


def market(seed: int, count: int) -> list[Any]:
    """Five symbols, four sources, every kind of misbehaviour; one record of each symbol in turn, without clocks.

    The length is about ``count``, of one seed always the same.
    """
    chance = Random(seed)
    streams = []
    for name in FIVE:
        log = play(Setup(sources=4), random_acts(chance, count // len(FIVE)))
        streams.append([replace(each.record, symbol=name) for each in log if not isinstance(each.record, Clock)])
    return [record for together in zip(*streams, strict=False) for record in together]


def _record(market: _Market, act: Act) -> Record:
    now, source = market.now, NAMES[act.source % market.setup.sources]
    symbol = SYMBOLS[act.b % market.setup.symbols]
    if act.kind == "clock":
        return Clock(now + (5 * SECOND if act.a < 3 else 0) - (act.b * 10_000_000 if act.a > 80 else 0))
    if act.kind in ("heartbeat", "connected", "disconnected"):
        event = 0 if act.a < 3 else now - act.a * 1_000_000
        recv = now - 6 * SECOND if act.b < 5 else now
        return Link(symbol, source, event, recv, act.kind)
    if act.kind == "fetched":
        start = now - now % MINUTE - (act.a % 20) * MINUTE
        return _fetched(symbol, source, start, _level(market, symbol, source), act.b)
    tick = _tick(market, act, symbol, source)
    sent = market.sent.setdefault((symbol, source), [])
    sent.append(tick)
    return tick


def _fetched(symbol: str, source: str, start: int, price: int, b: int) -> Candle:
    """A broker's own candle: of quotes or of trades, and some brokers count no ticks."""
    names = ("open", "high", "low", "close")
    if b % 4 == 0:
        return Candle(symbol, source, start, 0, **dict.fromkeys(names, price), volume=b, trades=b % 3)
    fields = {f"{side}_{name}": price for side in ("bid", "ask") for name in names}
    return Candle(symbol, source, start, 0, **fields, **{f"mid_{n}": price * 10 for n in names}, ticks=b % 3)


def _level(market: _Market, symbol: str, source: str) -> int:
    level = market.level.setdefault(symbol, 109_000)
    return level + market.shift.setdefault((symbol, source), 2 * NAMES.index(source))


def _tick(market: _Market, act: Act, symbol: str, source: str) -> Tick:
    pair = (symbol, source)
    sent = market.sent.get(pair, [])
    if act.kind == "repeat" and sent:
        return changed(sent[-1 - act.a % min(len(sent), 40)], ts_recv=market.now)
    if act.kind == "same_price" and sent:
        seq = market.seq.get(pair, 0)
        return changed(sent[-1], ts_event=market.now, ts_recv=market.now, id="", seq=seq, flags=0)
    amount = SIZES[act.a % len(SIZES)] * (1 if act.b % 2 else -1)
    amount = max(amount, -9_000)
    if act.kind == "jump":
        market.level[symbol] = market.level.get(symbol, 109_000) + amount
    if act.kind == "shift":
        market.shift[pair] = market.shift.get(pair, 0) + amount
    price = _level(market, symbol, source) + act.a % 7 - 3
    if act.kind == "spike":
        price += amount
    if act.kind == "decimal":
        price = price * 10 if act.a < 50 else (price * 100 if act.a < 70 else price // 10)
    price = max(price, 1100)
    if act.kind == "decimal" and act.a >= 90 and sent:
        return _edge_of_decimal(market, act, sent[-1])
    seq = market.seq.get(pair, 0) + 1
    if act.kind == "hole":
        seq += act.a % 4
    if act.kind == "step_back":
        seq = max(seq - act.a % 4, 0)
    market.seq[pair] = max(market.seq.get(pair, 0), seq)
    return _misbehave(market, act, _plain(market, act, symbol, source, price, seq))


def _edge_of_decimal(market: _Market, act: Act, last: Tick) -> Tick:
    """Ten times the last price and five per cent, the most that is still a decimal shift, or one unit more."""
    prices = [last.bid, last.ask] if isinstance(last, Quote) else [last.price]
    shifted = [price * 10 + price // 2 + act.b % 2 for price in prices]
    now = {"ts_event": market.now, "ts_recv": market.now, "id": ""}
    if isinstance(last, Quote):
        return changed(last, bid=shifted[0], ask=shifted[1], **now)
    return changed(last, price=shifted[0], **now)


def _plain(market: _Market, act: Act, symbol: str, source: str, price: int, seq: int) -> Tick:
    market.ids += 1
    now, name = market.now, f"{market.ids - act.b // 97}" if market.setup.ids else ""
    event = now - act.b % 5 * 1_000_000
    if act.kind == "trade" or (act.kind in ("spike", "late", "bad", "decimal") and act.b % 5 == 0):
        return Trade(symbol, source, event, now, price, act.b % 9, name, seq)
    spread = 1 + act.b % 12
    return Quote(symbol, source, event, now, price, price + spread, act.a % 4, act.b % 4, name, seq)


def _misbehave(market: _Market, act: Act, tick: Tick) -> Tick:
    now, a, b = market.now, act.a, act.b
    match act.kind:
        case "snapshot":
            return changed(tick, flags=flags.SNAPSHOT, ts_event=now - a % 3 * SECOND)
        case "late":
            return changed(tick, ts_event=now - LATENESS[a % len(LATENESS)] - b // 33)
        case "fast_clock":
            ahead = (SECOND, 2 * SECOND, 2 * SECOND + 1, 7 * SECOND)[a % 4]
            return changed(tick, ts_event=now + (ahead if b % 3 else 0), ts_recv=now + (ahead if b % 2 else 0))
        case "slow_clock":
            behind = (SECOND, 4 * SECOND, 6 * SECOND, 70 * SECOND, 11 * MINUTE)[a % 5]
            return changed(tick, ts_recv=now - behind, ts_event=tick.ts_event - (behind if b % 2 else 0))
        case "no_time":
            return changed(tick, ts_event=-(a % 2))
        case "bad":
            return _break(tick, a)
    if isinstance(tick, Trade):
        return tick
    match act.kind:
        case "crossed":
            return changed(tick, bid=tick.ask + a % 3, ask=tick.bid)
        case "locked":
            return changed(tick, ask=tick.bid)
        case "one_sided":
            return changed(tick, bid=0, bid_size=0) if a % 2 else changed(tick, ask=0, ask_size=0)
        case "not_tradeable":
            return changed(tick, flags=flags.NOT_TRADEABLE)
        case "wide":
            return changed(tick, ask=tick.bid + tick.bid // 100 + a % 3 - 1)
    return tick


def _break(tick: Tick, a: int) -> Tick:
    if isinstance(tick, Trade):
        fields: list[dict[str, int]] = [
            {"price": 0},
            {"price": -5},
            {"size": -1},
            {"price": 999},
            {"price": 50_000_001},
            {"price": 50_000_000},
            {"price": 1000},
        ]
    else:
        fields = [
            {"bid": -1},
            {"ask": -1},
            {"bid": 0, "ask": 0},
            {"bid_size": -2},
            {"ask_size": -3},
            {"bid": 999},
            {"ask": 50_000_001},
            {"ask": 999, "bid": 0},
            {"bid": 50_000_001, "ask": 0},
            {"bid": 50_000_000, "ask": 0},
            {"bid": 0, "ask": 1000},
        ]
    return changed(tick, **fields[a % len(fields)])


def changed(tick: Tick, **fields: Any) -> Tick:
    """The same tick but for these fields."""
    return replace(tick, **fields)
