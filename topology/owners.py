"""Who may write what a partition gives: the topic of owners, where a worker claims what it takes over.

A worker writes all of its partitions in one transaction, under ids of its own, so Kafka doesn't know that one of
them has moved. The workers tell one another: a compacted topic holds a claim for each partition and id.

    A claims    with ids that Kafka has: reads the partition of the topic up to its claim, nobody else's stands there
    B claims    the group took A for dead. B reads A's claim and fences A: what A has open is undone, and it can't
                commit again
    A releases  B says so for it
    B releases  B has given the partition up: it can't commit any more of it, and what it has committed can be seen

Of two that claim at once the later one sees the earlier one's claim, and fences it. State is recovered after that: what
others have committed by then is all that they ever will.
"""

import time
from collections.abc import Iterable
from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from connectors.runtime.cluster import Cluster, client

ANSWER_S: Final = 20.0
CLAIMED: Final = b"claimed"  # a release has no value, so that compaction removes both


class Owners:
    """The claims of a run. Every method asks Kafka: call it in a thread."""

    def __init__(self, cluster: Cluster, topic: str) -> None:
        self._cluster = cluster
        self._topic = topic

    def claim(self, id: str, partitions: Iterable[int]) -> dict[str, set[int]]:
        """Claim partitions for an id of transactions; give the other ids, to be fenced, with what each had claimed.

        Raises KafkaException.
        """
        others: dict[str, set[int]] = {}
        for number, claims in self._read(self._write(id, partitions, CLAIMED)).items():
            for other in claims - {id}:
                others.setdefault(other, set()).add(number)
        return others

    def release(self, id: str, partitions: Iterable[int]) -> None:
        """An id can't commit anything of these partitions any more. Raises KafkaException."""
        self._write(id, partitions, None)

    def _write(self, id: str, partitions: Iterable[int], value: bytes | None) -> dict[int, int]:
        """Write a record into each partition; give the offsets that they have."""
        settings: dict[str, Any] = {**client(self._cluster), "acks": "all", "linger.ms": 0, "log_level": 0}
        producer = Producer(settings | {"delivery.timeout.ms": int(ANSWER_S * 1000)})
        places: dict[int, int] = {}
        errors: list[KafkaError] = []

        def written(error: KafkaError | None, message: Any) -> None:
            if error is not None:
                errors.append(error)
            else:
                places[message.partition()] = message.offset()

        for number in partitions:
            producer.produce(self._topic, value, id.encode(), number, on_delivery=written)
        producer.flush()  # ends: every record has its time
        if errors:
            raise KafkaException(errors[0])
        return places

    def _read(self, places: dict[int, int]) -> dict[int, set[str]]:
        """The ids whose claims stand in partitions, up to an offset in each."""
        settings: dict[str, Any] = {
            **client(self._cluster),
            "group.id": "tickloom-owners",  # demanded by the client; nothing is committed under it
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        found: dict[int, set[str]] = {number: set() for number in places}
        left = dict(places)
        said: KafkaError | None = None
        limit = time.monotonic() + ANSWER_S
        consumer = Consumer(settings)
        try:
            consumer.assign([TopicPartition(self._topic, number, 0) for number in places])
            while left:
                if time.monotonic() > limit:
                    raise KafkaException(said or KafkaError(KafkaError._TIMED_OUT, f"{self._topic} can't be read"))
                for message in consumer.consume(1_000, timeout=0.1):
                    if (error := message.error()) is not None:  # it may pass: the client asks again
                        said = error
                        continue
                    number, offset = message.partition() or 0, message.offset() or 0
                    if number in left and offset <= left[number]:
                        claims = found[number]
                        (claims.discard if message.value() is None else claims.add)((message.key() or b"").decode())
                    if offset >= places[number]:
                        left.pop(number, None)
        finally:
            consumer.close()
        return found
