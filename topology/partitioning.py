"""Which partition a key belongs to: murmur2, as in the Java client and aiokafka."""

from typing import Any

from aiokafka.partitioner import murmur2

from topology.stages.partition import PARTITION_KEY


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a state key: of its symbol, or the number that a partition's own record names."""
    if key.startswith(PARTITION_KEY):
        return int(key[len(PARTITION_KEY) :])
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)


def partition_count(app: Any, topic: str) -> int:
    """How many partitions a topic has, from the metadata that the consumer holds; 0 while it has none.

    Faust's own ``consumer.topic_partitions`` knows it only in the worker that leads the group.
    """
    client = app.consumer._thread._consumer
    return len(client.partitions_for_topic(topic) or ()) if client else 0
