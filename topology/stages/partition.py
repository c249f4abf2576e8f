"""One partition of market.raw: its symbols, its clock, and the guard against applying a record twice.

State is saved symbol by symbol, the partition's own record last. After a crash some symbols may be ahead of
the partition: a record at or below a symbol's applied offset is skipped there, any other is applied again from the
same state and gives the same outputs.
"""

from typing import Final

import msgspec
from mypy_extensions import i64

from schemas import flags
from schemas.instrument import Instrument
from schemas.record import Candle, Clock, Link, Quote, Record, Trade
from topology.stages.pipeline import Made, Symbol
from topology.stages.stamp import SKEW_NS

#: Keys of partition records in the state table begin with this; no symbol does.
PARTITION_KEY: Final = b"#"


class Partition:
    """The symbols of one partition. Records go in by ``apply``, outputs collect in ``out``."""

    def __init__(self, number: int, instruments: dict[str, Instrument]) -> None:
        self.number = number
        self.instruments = instruments
        self.symbols: dict[str, Symbol] = {}
        self.out: list[Made] = []
        self.touched: dict[str, Symbol] = {}  # changed since the last dump
        self.clock: i64 = 0
        self.offset: i64 = -1  # everything up to here is saved in every symbol

    def apply(self, record: Record, offset: i64, append: i64) -> str:
        """Apply one record, appended by the broker at ``append`` ns; give a dead-letter reason or nothing."""
        if offset <= self.offset:
            return ""
        if isinstance(record, (Quote, Trade, Link, Candle)):
            name = record.symbol
        elif isinstance(record, Clock):
            self._pass_time(record.ts_recv, offset, append)
            return ""
        else:
            return flags.UNEXPECTED_RECORD
        symbol = self.symbols.get(name)
        if symbol is None:
            instrument = self.instruments.get(name)
            if instrument is None:
                return flags.UNKNOWN_SYMBOL
            symbol = self.symbols[name] = Symbol(instrument, self.out)
        if offset <= symbol.offset:
            return ""
        self.touched[name] = symbol
        if isinstance(record, Quote):
            return symbol.on_quote(record, offset, append, self.clock)
        if isinstance(record, Trade):
            return symbol.on_trade(record, offset, append, self.clock)
        if isinstance(record, Link):
            return symbol.on_link(record, offset, append, self.clock)
        return symbol.on_candle(record, offset, self.clock)

    def _pass_time(self, ts: i64, offset: i64, append: i64) -> None:
        if ts > append + SKEW_NS:
            ts = append
        if ts > self.clock:
            self.clock = ts
        for name, symbol in self.symbols.items():
            if symbol.due <= max(self.clock, symbol.now) and offset > symbol.offset:
                symbol.advance(self.clock, offset)
                if symbol.offset == offset:
                    self.touched[name] = symbol

    def dump(self, offset: int) -> list[tuple[bytes, bytes]]:
        """Save what has changed, as (key, value) in the order in which they must become durable."""
        saved = [(name.encode(), symbol.dump()) for name, symbol in self.touched.items()]
        self.touched = {}
        self.offset = offset
        saved.append((PARTITION_KEY + b"%d" % self.number, msgspec.msgpack.encode([self.clock, offset])))
        return saved

    def load(self, key: bytes, value: bytes) -> None:
        """Take over one saved record. Raises ValueError where it is not ours."""
        if key.startswith(PARTITION_KEY):
            self.clock, self.offset = msgspec.msgpack.decode(value)
            return
        name = key.decode()
        instrument = self.instruments.get(name)
        if instrument is None:
            raise ValueError(f"there is state of {name}, but instruments.yaml no longer has it: put it back")
        symbol = Symbol(instrument, self.out)
        symbol.load(value)
        self.symbols[name] = symbol
