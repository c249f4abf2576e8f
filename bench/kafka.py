"""What the bench asks of Kafka: topics made and removed, how far a group is, everything that a topic holds."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]  # it does not export them
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    NewTopic,
    ResourceType,
)

from bench.process import BenchError, Process
from schemas import topics
from topology import admin
from topology.fetched import Fetched, fetched

READ: Final = 5_000  # messages at a time
STALL_S: Final = 120.0  # a group that commits nothing for so long is stuck
LOOK_S: Final = (0.02, 0.5)  # between two looks at a group: looking costs the cores that are measured
#: A group's coordinator is made at its first use.
MOVES: Final = (
    KafkaError.NOT_COORDINATOR,
    KafkaError.COORDINATOR_NOT_AVAILABLE,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaError._TIMED_OUT,
    KafkaError._WAIT_COORD,
)


def reset(client: AdminClient, broker: str, run: str) -> None:
    """Make a run's topics anew, but for market.raw, and forget its group: a worker begins from nothing."""
    raw = topics.named(topics.RAW.name, run)
    names = [plan.name for plan in admin.plans(run) if plan.name != raw]
    forget(client, admin.app_id(run))
    admin.create_topics(broker, run, recreate=names, replication=1)


def create(client: AdminClient, name: str, partitions: int) -> None:
    """Make a topic for the output of a peer."""
    config = {"message.timestamp.type": "LogAppendTime"}
    for future in client.create_topics([NewTopic(name, partitions, 1, config=config)]).values():
        future.result()


def keep(client: AdminClient, topic: str) -> None:
    """Let nothing of a topic be compacted from now on, so that all that is written can be weighed."""
    entry = ConfigEntry("min.compaction.lag.ms", str(2**63 - 1), incremental_operation=AlterConfigOpType.SET)
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=[entry])
    for future in client.incremental_alter_configs([resource]).values():
        future.result()


def forget(client: AdminClient, group: str) -> None:
    """Remove a group with its offsets, once Kafka has seen its members leave."""
    limit = time.monotonic() + STALL_S
    while True:
        try:
            client.delete_consumer_groups([group])[group].result()
        except KafkaException as error:
            code = error.args[0].code()
            if code == KafkaError.GROUP_ID_NOT_FOUND:
                return
            if code != KafkaError.NON_EMPTY_GROUP or time.monotonic() > limit:
                raise
            time.sleep(0.1)


def ends(client: AdminClient, topic: str) -> dict[int, int]:
    """The offset after the last record, of every partition."""
    return admin.offsets(client, [topic], admin.LATEST)[topic]


class Progress:
    """How far a group has committed a topic.

    Asked as a consumer of the group that takes no part in it: the admin client's request for a group's offsets crashes
    the process while the coordinator of the group is not known yet (librdkafka issue 5040).
    """

    def __init__(self, broker: str, group: str, topic: str, until: dict[int, int]) -> None:
        settings = {"bootstrap.servers": broker, "group.id": group, "enable.auto.commit": False, "log_level": 0}
        self._consumer = Consumer(settings)
        self._at = [TopicPartition(topic, number) for number in until]
        self._until = until
        self.total = sum(until.values())

    def left(self) -> int:
        """How many records it has still to commit; what has come since does not count."""
        return sum(max(0, self._until[number] - position) for number, position in self.positions().items())

    def positions(self) -> dict[int, int]:
        """The offset that it has committed, of every partition; 0 where there is none, or no coordinator yet."""
        try:
            found = self._consumer.committed(self._at, timeout=5)
        except KafkaException as error:
            if error.args[0].code() not in MOVES:
                raise
            return {at.partition: 0 for at in self._at}
        return {at.partition: max(0, at.offset) for at in found}

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def await_commit(
    client: AdminClient,
    broker: str,
    group: str,
    topic: str,
    process: Process,
    tell: Callable[[int], None] | None = None,
) -> float:
    """Wait until the group has committed all that the topic holds now; say when that was seen.

    Raises BenchError where the process ends before, or commits nothing for STALL_S.
    """
    progress = Progress(broker, group, topic, ends(client, topic))
    least, changed, began = progress.total + 1, time.monotonic(), None
    try:
        while left := progress.left():
            process.check()
            now = time.monotonic()
            if left < least:
                began = began or (now, left)
                least, changed = left, now
                if tell:
                    tell(progress.total - left)
            if now - changed > STALL_S:
                raise BenchError(f"{group} has committed nothing for {STALL_S:.0f} s, and {left:,} records are left")
            time.sleep(_until_next_look(began, now, left))
        return time.time()
    finally:
        progress.close()


def _until_next_look(began: tuple[float, int] | None, now: float, left: int) -> float:
    shortest, longest = LOOK_S
    if began is None or began[1] == left:
        return 0.1
    rest = left * (now - began[0]) / (began[1] - left)  # at the rate so far
    return min(longest, max(shortest, rest / 4))


@contextmanager
def consumer(broker: str, at: Sequence[TopicPartition], **settings: Any) -> Iterator[Consumer]:
    """A plain consumer of these partitions from these offsets, which commits nothing."""
    made = Consumer(
        {
            "bootstrap.servers": broker,
            "group.id": "tickloom-bench",  # demanded by the client
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            **settings,
        }
    )
    made.assign(list(at))
    try:
        yield made
    finally:
        made.close()


def read(client: AdminClient, broker: str, topic: str, since: dict[int, int] | None = None) -> Iterator[Fetched]:
    """Everything committed that a topic holds, from its beginning or from these offsets, in order per partition.

    Nobody may be writing to it. Its end is told by Kafka: transaction markers have offsets too.
    """
    first = admin.offsets(client, [topic], admin.EARLIEST)[topic] | (since or {})
    left = set(first)
    at = [TopicPartition(topic, number, offset) for number, offset in first.items()]
    with consumer(broker, at, **{"enable.partition.eof": True}) as source:
        while left:
            for message in source.consume(READ, 1.0):
                number = message.partition() or 0
                if (error := message.error()) and error.code() == KafkaError._PARTITION_EOF:
                    left.discard(number)
                elif error:
                    raise KafkaException(error)
                else:
                    stamp = message.timestamp()[1]
                    yield fetched(topic, number, message.offset() or 0, stamp, message.key(), message.value())
