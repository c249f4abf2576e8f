"""The parts of a replay alone: which offsets a range means, which rows stand, what a compacted topic can still say."""

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import permutations

import pytest
from confluent_kafka import Producer, TopicPartition

from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer
from deploy.local import Stack
from schemas import flags, topics
from schemas.codec import Codec
from schemas.instrument import ConfigError
from tests.topology.test_database import NOON, candle, connection, dsn, gap, one, rows, write
from topology import admin
from topology.replay.compare import _Known
from topology.replay.copy import Copy
from topology.replay.ledger import Replay, Stretch
from topology.replay.stretch import stretches
from topology.storage import database
from topology.storage.tables import Deleted

__all__ = ["connection", "dsn"]  # fixtures

T = 1_700_000_000_000  # ms
RUN = "replay-parts"  # so that its market.raw takes the times that the test gives


@pytest.fixture(scope="module")
def raw(stack: Stack) -> str:
    """A market.raw of two partitions: a record every 10 s, 100 in the first, 10 in the second."""
    admin.create_topics(stack.broker, RUN, partitions=2)
    name = topics.named(topics.RAW.name, RUN)
    producer = Producer({"bootstrap.servers": stack.broker})
    for number, count in ((0, 100), (1, 10)):
        for at in range(count):
            producer.produce(name, b"x", b"k", number, timestamp=T + at * 10_000)
    assert producer.flush(30) == 0
    return name


@pytest.fixture
def log(stack: Stack) -> Iterator[LogReader]:
    with LogReader(stack.broker) as log:
        yield log


@pytest.mark.integration
def test_records_that_retention_takes_while_they_are_copied_are_missed(stack: Stack, log: LogReader) -> None:
    admin.create_topics(stack.broker, "shrinking", partitions=1)
    admin.create_topics(stack.broker, "replay-of-it", partitions=1)
    name = topics.named(topics.RAW.name, "shrinking")
    producer = Producer({"bootstrap.servers": stack.broker})
    for _ in range(100):
        producer.produce(name, b"x", b"k", 0)
    assert producer.flush(30) == 0
    replay = Replay("replay-of-it", "shrinking", {}, [Stretch(0, 0, 0, 100)], 1, [], "", "")
    raw = RawProducer(stack.broker, "replay-of-it", Codec())
    copy = Copy(log, raw, replay)
    client = admin.connect(stack.broker)
    [removed] = client.delete_records([TopicPartition(name, 0, 50)]).values()
    removed.result(30)
    with pytest.raises(ConfigError, match="lost records"):
        copy.run(0.0, lambda: None)
    raw.abandon()


def moment(seconds: int) -> datetime:
    return datetime.fromtimestamp(T / 1000 + seconds, UTC)


@pytest.mark.integration
def test_without_limits_it_is_everything(raw: str, log: LogReader) -> None:
    assert stretches(log, raw, None, None, 1800) == [Stretch(0, 0, 0, 100), Stretch(1, 0, 0, 10)]


@pytest.mark.integration
def test_times_and_offsets_with_warm_up(raw: str, log: LogReader) -> None:
    found = stretches(log, raw, moment(495), moment(600), 100)
    assert found == [Stretch(0, 40, 50, 60), Stretch(1, 10, 10, 10)]
    assert stretches(log, raw, 50, 60, 1800) == [Stretch(0, 0, 50, 60), Stretch(1, 10, 10, 10)]
    assert stretches(log, raw, 50, 60, 0)[0] == Stretch(0, 50, 50, 60)


@pytest.mark.integration
def test_a_range_without_records_is_refused(raw: str, log: LogReader) -> None:
    with pytest.raises(ConfigError, match="has no records there; it holds the offsets 0: 0 to 100, 1: 0 to 10"):
        stretches(log, raw, moment(5000), None, 0)
    with pytest.raises(ConfigError, match="nosuch does not exist"):
        stretches(log, "nosuch", None, None, 0)


