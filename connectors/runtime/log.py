"""Read a stretch of a topic, from one offset to another, outside any consumer group."""

import math
import time
from collections.abc import Iterator
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from connectors.runtime.cluster import Cluster, client

ANSWER_S: Final = 10.0
PATIENCE_S: Final = 30.0
#: While a topic is being made, or its leader changes.
PASSING: Final = (
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
    KafkaError.UNKNOWN_LEADER_EPOCH,
    KafkaError._UNKNOWN_PARTITION,
    KafkaError._TIMED_OUT,
)


class LogReader:
    """Reads topics of one cluster. Use it in a ``with``; every method raises KafkaException."""

    def __init__(self, cluster: Cluster) -> None:
        settings: dict[str, Any] = {
            **client(cluster),
            "group.id": "tickloom-reader",  # demanded by the client; nothing is committed under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",  # by default it goes to the end, silently passing over what is gone
            "fetch.wait.max.ms": 20,  # an end that markers of transactions stand at is known only by an empty answer
            "isolation.level": "read_committed",
            "log_level": 0,
        }
        self._consumer = Consumer(settings)

    def __enter__(self) -> "LogReader":
        return self

    def __exit__(self, *_: object) -> None:
        self._consumer.close()

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """The first offset and the one after the last, by partition; empty for a topic that is not there."""
        found = self._consumer.list_topics(timeout=ANSWER_S).topics.get(topic)
        return {number: self._bounds(topic, number) for number in sorted(found.partitions)} if found else {}

    def _bounds(self, topic: str, number: int) -> tuple[int, int]:
        limit = time.monotonic() + PATIENCE_S
        while True:
            try:
                return self._ask(topic, number)
            except KafkaException as error:
                if error.args[0].code() not in PASSING or time.monotonic() > limit:
                    raise
                time.sleep(0.05)

    def _ask(self, topic: str, number: int) -> tuple[int, int]:
        at = TopicPartition(topic, number)
        bounds: tuple[int, int] | None = self._consumer.get_watermark_offsets(at, timeout=ANSWER_S)
        if bounds is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, f"no offsets of {topic}"))
        return bounds

    def offsets_at(self, topic: str, ms: dict[int, int]) -> dict[int, int]:
        """The first offset appended at or after a time (ms since the epoch), by partition; the end where none was."""
        ends = self.bounds(topic)
        asked = [TopicPartition(topic, number, at) for number, at in ms.items()]
        found = self._consumer.offsets_for_times(asked, timeout=PATIENCE_S) if asked else []
        for each in found:
            if each.error is not None:
                raise KafkaException(each.error)
        return {at.partition: at.offset if at.offset >= 0 else ends[at.partition][1] for at in found}

    def read(
        self, topic: str, since: dict[int, int], until: dict[int, int], seconds: float = math.inf
    ) -> Iterator[Message]:
        """Give the records with ``since <= offset < until`` of each partition, in order per partition.

        Raises TimeoutError where that takes longer than ``seconds``.
        """
        limit = time.monotonic() + seconds
        left = {number for number in until if until[number] > since[number]}
        self._consumer.assign([TopicPartition(topic, number, since[number]) for number in sorted(left)])
        while left:
            if time.monotonic() > limit:
                raise TimeoutError(f"{topic} was not read to its end within {seconds:g} s")
            for message in self._consumer.consume(5000, timeout=0.1):
                error, number, offset = message.error(), message.partition() or 0, message.offset() or 0
                if error is None and offset < until[number]:
                    yield message
                elif error is not None and error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                after = offset + 1 if error is None else offset  # of an end it is the offset that comes next
                if after >= until[number]:
                    left.discard(number)
        self._consumer.unassign()

    def whole(self, topic: str) -> Iterator[Message]:
        """Give all records that the topic has now."""
        bounds = self.bounds(topic)
        since = {number: first for number, (first, _) in bounds.items()}
        return self.read(topic, since, {number: end for number, (_, end) in bounds.items()})
