"""Four simulated brokers over six instruments, misbehaving in labelled ways. Pure: no I/O, no clock.

`Feed` is an iterator of events in order of time: when to send, which record, and its label. The label says
what was done to the record, and so what a correct pipeline must make of it by docs/stages.md.

Each fault is spaced so that it has one outcome. A quote stream that was disturbed (a spike, a jump, an
outage, a wrong clock) must be calm for CALM ticks before anything else is done to it, and at most one source
of a symbol is disturbed at a time: two sources that spiked to the same level would confirm each other.

    label          what the broker does                          what must come of it
    CLEAN          a tick                                        accepted
    DUPLICATE      sends its last quote again                    refused DUPLICATE
    SNAPSHOT       sends its last quote again, as a snapshot     refused OLD_SNAPSHOT
    OUT_OF_ORDER   a tick up to 3 s older than its newest        accepted, in the candle of its own time
    LATE           a tick 16 to 60 minutes old                   refused LATE
    CROSSED        bid above ask                                 accepted, flag CROSSED, in no candle
    SPIKE          one tick 0.3 % off, then back                 held, refused SPIKE
    JUMP           the first broker at a new level               held, released by the second (flag RELEASED)
    WRONG_CLOCK    event time, or all its clocks, an hour ahead  accepted, clamped, flag BAD_CLOCK
    HOLE           skips sequence numbers                        accepted; a gap, cause sequence

A silent broker (open subscription, neither ticks nor heartbeats) must become a gap with cause stale, one that
disconnects a gap with cause disconnect, and one that has nothing to say but sends heartbeats no gap at all.
"""

import enum
import heapq
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from schemas import flags
from schemas.record import Clock, Link, Quote, Trade, replace

MS = 1_000_000
SECOND = 1_000 * MS
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE

WARM_UP_NS = 2 * SECOND  # clean ticks first, so that every spike window has something to judge by
WIND_DOWN_NS = SECOND  # before the end nothing is done to a tick: spikes return, brokers come back
CLOCK_TAIL_NS = 2 * SECOND  # clocks after the last tick, so that the last provisional candles are written
CALM = 12  # ticks of a source after a disturbance, before the next
SPIKES_PER_JUMP = 5
MOVE = 0.003  # of the price, of a spike or a jump: some ten times the width of the spike band
#: The rules that outcomes depend on. Unfinished candles are written every second, so that the last clocks of the
#: feed bring the newest ones out. The brokers tick too fast for their own pace ever to make the ttl longer.
RULES = {
    "ttl_ns": 5 * SECOND,
    "lateness_ns": 2 * SECOND,
    "grace_ns": 10 * SECOND,
    "provisional_ns": SECOND,
}
#: How long an outage lasts, and at least, so that its outcome is certain, when the feed is asked to finish.
OUTAGES = {
    "silent": (8 * SECOND, 7 * SECOND),
    "disconnect": (6 * SECOND, SECOND),
    "quiet": (7 * SECOND, SECOND),
}
HOST_PAUSE_NS = 3 * SECOND  # after a quote whose receive time is wrong: it counts as of Kafka's append time


class Label(enum.StrEnum):
    """What was done to a record; see the table above."""

    CLEAN = "clean"
    DUPLICATE = "exact duplicate"
    SNAPSHOT = "snapshot repeat"
    OUT_OF_ORDER = "out of order"
    LATE = "late"
    CROSSED = "crossed quote"
    SPIKE = "spike"
    JUMP = "jump, first broker"
    WRONG_CLOCK = "wrong clock"
    HOLE = "sequence hole"
    HEARTBEAT = "heartbeat"
    CONNECTED = "connected"
    DISCONNECTED = "disconnected"
    CLOCK = "clock"


class Event(NamedTuple):
    """One record to send at a time; a Clock goes to every partition."""

    due_ns: int
    record: Quote | Trade | Link | Clock
    label: Label


@dataclass(frozen=True)
class Broker:
    """How one invented broker differs from the others."""

    name: str
    share: float  # of a symbol's ticks
    offset: float  # of its mid, in spreads
    spread: float  # its spread, as a multiple of the symbol's
    latency_ns: int  # ts_recv - ts_event
    ids: bool = False  # its updates carry an id
    heartbeats: bool = False
    contiguous: bool = False  # its sequence numbers have no holes


