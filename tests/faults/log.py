"""Topics as the suite reads them: whole, read committed, one partition at a time; and how far a group is."""

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from schemas import topics

PATIENCE_S = 60.0
#: What a broker answers for a while after a start.
STARTING = (
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.NOT_COORDINATOR,
    KafkaError._TIMED_OUT,
    KafkaError._TRANSPORT,
    KafkaError._ALL_BROKERS_DOWN,
    KafkaError.LEADER_NOT_AVAILABLE,
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
    with consumer(broker) as client:
        low, _ = client.get_watermark_offsets(TopicPartition(name, partition), timeout=PATIENCE_S)
        client.assign([TopicPartition(name, partition, low)])
        while True:
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
    """How many records of some topics a group has not committed; asked again and again."""

    def __init__(self, client: Consumer, names: list[str], partitions: int) -> None:
        self._client = client
        self._places = [(name, number) for name in names for number in range(partitions)]

    def ends(self) -> dict[tuple[str, int], int] | None:
        """The end of each partition; None while no broker says."""
        try:
            return {
                place: self._client.get_watermark_offsets(TopicPartition(*place), timeout=5)[1]
                for place in self._places
            }
        except KafkaException as error:
            if error.args[0].code() in STARTING:
                return None
            raise

    def behind(self) -> dict[tuple[str, int], int] | None:
        """By partition how many are not committed, where there are any; None while no broker says."""
        ends = self.ends()
        if ends is None:
            return None
        try:
            committed = self._client.committed([TopicPartition(*place) for place in ends], timeout=5)
        except KafkaException as error:
            if error.args[0].code() in STARTING:
                return None
            raise
        left = {(each.topic, each.partition): max(each.offset, 0) for each in committed}
        return {place: end - left[place] for place, end in ends.items() if end > left[place]}
