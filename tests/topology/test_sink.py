"""The sink: what the clean topics say is in the tables, once, whatever is killed; what can't be is a dead letter."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from confluent_kafka import KafkaError, KafkaException, Producer

from connectors.runtime.producer import partition_of
from deploy.local import Stack
from schemas import flags, instrument, topics
from schemas.codec import Codec
from schemas.record import Best, Candle, Gap, Quote, Record, Status
from tests.topology.processes import PARTITIONS, Process, lag, read
from topology import admin, config, sink
from topology.fetched import fetched
from topology.sink import Sink, Spans, TopicsChangedError
from topology.storage import database
from topology.storage.resume import SUNK, resume
from topology.storage.rows import Reader, Refused
from topology.storage.writer import Writer

pytestmark = pytest.mark.integration

CODEC = Codec()
INSTRUMENTS = instrument.load()
NOON = 1_704_456_000_000_000_000
MINUTE = 60_000_000_000


@pytest.fixture
def connection(stack: Stack) -> Iterator[database.Connection]:
    database.migrate(stack.database)
    with database.connect(stack.database) as connection:
        yield connection


def quote(seq: int = 0, **fields: Any) -> Quote:
    given = {"symbol": "EURUSD", "source": "a", "ts_event": NOON + seq, "ts_recv": NOON + seq, "bid": 5, "ask": 6}
    return Quote(**{**given, "seq": seq, **fields})


def stored(connection: database.Connection, table: str, run: str, columns: str) -> list[Any]:
    return connection.execute(f"SELECT {columns} FROM {table} WHERE run = %s ORDER BY 1, 2", [run]).fetchall()


# The sink alone, with events made by hand.


class Kafka:
    """What the transport and the producer do for the sink."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.acked: list[tuple[str, int]] = []
        self.sent: list[dict[str, Any]] = []
        self.spans: dict[tuple[str, int], object] = {}
        self.left = 0  # events that are not acked yet
        self.all_acked = asyncio.Event()
        self.after_ack: Callable[[], object] = lambda: None

    def event(self, topic: topics.Topic, partition: int, first: int, *values: Any) -> Any:
        """A run of records, as the transport makes it of what was fetched; a value may be bytes."""
        name = topics.named(topic.name, self.run)
        records = []
        for offset, value in enumerate(values, first):
            data = value if isinstance(value, bytes) else CODEC.encode(value)
            records.append(record(name, partition, offset, data, [("offset", b"%d" % (offset * 10))]))
        return self.of(records)

    def of(self, records: list[Any]) -> Any:
        """An event of these records."""
        place, last = (records[0].topic, records[0].partition), records[-1].offset
        span = self.spans.setdefault(place, object())

        def ack() -> None:
            self.acked.append((place[0].removeprefix(f"{self.run}."), last))
            self.after_ack()
            self.left -= 1
            if self.left == 0:
                self.all_acked.set()

        return SimpleNamespace(value=records, message=SimpleNamespace(acks=span), ack=ack)

    async def send(self, topic: str, value: Any, **fields: Any) -> "asyncio.Future[None]":
        """As the producer's."""
        self.sent.append({"topic": topic, "value": value, **fields})
        future = asyncio.get_running_loop().create_future()
        future.set_result(None)
        return future


