"""Start and stop real tickloom processes, and read what they wrote."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from schemas import topics
from schemas.codec import Codec
from schemas.instrument import Instrument, load
from schemas.record import Clock
from topology import admin
from topology.driver import Output, TopologyDriver

PARTITIONS = 4
#: What a new Kafka, or one with new topics, says for a moment.
STARTING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)
ROOT = Path(__file__).parents[2]


def free_ports(count: int) -> list[int]:
    """Ports on which nobody listens now."""
    probes = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


WRONG = re.compile(r"\[(ERROR|CRITICAL)\]|^Traceback")


class Process:
    """A `tickloom` process under test."""

    def __init__(self, environment: dict[str, str], *arguments: str, log: Path) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "topology.cli", *arguments],
                env=environment,
                cwd=ROOT,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.pid = self._process.pid

    def kill(self) -> None:
        """SIGKILL, as a lost machine."""
        self._process.kill()
        self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def wait(self, seconds: float) -> int:
        """The exit code, once it has ended by itself."""
        return self._process.wait(seconds)

    def stop(self, seconds: float = 20) -> int:
        """SIGTERM; give the exit code."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"did not stop within {seconds} s:\n{self.tail()}") from None

    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def tail(self, lines: int = 40) -> str:
        """The end of its log, and before it the first thing that went wrong: what follows that may be long."""
        said = self.log.read_text(errors="replace").splitlines()
        before, end = said[:-lines], said[-lines:]
        wrong = next((number for number, line in enumerate(before) if WRONG.search(line)), None)
        return "\n".join(end if wrong is None else [*before[wrong : wrong + lines // 2], "...", *end])


def produce(broker: str, run: str, records: list[Any], clock_every: int = 200) -> None:
    """Write records to market.raw by symbol, and the clock of their time to every partition."""
    codec = Codec()
    name = topics.named(topics.RAW.name, run)
    producer = Producer({"bootstrap.servers": broker, "partitioner": "murmur2_random", "linger.ms": 5})
    for number, record in enumerate(records):
        if isinstance(record, bytes):
            producer.produce(name, record, b"EURUSD")
            continue
        producer.produce(name, codec.encode(record), record.symbol.encode())
        if number % clock_every == clock_every - 1:
            tick(producer, name, getattr(record, "ts_recv", 0))
    assert producer.flush(30) == 0


def tick(producer: Producer, name: str, ts: int) -> None:
    """Write a clock record to every partition."""
    value = Codec().encode(Clock(ts))
    for partition in range(PARTITIONS):
        producer.produce(name, value, topics.CLOCK_KEY, partition)


def lag(broker: str, group: str, name: str) -> int:
    """How many records of a topic a group has not committed.

    Asked by a consumer: librdkafka's admin client crashes on a group that has no coordinator yet (2.16.1).
    """
    consumer = Consumer({"bootstrap.servers": broker, "group.id": group})
    ends: dict[int, int] = {}
    try:
        ends = {number: consumer.get_watermark_offsets(TopicPartition(name, number))[1] for number in range(PARTITIONS)}
        committed = consumer.committed([TopicPartition(name, number) for number in ends], timeout=30)
    except KafkaException as error:
        if error.args[0].code() in STARTING:
            return sum(ends.values()) or 1  # a new Kafka is still making its offsets topic: nothing is committed
        raise
    finally:
        consumer.close()
    return sum(ends[each.partition] - max(each.offset, 0) for each in committed)


def written(broker: str, name: str) -> int:
    """How many records a topic has had."""
    consumer = Consumer({"bootstrap.servers": broker, "group.id": "test-reader"})
    try:
        ends = [consumer.get_watermark_offsets(TopicPartition(name, number))[1] for number in range(PARTITIONS)]
    except KafkaException as error:
        if error.args[0].code() in STARTING:
            return 0
        raise
    finally:
        consumer.close()
    return sum(ends)


def wait_for_no_lag(broker: str, run: str, workers: list[Process], seconds: float = 60) -> None:
    """Wait until the workers of a run have committed all of market.raw."""
    deadline = time.monotonic() + seconds
    name = topics.named(topics.RAW.name, run)
    while (left := lag(broker, admin.app_id(run), name)) > 0:
        for worker in workers:
            assert worker.is_running(), f"a worker ended:\n{worker.tail()}"
        assert time.monotonic() < deadline, f"{left} records behind:\n{workers[0].tail() if workers else ''}"
        time.sleep(0.1)  # polling a committed offset: Kafka does not tell


def read(broker: str, name: str) -> list[Any]:
    """Every record of a topic, by partition in order (confluent messages)."""
    consumer = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "test-reader",
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    consumer.assign([TopicPartition(name, number, 0) for number in range(PARTITIONS)])
    messages, left = [], set(range(PARTITIONS))
    while left:
        for message in consumer.consume(1000, 1.0):
            if message.error() is None:
                messages.append(message)
            elif message.error().code() == KafkaError._PARTITION_EOF:
                left.discard(message.partition())  # which may come twice while somebody writes
            else:
                raise AssertionError(message.error())
    consumer.close()
    return messages


def expected(broker: str, run: str, instruments: dict[str, Instrument]) -> dict[str, list[Output]]:
    """What the driver, without Kafka, makes of the very log that the workers read."""
    codec = Codec()
    outputs: dict[str, list[Output]] = defaultdict(list)
    log = read(broker, topics.named(topics.RAW.name, run))
    for number in range(PARTITIONS):
        driver = TopologyDriver(instruments)
        for message in log:
            if message.partition() == number:
                try:
                    record = codec.decode(message.value())
                except ValueError:
                    continue
                driver.pipe(record, message.timestamp()[1] * 1_000_000, message.offset())
        for topic in topics.TOPICS:
            outputs[topic.name] += driver.read(topic)
    return outputs


def assert_as_expected(broker: str, run: str, *, exactly: bool) -> None:
    """Compare every output topic with the driver's; after a crash repeats are allowed, other values never."""
    outputs = expected(broker, run, load())
    for topic in topics.TOPICS:
        if topic in (topics.RAW, topics.DEAD_LETTER):
            continue
        made = read(broker, topics.named(topic.name, run))
        got = [(each.key(), each.value(), int(dict(each.headers())[topics.OFFSET_HEADER])) for each in made]
        wanted = [(each.key, each.value, each.offset) for each in outputs[topic.name]]
        if exactly:
            assert got == wanted, topic.name
        assert set(got) == set(wanted), topic.name
        assert last_by_key([each[:2] for each in got]) == last_by_key([each[:2] for each in wanted]), topic.name


def last_by_key(pairs: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """What a compacted topic comes down to."""
    return dict(pairs)
