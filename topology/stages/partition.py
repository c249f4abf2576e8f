"""One partition of market.raw: its symbols, its clock, and the guard against applying a record twice.

State is saved symbol by symbol, those first that have waited longest, the partition's own record last. So symbols
are saved at different offsets, and after a crash work begins behind the oldest of them: a record at or below a
symbol's applied offset is skipped there, any other is applied again from the same state and gives the same outputs.
"""

from typing import Final, final

import msgspec
from mypy_extensions import i64, mypyc_attr

from schemas import flags
from schemas.instrument import Instrument
from schemas.record import Candle, Clock, Link, Quote, Record, Trade
from topology.stages.pipeline import Made, Symbol
from topology.stages.stamp import SKEW_NS

#: Keys of partition records in the state table begin with this; no symbol does.
PARTITION_KEY: Final = b"#"


@final
@mypyc_attr(acyclic=True)
class Touched:
    """A symbol that has changed, and what it was with the partition just before that."""

    def __init__(self, symbol: Symbol, offset: i64, clock: i64) -> None:
        self.symbol = symbol
        self.offset: i64 = offset
        self.clock: i64 = clock


class Partition:
    """The symbols of one partition. Records go in by ``apply``, outputs collect in ``out``."""

    def __init__(self, number: int, instruments: dict[str, Instrument]) -> None:
        self.number = number
        self.instruments = instruments
        self.symbols: dict[str, Symbol] = {}
        self.out: list[Made] = []
        self.touched: dict[str, Touched] = {}  # changed since they were dumped, in the order in which they were
        self.clock: i64 = 0
        self.offset: i64 = -1  # everything up to here was saved in every symbol when this one was loaded
        self.owed = 0.0  # symbols to save

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
        if not symbol.touched:
            self._touch(symbol, offset, self.clock)
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
        before = self.clock
        if ts > self.clock:
            self.clock = ts
        for symbol in self.symbols.values():
            if symbol.due <= max(self.clock, symbol.now) and offset > symbol.offset:
                try:
                    symbol.advance(self.clock, offset)
                finally:
                    if symbol.offset == offset and not symbol.touched:
                        self._touch(symbol, offset, before)

    def _touch(self, symbol: Symbol, offset: i64, clock: i64) -> None:
        symbol.touched = True
        self.touched[symbol.name] = Touched(symbol, offset - 1, clock)

    def take_touched(self, share: float) -> list[Symbol]:
        """The symbols that have waited longest to be saved, which they are with that.

        As many of those that changed as are ``share`` of all there are.
        """
        self.owed += share * len(self.symbols)
        names = list(self.touched)[: int(self.owed)] if share < 1.0 else list(self.touched)
        self.owed = self.owed - len(names) if len(names) < len(self.touched) else 0.0
        symbols = [self.touched.pop(name).symbol for name in names]
        for symbol in symbols:
            symbol.touched = False
        return symbols

    def dump_own(self, offset: i64) -> tuple[i64, bytes]:
        """Save the partition, which has processed all up to an offset: to where its symbols are saved, and the rest."""
        for oldest in self.touched.values():
            return oldest.offset, msgspec.msgpack.encode(oldest.clock)
        return offset, msgspec.msgpack.encode(self.clock)

    def load_own(self, offset: i64, value: bytes) -> None:
        """Take over what dump_own() gave."""
        self.offset = offset
        self.clock = msgspec.msgpack.decode(value, type=int)

    def load(self, key: bytes, value: bytes) -> None:
        """Take over the state of a symbol. Raises ValueError where it is not ours."""
        name = key.decode()
        instrument = self.instruments.get(name)
        if instrument is None:
            raise ValueError(f"there is state of {name}, but instruments.yaml no longer has it: put it back")
        symbol = Symbol(instrument, self.out)
        symbol.load(value)
        self.symbols[name] = symbol
