"""Records to Avro bytes and back: the fast path, equal to fastavro byte for byte (a test proves it).

Only the four kinds of field that ``schemas/*.avsc`` use: long, string, map of long, and the union
``Quote | Trade`` inside ``Rejected``. Compiled by mypyc this takes half a microsecond a record;
fastavro takes five, and remains the reference and the reader of every other schema (``codec.py``).
"""

from typing import Any, Final

from librt.strings import BytesWriter
from mypy_extensions import i64, u8

LONG: Final = 0
STRING: Final = 1
COUNTS: Final = 2
TICK: Final = 3


class Layout:
    """How one record type lies on the wire: its field names and kinds, in order."""

    def __init__(self, cls: Any, kinds: list[i64], header: bytes, union: list["Layout"]) -> None:
        self.cls: Any = cls
        self.names: list[str] = list(cls.__struct_fields__)
        self.kinds: list[i64] = kinds
        self.header = header  # what stands before the body of a message
        self.union = union  # the branches of a TICK field


class Cursor:
    """A position in the bytes being read."""

    __slots__ = ("at", "data")

    def __init__(self, data: bytes, at: i64) -> None:
        self.data = data
        self.at: i64 = at


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


def put_record(out: BytesWriter, layout: Layout, record: object) -> None:
    """Append the fields of a record in their order."""
    names = layout.names
    kinds = layout.kinds
    n: i64 = len(names)
    i: i64 = 0
    while i < n:
        kind = kinds[i]
        value = getattr(record, names[i])
        if kind == LONG:
            put_long(out, value)
        elif kind == STRING:
            put_string(out, value)
        elif kind == COUNTS:
            put_counts(out, value)
        else:
            put_union(out, layout.union, value)
        i += 1


def put_counts(out: BytesWriter, counts: dict[str, int]) -> None:
    """Append a map as one block, in the order of its keys."""
    if counts:
        put_long(out, len(counts))
        for key in sorted(counts):
            put_string(out, key)
            put_long(out, counts[key])
    put_long(out, 0)


def put_union(out: BytesWriter, union: list[Layout], value: object) -> None:
    """Append the branch number and the record."""
    for number, branch in enumerate(union):
        if type(value) is branch.cls:
            put_long(out, number)
            put_record(out, branch, value)
            return
    raise TypeError(f"{type(value).__name__} is no branch of the union")


def encode(layout: Layout, record: object) -> bytes:
    """Header and body of one message."""
    out = BytesWriter()
    out.write(layout.header)
    put_record(out, layout, record)
    return out.getvalue()


def get_long(cursor: Cursor) -> i64:
    """Read a zigzag varint. Raises IndexError past the end, ValueError above 64 bits."""
    data = cursor.data
    at: i64 = cursor.at
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
    cursor.at = at
    return ((value >> 1) & 0x7FFFFFFFFFFFFFFF) ^ -(value & 1)


def get_string(cursor: Cursor) -> str:
    """Read length and UTF-8."""
    size = get_long(cursor)
    start: i64 = cursor.at
    end: i64 = start + size
    if size < 0 or end > len(cursor.data):
        raise IndexError("a string longer than its message")
    cursor.at = end
    return cursor.data[start:end].decode()


def get_record(cursor: Cursor, layout: Layout) -> Any:
    """Read the fields in their order and make the record."""
    values: list[Any] = []
    for kind in layout.kinds:
        if kind == LONG:
            values.append(get_long(cursor))
        elif kind == STRING:
            values.append(get_string(cursor))
        elif kind == COUNTS:
            values.append(get_counts(cursor))
        else:
            branch = get_long(cursor)
            if branch < 0 or branch >= len(layout.union):
                raise ValueError("no such branch in the union")
            values.append(get_record(cursor, layout.union[branch]))
    return layout.cls(*values)


def get_counts(cursor: Cursor) -> dict[str, int]:
    """Read the blocks of a map."""
    counts: dict[str, int] = {}
    while True:
        size = get_long(cursor)
        if size == 0:
            return counts
        if size < 0:  # a negative count is followed by the block's size in bytes
            size = -size
            get_long(cursor)
        while size > 0:
            key = get_string(cursor)
            counts[key] = get_long(cursor)
            size -= 1


def decode(layout: Layout, data: bytes, start: i64) -> Any:
    """Read one record that fills the rest of ``data``. Raises ValueError, IndexError, UnicodeError."""
    cursor = Cursor(data, start)
    record = get_record(cursor, layout)
    if cursor.at != len(data):
        raise ValueError("bytes left over after the record")
    return record
