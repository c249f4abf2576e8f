"""Records as they were fetched: a fetch of a partition is taken apart into records, each a place in its batch's bytes.

aiokafka's own code makes seven objects of every record, and whoever waits for a commit holds them all. Here there is
one, which gives its key, value and headers when it is asked. It is still aiokafka that checks a batch's sum and knows
which transactions were aborted.

    batch:   offset 8 | size after this 4 | epoch 4 | format 1 | sum 4 | attributes 2 | last offset 4 | first time 8 |
             last time 8 | producer 8, 2, 4 | count 4 | records, compressed                             (format 2)
    record:  length | 0 | time | offset | key | value | headers       all but the 0: zigzag varints (``batch.py``)
"""

from collections.abc import Sequence
from typing import Any, Final, final

from aiokafka.codec import gzip_decode, lz4_decode, snappy_decode, zstd_decode
from aiokafka.errors import CorruptRecordException
from librt.strings import BytesWriter, read_i16_be, read_i32_be, read_i64_be
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor
from topology.batch import encode_headers, put_bytes, read_bytes

HEAD: Final = 61  # bytes before a batch's records
DECODERS: Final[list[Any]] = [bytes, gzip_decode, snappy_decode, lz4_decode, zstd_decode]
APPENDED: Final = 8  # attribute: the time of all records is when the broker took the batch


@final
@mypyc_attr(acyclic=True)
class Fetched:
    """A record of a Kafka topic. ``timestamp`` in ms, as the topic's settings say when it was made or appended."""

    def __init__(
        self, topic: str, partition: i64, offset: i64, timestamp: i64, data: bytes, at: i64, size: i64
    ) -> None:
        """``data``: bytes with key, value and headers ``at`` a place, ``size`` bytes in all."""
        self.topic: Final = topic
        self.partition: Final = partition
        self.offset: Final = offset
        self.timestamp: Final = timestamp
        self.size: Final = size
        self._data: Final = data
        self._at: Final = at

    @property
    def key(self) -> bytes | None:
        """The key, if there is one."""
        return read_bytes(Cursor(self._data, self._at))

    @property
    def value(self) -> bytes | None:
        """The value; None: a tombstone."""
        cursor = Cursor(self._data, self._at)
        _skip(cursor)
        return read_bytes(cursor)

    @property
    def headers(self) -> list[tuple[str, bytes | None]]:
        """The headers, in order."""
        cursor = self._at_headers()
        return [((read_bytes(cursor) or b"").decode(), read_bytes(cursor)) for _ in range(cursor.long())]

    def header(self, name: bytes) -> bytes | None:
        """The first header of that name; None where there is none, or it has no value."""
        cursor = self._at_headers()
        for _ in range(cursor.long()):
            if read_bytes(cursor) == name:
                return read_bytes(cursor)
            _skip(cursor)
        return None

    def moved(self, topic: str, headers: Any) -> "Fetched":
        """The same record, as it was in another topic."""
        return fetched(topic, self.partition, self.offset, self.timestamp, self.key, self.value, headers)

    def _at_headers(self) -> Cursor:
        cursor = Cursor(self._data, self._at)
        _skip(cursor)
        _skip(cursor)
        return cursor


def fetched(
    topic: str,
    partition: int,
    offset: int,
    timestamp: int,
    key: bytes | None,
    value: bytes | None,
    headers: Sequence[tuple[str, bytes | None]] = (),
) -> Fetched:
    """Make a record as if it had been fetched."""
    out = BytesWriter()
    put_bytes(out, key)
    put_bytes(out, value)
    out.write(encode_headers(headers))
    data = out.getvalue()
    return Fetched(topic, partition, offset, timestamp, data, 0, len(data))


def _skip(cursor: Cursor) -> None:
    size = cursor.long()
    if size > 0:
        cursor.at += size


