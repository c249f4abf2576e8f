"""What a correct pipeline must report of the simulated brokers, computed from the events alone.

`Expected` counts the ticks by what was done to them and keeps its own gap ledger and its own minute candles,
slowly and plainly. It knows none of the stages: a pipeline that agrees with it was right, not merely
consistent with itself.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, field

from connectors.simulated import MINUTE, RULES, SECOND, Event, Label
from schemas import flags
from schemas.record import Candle, Clock, Gap, Link, Tick, Trade

CLOCK_LIMIT_NS = 2 * SECOND  # a time further ahead than this is clamped

#: The reason for which a tick with this label must be refused; the others must be accepted.
REFUSED: dict[Label, str] = {
    Label.DUPLICATE: flags.DUPLICATE,
    Label.SNAPSHOT: flags.OLD_SNAPSHOT,
    Label.LATE: flags.LATE,
    Label.SPIKE: flags.SPIKE,
}


@dataclass
class Minute:
    """One minute of one source, folded tick by tick; first and last are by (event, seq, arrival)."""

    first: dict[str, tuple[tuple[int, int, int], int]] = field(default_factory=dict)
    last: dict[str, tuple[tuple[int, int, int], int]] = field(default_factory=dict)
    high: dict[str, int] = field(default_factory=dict)
    low: dict[str, int] = field(default_factory=dict)
    volume: int = 0
    ticks: int = 0
    trades: int = 0

    def add(self, order: tuple[int, int, int], prices: dict[str, int]) -> None:
        for name, price in prices.items():
            at = (order, price)
            self.first[name] = min(self.first.get(name, at), at)
            self.last[name] = max(self.last.get(name, at), at)
            self.high[name] = max(self.high.get(name, price), price)
            self.low[name] = min(self.low.get(name, price), price)

    def candle(self, symbol: str, source: str, start: int, *, final: bool) -> Candle:
        prices: dict[str, int] = {}
        for name in self.first:
            values = self.first[name][1], self.high[name], self.low[name], self.last[name][1]
            for part, value in zip(("open", "high", "low", "close"), values, strict=True):
                prices[f"{name}_{part}" if name else part] = value
        counts = {"volume": self.volume, "ticks": self.ticks, "trades": self.trades}
        return Candle(symbol, source, start, 0 if final else -1, **prices, **counts)


@dataclass
class _Source:
    """What must be known of one source of one symbol to say which gaps it has."""

    alive_ns: int = 0
    covered_ns: int = 0
    newest_ns: int = 0
    watermark_ns: int = 0
    seq: int = 0
    spoke: bool = False
    open_gap: tuple[int, str] | None = None  # start, cause


class Expected:
    """What a correct pipeline must report of the events given to `note`, which are those that were sent."""

    def __init__(self) -> None:
        self.ticks: Counter[tuple[Label, str, str]] = Counter()
        self.now_ns = 0
        self._noted = 0
        self._gaps: list[Gap] = []
        self._sources: defaultdict[tuple[str, str], _Source] = defaultdict(_Source)
        self._minutes: defaultdict[tuple[str, str, int], Minute] = defaultdict(Minute)

    def note(self, event: Event) -> None:
        """Take one event; in the order in which they are sent."""
        record = event.record
        self.now_ns = event.due_ns
        self._noted += 1
        if isinstance(record, Link):
            self._note_link(record)
        elif not isinstance(record, Clock):
            self.ticks[event.label, record.symbol, record.source] += 1
            self._note_tick(event.label, record, event.due_ns)

    def total(self, *labels: Label) -> int:
        """Count the ticks with these labels; without any: all."""
        return sum(n for (label, _, _), n in self.ticks.items() if not labels or label in labels)

    def gaps(self) -> list[Gap]:
        """The gap ledger, in order of time of its entries."""
        still_open = [
            Gap(symbol, name, source.open_gap[0], 0, source.open_gap[1], "open")
            for (symbol, name), source in self._sources.items()
            if source.open_gap is not None
        ]
        return self._gaps + still_open

    def candles(self) -> dict[tuple[str, str, int], Candle]:
        """Every minute by (symbol, source, start), as it stands now: final (revision 0) or not yet (-1)."""
        return {
            (symbol, source, start): minute.candle(symbol, source, start, final=self._is_final(symbol, source, start))
            for (symbol, source, start), minute in self._minutes.items()
        }

    def _is_final(self, symbol: str, source: str, start: int) -> bool:
        end = start + MINUTE
        watermark_ns = self._sources[symbol, source].watermark_ns
        return watermark_ns >= end + RULES["lateness_ns"] or self.now_ns >= end + RULES["grace_ns"]

    def _note_link(self, link: Link) -> None:
        source = self._sources[link.symbol, link.source]
        if link.event == Label.DISCONNECTED:
            if source.open_gap is None:
                source.open_gap = (source.covered_ns, "disconnect")
        else:
            self._sign_of_life(source, link.ts_recv, link.ts_event)

    def _sign_of_life(self, source: _Source, recv_ns: int, event_ns: int) -> None:
        if source.spoke and source.open_gap is None and recv_ns > source.alive_ns + RULES["ttl_ns"]:
            source.open_gap = (source.covered_ns, "stale")
        source.spoke = True
        source.alive_ns = max(source.alive_ns, recv_ns)
        source.covered_ns = max(source.covered_ns, event_ns)

    def _note_tick(self, label: Label, tick: Tick, due_ns: int) -> None:
        if label in (Label.DUPLICATE, Label.SNAPSHOT):
            return
        source = self._sources[tick.symbol, tick.source]
        recv_ns = due_ns if tick.ts_recv > due_ns + CLOCK_LIMIT_NS else tick.ts_recv
        event_ns = recv_ns if tick.ts_event > recv_ns + CLOCK_LIMIT_NS else tick.ts_event
        if 0 < source.seq < tick.seq - 1:
            gap = Gap(tick.symbol, tick.source, source.newest_ns, event_ns, "sequence", "closed")
            if gap.end > gap.start:
                self._gaps.append(gap)
        source.seq = max(source.seq, tick.seq)
        source.newest_ns = max(source.newest_ns, event_ns)
        if label is Label.LATE:
            return
        self._sign_of_life(source, recv_ns, event_ns)
        if label is Label.SPIKE:
            return
        if source.open_gap is not None:
            start, cause = source.open_gap
            end = max(event_ns, start + 1)
            self._gaps.append(Gap(tick.symbol, tick.source, start, end, cause, "closed"))
            source.open_gap = None
        if label is not Label.CROSSED:
            source.watermark_ns = max(source.watermark_ns, event_ns)
            self._fold(tick, event_ns)

    def _fold(self, tick: Tick, event_ns: int) -> None:
        minute = self._minutes[tick.symbol, tick.source, event_ns - event_ns % MINUTE]
        order = (event_ns, tick.seq, self._noted)
        if isinstance(tick, Trade):
            minute.add(order, {"": tick.price})
            minute.trades += 1
            minute.volume += tick.size
        else:
            mid = (tick.bid + tick.ask) * 5
            minute.add(order, {"bid": tick.bid, "ask": tick.ask, "mid": mid})
            minute.ticks += 1
