"""Records that wait to be sent, encoded as they lie in a record batch of Kafka (message format 2).

A producer's own `append` costs a fifth of a microsecond a record, and a tuple and a list to hand it over; here a
record is written once, where it is made. Sealing a batch (`topology/delivery.py`) puts the header before it.

    record:  length | 0 | time 0 | number in the batch | key | value | headers       lengths, counts: zigzag varints
"""

from collections.abc import Iterator, Sequence
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

from schemas.avro import Cursor, put_long

#: Bytes of the records of one batch, unless a single one is longer. Kafka takes 1,048,588 with the batch's header.
LIMIT: Final = 1_000_000

#: (key, value, headers) of a record.
Produced = tuple[bytes | None, bytes | None, list[tuple[str, bytes]]]


class Records:
    """The records of one topic, in order, split where a batch is full."""

    def __init__(self) -> None:
        self.full: list[tuple[int, bytes]] = []  # (how many records, their bytes)
        self._out = BytesWriter()
        self._number: i64 = 0  # of the next record, in its batch
        self._total: i64 = 0

    def add(self, key: bytes | None, value: bytes | None, headers: bytes) -> None:
        """Append a record; ``headers`` as `encode_headers` gives them."""
        size: i64 = 2 + _size(self._number) + _size_of(key) + _size_of(value) + len(headers)
        if self._number > 0 and len(self._out) + size + 5 > LIMIT:
            self._close()
            size = 3 + _size_of(key) + _size_of(value) + len(headers)
        out = self._out
        put_long(out, size)
        out.append(0)
        out.append(0)
        put_long(out, self._number)
        put_bytes(out, key)
        put_bytes(out, value)
        out.write(headers)
        self._number += 1
        self._total += 1

    def batches(self) -> list[tuple[int, bytes]]:
        """For each batch how many records there are, and their bytes; none is added after that."""
        if self._number > 0:
            self._close()
        return self.full

    def _close(self) -> None:
        self.full.append((self._number, self._out.getvalue()))
        self._out = BytesWriter()
        self._number = 0

    def __len__(self) -> int:
        return self._total

    def __iter__(self) -> Iterator[Produced]:
        """The records again."""
        found: list[Produced] = []
        for number, data in self.batches():
            cursor = Cursor(data, 0)
            found += [_read(cursor) for _ in range(number)]
        return iter(found)


def encode_headers(headers: Sequence[tuple[str, bytes | None]]) -> bytes:
    """Headers as they lie in a record."""
    out = BytesWriter()
    put_long(out, len(headers))
    for name, value in headers:
        put_bytes(out, name.encode())
        put_bytes(out, value)
    return out.getvalue()


def _size(value: i64) -> i64:
    """The bytes of a number that is not negative."""
    size: i64 = 1
    while value > 63:
        value >>= 7
        size += 1
    return size


def _size_of(data: bytes | None) -> i64:
    if data is None:
        return 1
    return _size(len(data)) + len(data)


def put_bytes(out: BytesWriter, data: bytes | None) -> None:
    """Append length and bytes, of which there may be none."""
    if data is None:
        put_long(out, -1)
    else:
        put_long(out, len(data))
        out.write(data)


def _read(cursor: Cursor) -> Produced:
    for _ in range(4):  # length, attributes, time, number: each a byte or a varint
        cursor.long()
    key, value = read_bytes(cursor), read_bytes(cursor)
    headers = [((read_bytes(cursor) or b"").decode(), read_bytes(cursor) or b"") for _ in range(cursor.long())]
    return key, value, headers


def read_bytes(cursor: Cursor) -> bytes | None:
    """Read length and bytes, of which there may be none."""
    size = cursor.long()
    if size < 0:
        return None
    start: i64 = cursor.at
    cursor.at = start + size
    return cursor.data[start : start + size]


NO_HEADERS: Final = encode_headers([])
