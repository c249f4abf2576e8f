"""Ticks as the table takes them at once: PostgreSQL's binary COPY, prices and sizes as exact decimals.

Most of what is stored is ticks, and as good as all of them are new. So they go straight into their table, without the
staging that the upserts of the other tables need (``tables.py`` says the same of them for the few that come again);
it takes the server half the time. Compiled by mypyc, for it is the work of every tick.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from librt.strings import BytesWriter, write_i16_be, write_i32_be, write_i64_be
from mypy_extensions import i16, i32, i64

from schemas.instrument import Instrument
from schemas.record import Quote, Trade

#: The columns of the table, in the order of `Encoder`.
COLUMNS: Final = (
    "run, symbol, source, ts_event, ts_recv, ts_event_ns, ts_recv_ns, bid, ask, bid_size, ask_size, price, size, "
    "id, seq, flags, source_offset"
)
COPY: Final = f"COPY ticks ({COLUMNS}) FROM STDIN (FORMAT binary)"

_COUNT: Final[i16] = 17
HEADER: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)  # signature, no flags, no extension
TRAILER: Final = b"\xff\xff"
_EPOCH_US: Final[i64] = 946_684_800_000_000  # PostgreSQL counts from 2000
_NEGATIVE: Final[i16] = 0x4000
_BASE: Final[i64] = 10_000  # of the digits of a numeric


class Block(NamedTuple):
    """Ticks that are encoded: between HEADER and TRAILER they are what COPY takes."""

    copied: bytes
    ticks: int  # how many
    rows: Callable[[], list[tuple[Any, int, Any]]]  # the same as rows of ``tables.py``, where they can't be copied


class Encoder:
    """Encodes the ticks of one run."""

    def __init__(self, run: str, instruments: Mapping[str, Instrument]) -> None:
        self._run = run.encode()
        self._price_scales = {symbol: each.price_scale for symbol, each in instruments.items()}
        self._size_scales = {symbol: each.size_scale for symbol, each in instruments.items()}

    def put(self, out: BytesWriter, tick: Quote | Trade, offset: i64) -> bool:
        """Append a tick with its offset in market.raw; False, and nothing is, where its symbol is not known."""
        if tick.symbol not in self._price_scales:
            return False
        if isinstance(tick, Quote):
            self._quote(out, tick, offset)
        else:
            self._trade(out, tick, offset)
        return True

    def _quote(self, out: BytesWriter, quote: Quote, offset: i64) -> None:
        self._begin(out, quote.symbol, quote.source, quote.ts_event, quote.ts_recv)
        price = self._price_scales[quote.symbol]
        size = self._size_scales[quote.symbol]
        put_price(out, quote.bid, price)
        put_price(out, quote.ask, price)
        put_numeric(out, quote.bid_size, size)
        put_numeric(out, quote.ask_size, size)
        put_null(out)
        put_null(out)
        put_end(out, quote.id, quote.seq, quote.flags, offset)

    def _trade(self, out: BytesWriter, trade: Trade, offset: i64) -> None:
        self._begin(out, trade.symbol, trade.source, trade.ts_event, trade.ts_recv)
        put_null(out)
        put_null(out)
        put_null(out)
        put_null(out)
        put_price(out, trade.price, self._price_scales[trade.symbol])
        put_numeric(out, trade.size, self._size_scales[trade.symbol])
        put_end(out, trade.id, trade.seq, trade.flags, offset)

    def _begin(self, out: BytesWriter, symbol: str, source: str, ts_event: i64, ts_recv: i64) -> None:
        write_i16_be(out, _COUNT)
        put_bytes(out, self._run)
        put_bytes(out, symbol.encode())
        put_bytes(out, source.encode())
        put_long(out, microseconds(ts_event) - _EPOCH_US)
        put_long(out, microseconds(ts_recv) - _EPOCH_US)
        put_long(out, ts_event)
        put_long(out, ts_recv)


def put_end(out: BytesWriter, id: str, seq: i64, flags: i64, offset: i64) -> None:
    """Append what follows the prices."""
    put_bytes(out, id.encode())
    put_long(out, seq)
    put_integer(out, flags)
    put_long(out, offset)


def microseconds(ns: i64) -> i64:
    """ns to µs, towards zero as PostgreSQL divides."""
    return ns // 1000 if ns >= 0 else -(-ns // 1000)


def put_null(out: BytesWriter) -> None:
    """Append a NULL."""
    write_i32_be(out, -1)


def put_bytes(out: BytesWriter, data: bytes) -> None:
    """Append a text."""
    size: i64 = len(data)
    write_i32_be(out, i32(size))
    out.write(data)


def put_long(out: BytesWriter, value: i64) -> None:
    """Append a bigint or a timestamptz."""
    write_i32_be(out, 8)
    write_i64_be(out, value)


def put_integer(out: BytesWriter, value: i64) -> None:
    """Append an integer; one of more than 32 bits in a way that the server refuses."""
    if -(1 << 31) <= value < (1 << 31):
        write_i32_be(out, 4)
        write_i32_be(out, i32(value))
    else:
        put_long(out, value)


def put_price(out: BytesWriter, mantissa: i64, scale: i64) -> None:
    """Append a numeric, or NULL for 0: there is no such price."""
    if mantissa == 0:
        put_null(out)
    else:
        put_numeric(out, mantissa, scale)


def put_numeric(out: BytesWriter, mantissa: i64, scale: i64) -> None:
    """Append mantissa / 10^scale: digits of base 10,000, the point between two of them."""
    behind: i64 = (scale + 3) // 4  # digits behind the point
    shift: i64 = 1  # the last of them has so many too few
    for _ in range(4 * behind - scale):
        shift *= 10
    unit: i64 = _BASE // shift
    rest: i64 = mantissa // unit
    last: i64 = mantissa - rest * unit
    if mantissa < 0:  # of its amount, which not every number of 64 bits has as one
        if last > 0:
            rest += 1
            last = unit - last
        rest = -rest
    count: i64 = 0 if mantissa == 0 else 1
    power: i64 = 1
    if rest > 0:
        count = 2
        while rest // power >= _BASE:
            power *= _BASE
            count += 1
    write_i32_be(out, i32(8 + 2 * count))
    write_i16_be(out, i16(count))
    write_i16_be(out, i16(count - 1 - behind))  # the weight of the first digit
    write_i16_be(out, _NEGATIVE if mantissa < 0 else 0)
    write_i16_be(out, i16(scale))
    if rest > 0:
        while power > 0:
            write_i16_be(out, i16(rest // power % _BASE))
            power //= _BASE
    if count > 0:
        write_i16_be(out, i16(last * shift))
