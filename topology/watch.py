"""Whether the topics under a worker are still those that its state counts the offsets of.

A topic that is deleted and made anew counts from 0 again: records of it would be taken for old ones and skipped without
a word, and a state that is gone would be invented anew from the middle of the log. Each ends the worker with one line
that says what to do. Kafka gives every topic an id of its own (KIP-516); that of market.raw is in every state record.
"""

from typing import Any, Final

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition

from connectors.runtime.cluster import Cluster, client
from schemas.topics import RAW, named
from topology import admin

EVERY_S: Final = 10.0
AGAIN_S: Final = 1.0  # a broker that has just started may not know all topics yet
READ_S: Final = 20.0


class Watch:
    """The topics of a run as they were when it was made. Every method asks Kafka: call it in a thread."""

    def __init__(self, cluster: Cluster, run: str) -> None:
        """Remember their ids. Raises BrokerError, KafkaException."""
        self._run = run
        self._client = admin.connect(cluster)
        self._create = admin.create_command(run)
        anew = f"{self._create} --recreate {admin.state_topic(run)}"
        self.remedy = f"to process anew all that market.raw holds, stop the workers, run `{anew}`, start them"
        self._ids = self._ask()
        self.raw = self._ids.get(named(RAW.name, run), "")  # the id of market.raw

    def gone(self) -> str:
        """What has been deleted or made anew since, in one line; empty: nothing, or Kafka is away."""
        try:
            present = self._ask()
        except KafkaException:
            return ""
        deleted = [name for name in self._ids if name not in present]
        anew = [name for name, number in self._ids.items() if present.get(name, number) != number]
        if not deleted and not anew:
            return ""
        both = {named(RAW.name, self._run), admin.state_topic(self._run)}
        remedy = self.remedy if both.intersection(deleted + anew) else f"run `{self._create}`, start the worker again"
        said = [f"{name} was deleted" for name in deleted] + [f"{name} was deleted and made anew" for name in anew]
        return f"{', '.join(said)} while the worker ran: {remedy}"

    def has_records(self, number: int, before: int) -> bool:
        """Whether market.raw still holds a record of a partition below an offset. Raises KafkaException."""
        settings: dict[str, Any] = {
            **client(self._client.cluster),
            "group.id": "tickloom-watch",  # demanded by the client; nothing is committed under it
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "isolation.level": "read_committed",
            "auto.offset.reset": "earliest",
            "log_level": 0,
        }
        consumer = Consumer(settings)
        try:
            consumer.assign([TopicPartition(named(RAW.name, self._run), number, 0)])
            found = consumer.consume(1, READ_S)
        finally:
            consumer.close()
        return any(message.error() is None and (message.offset() or 0) < before for message in found)

    def _ask(self) -> dict[str, str]:
        """The ids of those that are there."""
        names = [plan.name for plan in admin.plans(self._run)]
        ids = {}
        for name, future in self._client.describe_topics(
            TopicCollection(names), request_timeout=admin.ANSWER_S
        ).items():
            try:
                ids[name] = str(future.result().topic_id)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                    raise
        return ids
