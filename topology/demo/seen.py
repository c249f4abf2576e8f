"""What the pipeline reported in the demo: every output record read back, added up for the view and the summary.

`Seen.take` gets each record that was consumed from an output topic. It makes its own candles of the best
price from the published best prices, to hold against those that the pipeline wrote; nothing else is computed
here, and nothing comes from the feed.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from schemas import flags
from schemas.record import Best, Candle, Gap, Quote, Rejected, Status, Trade
from topology.demo.expected import Minute

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
RATE_S = 5  # ticks/s are counted over this long
LATENCY_S = 10  # latency of late is of this long; and what is read in the first so many seconds is told apart: Kafka's
# partitions are new then, and each one's first files cost it some 20 ms
HAPPENINGS = 50
TOGETHER_NS = SECOND  # what is told of several symbols within this is one happening
NO_PRICE = ("no_source", "locked", "crossed")  # states of best that make no candle

#: Reasons that are worth a line when they happen; the others are too many.
TELLING = {
    flags.SPIKE: "a spike of {} was held, then refused",
    flags.SPIKE_TIMEOUT: "a suspect of {} was refused, as nothing confirmed it",
}
OPENED = {"stale": "{} is connected but silent: gap opened", "disconnect": "{} is disconnected: gap opened"}


@dataclass
class Happening:
    """Something worth a line: the same of several symbols at about the same time is one."""

    at_ns: int  # when it was read
    what: str
    symbols: list[str]


class Latency:
    """Times from a tick's arrival to the best price it made, read back from Kafka; kept to 0.1 ms."""

    def __init__(self, times_ns: Iterable[int] = ()) -> None:
        self._tenths: Counter[int] = Counter()
        for ns in times_ns:
            self.add(ns)

    def add(self, ns: int) -> None:
        self._tenths[max(0, ns) // 100_000] += 1

    def percentile(self, share: float) -> float | None:
        """Milliseconds, or None where nothing was measured."""
        left = share * self._tenths.total()
        for tenth in sorted(self._tenths):
            left -= self._tenths[tenth]
            if left <= 0:
                return tenth / 10
        return None


class Seen:
    """Everything read from the output topics so far. Counts of ticks are by (what, symbol, source)."""

    def __init__(self) -> None:
        self.accepted: Counter[tuple[str, str]] = Counter()  # by (symbol, source)
        self.refused: Counter[tuple[str, str, str]] = Counter()
        self.flagged: Counter[tuple[str, str, str]] = Counter()
        self.reordered: Counter[tuple[str, str]] = Counter()  # accepted though older than the one before
        self.best: dict[str, Best] = {}
        self.best_count = 0
        self.best_minutes: defaultdict[tuple[str, int], Minute] = defaultdict(Minute)
        self.candles: dict[tuple[str, str, int], Candle] = {}
        self.gaps: dict[tuple[str, str, int], Gap] = {}
        self.status: dict[tuple[str, str], Status] = {}
        self.dead_letters = 0
        self.latency = Latency()
        self.settled = Latency()  # without the first LATENCY_S
        self._late_latency: deque[tuple[int, int]] = deque(maxlen=20_000)  # (when it was read, the time it took)
        self._first_ns = 0  # when the first of them was read
        self.happenings: deque[Happening] = deque(maxlen=HAPPENINGS)
        self._newest: dict[tuple[str, str], int] = {}
        self._recent: defaultdict[str, deque[int]] = defaultdict(lambda: deque(maxlen=10_000))

    def take(self, record: Any, now_ns: int) -> None:
        """Take one output record; now_ns: the wall clock when it was read."""
        if isinstance(record, Quote | Trade):
            self._take_tick(record, now_ns)
        elif isinstance(record, Rejected):
            self._take_rejected(record, now_ns)
        elif isinstance(record, Best):
            self._take_best(record, now_ns)
        elif isinstance(record, Candle):
            self.candles[record.symbol, record.source, record.start] = record
        elif isinstance(record, Gap):
            self._take_gap(record, now_ns)
        elif isinstance(record, Status):
            self.status[record.symbol, record.source] = record

    def rate(self, symbol: str, now_ns: int) -> float:
        """Accepted ticks of a symbol a second, of late."""
        recent = self._recent[symbol]
        while recent and recent[0] < now_ns - RATE_S * SECOND:
            recent.popleft()
        return len(recent) / RATE_S

    def recent_latency(self, now_ns: int) -> Latency:
        """Of the best prices that were read of late."""
        late = self._late_latency
        while late and late[0][0] < now_ns - LATENCY_S * SECOND:
            late.popleft()
        return Latency(took_ns for _, took_ns in late)

    def total_refused(self, *reasons: str) -> int:
        """Count the refused ticks with these reasons; without any: all."""
        return sum(n for (reason, _, _), n in self.refused.items() if not reasons or reason in reasons)

    def open_gaps(self) -> list[Gap]:
        """The gaps that are not closed, the oldest first."""
        return sorted((gap for gap in self.gaps.values() if gap.status == "open"), key=lambda gap: gap.start)

    def best_candles(self) -> dict[tuple[str, str, int], Candle]:
        """The candles of the best price as they follow from the best prices read; revision -1."""
        return {
            (symbol, "best", start): minute.candle(symbol, "best", start, final=False)
            for (symbol, start), minute in self.best_minutes.items()
        }

    def _take_tick(self, tick: Quote | Trade, now_ns: int) -> None:
        key = (tick.symbol, tick.source)
        self.accepted[key] += 1
        self._recent[tick.symbol].append(now_ns)
        for name in flags.names(tick.flags) if tick.flags else ():
            self.flagged[name, *key] += 1
        if tick.flags & flags.RELEASED:
            what = f"{tick.source} jumped, was held, then confirmed"
            self._tell(now_ns, what, tick.symbol)
        newest = self._newest.get(key, 0)
        self.reordered[key] += tick.ts_event < newest
        self._newest[key] = max(newest, tick.ts_event)

    def _take_rejected(self, rejected: Rejected, now_ns: int) -> None:
        tick = rejected.tick
        self.refused[rejected.reason, tick.symbol, tick.source] += 1
        if (what := TELLING.get(rejected.reason)) is not None:
            self._tell(now_ns, what.format(tick.source), tick.symbol)

    def _take_best(self, best: Best, now_ns: int) -> None:
        self.best[best.symbol] = best
        self.best_count += 1
        if best.ts_event < best.ts_recv:  # else time alone made it, and no tick waited for it
            self._take_latency(now_ns - best.ts_recv, now_ns)
        if best.state not in NO_PRICE:
            start = best.ts_event - best.ts_event % MINUTE
            prices = {"bid": best.bid, "ask": best.ask, "mid": best.consensus}
            minute = self.best_minutes[best.symbol, start]
            minute.add((best.ts_event, 0, self.best_count), prices)
            minute.ticks += 1

    def _take_latency(self, took_ns: int, now_ns: int) -> None:
        self._first_ns = self._first_ns or now_ns
        self.latency.add(took_ns)
        self._late_latency.append((now_ns, took_ns))
        if now_ns >= self._first_ns + LATENCY_S * SECOND:
            self.settled.add(took_ns)

    def _take_gap(self, gap: Gap, now_ns: int) -> None:
        self.gaps[gap.symbol, gap.source, gap.start] = gap
        if gap.status == "open":
            self._tell(now_ns, OPENED.get(gap.cause, "{}: gap opened").format(gap.source), gap.symbol)
        elif gap.cause == "sequence":
            self._tell(now_ns, f"{gap.source} left out sequence numbers: gap noted", gap.symbol)
        else:
            self._tell(now_ns, f"{gap.source} is back: gap closed", gap.symbol)

    def _tell(self, now_ns: int, what: str, symbol: str) -> None:
        for happening in self.happenings:
            if happening.what == what and now_ns < happening.at_ns + TOGETHER_NS:
                if symbol not in happening.symbols:
                    happening.symbols.append(symbol)
                return
        self.happenings.append(Happening(now_ns, what, [symbol]))
