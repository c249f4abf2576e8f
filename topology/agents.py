"""The agent over market.raw: a run of records in, one task and one lane a partition.

Faust's agent drives everything: its event is a list of fetched records (``transport.py``). Acks are given by the
lane, after delivery. A partition that is given up loses its state in memory; one that is taken over loads it from
the recovered table.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from typing import Any

from aiokafka import AIOKafkaProducer
from faust.types import TP

from schemas import topics
from schemas.codec import Codec
from schemas.instrument import Instrument
from schemas.record import Clock
from topology.delivery import Lane
from topology.partitioning import partition_of
from topology.task import Task

log = logging.getLogger(__name__)


class Tasks:
    """The partitions that this worker owns: their tasks and lanes."""

    def __init__(
        self, table: Any, instruments: dict[str, Instrument], codec: Codec, run: str, count: Callable[[], int | None]
    ) -> None:
        self._table = table
        self._instruments = instruments
        self._codec = codec
        self._run = run
        self._count = count  # of partitions, known once connected
        self._producer: AIOKafkaProducer | None = None
        self._started = asyncio.Event()
        self.lanes: dict[int, Lane] = {}

    async def start(self, producer: AIOKafkaProducer) -> None:
        """Begin with a producer that is ours to stop."""
        await producer.start()
        self._producer = producer
        self._started.set()

    async def process(self, event: Any, records: list[Any]) -> None:
        """Apply one run of records to the task of its partition."""
        await self._started.wait()
        number = records[0].partition
        lane = self.lanes.get(number)
        if lane is None:
            lane = self.lanes[number] = self._open(number)
        await lane.process(event, records)

    def _open(self, number: int) -> Lane:
        assert self._producer is not None
        partitions = self._count()
        assert partitions is not None
        task = Task(number, self._instruments, self._codec)
        loaded = 0
        for key, value in self._table.data.items():
            if partition_of(key, partitions) == number:
                task.load(key, value)
                loaded += 1
        log.info("partition %d: %d states recovered, on from offset %d", number, loaded, task.partition.offset + 1)
        return Lane(task, self._producer, self._run, self._table.changelog_topic_name, self._table.data.__setitem__)

    def hurry(self) -> None:
        """Flush everything at once: partitions are about to be given up."""
        for lane in self.lanes.values():
            lane.hurry()

    async def close(self, numbers: set[int]) -> None:
        """Give partitions up: their state in memory is no longer ours."""
        for number in numbers & self.lanes.keys():
            await self.lanes.pop(number).close()

    async def tick(self, raw: str, owned: set[TP]) -> None:
        """Put a clock record into every partition of market.raw that is ours."""
        if self._producer is None:
            return
        value = self._codec.encode(Clock(time.time_ns()))
        for tp in owned:
            if tp.topic == raw:
                await self._producer.send(raw, value, key=topics.CLOCK_KEY, partition=tp.partition)

    async def stop(self) -> None:
        """End: nothing is flushed here, the partitions have been given up already."""
        await self.close(set(self.lanes))
        if self._producer is not None:
            await self._producer.stop()


def fail(text: str) -> None:
    """End the process: an exception would only end the agent, and Faust would ack what it was working on."""
    log.critical("%s; the worker ends", text, exc_info=True)
    logging.shutdown()
    os._exit(1)
