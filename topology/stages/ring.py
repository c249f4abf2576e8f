"""Numbers packed in a ring of bytes: the newest go in at one end, the oldest come out at the other.

Nearly all that is kept of a source are its last so many ticks. As differences, of one to five bytes each, they take a
fifth of what an array of 64-bit numbers does, and the state that is saved is a copy of them.
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import vec
from mypy_extensions import i64, mypyc_attr, u8

from schemas.avro import I64_MAX, Cursor, put_long

LONGEST: Final = 10  # bytes of a number
SPARE: Final = 6  # that are taken in addition where the ring must grow


@mypyc_attr(acyclic=True)
class Ring:
    """Zigzag varints, the oldest first.

    ``capacity`` in bytes is what it takes when it is full, more or less: memory that many rings grow into step by step
    is not all given back.
    """

    def __init__(self, capacity: i64) -> None:
        self.data = vec[u8](bytes(capacity))
        self.begin: i64 = 0  # where the oldest lies
        self.size: i64 = 0  # bytes in use

    def put(self, value: i64) -> None:
        """Append a number."""
        size: i64 = self.size
        if size + LONGEST > len(self.data):
            self._grow(LONGEST)
        data = self.data
        end: i64 = len(data)
        at: i64 = self.begin + size
        if at >= end:
            at -= end
        rest: i64 = (value << 1) ^ (value >> 63)
        while rest < 0 or rest > 127:
            data[at] = u8((rest & 127) | 128)
            rest = (rest >> 7) & 0x1FFFFFFFFFFFFFF  # an unsigned shift: i64 has no other
            size += 1
            at += 1
            if at == end:
                at = 0
        data[at] = u8(rest)
        self.size = size + 1

    def put_bytes(self, value: bytes) -> None:
        """Append how many bytes there are, and these."""
        self.put(len(value))
        if self.size + len(value) > len(self.data):
            self._grow(len(value))
        data = self.data
        at: i64 = after(data, self.begin, self.size)
        for byte in value:
            data[at] = u8(byte)
            at = after(data, at, 1)
        self.size += len(value)

    def take(self) -> i64:
        """Remove the oldest number."""
        begin: i64 = self.begin
        data = self.data
        byte: i64 = i64(data[begin])
        if byte < 128 and begin + 1 < len(data):
            self.begin = begin + 1
            self.size -= 1
            return (byte >> 1) ^ -(byte & 1)
        value, at = read(data, begin)
        used: i64 = at - begin
        if used <= 0:
            used += len(data)
        self.size -= used
        self.begin = at
        return value

    def skip(self, count: i64) -> None:
        """Remove the oldest bytes."""
        self.begin = after(self.data, self.begin, count)
        self.size -= count

    def _grow(self, count: i64) -> None:
        """Make room for so many bytes more."""
        self.data = vec[u8](self._packed() + bytes(count + SPARE))
        self.begin = 0

    def _packed(self) -> bytes:
        data = self.data
        beyond: i64 = self.begin + self.size - len(data)
        if beyond <= 0:
            return bytes(data[self.begin : self.begin + self.size])
        return bytes(data[self.begin :]) + bytes(data[:beyond])

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        put_long(out, self.size)
        out.write(self._packed())

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        size = cursor.long()
        spare: i64 = max(0, len(self.data) - size)
        self.data = vec[u8](cursor.data[cursor.at : cursor.at + size] + bytes(spare))
        self.begin = 0
        self.size = size
        cursor.at += size


def after(data: vec[u8], at: i64, count: i64) -> i64:
    """The place so many bytes further on; not more than there are."""
    at += count
    return at if at < len(data) else at - len(data)


def read(data: vec[u8], at: i64) -> tuple[i64, i64]:
    """The number that begins at a place, and the place after it."""
    end: i64 = len(data)
    shift: i64 = 0
    value: i64 = 0
    while True:
        byte: i64 = i64(data[at])
        at += 1
        if at == end:
            at = 0
        if shift == 63:
            value |= -(byte << 63)  # the sign bit, whether i64 wraps (compiled) or int does not
            break
        value |= (byte & 127) << shift
        if byte < 128:
            break
        shift += 7
    return ((value >> 1) & I64_MAX) ^ -(value & 1), at
