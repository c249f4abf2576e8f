"""Record batches against aiokafka, which reads them as any consumer does."""

from typing import Any

import pytest
from aiokafka.record.memory_records import MemoryRecords
from hypothesis import given
from hypothesis import strategies as st

from topology.batch import LIMIT, Produced, Records, encode_headers
from topology.delivery import Batch

BYTES = st.none() | st.binary(max_size=200)
HEADERS = st.lists(st.tuples(st.text(max_size=10), st.binary(max_size=20)), max_size=3)


def filled(produced: list[Produced]) -> Records:
    records = Records()
    for key, value, headers in produced:
        records.add(key, value, encode_headers(headers))
    return records


def sealed(records: Records, *, transactional: bool = False) -> list[Any]:
    """The batches as a consumer gets them."""
    found = []
    for number, data in records.batches():
        batch = Batch(number, data, transactional=transactional)
        batch._set_producer_state(77, 3, 5)
        memory = MemoryRecords(bytes(batch._build()))
        while memory.has_next():
            found.append(memory.next_batch())
    return found


@given(st.lists(st.tuples(BYTES, BYTES, HEADERS), min_size=1, max_size=150), st.booleans())
def test_a_consumer_reads_what_was_added(produced: list[Produced], transactional: bool) -> None:
    records = filled(produced)
    [batch] = sealed(records, transactional=transactional)
    assert batch.validate_crc()
    assert (batch.producer_id, batch.producer_epoch, batch.base_sequence) == (77, 3, 5)
    assert (batch.is_transactional, batch.is_control_batch, batch.next_offset) == (transactional, False, len(produced))
    assert [(each.key, each.value, list(each.headers)) for each in batch] == produced
    assert list(records) == produced


@pytest.mark.parametrize("size", [100, LIMIT // 3, LIMIT + 1])
def test_a_batch_is_no_longer_than_the_broker_takes_unless_one_record_is(size: int) -> None:
    produced: list[Produced] = [(b"k", b"x" * size, []) for _ in range(4 * LIMIT // size + 3)]
    records = filled(produced)
    for number, data in records.batches():
        assert len(data) <= LIMIT or number == 1
    assert [each.next_offset for each in sealed(records)] == [number for number, _ in records.batches()]
    assert list(records) == produced


def test_nothing_is_no_batch() -> None:
    assert Records().batches() == []