@pytest.mark.integration
def test_where_the_log_has_lost_its_beginning_the_first_records_only_warm_up(stack: Stack, log: LogReader) -> None:
    run = "replay-cut"
    admin.create_topics(stack.broker, run, partitions=1)
    name = topics.named(topics.RAW.name, run)
    producer = Producer({"bootstrap.servers": stack.broker})
    for at in range(100):
        producer.produce(name, b"x", b"k", 0, timestamp=T + at * 10_000)
    assert producer.flush(30) == 0
    client = admin.connect(stack.broker)
    [future] = client.delete_records([TopicPartition(name, 0, 20)]).values()
    future.result()
    assert stretches(log, name, None, None, 100) == [Stretch(0, 20, 30, 100)]
    assert stretches(log, name, 25, None, 100) == [Stretch(0, 20, 30, 100)]
    assert stretches(log, name, 50, None, 100) == [Stretch(0, 40, 50, 100)]


@pytest.mark.integration
@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_a_promoted_candle_stands_though_it_is_partial(
    connection: database.Connection, dsn: str, run_name: str, order: tuple[int, ...]
) -> None:
    """In whatever order they come; a later promotion beats it."""
    given = [
        (candle(revision=0, ticks=1), 10),
        (candle(revision=1, flags=flags.PARTIAL | flags.PROMOTED, ticks=2), 10),
        (candle(revision=2, flags=flags.PROMOTED, ticks=3), 9),
    ]
    write(dsn, run_name, *([given[at]] for at in order if at < 2))
    assert one(connection, "candles", run_name, "ticks") == (2,)
    write(dsn, run_name, [given[at] for at in order])
    assert one(connection, "candles", run_name, "ticks") == (3,)


@pytest.mark.integration
@pytest.mark.parametrize("together", [True, False])
def test_a_tombstone_deletes_what_came_before_it_only(
    connection: database.Connection, dsn: str, run_name: str, together: bool
) -> None:
    key = ("EURUSD", candle().source, NOON)
    given = [
        (candle(ticks=7), 3),
        (gap(), 4),
        (Deleted("candles", *key), -1),
        (Deleted("gaps", "EURUSD", gap().source, gap().start), -1),
        (candle(ticks=5), 2),
        (candle(start=NOON + 60_000_000_000), 2),
        (Deleted("candles", "EURUSD", candle().source, NOON + 60_000_000_000), -1),
    ]
    write(dsn, run_name, *([given] if together else [[row] for row in given]))
    assert one(connection, "candles", run_name, "ticks") == (5,)
    assert rows(connection, "gaps", run_name) == []


def test_the_log_is_not_at_its_end_before_a_record_that_may_yet_be_committed(stack: Stack, run_name: str) -> None:
    admin.create_topics(stack.broker, run_name, partitions=1)
    name = topics.named(topics.DEAD_LETTER.name, run_name)
    producer = Producer({"bootstrap.servers": stack.broker, "transactional.id": run_name})
    producer.init_transactions()
    producer.begin_transaction()
    producer.produce(name, b"first", partition=0)
    producer.commit_transaction()
    producer.begin_transaction()
    producer.produce(name, b"second", partition=0)
    producer.flush()
    with LogReader(stack.broker) as log:
        with pytest.raises(TimeoutError):
            list(log.read(name, {0: 0}, {0: 3}, seconds=2))
        producer.commit_transaction()
        found = [message.value() for message in log.read(name, {0: 0}, {0: 3}, seconds=30)]
    assert found == [b"first", b"second"]


def test_a_compacted_topic_knows_only_between_neighbours() -> None:
    known = _Known()
    for place, origin in ((9, -1), (10, 100), (11, 105), (12, 105), (14, 120), (15, 130)):
        known.add(place, origin)
    assert [origin for origin in range(95, 135) if known.covers(origin)] == [*range(95, 105), *range(121, 130)]