class Unpacked:
    """The records of one fetch of a partition, in the place of aiokafka's ``PartitionRecords``, with its own rules.

    Records of transactions that were aborted, markers of transactions, and what lies before the position that was
    asked for are left out. Iterating raises CorruptRecordException where a batch's checksum is wrong.
    """

    def __init__(self, of: Any) -> None:
        """``of``: aiokafka's object, of which nothing has been taken yet; its batches let their bytes be seen."""
        self.next_fetch_offset: i64 = of.next_fetch_offset  # read by aiokafka: its position
        of._records_iterator = None  # its own generator, and with it a cycle that would keep the fetch
        self._of = of
        self._batches = of._records
        self._data: bytes = bytes(of._records.data)
        self._begin: i64 = 0  # of the next batch
        self._topic: str = of._tp.topic
        self._partition: i64 = of._tp.partition
        self._ready: list[Fetched] = []  # of one batch,
        self._at: i64 = 0  # and how many of them were given out
        self._end: i64 = of.next_fetch_offset  # the offset after that batch
        self._corrupt = False  # it ends there, so that the batch is fetched again

    def __iter__(self) -> "Unpacked":
        return self

    def __next__(self) -> Fetched:
        while self._at >= len(self._ready):
            self.next_fetch_offset = self._end
            if self._corrupt or not self._batches.has_next():
                raise StopIteration
            self._unpack()
        record = self._ready[self._at]
        self._at += 1
        self.next_fetch_offset = record.offset + 1
        return record

    def _unpack(self) -> None:
        """Take the next batch apart."""
        self._ready = []
        self._at = 0
        begin: i64 = self._begin
        self._begin = begin + 12 + i64(read_i32_be(self._data, begin + 8))
        batch = self._batches.next_batch()
        if self._of._check_crcs and not batch.validate_crc():
            self._corrupt = True
            raise CorruptRecordException(f"Invalid CRC - {self._of._tp}")
        self._end = batch.next_offset
        if self._is_aborted(batch) or batch.is_control_batch:
            return
        if self._data[begin + 16] < 2:
            self._copy(batch)
        else:
            self._take_apart(begin)

    def _take_apart(self, begin: i64) -> None:
        data = self._data
        attributes: i64 = i64(read_i16_be(data, begin + 21))
        base: i64 = read_i64_be(data, begin)
        appended = attributes & APPENDED != 0
        time: i64 = read_i64_be(data, begin + (35 if appended else 27))
        records: bytes = bytes(DECODERS[attributes & 7](data[begin + HEAD : self._begin]))
        topic = self._topic
        partition: i64 = self._partition
        first: i64 = self.next_fetch_offset
        ready = self._ready
        cursor = Cursor(records, 0)
        for _ in range(i64(read_i32_be(data, begin + 57))):
            size = cursor.long()
            end: i64 = cursor.at + size
            cursor.at += 1
            later = cursor.long()
            offset: i64 = base + cursor.long()
            if offset >= first:  # a fetch begins with a whole batch
                at: i64 = cursor.at
                timestamp: i64 = time if appended else time + later
                ready.append(Fetched(topic, partition, offset, timestamp, records, at, end - at))
            cursor.at = end

    def _copy(self, batch: Any) -> None:
        """Of a batch in a format from before Kafka 0.11."""
        first: i64 = self.next_fetch_offset
        for each in batch:
            offset: i64 = each.offset
            if offset >= first:
                time = each.timestamp or 0  # the oldest has none
                self._ready.append(fetched(self._topic, self._partition, offset, time, each.key, each.value))

    def _is_aborted(self, batch: Any) -> bool:
        of = self._of
        producer = batch.producer_id
        if of._isolation_level == 0 or producer is None:
            return False
        of._consume_aborted_up_to(batch.base_offset)
        aborted = of._aborted_producers
        if batch.is_control_batch and of._contains_abort_marker(batch):
            aborted.discard(producer)
        return bool(batch.is_transactional and producer in aborted)
