"""Whether a run gave the right outputs: by count and checksum of every key, against the same work without Kafka."""

import zlib

from confluent_kafka.admin import AdminClient

from bench import kafka
from bench.avro import HEADER
from schemas import instrument, topics
from schemas.codec import Codec
from topology.config import Settings
from topology.fetched import Fetched
from topology.task import Task

BATCH = 1_000
OUTPUTS = topics.TOPICS[1:]


class Digest:
    """Count and checksum of the values of each key, in their order; the order between keys does not count."""

    def __init__(self) -> None:
        self.total = 0
        self.keys: dict[bytes, tuple[int, int]] = {}

    def add(self, key: bytes, value: bytes) -> None:
        """Take in one record."""
        count, checksum = self.keys.get(key, (0, 0))
        self.keys[key] = (count + 1, zlib.crc32(value, checksum))
        self.total += 1

    def difference(self, right: "Digest") -> str:
        """Say in one line where this differs from what is right; empty: nowhere."""
        if self.keys == right.keys:
            return ""
        keys = sorted(key for key in self.keys.keys() | right.keys.keys() if self.keys.get(key) != right.keys.get(key))
        first = keys[0]
        have, want = self.keys.get(first, (0, 0))[0], right.keys.get(first, (0, 0))[0]
        return (
            f"{self.total:,} records instead of {right.total:,}; {len(keys)} of {len(right.keys)} keys differ, "
            f"first {first.decode(errors='replace')}: {have:,} instead of {want:,}"
        )


def outputs_offline(client: AdminClient, settings: Settings) -> dict[str, Digest]:
    """What a worker must make of a run's market.raw: the same tasks without Faust and Kafka."""
    instruments = instrument.load(settings.instruments)
    codec = Codec()
    tasks: dict[int, Task] = {}
    waiting: dict[int, list[Fetched]] = {}
    digests = {topic.name: Digest() for topic in OUTPUTS}
    for record in kafka.read(client, settings.broker, topics.named(topics.RAW.name, settings.run)):
        number = record.partition
        if number not in tasks:
            tasks[number], waiting[number] = Task(number, instruments, codec), []
        batch = waiting[number]
        batch.append(record)
        if len(batch) == BATCH:
            _process(tasks[number], batch, digests)
    for number, task in tasks.items():
        if waiting[number]:
            _process(task, waiting[number], digests)
    return digests


def _process(task: Task, batch: list[Fetched], digests: dict[str, Digest]) -> None:
    task.process(batch)
    batch.clear()
    for topic, made in zip(topics.TOPICS, task.take(), strict=True):
        for key, value, _ in made:
            digests[topic.name].add(key or b"", value or b"")


def copies_offline(client: AdminClient, broker: str, topic: str) -> dict[str, Digest]:
    """What a peer must make of a topic: every quote as it is."""
    digest = Digest()
    for record in kafka.read(client, broker, topic):
        value = record.value or b""
        if value.startswith(HEADER):
            digest.add(record.key or b"", value)
    return {topics.TICK.name: digest}
