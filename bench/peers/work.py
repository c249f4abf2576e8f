"""The peers' work: drop repeats, best price over the sources of a symbol, minute candles. Pure, without Kafka.

``Symbol`` is the state of a key and what one quote does to it. ``Work`` is the work of one partition as tickloom's
lanes want it (``topology/processor.py``). Compiled by mypyc (setup.py).
"""

import struct
from typing import Any, Final

import msgspec
from librt.vecs import append, vec
from mypy_extensions import i64, mypyc_attr

from bench.peers.codec import Quote, best_bytes, candle_bytes, quote_of
from topology.batch import NO_HEADERS, Records
from topology.stages.pipeline import VERSION

MINUTE: Final = 60_000_000_000
STALE: Final = 5_000_000_000  # a source not heard for longer takes no part in the best price
SEEN: Final = 16  # accepted quotes of a source among which a repeat is looked for
NONE: Final = b""  # no candle was finished

OUTPUTS: Final = ("tick", "best", "candle")
TICK: Final = 0
BEST: Final = 1
CANDLE: Final = 2

_OFFSET: Final = struct.Struct(">q")
_OWN: Final = struct.Struct(">qBq")
_PARTITION: Final = b"#"  # the partition's own record in the changelog; no symbol begins with it


@mypyc_attr(acyclic=True)
class Source:
    """What is kept of one source of a symbol: its last accepted quotes, its present quote, its open minute."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.recv: i64 = 0
        self.bid: i64 = 0
        self.ask: i64 = 0
        self.marks = vec[i64](capacity=3 * SEEN)  # (ts_event, bid, ask) of each
        self.at: i64 = 0  # where the next one goes once all places are taken
        self.start: i64 = -1
        self.open: i64 = 0
        self.high: i64 = 0
        self.low: i64 = 0
        self.close: i64 = 0
        self.ticks: i64 = 0

    def repeats(self, quote: Quote) -> bool:
        """Whether this quote is among the last ones; if not it is remembered."""
        marks = self.marks
        n: i64 = len(marks)
        i: i64 = 0
        while i < n:
            if marks[i] == quote.ts_event and marks[i + 1] == quote.bid and marks[i + 2] == quote.ask:
                return True
            i += 3
        if n < 3 * SEEN:
            self.marks = append(append(append(marks, quote.ts_event), quote.bid), quote.ask)
            return False
        at: i64 = self.at
        marks[at] = quote.ts_event
        marks[at + 1] = quote.bid
        marks[at + 2] = quote.ask
        self.at = at + 3 if at < 3 * SEEN - 3 else 0
        return False

    def to_candle(self, quote: Quote) -> bytes:
        """Count the quote in its minute; give the candle that it finishes, or NONE."""
        mid: i64 = (quote.bid + quote.ask) // 2
        start: i64 = quote.ts_event - quote.ts_event % MINUTE
        if start < self.start:
            return NONE
        if start == self.start:
            if mid > self.high:
                self.high = mid
            if mid < self.low:
                self.low = mid
            self.close = mid
            self.ticks += 1
            return NONE
        finished = NONE
        if self.start >= 0:
            finished = candle_bytes(self.start, self.open, self.high, self.low, self.close, self.ticks)
        self.start = start
        self.open = self.high = self.low = self.close = mid
        self.ticks = 1
        return finished

    def dump(self) -> list[Any]:
        """State as plain data."""
        return [
            self.name, self.recv, self.bid, self.ask, list(self.marks), self.at,
            self.start, self.open, self.high, self.low, self.close, self.ticks,
        ]  # fmt: skip

    def load(self, data: list[Any]) -> None:
        """Take over what dump() gave."""
        self.recv, self.bid, self.ask = data[1], data[2], data[3]
        for number in data[4]:
            self.marks = append(self.marks, number)
        self.at, self.start, self.open, self.high, self.low, self.close, self.ticks = data[5:]


@mypyc_attr(acyclic=True)
class Symbol:
    """The sources of one symbol, in the order of their names."""

    def __init__(self, key: bytes) -> None:
        self.key: Final = key
        self.sources: list[Source] = []
        self.offset: i64 = -1  # of the last record applied
        self.is_changed = False  # since the last save

    def source(self, name: str) -> Source:
        """The source of this name; made where there is none yet."""
        for source in self.sources:
            if source.name == name:
                return source
        source = Source(name)
        by_name = {each.name: each for each in [*self.sources, source]}
        self.sources = [by_name[each] for each in sorted(by_name)]
        return source

    def dump(self) -> bytes:
        """The offset that it has applied, and the state."""
        return _OFFSET.pack(self.offset) + msgspec.msgpack.encode([source.dump() for source in self.sources])

    def best(self, now: i64) -> bytes:
        """The best bid and ask of the sources heard lately; of equal ones the first. One has just been heard."""
        bid: Source | None = None
        ask: Source | None = None
        for source in self.sources:
            if now - source.recv > STALE:
                continue
            if bid is None or source.bid > bid.bid:
                bid = source
            if ask is None or source.ask < ask.ask:
                ask = source
        assert bid is not None
        assert ask is not None
        return best_bytes(now, bid.bid, bid.name, ask.ask, ask.name)


class Work:
    """The work of one partition, from assignment to revocation."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting = 0  # outputs not yet taken
        self.symbols: dict[bytes, Symbol] = {}
        self.changed: list[Symbol] = []  # since the last save
        self.saved: i64 = -1  # every symbol has applied everything up to this offset
        self.offset: i64 = -1  # of the last record processed
        self.outputs = [Records() for _ in OUTPUTS]

    def process(self, records: list[Any]) -> None:
        """Apply fetched records (``topology.fetched.Fetched``) in their order. Raises ValueError, IndexError."""
        ticks, bests, candles = self.outputs
        symbols = self.symbols
        saved: i64 = self.saved
        for record in records:
            offset: i64 = record.offset
            key: bytes = record.key
            value: bytes = record.value
            symbol = symbols.get(key)
            if symbol is None:
                symbol = symbols[key] = Symbol(key)
            if offset <= symbol.offset or offset <= saved:  # its state has applied it before a crash
                continue
            symbol.offset = offset
            if not symbol.is_changed:
                symbol.is_changed = True
                self.changed.append(symbol)

            quote = quote_of(value)
            source = symbol.source(quote.source)
            if source.repeats(quote):
                continue
            source.recv = quote.ts_recv
            source.bid = quote.bid
            source.ask = quote.ask
            ticks.add(key, value, NO_HEADERS)
            bests.add(key, symbol.best(quote.ts_recv), NO_HEADERS)
            start: i64 = source.start
            candle = source.to_candle(quote)
            if candle is not NONE:
                candles.add(b"%b|%b|%d" % (key, source.name.encode(), start), candle, NO_HEADERS)
        self.offset = records[-1].offset
        self.waiting = len(ticks) + len(bests) + len(candles)

    @property
    def unsaved(self) -> int:
        """How many symbols have changed since the last save."""
        return len(self.changed)

    def take(self) -> list[Records]:
        """Hand over the outputs made since the last time, in the order of OUTPUTS."""
        outputs = self.outputs
        self.outputs = [Records() for _ in OUTPUTS]
        self.waiting = 0
        return outputs

    def save(self, share: float) -> list[tuple[bytes, bytes]]:
        """What has changed since the last time, as (key, value) for the changelog; the partition's own record last.

        All of it, whatever ``share`` says: Kafka Streams writes all at a commit, too. A value begins with the offset
        that it has applied: of two records of a key the later one stands.
        """
        saved = [(symbol.key, symbol.dump()) for symbol in self.changed]
        for symbol in self.changed:
            symbol.is_changed = False
        self.changed = []
        self.saved = self.offset
        saved.append((_PARTITION + b"%d" % self.number, _OWN.pack(self.offset, VERSION, self.offset)))
        return saved

    def states(self) -> list[tuple[bytes, bytes]]:
        """The states of all symbols, as `save` gives them."""
        return [(symbol.key, symbol.dump()) for symbol in self.symbols.values()]

    def load(self, key: bytes, value: bytes) -> None:
        """Take over one saved record."""
        offset: i64 = _OFFSET.unpack_from(value)[0]
        if key.startswith(_PARTITION):
            self.saved = self.offset = offset
            return
        symbol = self.symbols[key] = Symbol(key)
        symbol.offset = offset
        for data in msgspec.msgpack.decode(value[_OFFSET.size :]):
            source = Source(data[0])
            source.load(data)
            symbol.sources.append(source)