@dataclass(frozen=True)
class Market:
    """One symbol; prices are mantissas at its price scale."""

    symbol: str
    asset_class: str
    price_scale: int
    price: int
    spread: int
    size: int
    rate: float  # ticks/s of all brokers together
    trades: float = 0.0  # share of its ticks that are trades


BROKERS = (
    Broker("alfa", 0.35, 0.0, 1.0, 4 * MS, ids=True),
    Broker("bravo", 0.28, 0.15, 1.2, 11 * MS),
    Broker("delta", 0.15, -0.2, 1.5, 35 * MS),
    Broker("echo", 0.22, 0.1, 1.3, 18 * MS, heartbeats=True, contiguous=True),
)
MARKETS = (
    Market("EURUSD", "fx", 5, 109_120, 8, 1_000_000, 110),
    Market("GBPUSD", "fx", 5, 127_350, 11, 1_000_000, 80),
    Market("USDJPY", "fx", 3, 151_420, 9, 1_000_000, 90),
    Market("XAUUSD", "metal", 3, 2_651_300, 320, 10_000, 80),
    Market("BTCUSDT", "crypto", 2, 9_724_150, 480, 50_000_000, 120, trades=0.25),
    Market("ETHUSDT", "crypto", 2, 341_280, 40, 400_000_000, 100, trades=0.25),
)


def instruments(classes: dict[str, dict[str, Any]], markets: tuple[Market, ...] = MARKETS) -> dict[str, Any]:
    """Describe the markets as an instruments file does; they never close, so that any day will do.

    classes: those of schemas/instruments.yaml, whose rules are kept where RULES does not say otherwise.
    """
    sources = {
        broker.name: {"priority": number, "contiguous": broker.contiguous} for number, broker in enumerate(BROKERS, 1)
    }
    return {
        "classes": {
            name: {**fields, "calendar": "always", "rules": {**fields.get("rules", {}), **RULES}}
            for name, fields in classes.items()
        },
        "instruments": {
            market.symbol: {
                "class": market.asset_class,
                "price_scale": market.price_scale,
                "sources": sources,
            }
            for market in markets
        },
    }


#: Share of a source's ticks with a fault that needs no script: some 8 a second over all sources.
CHANCES = (
    (Label.DUPLICATE, 0.004),
    (Label.SNAPSHOT, 0.002),
    (Label.OUT_OF_ORDER, 0.003),
    (Label.CROSSED, 0.002),
    (Label.LATE, 0.0015),
    (Label.HOLE, 0.002),  # of the brokers whose numbers have no holes
)


@dataclass(eq=False)
class _Price:
    """The true price of a symbol, which no broker knows exactly."""

    market: Market
    mid: float
    anchor: float
    jumped_ns: int = 0

    def step(self, rng: random.Random) -> float:
        """Walk a twentieth of a spread, drawn back to the anchor slowly."""
        self.mid += rng.gauss(0.0, 0.05 * self.market.spread) + 1e-4 * (self.anchor - self.mid)
        return self.mid

    def jump(self, rng: random.Random) -> None:
        """Move for good; never far from where the demo began."""
        drift = self.mid / self.market.price - 1
        sign = rng.choice((-1, 1)) if abs(drift) < 2 * MOVE else (1 if drift < 0 else -1)
        self.mid *= 1 + sign * MOVE * rng.uniform(1, 1.5)
        self.anchor = self.mid


@dataclass(eq=False)
class _Pair:
    """One broker's subscription to one symbol."""

    broker: Broker
    price: _Price
    seq: int = 0
    newest_ns: int = 0  # event time of its newest tick, as clamped
    last: Quote | None = None  # its newest clean quote
    calm: int = 0  # clean ticks since it was disturbed
    away: bool = False
    muted_until_ns: int = 0
    ahead_until_ns: int = 0  # until then its event times are an hour ahead

    @property
    def symbol(self) -> str:
        return self.price.market.symbol

    @property
    def settled(self) -> bool:
        return self.calm >= CALM and not self.away


@dataclass
class _Outage:
    """Some subscriptions are without ticks; `silent` ones keep their connection."""

    pairs: list[_Pair]
    kind: str  # silent, disconnect, quiet
    began_ns: int
    end_ns: int