def record(topic: str, partition: int, offset: int, value: bytes | None, headers: list[tuple[str, bytes]]) -> Any:
    return fetched(topic, partition, offset, NOON // 10**6, b"EURUSD", value, headers)


async def nothing_changed(_unread: Spans) -> None:
    return


def drain(
    stack: Stack, kafka: Kafka, *events: Any, check: Callable[[Spans], Awaitable[None]] = nothing_changed
) -> Sink:
    """Let a sink take the events and wait until all are acked."""

    async def drained() -> Sink:
        writer = Writer(stack.database, kafka.run, admin.sink_id(kafka.run), INSTRUMENTS)
        made = Sink(writer, Reader(CODEC, kafka.run, INSTRUMENTS), check)
        kafka.left, kafka.all_acked = len(events), asyncio.Event()
        writing = asyncio.create_task(made.run(kafka))
        for event in events:
            await made.add(event)
        made.hurry()
        acked = asyncio.create_task(kafka.all_acked.wait())
        await asyncio.wait({writing, acked}, return_when=asyncio.FIRST_COMPLETED)
        acked.cancel()
        writing.cancel()
        with suppress(asyncio.CancelledError):
            await writing
        await writer.close()
        return made

    return asyncio.run(asyncio.wait_for(drained(), 30))


def test_what_waits_is_committed_together_and_then_acked_in_order(
    connection: database.Connection, stack: Stack, run_name: str
) -> None:
    kafka = Kafka(run_name)
    seen: list[int] = []
    kafka.after_ack = lambda: seen.append(len(stored(connection, "ticks", run_name, "1, 2")))
    events = [kafka.event(topics.TICK, 0, 0, quote(0), quote(1)), kafka.event(topics.TICK, 1, 7, quote(2))]
    drain(stack, kafka, *events, kafka.event(topics.TICK, 0, 2, quote(3)))
    assert kafka.acked == [("market.data.tick", 1), ("market.data.tick", 7), ("market.data.tick", 2)]
    assert seen == [4, 4, 4]
    assert stored(connection, "ticks", run_name, "seq, source_offset") == [(0, 0), (1, 10), (2, 70), (3, 20)]
    assert stored(connection, "stream_offsets", run_name, "partition, next_offset") == [(0, 3), (1, 8)]


def test_what_is_in_the_tables_already_is_skipped(connection: database.Connection, stack: Stack, run_name: str) -> None:
    """As after a crash between the commit and the ack: a new process, and the records come again."""
    first = Kafka(run_name)
    drain(stack, first, first.event(topics.TICK, 0, 0, quote(0), quote(1)))
    connection.execute("DELETE FROM ticks WHERE run = %s AND seq = 0", [run_name])  # to see that it is not looked at
    again = Kafka(run_name)
    made = drain(stack, again, again.event(topics.TICK, 0, 0, quote(0), quote(1), quote(2)))
    assert [row[0] for row in stored(connection, "ticks", run_name, "seq, 1")] == [1, 2]
    assert made.written == 1
    assert again.acked == [("market.data.tick", 2)]


def test_bytes_that_are_no_record_become_dead_letters(
    connection: database.Connection, stack: Stack, run_name: str
) -> None:
    kafka = Kafka(run_name)
    name = topics.named(topics.TICK.name, run_name)
    whole = CODEC.encode(quote(3))
    drain(
        stack,
        kafka,
        kafka.event(topics.TICK, 2, 40, b"rubbish", quote(1), whole[:-3], quote(2)),
        kafka.of(
            [
                record(name, 2, 44, whole, []),
                record(name, 2, 45, whole, [("offset", b"many")]),
                record(name, 2, 46, None, []),
            ]
        ),
        kafka.event(topics.TICK, 2, 47, quote(4, symbol="XXXYYY")),
    )
    told = [{name: value.decode() for name, value in each["headers"]} for each in kafka.sent]
    assert [(each["reason"], int(each["offset"])) for each in told] == [
        (flags.UNKNOWN_SCHEMA, 40),
        (flags.UNDECODABLE, 42),
        (flags.UNDECODABLE, 44),
        (flags.UNDECODABLE, 45),
        (flags.UNDECODABLE, 46),
        (flags.UNKNOWN_SYMBOL, 47),
    ]
    assert {(each["topic"], each["partition"]) for each in told} == {(name, "2")}
    assert {each["topic"] for each in kafka.sent} == {topics.named(topics.DEAD_LETTER.name, run_name)}
    assert [each["partition"] for each in kafka.sent] == [2] * 6
    assert kafka.sent[0]["value"] == b"rubbish"
    assert [row[0] for row in stored(connection, "ticks", run_name, "seq, 1")] == [1, 2]
    assert stored(connection, "stream_offsets", run_name, "next_offset, 1") == [(48, 1)]


def test_dead_letters_are_stored_by_the_place_of_the_record(
    connection: database.Connection, stack: Stack, run_name: str
) -> None:
    kafka = Kafka(run_name)
    name = topics.named(topics.DEAD_LETTER.name, run_name)
    place = [("topic", b"market.raw"), ("partition", b"3"), ("offset", b"99")]
    said = [("reason", b"UNDECODABLE"), ("error", b"no\0 \xff")]
    bad_row = [("reason", b"BAD_ROW"), ("error", b"no price"), ("file", b"a.csv"), ("line", b"7")]
    drain(
        stack,
        kafka,
        kafka.of([record(name, 0, 5, b"\x00\xff", said + place), record(name, 0, 6, b"\x00\xff", said + place)]),
        kafka.of([record(name, 0, 7, b"1;2", bad_row), record(name, 0, 8, None, [("partition", b"x" * 9)])]),
        kafka.of([record(name, 0, 9, b"", [("reason", b"r" * 9_000), ("topic", b"t" * 9_000), *place[1:]])]),
    )
    columns = "record_offset, topic, partition, reason, error, record_value"
    found = stored(connection, "dead_letter", run_name, columns)
    assert found[:2] == [
        (7, name, 0, "BAD_ROW", "no price; file: a.csv; line: 7", b"1;2"),
        (8, name, 0, "", "; partition: xxxxxxxxx", None),
    ]
    assert (99, "market.raw", 3, "UNDECODABLE", "no\ufffd \ufffd", b"\x00\xff") in found
    assert len(found) == 4
    assert kafka.sent == []


def test_a_row_that_the_database_refuses_becomes_a_dead_letter(
    connection: database.Connection, stack: Stack, run_name: str
) -> None:
    kafka = Kafka(run_name)
    drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0), quote(1, source="\0"), quote(2)))
    headers = dict(kafka.sent[0]["headers"])
    assert (headers["reason"], headers["offset"]) == (b"UNSTORABLE", b"1")
    assert [row[0] for row in stored(connection, "ticks", run_name, "seq, 1")] == [0, 2]


