"""The peers' three records to schemaless Avro and back, for their schemas alone; compiled by mypyc (setup.py).

The order of the fields is the wire order (`schemas/*.avsc` of the peers).
"""

from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr, u8

I64_MAX: Final = i64(2**63 - 1)  # not a literal: one so large would be boxed wherever it is used


@mypyc_attr(acyclic=True)
class Quote:
    """What a source sends. Times in ns since the epoch, prices as integers."""

    def __init__(
        self, source: str, ts_event: i64, ts_recv: i64, bid: i64, ask: i64, bid_size: i64, ask_size: i64, seq: i64
    ) -> None:
        self.source: Final = source
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.bid: Final = bid
        self.ask: Final = ask
        self.bid_size: Final = bid_size
        self.ask_size: Final = ask_size
        self.seq: Final = seq


def quote_of(data: bytes) -> Quote:
    """Read a quote. Raises IndexError, ValueError, UnicodeError where the bytes are none."""
    c = Cursor(data)
    quote = Quote(c.string(), c.long(), c.long(), c.long(), c.long(), c.long(), c.long(), c.long())
    if c.at != len(data):
        raise ValueError("bytes left over after the quote")
    return quote


def best_bytes(ts: i64, bid: i64, bid_source: str, ask: i64, ask_source: str) -> bytes:
    """Write a best price."""
    out = BytesWriter()
    put_long(out, ts)
    put_long(out, bid)
    put_string(out, bid_source)
    put_long(out, ask)
    put_string(out, ask_source)
    return out.getvalue()


def candle_bytes(start: i64, open: i64, high: i64, low: i64, close: i64, ticks: i64) -> bytes:
    """Write a candle."""
    out = BytesWriter()
    put_long(out, start)
    put_long(out, open)
    put_long(out, high)
    put_long(out, low)
    put_long(out, close)
    put_long(out, ticks)
    return out.getvalue()


def put_long(out: BytesWriter, value: i64) -> None:
    """Append a zigzag varint."""
    rest: i64 = (value << 1) ^ (value >> 63)
    while rest < 0 or rest > 127:
        out.append(u8((rest & 127) | 128))
        rest = (rest >> 7) & 0x1FFFFFFFFFFFFFF  # an unsigned shift: i64 has no other
    out.append(u8(rest))


def put_string(out: BytesWriter, value: str) -> None:
    """Append length and UTF-8."""
    data = value.encode()
    put_long(out, len(data))
    out.write(data)


@mypyc_attr(acyclic=True)
class Cursor:
    """A position in the bytes being read."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at: i64 = 0

    def long(self) -> i64:
        """Read a zigzag varint. Raises IndexError past the end, ValueError above 64 bits."""
        data = self.data
        at: i64 = self.at
        shift: i64 = 0
        value: i64 = 0
        while True:
            byte: i64 = data[at]
            at += 1
            if shift == 63:
                if byte > 1:
                    raise ValueError("a number of more than 64 bits")
                value |= -(byte << 63)  # the sign bit, whether i64 wraps (compiled) or int does not
                break
            value |= (byte & 127) << shift
            if byte < 128:
                break
            shift += 7
        self.at = at
        return ((value >> 1) & I64_MAX) ^ -(value & 1)

    def string(self) -> str:
        """Read length and UTF-8."""
        size = self.long()
        start: i64 = self.at
        if size < 0 or size > len(self.data) - start:
            raise IndexError("a string longer than its message")
        self.at = start + size
        return self.data[start : start + size].decode()
