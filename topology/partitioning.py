"""Which partition a key belongs to: murmur2, as in the Java client and aiokafka."""

from aiokafka.partitioner import murmur2

from topology.stages.partition import PARTITION_KEY


def partition_of(key: bytes, partitions: int) -> int:
    """The partition of a state key: of its symbol, or the number that a partition's own record names."""
    if key.startswith(PARTITION_KEY):
        return int(key[len(PARTITION_KEY) :])
    return int((murmur2(key) & 0x7FFFFFFF) % partitions)