@dataclass
class Feed:
    """Iterate for the events, once; the same arguments give the same events.

    start_ns: when the first is due. end_ns: the last is due before it (0: goes on until `finish`).
    """

    seed: int
    start_ns: int
    end_ns: int = 0
    markets: tuple[Market, ...] = MARKETS

    def __post_init__(self) -> None:
        self.injecting = True
        self._rng = random.Random(self.seed)
        self._now_ns = self.start_ns
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._order = 0
        self._out: list[Event] = []
        self._stopped_ns = 0
        self._outage: _Outage | None = None
        self._outages = 0
        self._spikes = 0  # since the last jump
        self._reserved: list[_Pair] = []  # their outage is next: nothing else may disturb them now
        self._last_ns = {"outage": self.start_ns, "price": self.start_ns, "clock": self.start_ns}
        self._prices = [_Price(m, float(m.price), float(m.price)) for m in self.markets]
        self._pairs = [_Pair(broker, price) for price in self._prices for broker in BROKERS]
        for broker in BROKERS:
            self._later(0, partial(self._open, broker))
        self._later(0, self._clock)
        self._later(WARM_UP_NS, self._faults)

    def __iter__(self) -> Iterator[Event]:
        while self._heap:
            self._now_ns, _, action = heapq.heappop(self._heap)
            if self.end_ns and self._now_ns >= self.end_ns - WIND_DOWN_NS - CLOCK_TAIL_NS:
                self.finish()
            action()
            yield from self._out
            self._out.clear()

    def finish(self) -> None:
        """Inject nothing more; the iteration ends when what is under way has come to its outcome."""
        if not self.injecting:
            return
        self.injecting = False
        if (outage := self._outage) is not None:
            earliest_ns = max(self._now_ns, outage.began_ns + OUTAGES[outage.kind][1])
            outage.end_ns = min(outage.end_ns, earliest_ns)
        self._later(0, self._wind_down)

    def _wind_down(self) -> None:
        if self._outage is None and all(pair.calm for pair in self._pairs):
            self._stopped_ns = self._now_ns
        else:
            self._later(50 * MS, self._wind_down)

    def _later(self, delay_ns: int, action: Callable[[], None]) -> None:
        self._order += 1
        heapq.heappush(self._heap, (self._now_ns + delay_ns, self._order, action))

    def _emit(self, record: Quote | Trade | Link | Clock, label: Label) -> None:
        self._out.append(Event(self._now_ns, record, label))

    # What goes on all the time.

    def _clock(self) -> None:
        self._emit(Clock(self._now_ns), Label.CLOCK)
        if not self._stopped_ns or self._now_ns + SECOND <= self._stopped_ns + CLOCK_TAIL_NS:
            self._later(SECOND, self._clock)

    def _open(self, broker: Broker) -> None:
        for pair in self._pairs:
            if pair.broker is broker:
                self._link(pair, Label.CONNECTED)
                self._later(self._pause_ns(pair), partial(self._tick, pair))
        if broker.heartbeats:
            self._later(SECOND, partial(self._heartbeat, broker))

    def _heartbeat(self, broker: Broker) -> None:
        if self._stopped_ns:
            return
        mute = self._outage.pairs if self._outage and self._outage.kind != "quiet" else []
        for pair in self._pairs:
            if pair.broker is broker and pair not in mute:
                self._link(pair, Label.HEARTBEAT)
        self._later(SECOND, partial(self._heartbeat, broker))

    def _link(self, pair: _Pair, label: Label, reason: str = "") -> None:
        event_ns = self._now_ns - pair.broker.latency_ns
        self._emit(Link(pair.symbol, pair.broker.name, event_ns, self._now_ns, str(label), reason), label)

    def _pause_ns(self, pair: _Pair) -> int:
        per_second = pair.price.market.rate * pair.broker.share
        return int(SECOND * min(0.5, max(0.001, self._rng.expovariate(per_second))))

    def _tick(self, pair: _Pair) -> None:
        """Send the next tick of a subscription: clean, or with one of the faults that need no script."""
        if self._stopped_ns or pair.away:
            return
        self._later(self._pause_ns(pair), partial(self._tick, pair))
        if self._now_ns < pair.muted_until_ns:
            return
        if self._now_ns < pair.ahead_until_ns:
            self._send_ahead(pair)
        elif self.injecting and pair.settled:
            self._send(pair, self._draw(pair))
        else:
            self._send(pair, Label.CLEAN)

    def _draw(self, pair: _Pair) -> Label:
        chance = self._rng.random()
        for label, share in CHANCES:
            chance -= share
            if chance < 0 and (label is not Label.HOLE or pair.broker.contiguous):
                return label
        return Label.CLEAN

    # One tick.

    def _send(self, pair: _Pair, label: Label) -> None:
        last, now_ns = pair.last, self._now_ns
        if label is Label.DUPLICATE and last is not None:
            self._emit(replace(last, ts_recv=now_ns), label)
        elif label is Label.SNAPSHOT and last is not None:
            self._emit(replace(last, ts_recv=now_ns, flags=flags.SNAPSHOT), label)
        elif label is Label.CROSSED:
            quote = self._quote(pair)
            self._emit(replace(quote, bid=quote.ask, ask=quote.bid), label)
        elif label is Label.OUT_OF_ORDER:
            back_ns = self._rng.randint(200 * MS, 3 * SECOND)
            self._emit(self._quote(pair, event_ns=pair.newest_ns - back_ns), label)
        elif label is Label.LATE:
            age_ns = self._rng.randint(16 * MINUTE, HOUR)
            self._emit(self._quote(pair, event_ns=now_ns - age_ns), label)
        elif label is Label.CLEAN and self._rng.random() < pair.price.market.trades:
            pair.calm += 1
            self._emit(self._trade(pair), label)
        else:
            self._send_clean(pair, label)

    def _send_clean(self, pair: _Pair, label: Label = Label.CLEAN) -> None:
        pair.seq += self._rng.randint(1, 5) if label is Label.HOLE else 0
        pair.calm += 1
        pair.last = self._quote(pair)
        self._emit(pair.last, label)

    def _send_ahead(self, pair: _Pair) -> None:
        """Send a quote of a broker whose own clock is an hour ahead; it counts as of its arrival."""
        pair.calm = 0
        quote = self._quote(pair, event_ns=self._now_ns + HOUR)
        pair.newest_ns = self._now_ns
        self._emit(quote, Label.WRONG_CLOCK)

    def _send_from_wrong_host(self, pair: _Pair) -> None:
        """Send a quote received on a host whose clock is an hour ahead; it counts as of Kafka's append time.

        When that will be is not known here, so this source waits until any order of the two is certain.
        """
        pair.calm = 0
        pair.muted_until_ns = self._now_ns + HOST_PAUSE_NS
        wrong_ns = self._now_ns + HOUR
        quote = self._quote(pair, event_ns=wrong_ns - pair.broker.latency_ns)
        self._emit(replace(quote, ts_recv=wrong_ns), Label.WRONG_CLOCK)

    def _quote(self, pair: _Pair, *, event_ns: int | None = None, moved: float = 0.0) -> Quote:
        """Make a quote around the true price; `moved` is a share of it, for this quote only."""
        market, broker, rng = pair.price.market, pair.broker, self._rng
        mid = pair.price.step(rng) * (1 + moved) + broker.offset * market.spread
        half = market.spread * broker.spread * rng.uniform(0.85, 1.15) / 2
        bid = round(mid - half)
        if event_ns is None:
            event_ns = pair.newest_ns = max(pair.newest_ns + 1, self._now_ns - broker.latency_ns)
        pair.seq += 1
        return Quote(
            symbol=market.symbol,
            source=broker.name,
            ts_event=event_ns,
            ts_recv=self._now_ns,
            bid=bid,
            ask=max(bid + 1, round(mid + half)),
            bid_size=market.size * rng.randint(1, 20) // 4,
            ask_size=market.size * rng.randint(1, 20) // 4,
            id=str(pair.seq) if broker.ids else "",
            seq=pair.seq if broker.contiguous else 0,
        )

    def _trade(self, pair: _Pair) -> Trade:
        quote = self._quote(pair)
        return Trade(
            symbol=quote.symbol,
            source=quote.source,
            ts_event=quote.ts_event,
            ts_recv=quote.ts_recv,
            price=self._rng.choice((quote.bid, quote.ask)),
            size=quote.bid_size // 10,
            id=quote.id,
            seq=quote.seq,
        )

    # Faults that follow a script: every 100 ms is decided what begins and what ends.

    def _faults(self) -> None:
        if self._outage is not None and self._now_ns >= self._outage.end_ns:
            self._come_back(self._outage)
        if self.injecting:
            self._begin_outage()
            self._disturb_price()
            self._disturb_clock()
        if self.injecting or self._outage is not None:
            self._later(100 * MS, self._faults)

    def _may(self, track: str, every_ns: int, duration_ns: int) -> bool:
        """Say whether it is time for the next fault of a track, and its outcome comes before the end."""
        left_ns = self.end_ns - WIND_DOWN_NS - CLOCK_TAIL_NS - self._now_ns
        return self._now_ns - self._last_ns[track] >= every_ns and (not self.end_ns or duration_ns < left_ns)

    def _ready(self) -> list[_Pair]:
        """The sources that may be disturbed: their whole symbol is settled, and no outage waits for them.

        Nor may a symbol that jumped while one of its brokers was away: that broker's last price would bear
        out whoever comes near the former level.
        """
        restless = {pair.symbol for pair in self._pairs if not pair.away and not pair.settled}
        if self._outage is not None:
            restless |= {p.market.symbol for p in self._prices if p.jumped_ns >= self._outage.began_ns}
        return [
            pair for pair in self._pairs if pair.settled and pair.symbol not in restless and pair not in self._reserved
        ]

    def _disturb_price(self) -> None:
        if not self._may("price", 1200 * MS, 2 * SECOND):
            return
        ready = self._ready()
        whole = [
            price
            for price in self._prices
            if all(pair.away or pair in ready for pair in self._pairs if pair.price is price)
        ]
        if whole and self._spikes >= SPIKES_PER_JUMP:
            self._spikes = 0
            self._jump(self._rng.choice(whole))
        elif ready:
            self._spikes += 1
            pair = self._rng.choice(ready)
            pair.calm = 0
            moved = self._rng.choice((-MOVE, MOVE)) * self._rng.uniform(1, 2)
            self._emit(self._quote(pair, moved=moved), Label.SPIKE)
        else:
            return
        self._last_ns["price"] = self._now_ns

    def _jump(self, price: _Price) -> None:
        """Move the price for good; every broker says so within 60 ms, and the second bears out the first."""
        price.jump(self._rng)
        price.jumped_ns = self._now_ns
        pairs = [pair for pair in self._pairs if pair.price is price and not pair.away]
        self._rng.shuffle(pairs)
        for number, pair in enumerate(pairs):
            pair.calm = 0
            pair.muted_until_ns = self._now_ns + len(pairs) * 20 * MS
            if number:
                self._later(number * 20 * MS, partial(self._send_clean, pair))
        self._emit(self._quote(pairs[0]), Label.JUMP)

    def _disturb_clock(self) -> None:
        """Put the clock of one source an hour ahead for 2 s, or that of the host that received one quote."""
        ready = self._ready()
        if not ready or not self._may("clock", 5 * SECOND, 4 * SECOND):
            return
        self._last_ns["clock"] = self._now_ns
        pair = self._rng.choice(ready)
        # What counts as of Kafka's append time should not do so in the next minute.
        if self._rng.random() < 0.5 and self._now_ns % MINUTE < 55 * SECOND:
            self._send_from_wrong_host(pair)
        else:
            pair.ahead_until_ns = self._now_ns + 2 * SECOND
            self._send_ahead(pair)

    def _begin_outage(self) -> None:
        kind = tuple(OUTAGES)[self._outages % len(OUTAGES)]
        duration_ns, _ = OUTAGES[kind]
        if self._outage is not None or not self._may("outage", 3 * SECOND, duration_ns + SECOND):
            self._reserved = []
            return
        turn = (self._outages + 1) % len(BROKERS)
        broker = next(b for b in BROKERS if b.heartbeats) if kind == "quiet" else BROKERS[turn]
        self._reserved = [pair for pair in self._pairs if pair.broker is broker]
        if not all(pair.settled for pair in self._reserved):
            return
        self._outage = _Outage(self._reserved, kind, self._now_ns, self._now_ns + duration_ns)
        self._outages += 1
        for pair in self._outage.pairs:
            pair.away = True
            if kind == "disconnect":
                self._link(pair, Label.DISCONNECTED, "connection reset by peer")

    def _come_back(self, outage: _Outage) -> None:
        for pair in outage.pairs:
            pair.away, pair.calm = False, 0
            if outage.kind == "disconnect":
                self._link(pair, Label.CONNECTED)
                self._send(pair, Label.SNAPSHOT)
            self._later(self._pause_ns(pair), partial(self._tick, pair))
        self._outage = None
        self._last_ns["outage"] = self._now_ns