def test_nothing_is_acked_when_the_write_fails(stack: Stack, run_name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fail(*_: Any) -> Refused:
        raise psycopg.errors.UndefinedTable("no such table")

    monkeypatch.setattr(Writer, "_attempt", fail)
    kafka = Kafka(run_name)
    with pytest.raises(psycopg.errors.UndefinedTable):
        drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0)))
    assert kafka.acked == []


def test_a_topic_made_anew_meanwhile_ends_it(stack: Stack, run_name: str) -> None:
    async def changed(_unread: Spans) -> None:
        raise TopicsChangedError("made anew")

    kafka = Kafka(run_name)
    with pytest.raises(TopicsChangedError):
        drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0)), check=changed)
    assert kafka.acked == []


def test_a_kafka_that_is_away_for_the_moment_is_asked_again(
    connection: database.Connection, stack: Stack, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "LOOK_AGAIN_S", 0.01)
    said: list[Exception] = [KafkaException(KafkaError(KafkaError._TIMED_OUT)), admin.BrokerError("no answer")]

    async def away(_unread: Spans) -> None:
        if said:
            raise said.pop()

    kafka = Kafka(run_name)
    made = drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0)), check=away)
    assert (made.written, said) == (1, [])


def test_a_partition_that_comes_back_is_looked_up_again(
    connection: database.Connection, stack: Stack, run_name: str
) -> None:
    """Another sink may have written on in between."""
    kafka = Kafka(run_name)
    looked = []

    async def look(_unread: Spans) -> None:
        looked.append(True)

    drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0)), kafka.event(topics.TICK, 0, 1, quote(1)), check=look)
    assert len(looked) == 1
    kafka.spans.clear()
    made = drain(stack, kafka, kafka.event(topics.TICK, 0, 0, quote(0), quote(1), quote(2)), check=look)
    assert (len(looked), made.written) == (2, 1)


