"""The producer: the right partition, in order, everything or an error."""

import os
import signal
import socket
import time
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType
from hypothesis import given
from hypothesis import strategies as st

from connectors.runtime import producer as module
from connectors.runtime.log import LogReader
from connectors.runtime.producer import ProducerError, RawProducer, partition_of
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.record import Clock, Link
from tests.market import NOON, SECOND, quote, trade
from topology import admin

CODEC = Codec()
SYMBOLS = ["EURUSD", "GBPUSD", "USDJPY", "XAUUSD", "BTCUSDT", "AAPL", "SPX500", "EURCHF"]


def raw(broker: str, run: str) -> dict[int, list]:
    """What market.raw holds, by partition: (key, record)."""
    found: dict[int, list] = {}
    with LogReader(broker) as log:
        for message in log.whole(topics.named(topics.RAW.name, run)):
            found.setdefault(message.partition(), []).append((message.key(), CODEC.decode(message.value())))
    return found


@pytest.fixture
def sender(stack: Stack, run_name: str) -> RawProducer:
    admin.create_topics(stack.broker, run_name, partitions=4)
    return RawProducer(stack.broker, run_name, CODEC)


def send_until_refused(sender: RawProducer, send: Callable[[], None], seconds: float = 30) -> None:
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        send()
        sender.flush()


@given(st.binary(max_size=20), st.integers(1, 64))
def test_a_partition_is_one_of_those_there_are(key, partitions):
    assert 0 <= partition_of(key, partitions) < partitions


@pytest.mark.parametrize(
    ("key", "hashed"), [(b"21", -973932308), (b"foobar", -790332482), (b"a-little-bit-long-string", -985981536)]
)
def test_partitions_are_those_of_the_java_client(key, hashed):
    """The hashes are those that Kafka's own tests list."""
    assert partition_of(key, 8) == (hashed & 0x7FFFFFFF) % 8


@pytest.mark.integration
def test_a_record_lands_where_any_kafka_client_would_put_it(stack, run_name, sender):
    """librdkafka's own murmur2_random finds the same partitions as ours."""
    other = Producer({"bootstrap.servers": stack.broker, "partitioner": "murmur2_random"})
    for symbol in SYMBOLS:
        record = quote(symbol=symbol)
        sender.send(record)
        other.produce(sender.topic, CODEC.encode(record), symbol.encode())
    sender.flush()
    assert other.flush(10) == 0
    for number, records in raw(stack.broker, run_name).items():
        for key, record in records:
            assert key == record.symbol.encode()
            assert number == sender.partition_of(record.symbol)
    assert sum(map(len, raw(stack.broker, run_name).values())) == 2 * len(SYMBOLS)


@pytest.mark.integration
def test_records_and_clocks_keep_their_order(stack, run_name, sender):
    sent: dict[int, list] = {}
    for n in range(5000):
        record = (quote, trade)[n % 2](at=NOON + n, symbol=SYMBOLS[n % 3])
        sender.send(record)
        sent.setdefault(sender.partition_of(record.symbol), []).append((record.symbol.encode(), record))
        if n % 100 == 0:
            for number in range(sender.partitions):
                sender.clock(number, NOON + n)
                sent.setdefault(number, []).append((topics.CLOCK_KEY, Clock(NOON + n)))
    sender.send(Link("EURUSD", "a", NOON, NOON, "heartbeat"))
    sent[sender.partition_of("EURUSD")].append((b"EURUSD", Link("EURUSD", "a", NOON, NOON, "heartbeat")))
    sender.flush()
    assert raw(stack.broker, run_name) == sent


@pytest.mark.integration
def test_a_dead_letter_carries_its_headers(stack, run_name, sender):
    sender.dead_letter(b"EURUSD", b"what it was", [("reason", b"BAD_ROW"), ("line", b"7")])
    sender.flush()
    with LogReader(stack.broker) as log:
        [message] = log.whole(topics.named(topics.DEAD_LETTER.name, run_name))
    assert (message.key(), message.value()) == (b"EURUSD", b"what it was")
    assert message.headers() == [("reason", b"BAD_ROW"), ("line", b"7")]


@pytest.mark.integration
def test_a_full_queue_makes_the_sender_wait_and_loses_nothing(stack, run_name, monkeypatch):
    monkeypatch.setattr(module, "QUEUE", 50)
    admin.create_topics(stack.broker, run_name, partitions=4)
    sender = RawProducer(stack.broker, run_name, CODEC)
    for n in range(3000):
        sender.send(quote(at=NOON + n))
    sender.flush()
    [records] = raw(stack.broker, run_name).values()
    assert [record.ts_event - NOON for _, record in records] == list(range(3000))


@pytest.mark.integration
def test_a_kafka_that_takes_nothing_is_an_error_and_not_an_endless_wait(stack, run_name):
    admin.create_topics(stack.broker, run_name, partitions=4)
    sender = RawProducer(stack.broker, run_name, CODEC)
    sender.send(quote())
    sender.flush()
    sender._stall_s = 1.0
    os.kill(stack.kafka_pid, signal.SIGSTOP)
    try:
        with pytest.raises(ProducerError, match=r"has taken nothing for 1 s \(1 records wait\): is it running\?"):
            # It stops when the system gets round to it, and takes a record or two till then.
            send_until_refused(sender, lambda: sender.send(quote(at=NOON + SECOND)))
        sender.abandon()
    finally:
        os.kill(stack.kafka_pid, signal.SIGCONT)


@pytest.mark.integration
def test_a_record_that_kafka_refuses_ends_the_sending(stack, run_name, sender):
    """Here one that is larger than the topic allows; what follows it must not be taken either."""
    small = ConfigResource(
        ResourceType.TOPIC,
        topics.named(topics.DEAD_LETTER.name, run_name),
        incremental_configs=[ConfigEntry("max.message.bytes", "1000", incremental_operation=AlterConfigOpType.SET)],
    )
    client = AdminClient({"bootstrap.servers": stack.broker})
    for future in client.incremental_alter_configs([small]).values():
        future.result(10)
    with pytest.raises(ProducerError, match=r"did not take a record: .*Message size too large|was not delivered"):
        # The broker takes the setting over in its own time.
        send_until_refused(sender, lambda: sender.dead_letter(b"EURUSD", os.urandom(5000), []))
    with pytest.raises(ProducerError):
        sender.poll()


def test_a_kafka_that_is_away_is_said_in_one_line():
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    with pytest.raises(ProducerError, match=f"no answer from Kafka at 127.0.0.1:{port} .*: is it running"):
        RawProducer(f"127.0.0.1:{port}", "t", CODEC, stall_s=1.0)


@pytest.mark.integration
def test_a_run_without_topics_is_said_with_what_to_do(stack, run_name):
    with pytest.raises(
        ProducerError, match=rf"{run_name}\.market\.raw does not exist .*: run `tickloom topics create`"
    ):
        RawProducer(stack.broker, run_name, CODEC)


@pytest.mark.integration
def test_a_stretch_of_the_log_is_read_and_no_more(stack, run_name, sender):
    for n in range(100):
        sender.send(quote(at=NOON + n))
    sender.flush()
    number = sender.partition_of("EURUSD")
    with LogReader(stack.broker) as log:
        assert log.bounds(sender.topic)[number] == (0, 100)
        read = [message.offset() for message in log.read(sender.topic, {number: 20}, {number: 30})]
        assert list(log.read(sender.topic, {number: 5}, {number: 5})) == []
        assert log.bounds("nowhere") == {}
    assert read == list(range(20, 30))
