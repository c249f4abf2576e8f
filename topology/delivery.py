"""The way out of one partition: outputs at once, state and offsets in the order that makes a crash harmless.

    process -> outputs sent at once, delivery noted
    flush:     outputs delivered -> symbols' state delivered -> the partition's own record -> acked -> committed

A crash before the state is durable repeats records from the old state: the same outputs again. A crash after it
skips them: their outputs are durable. Any failed delivery ends the process: nothing unsafe is ever acked.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from itertools import islice
from typing import Any

from aiokafka import AIOKafkaProducer
from aiokafka.producer.message_accumulator import BatchBuilder

from schemas.topics import TOPICS, named
from topology.task import Produced, Task

FLUSH_SECONDS = 1.0
FLUSH_RECORDS = 50_000  # whichever comes first
WAITING = 5_000  # outputs not yet handed to the producer, above which the partition is not read on

log = logging.getLogger(__name__)


class Lane:
    """Sends what one task makes and acks what is safe."""

    def __init__(
        self,
        task: Task,
        producer: AIOKafkaProducer,
        run: str,
        changelog: str,
        saved: Callable[[bytes, bytes], None],
    ) -> None:
        self.task = task
        self._producer = producer
        self._topics = [named(topic.name, run) for topic in TOPICS]
        self._changelog = changelog
        self._saved = saved  # told of every state record that is durable
        self._events: list[Any] = []  # Faust events to ack, in order
        self._sent: list[asyncio.Future[Any]] = []  # outputs under way
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._flushed = time.monotonic()
        self._unflushed = 0
        self._hurry = False
        self._loop = asyncio.create_task(self._run(), name=f"lane-{task.number}")

    async def process(self, event: Any, records: list[Any]) -> None:
        """Apply the records of one event; returns as soon as more may come."""
        self.task.process(records)
        self._events.append(event)
        self._unflushed += len(records)
        records.clear()  # the event waits for its ack; what it brought need not
        self._wake.set()
        while self.task.waiting > WAITING:
            self._room.clear()
            await self._room.wait()

    def hurry(self) -> None:
        """Flush now and from now on at once: the partition is about to be given up."""
        self._hurry = True
        self._wake.set()

    async def close(self) -> None:
        """Stop sending. What is not acked will be processed again by whoever owns the partition next."""
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                await self._wait()
                if self._is_due():
                    await self._flush()
                else:
                    await self._send(self.task.take())
        except asyncio.CancelledError:
            raise
        except Exception:  # whatever it is, going on could ack what is not safe
            log.critical("partition %d: delivery failed, the worker ends", self.task.number, exc_info=True)
            logging.shutdown()
            os._exit(1)

    async def _wait(self) -> None:
        if self.task.waiting == 0 and not self._is_due():
            self._wake.clear()
            left = FLUSH_SECONDS - (time.monotonic() - self._flushed) if self._events else None
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    def _is_due(self) -> bool:
        if not self._events:
            return False
        aged = time.monotonic() - self._flushed >= FLUSH_SECONDS
        return self._hurry or aged or self._unflushed >= FLUSH_RECORDS

    async def _send(self, outputs: list[list[Produced]]) -> None:
        self._room.set()
        for topic, records in zip(self._topics, outputs, strict=True):
            if records:
                self._sent += await self._produce(topic, records)
        self._sent = [future for future in self._sent if not _is_delivered(future)]

    async def _flush(self) -> None:
        outputs = self.task.take()
        state = self.task.save()
        events, self._events = self._events, []
        self._unflushed = 0
        self._flushed = time.monotonic()
        await self._send(outputs)
        sent, self._sent = self._sent, []
        await asyncio.gather(*sent)
        await self._save(state[:-1])
        await self._save(state[-1:])  # the partition's own record only after all its symbols
        for event in events:
            event.ack()

    async def _save(self, state: list[tuple[bytes, bytes]]) -> None:
        if state:
            records: list[Produced] = [(key, value, []) for key, value in state]
            await asyncio.gather(*await self._produce(self._changelog, records))
            for key, value in state:
                self._saved(key, value)

    async def _produce(self, topic: str, records: list[Produced]) -> list[asyncio.Future[Any]]:
        """Hand records to the producer in as few batches as fit; their delivery is to be awaited."""
        futures = []
        start = 0
        while start < len(records):
            batch = self._producer.create_batch()
            start += _fill(batch, records, start)
            futures.append(await self._producer.send_batch(batch, topic, partition=self.task.number))
        return futures


def _fill(batch: BatchBuilder, records: list[Produced], start: int) -> int:
    """Put as many records into a batch as fit, at least one; say how many.

    Straight into aiokafka's own encoder: its `append` costs as much again for each record.
    """
    append = batch._builder.append
    now = int(time.time() * 1000)
    number = 0
    for key, value, headers in islice(records, start, None):
        if append(number, now, key, value, headers) is None:
            break
        number += 1
    batch._relative_offset = number
    batch.close()
    return number


def _is_delivered(future: "asyncio.Future[Any]") -> bool:
    if not future.done():
        return False
    future.result()  # raises where the delivery failed
    return True
