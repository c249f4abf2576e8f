"""Records into market.raw: in order per partition, without gaps or repeats, or the process ends.

Idempotent, all replicas acknowledge, nothing times out on its own: so what a partition has of one producer
is always a beginning of what was sent, which is what lets an import go on after a crash. A full queue makes
``send`` wait; where Kafka takes nothing for STALL_S, and where a delivery fails, ProducerError is raised, and
the caller must end: neither this producer nor its process should send on after a hole.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

from aiokafka.partitioner import murmur2
from confluent_kafka import KafkaError, KafkaException, Message, Producer
from mypy_extensions import mypyc_attr

from connectors.runtime.cluster import Cluster, address, client
from schemas import topics
from schemas.codec import Codec
from schemas.record import Candle, Clock, Link, Tick

STALL_S: Final = 30.0
QUEUE = 100_000  # records not yet acknowledged
QUEUE_KB: Final = 64 << 10
LINGER_MS: Final = 2
POLL_EVERY: Final = 1000  # sends: a failed delivery is known this soon

Headers = Sequence[tuple[str, bytes]]


@mypyc_attr(native_class=False)
class ProducerError(ConnectionError):
    """Kafka does not take the records; the text is one line that says why."""


class RawProducer:
    """Writes to a run's market.raw, and to its market.dead_letter what is no record."""

    def __init__(
        self, cluster: Cluster, run: str, codec: Codec, *, stall_s: float = STALL_S, linger_ms: int = LINGER_MS
    ) -> None:
        """Connect, and learn the number of partitions. Raises ProducerError.

        ``linger_ms``: how long a record may wait for others that go with it.
        """
        self.topic = topics.named(topics.RAW.name, run)
        self._dead_letters = topics.named(topics.DEAD_LETTER.name, run)
        self._broker = address(cluster)
        self._encode = codec.encode
        self._stall_s = stall_s
        self._failure = ""
        self._until_poll = POLL_EVERY
        self._partition_of: dict[str, int] = {}
        settings: dict[str, Any] = {
            **client(cluster),
            "enable.idempotence": True,  # with it come acks=all, and order over retries
            "enable.gapless.guarantee": True,
            "message.timeout.ms": 0,  # never: it would leave a hole
            "partitioner": "murmur2_random",  # as in Java; the partition is named here, this is for safety
            "compression.type": "lz4",
            "linger.ms": linger_ms,
            "queue.buffering.max.messages": QUEUE,
            "queue.buffering.max.kbytes": QUEUE_KB,
            "delivery.report.only.error": True,
            "on_delivery": self._on_delivery,
            "log_level": 0,  # what matters is raised or reported
        }
        self._producer = Producer(settings)
        self.partitions = self._count_partitions()

    def partition_of(self, symbol: str) -> int:
        """The partition of a symbol: the same as every Kafka client with murmur2 finds."""
        number = self._partition_of.get(symbol)
        if number is None:
            number = partition_of(symbol.encode(), self.partitions)
            self._partition_of[symbol] = number
        return number

    def send(self, record: Tick | Link | Candle) -> None:
        """Send one record to the partition of its symbol. Raises ProducerError."""
        symbol = record.symbol
        self._produce(self.topic, symbol.encode(), self._encode(record), self.partition_of(symbol))

    def copy(self, key: bytes | None, value: bytes | None, partition: int, headers: Headers, ms: int) -> None:
        """Send a record as it stands in another log, which was appended there at ``ms``. Raises ProducerError."""
        self._produce(self.topic, key, value, partition, headers, ms)

    def put(self, partition: int, key: bytes, value: bytes) -> None:
        """Send what is encoded to a partition of market.raw. Raises ProducerError."""
        self._produce(self.topic, key, value, partition)

    def clock(self, partition: int, ts_ns: int) -> None:
        """Say to one partition that it is ``ts_ns``. Raises ProducerError."""
        self._produce(self.topic, topics.CLOCK_KEY, self._encode(Clock(ts_ns)), partition)

    def dead_letter(self, key: bytes, value: bytes, headers: Headers) -> None:
        """Send what is no record to market.dead_letter. Raises ProducerError."""
        self._produce(self._dead_letters, key, value, partition_of(key, self.partitions), headers)

    def poll(self) -> None:
        """Let failures be known. Raises ProducerError."""
        self._until_poll = POLL_EVERY
        self._ask(lambda: self._producer.poll(0))
        self._check()

    def flush(self) -> None:
        """Wait until Kafka has everything. Raises ProducerError."""
        self._wait(lambda: self._ask(lambda: self._producer.flush(0.5)) == 0)

    def abandon(self) -> None:
        """Forget what is not sent yet. What is under way may still arrive: all of it, or its beginning."""
        self._producer.purge(in_queue=True, in_flight=False, blocking=True)

    def _produce(
        self,
        topic: str,
        key: bytes | None,
        value: bytes | None,
        partition: int,
        headers: Headers | None = None,
        ms: int = 0,
    ) -> None:
        self._until_poll -= 1
        if self._until_poll <= 0:
            self.poll()
        if not self._offer(topic, key, value, partition, headers, ms):
            self._wait(partial(self._offer, topic, key, value, partition, headers, ms))

    def _offer(
        self, topic: str, key: bytes | None, value: bytes | None, partition: int, headers: Headers | None, ms: int
    ) -> bool:
        """``ms``: 0 is now."""
        try:
            if headers is None and ms == 0:
                self._producer.produce(topic, value, key, partition)
            else:
                self._producer.produce(topic, value, key, partition, timestamp=ms, headers=list(headers or []))
        except BufferError:
            self._ask(lambda: self._producer.poll(0.05))
            return False
        except KafkaException as error:
            raise ProducerError(f"Kafka at {self._broker} refused a record: {error.args[0].str()}") from error
        return True

    def _wait(self, done: Callable[[], bool]) -> None:
        """Try again until it is done; give up when the queue has not become shorter for too long."""
        shortest = len(self._producer)
        limit = time.monotonic() + self._stall_s
        while not done():
            self._check()
            if len(self._producer) < shortest:
                shortest = len(self._producer)
                limit = time.monotonic() + self._stall_s
            if time.monotonic() > limit:
                raise ProducerError(
                    f"Kafka at {self._broker} has taken nothing for {self._stall_s:.0f} s "
                    f"({len(self._producer):,} records wait): is it running?"
                )
        self._check()

    def _ask(self, call: Callable[[], int]) -> int:
        """Let the client work. It raises its fatal errors here, also in the middle of a callback of ours."""
        try:
            return call()
        except (KafkaException, SystemError) as error:
            cause = error.__cause__ if isinstance(error, SystemError) else error
            text = cause.args[0].str() if isinstance(cause, KafkaException) else str(error)
            self._failure = self._failure or f"Kafka at {self._broker} did not take a record: {text}"
            raise ProducerError(self._failure) from error

    def _check(self) -> None:
        if self._failure:
            raise ProducerError(self._failure)

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is not None and error.code() != KafkaError._PURGE_QUEUE:
            self._failure = self._failure or f"a record for {message.topic()} was not delivered: {error.str()}"

    def _count_partitions(self) -> int:
        try:
            # Of all topics: to ask for one by name would make it where Kafka is set to make topics.
            found = self._producer.list_topics(timeout=min(10.0, self._stall_s)).topics.get(self.topic)
        except KafkaException as error:
            raise ProducerError(
                f"no answer from Kafka at {self._broker} ({error.args[0].str()}): is it running?"
            ) from error
        if found is None:
            raise ProducerError(f"{self.topic} does not exist at {self._broker}: run `tickloom topics create`")
        return len(found.partitions)


def partition_of(key: bytes, partitions: int) -> int:
    """The partition that Java's default partitioner gives a key."""
    return int(murmur2(key) & 0x7FFFFFFF) % partitions