def test_no_more_is_taken_than_fits_while_the_database_is_slow(
    stack: Stack, run_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "BATCH_ROWS", 4)
    kafka = Kafka(run_name)

    async def full() -> None:
        made = Sink(
            Writer(stack.database, run_name, "sink", INSTRUMENTS),
            Reader(CODEC, run_name, INSTRUMENTS),
            nothing_changed,
        )
        await made.add(kafka.event(topics.TICK, 0, 0, quote(0), quote(1), quote(2)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(made.add(kafka.event(topics.TICK, 0, 3, quote(3))), 0.05)

    asyncio.run(full())


# Whole processes on a real Kafka.


def produce(broker: str, run: str, outputs: list[tuple[Record, int]]) -> None:
    """Write outputs as a worker does."""
    producer = Producer({"bootstrap.servers": broker, "linger.ms": 5, "enable.idempotence": True})
    for made, offset in outputs:
        name = topics.named(topics.OUTPUT_OF[type(made)].name, run)
        partition = partition_of(made.symbol.encode(), PARTITIONS)  # type: ignore[union-attr]
        headers: list[tuple[str, str | bytes | None]] = [("offset", str(offset))]
        producer.produce(name, CODEC.encode(made), topics.key(made), partition, headers=headers)
        producer.poll(0)
    assert producer.flush(30) == 0


def outputs(count: int, first: int = 0) -> list[tuple[Record, int]]:
    """What a worker could have written: five kinds, six symbols, three sources."""
    chance = random.Random(first)
    made: list[tuple[Record, int]] = []
    for offset in range(first, first + count):
        symbol = ("EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "BTCUSDT", "AAPL")[offset % 6]
        source = ("a", "b", "best")[offset % 3]
        at = NOON + offset * 10**9
        bid = chance.randrange(10_000, 99_999)
        made.append((quote(offset, symbol=symbol, source=source, bid=bid, ask=bid + 1), offset))
        made.append((Best(symbol, at, at, "normal", bid, 1, "a", bid + 2, 1, "b", bid * 10 + 10, 2), offset))
        start = NOON + offset // 60 * MINUTE
        made.append((Candle(symbol, source, start, -1, bid_close=bid, ticks=offset), offset))
        if offset % 10 == 0:
            made.append((Gap(symbol, source, at, 0, "stale", "open"), offset))
            made.append((Gap(symbol, source, at, at + 1, "stale", "closed"), offset))
            made.append((Status(symbol, source, "live", at, at, at, 1, 1, 1, offset, offset, 0, 0, {}), offset))
    return made


def wait_until_stored(broker: str, run: str, sinks: list[Process], seconds: float = 60) -> None:
    """Wait until the sinks have committed everything that is in their topics."""
    limit = time.monotonic() + seconds
    names = [topics.named(topic.name, run) for topic in SUNK]
    while left := sum(lag(broker, admin.sink_id(run), name) for name in names):
        for process in sinks:
            assert process.is_running(), f"a sink ended:\n{process.tail()}"
        assert time.monotonic() < limit, f"{left} records behind:\n{sinks[0].tail()}"
        time.sleep(0.1)  # polling committed offsets: Kafka does not tell


def assert_stored(connection: database.Connection, run: str, made: list[tuple[Record, int]]) -> None:
    """Compare the tables with what the last record of each key says."""
    last = {(type(each), *key_of(each)): (each, offset) for each, offset in made}
    expected: dict[type, list[Any]] = {kind: [] for kind in (Quote, Best, Candle, Gap, Status)}
    for each, offset in last.values():
        expected[type(each)].append(values_of(each, offset))
    for kind, table, columns in (
        (Quote, "ticks", "symbol, seq, source, bid, source_offset"),
        (Best, "best_prices", "symbol, ts_event_ns, bid, consensus, source_offset"),
        (Candle, "candles", "symbol, source, start, bid_close, ticks, source_offset"),
        (Gap, "gaps", "symbol, source, start_ns, until_ns, status, source_offset"),
        (Status, "source_status", "symbol, source, arrived, source_offset"),
    ):
        found = connection.execute(f"SELECT {columns} FROM {table} WHERE run = %s", [run]).fetchall()
        assert sorted(map(str, found)) == sorted(map(str, expected[kind])), table


def key_of(made: Any) -> tuple[Any, ...]:
    if isinstance(made, Quote):
        return made.symbol, made.seq
    return made.symbol, getattr(made, "source", ""), getattr(made, "start", 0)


def values_of(made: Any, offset: int) -> tuple[Any, ...]:
    scale = INSTRUMENTS[made.symbol].price_scale
    if isinstance(made, Quote):
        return made.symbol, made.seq, made.source, Decimal(made.bid).scaleb(-scale), offset
    if isinstance(made, Best):
        prices = Decimal(made.bid).scaleb(-scale), Decimal(made.consensus).scaleb(-scale - 1)
        return made.symbol, made.ts_event, *prices, offset
    if isinstance(made, Candle):
        start = datetime.fromtimestamp(made.start / 10**9, UTC)
        return made.symbol, made.source, start, Decimal(made.bid_close).scaleb(-scale), made.ticks, offset
    if isinstance(made, Gap):
        return made.symbol, made.source, made.start, made.end or None, made.status, offset
    return made.symbol, made.source, made.arrived, offset


def test_the_tables_hold_what_the_topics_say(
    connection: database.Connection, stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    process = start("sink")
    made = outputs(3_000)
    produce(stack.broker, run, made)
    name = topics.named(topics.TICK.name, run)
    producer = Producer({"bootstrap.servers": stack.broker})
    producer.produce(name, b"rubbish", b"EURUSD", 1)
    assert producer.flush(30) == 0
    wait_until_stored(stack.broker, run, [process])
    assert_stored(connection, run, made)
    (letter,) = stored(connection, "dead_letter", run, "topic, partition, reason, record_value")
    assert letter == (name, 1, flags.UNDECODABLE, b"rubbish")
    assert len(read(stack.broker, topics.named(topics.DEAD_LETTER.name, run))) == 1
    assert {row[0] for row in stored(connection, "instruments", run, "symbol, 1")} == set(INSTRUMENTS)
    assert process.stop() == 0


def test_kills_and_rebalances_leave_no_trace(
    connection: database.Connection, stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    made: list[tuple[Record, int]] = []
    first, second = start("sink"), start("sink")
    for round_ in range(3):
        part = outputs(2_000, first=round_ * 2_000)
        produce(stack.broker, run, part)
        made += part
        await_rows(connection, run, len(made) // 5)
        first.kill()
        first, second = second, start("sink")
    wait_until_stored(stack.broker, run, [first, second])
    assert_stored(connection, run, made)


def await_rows(connection: database.Connection, run: str, count: int) -> None:
    limit = time.monotonic() + 60
    query = "SELECT coalesce(sum(next_offset), 0) FROM stream_offsets WHERE run = %s"
    while (row := connection.execute(query, [run]).fetchone()) and row[0] < count:
        assert time.monotonic() < limit, f"only {row[0]} records are in the database"
        time.sleep(0.02)  # polling the database: the kill should fall into the work


def test_an_emptied_database_is_filled_again(
    connection: database.Connection, stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    made = outputs(500)
    produce(stack.broker, run, made)
    process = start("sink")
    wait_until_stored(stack.broker, run, [process])
    assert process.stop() == 0
    for table in ("ticks", "best_prices", "candles", "gaps", "source_status", "stream_offsets", "stream_topics"):
        connection.execute(f"DELETE FROM {table} WHERE run = %s", [run])
    process = start("sink")
    await_rows(connection, run, len(made))
    assert_stored(connection, run, made)


def test_a_database_that_was_set_back_is_seen_by_the_sink_that_takes_over(
    connection: database.Connection, stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    """It knows nothing of what the other one had stored; the group goes on behind it."""
    made = outputs(400)
    produce(stack.broker, run, made[:700])
    sinks = [start("sink"), start("sink")]
    wait_until_stored(stack.broker, run, sinks)
    connection.execute("DELETE FROM ticks WHERE run = %s", [run])  # a replica that lags, or a backup
    connection.execute("UPDATE stream_offsets SET next_offset = 0 WHERE run = %s AND topic LIKE '%%tick'", [run])
    assert sinks[0].stop() == 0
    produce(stack.broker, run, made[700:])
    assert sinks[1].wait(60) == 1
    assert "goes on at offset" in sinks[1].tail(3)
    assert "set back" in sinks[1].tail(3)
    again = start("sink")
    wait_until_stored(stack.broker, run, [again])
    assert stored(connection, "ticks", run, "count(*), 1") == [(400, 1)]


def test_a_second_sink_starts_while_the_first_one_commits(
    stack: Stack, run: str, start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch, environment: dict[str, str]
) -> None:
    """What the group has committed between two looks is in the database as well."""
    process = start("sink")
    produce(stack.broker, run, outputs(500))
    wait_until_stored(stack.broker, run, [process])
    looks = []

    def meanwhile(*place: Any) -> Any:
        looks.append(1)
        produce(stack.broker, run, outputs(100, first=500 * len(looks)))
        wait_until_stored(stack.broker, run, [process])
        return committed(*place)

    committed = admin.committed
    monkeypatch.setattr(admin, "committed", meanwhile)
    settings = config.load({name: value for name, value in environment.items() if name.startswith("TICKLOOM_")})
    resume(settings)
    assert len(looks) == 1


def test_topics_made_anew_are_read_from_their_beginning(
    connection: database.Connection, stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    produce(stack.broker, run, outputs(100, first=5_000))
    process = start("sink")
    wait_until_stored(stack.broker, run, [process])
    assert process.stop() == 0
    names = [topics.named(topic.name, run) for topic in topics.TOPICS]
    admin.create_topics(stack.broker, run, partitions=PARTITIONS, recreate=names)
    made = outputs(20)
    produce(stack.broker, run, made)
    process = start("sink")
    wait_until_stored(stack.broker, run, [process])
    assert stored(connection, "best_prices", run, "max(source_offset), 1") == [(19, 1)]
    assert stored(connection, "ticks", run, "count(*), 1") == [(120, 1)]


def test_a_topic_that_is_deleted_under_it_ends_it_with_one_line_that_names_it(
    stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    produce(stack.broker, run, outputs(20))
    process = start("sink")
    wait_until_stored(stack.broker, run, [process])
    name = topics.named(topics.CANDLE.name, run)
    client = admin.connect(stack.broker)
    client.delete_topics([name])[name].result(30)
    deadline = time.monotonic() + 60
    while process.is_running():
        assert time.monotonic() < deadline, process.tail()
        time.sleep(0.1)
    assert f"{name} is missing" in process.tail(3)
    assert "Traceback" not in process.tail()


@pytest.mark.parametrize(
    ("setting", "says"),
    [("postgresql://me:hunter2@127.0.0.1:1/db", "waiting"), ("postgresql://tickloom@{}/nowhere", "does not exist")],
)
def test_a_database_that_cannot_be_used_is_one_clear_line(
    stack: Stack, run: str, start: Callable[..., Process], setting: str, says: str
) -> None:
    address = setting.format(stack.database.rpartition("@")[2].partition("/")[0])
    process = start("sink", TICKLOOM_DATABASE=address)
    limit = time.monotonic() + 30
    while says not in (log := process.log.read_text()) or (says != "waiting" and process.is_running()):
        assert time.monotonic() < limit, log
        time.sleep(0.05)  # polling a log
    assert "TICKLOOM_DATABASE" in log
    assert "hunter2" not in log
    assert "Traceback" not in log
    assert process.is_running() == (says == "waiting")
