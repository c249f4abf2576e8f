"""Fetches taken apart, against aiokafka's own code: whatever the batches, the same records and positions."""

import gc
import struct
import weakref
from typing import Any

import pytest
from aiokafka.consumer.fetcher import READ_COMMITTED, PartitionRecords
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatchBuilder
from aiokafka.record.legacy_records import LegacyRecordBatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import TopicPartition
from hypothesis import given, settings
from hypothesis import strategies as st

from topology.fetched import Unpacked, fetched
from topology.transport import Batches

TP = TopicPartition("market.raw", 3)
BYTES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.sampled_from(["offset", "é", ""]), BYTES), max_size=3)
RECORDS = st.lists(st.tuples(BYTES, BYTES, HEADERS, st.integers(0, 10**6)), max_size=20)
#: (what is in it, offsets left out before it, compression, transaction: of nobody, kept, aborted, aborted in vain)
BATCH = st.tuples(RECORDS, st.integers(0, 5), st.integers(0, 4), st.integers(-1, 2))
ABORTED = 1
FIRST_MS = 1_700_000_000_000


def batch(offset: int, records: list[Any], compression: int, producer: int) -> bytes:
    """A batch as a broker stores it."""
    builder = DefaultRecordBatchBuilder(
        *(2, compression, producer >= 0, producer, 0 if producer >= 0 else -1, 0 if producer >= 0 else -1),
        1 << 20,
    )
    for number, (key, value, headers, ms) in enumerate(records):
        builder.append(number, FIRST_MS + ms, key, value, [(name, content) for name, content in headers])
    return struct.pack(">q", offset) + bytes(builder.build())[8:]


def marker(offset: int, producer: int, *, commit: bool) -> bytes:
    """What ends a transaction: aiokafka makes none, so the bit and the checksum are put in here."""
    made = bytearray(batch(offset, [(struct.pack(">hh", 0, commit), b"\0" * 6, [], 0)], 0, producer))
    made[22] |= 0x20
    made[17:21] = struct.pack(">I", calc_crc32c(bytes(made[21:])))
    return bytes(made)


def of(kind: Any, data: bytes, aborted: list[tuple[int, int]], position: int) -> Any:
    inner = PartitionRecords(TP, Batches(data), list(aborted), position, None, None, True, READ_COMMITTED)
    return kind(inner)


def plain(record: Any) -> tuple[Any, ...]:
    place = record.topic, record.partition, record.offset, record.timestamp
    return *place, record.key, record.value, list(record.headers)


@settings(deadline=None, derandomize=True)
@given(st.lists(BATCH, max_size=6), st.integers(0, 30))
def test_the_same_as_aiokafka(batches: list[Any], position: int) -> None:
    data, offset, aborted = b"", 0, []
    for records, left_out, compression, producer in batches:
        offset += left_out
        if not records:
            continue
        if producer >= ABORTED:
            aborted.append((producer, offset))
        data += batch(offset, records, compression, producer)
        offset += len(records)
        if producer >= 0:
            data += marker(offset, producer, commit=producer < ABORTED)
            offset += 1
    theirs, ours = of(lambda inner: inner, data, aborted, position), of(Unpacked, data, aborted, position)
    for expected in theirs:
        found = next(ours)
        assert plain(found) == plain(expected)
        assert found.header(b"offset") == next((value for name, value in expected.headers if name == "offset"), None)
        assert ours.next_fetch_offset == theirs.next_fetch_offset
    with pytest.raises(StopIteration):
        next(ours)
    assert ours.next_fetch_offset == theirs.next_fetch_offset


@pytest.mark.parametrize("magic", [0, 1])
def test_a_batch_of_before_kafka_0_11(magic: int) -> None:
    builder = LegacyRecordBatchBuilder(magic, 0, 1 << 20)
    for number in range(5):
        builder.append(number, FIRST_MS, b"k", b"%d" % number)
    data = bytes(builder.build())
    expected = [plain(record) for record in of(lambda inner: inner, data, [], 0)]
    found = [plain(record) for record in of(Unpacked, data, [], 0)]
    assert found == [(*place, time or 0, *rest) for *place, time, rest in [(*each[:4], each[4:]) for each in expected]]
    assert len(found) == 5


def test_a_batch_with_a_wrong_sum_is_not_passed_over() -> None:
    records = [(b"k", b"v", [], 0)]
    wrong = bytearray(batch(1, records, 0, -1))
    wrong[-3] ^= 1
    ours = of(Unpacked, batch(0, records, 0, -1) + bytes(wrong) + batch(2, records, 0, -1), [], 0)
    assert next(ours).offset == 0
    with pytest.raises(CorruptRecordException):
        next(ours)
    with pytest.raises(StopIteration):  # so that it is fetched again, from there
        next(ours)
    assert ours.next_fetch_offset == 1


def test_a_fetch_that_has_been_given_out_is_gone_without_the_garbage_collector() -> None:
    inner = PartitionRecords(TP, Batches(batch(0, [(b"k", b"v", [], 0)], 0, -1)), [], 0, None, None, True, 1)
    gone = weakref.ref(inner)
    ours = Unpacked(inner)
    gc.disable()
    try:
        del inner
        assert len(list(ours)) == 1
        del ours
        assert gone() is None
    finally:
        gc.enable()


def test_a_record_may_be_moved() -> None:
    record = fetched("a", 1, 7, 5, None, b"v", [("x", b"1")])
    assert plain(record.moved("b", [("y", None)])) == ("b", 1, 7, 5, None, b"v", [("y", None)])
