"""Topics as the suite reads them: whole, read committed, one partition at a time; and how far a group is."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas import topics

PATIENCE_S = 60.0
ANSWER_S = 20.0  # a new client asks four times, each way with the delay that the proxy makes
READ_LIMIT_S = 300.0
#: What a broker answers for a while after a start.
STARTING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.OFFSET_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
)


class Record(NamedTuple):
    """A record as the task of a worker takes it (aiokafka's names)."""

    topic: str
    partition: int
    offset: int
    timestamp: int  # ms
    key: bytes | None
    value: bytes | None
    headers: tuple[tuple[str, bytes], ...]

    @property
    def origin(self) -> bytes:
        """Where an output came from."""
        return dict(self.headers).get(topics.OFFSET_HEADER, b"")


@contextlib.contextmanager
def consumer(broker: str, group: str = "faults-reader", *, committed: bool = True) -> Iterator[Consumer]:
    """A consumer that commits nothing."""
    client = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "isolation.level": "read_committed" if committed else "read_uncommitted",
            "fetch.queue.backoff.ms": 50,
            "log_level": 0,
        }
    )
    try:
        yield client
    finally:
        client.close()


def read(broker: str, name: str, partition: int) -> list[Record]:
    """Every committed record of one partition."""
    found: list[Record] = []
    limit = time.monotonic() + READ_LIMIT_S
    with consumer(broker) as client:
        low, _ = client.get_watermark_offsets(TopicPartition(name, partition), timeout=PATIENCE_S)
        client.assign([TopicPartition(name, partition, low)])
        while True:
            if time.monotonic() > limit:
                raise TimeoutError(f"{name}:{partition} can't be read to its end: {len(found)} records so far")
            for message in client.consume(5_000, 0.1):
                error = message.error()
                if error is None:
                    place = (name, partition, message.offset(), message.timestamp()[1])
                    found.append(Record(*place, message.key(), message.value(), tuple(message.headers() or ())))
                elif error.code() == KafkaError._PARTITION_EOF:
                    return found
                elif error.code() not in STARTING:
                    raise KafkaException(error)


class Lag:
    """How many records of some topics a group has not committed; asked again and again, whatever breaks meanwhile."""

    def __init__(self, broker: str, group: str, names: list[str], partitions: int) -> None:
        self._broker = broker
        self._group = group
        self._places = [(name, number) for name in names for number in range(partitions)]
        self._stack = contextlib.ExitStack()
        self._client: Consumer | None = None

    def ends(self) -> dict[tuple[str, int], int] | None:
        """The end of each partition; None while no broker says."""
        return self._ask(lambda client: {place: _end(client, place) for place in self._places})

    def behind(self) -> dict[tuple[str, int], int] | None:
        """By partition how many are not committed, where there are any; None while no broker says."""
        return self._ask(self._behind)

    def _behind(self, client: Consumer) -> dict[tuple[str, int], int]:
        ends = {place: _end(client, place) for place in self._places}
        committed = client.committed([TopicPartition(*place) for place in ends], timeout=ANSWER_S)
        left = {(each.topic, each.partition): max(each.offset, 0) for each in committed}
        return {place: end - left[place] for place, end in ends.items() if end > left[place]}

    def committed(self) -> dict[tuple[str, int], int] | None:
        """By partition what is committed; None while no broker says."""
        return self._ask(
            lambda client: {
                (each.topic, each.partition): each.offset
                for each in client.committed([TopicPartition(*place) for place in self._places], timeout=ANSWER_S)
            }
        )

    def _ask(self, question: Callable[[Consumer], dict[tuple[str, int], int]]) -> dict[tuple[str, int], int] | None:
        if self._client is None:
            self._client = self._stack.enter_context(consumer(self._broker, self._group))
        try:
            return question(self._client)
        except KafkaException as error:
            code = error.args[0].code()
            if code >= 0 and code not in STARTING:  # below 0 it is the client's own: it has met no broker that says
                raise
            self.close()  # it would ask a dead leader for minutes; a new one looks for the present one
            return None

    def close(self) -> None:
        """Let the connection go."""
        self._client = None
        self._stack.close()


def _end(client: Consumer, place: tuple[str, int]) -> int:
    return int(client.get_watermark_offsets(TopicPartition(*place), timeout=ANSWER_S)[1])
