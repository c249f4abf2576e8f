"""The way out of one partition: outputs at once, state and offset in the way that makes a crash harmless.

    exactly_once    outputs sent at once, in a transaction; every COMMIT seconds some symbols' state and, last, the
                    partition's own record with the offset reached join it; committed -> acked
    at_least_once   outputs sent at once; every COMMIT seconds: outputs delivered -> the same state delivered, beside
                    the next outputs -> acked

The source offset is part of the state, so it is in the transaction. The state of a symbol is written every SAVE
seconds only, as it is large and changes with every tick; the partition's own record says how far back the oldest is.
After a crash reading begins there, and of what was processed before nothing is made again: it was delivered. A crash
before that record is durable repeats records and gives the same outputs again: in a transaction the first ones were
never visible. Any failed delivery ends the process: nothing unsafe is ever acked. So does a partition's transactional
id that another worker has taken over.
"""

import asyncio
import logging
import os
import struct
import time
from collections.abc import Callable
from typing import Any, Final, Generic, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.codec import snappy_encode
from aiokafka.errors import IllegalOperation, OperationNotAttempted, ProducerFenced, UnknownTopicOrPartitionError
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import RecordMetadata, TopicPartition

from topology.batch import Records, encode_headers
from topology.processor import Processor

COMMIT_SECONDS: Final = {"exactly_once": 0.05, "at_least_once": 1.0}
COMMIT_RECORDS: Final = 50_000  # whichever comes first
SAVE_SECONDS: Final = 5.0  # in which every symbol's state is written
SAVE_RECORDS: Final = 200_000  # or so many of the partition: what a crash repeats is a second's work
SAVE_AT_ONCE: Final = 1_000  # states or so: a transaction may take 10 s
CLOSE_S: Final = 5.0  # for the last state of a partition that is given up
#: The time between two sends, as a part of that between two commits: a request costs Kafka more than its records.
PACE: Final = {"exactly_once": 0.4, "at_least_once": 0.0}
PACE_S: Final = 0.05  # it is never longer

SNAPPY: Final = 2  # aiokafka's lz4 works at level 9: a quarter of a worker's time
TRANSACTIONAL: Final = 16
#: A record batch's header: offset, length, leader's epoch, format, CRC; then what the CRC counts with the records.
HEADER: Final = struct.Struct(">qiibI")
COUNTED: Final = struct.Struct(">hiqqqhii")

ProcessorT = TypeVar("ProcessorT", bound=Processor)

log = logging.getLogger(__name__)


class Commit(NamedTuple):
    """What becomes durable together."""

    state: list[tuple[bytes, bytes]]
    events: list[Any]  # to ack


class Lane(Generic[ProcessorT]):
    """Sends what one task makes and acks what is safe."""

    def __init__(
        self,
        task: ProcessorT,
        producer: AIOKafkaProducer,
        topics: list[str],
        changelog: str,
        saved: Callable[[bytes, bytes], None],
        wrote: Callable[[int, int], None],
        took: Callable[[], None],
        *,
        delivery: str,
        commit_seconds: float,
        headers: list[tuple[str, bytes]],
    ) -> None:
        """Begin to send. ``topics``: their names in the order of the task's outputs.

        ``saved`` is told of every state record that is durable, ``wrote`` of the last offset of so many of them,
        ``took`` that the task's outputs have been taken. ``headers`` are those of every state record.
        """
        self.task = task
        self._producer = producer
        self._topics = topics
        self._changelog = changelog
        self._usual: set[str] = set()  # topics of the last transaction
        self._sent: set[str] = set()  # and of this one
        self._saved = saved
        self._wrote = wrote
        self._took = took
        self._transactional = delivery == "exactly_once"
        self._pace = min(PACE[delivery] * commit_seconds, PACE_S)
        self._commit_seconds = commit_seconds
        self._headers = encode_headers(headers)
        self._events: list[Any] = []  # Faust events to ack, in order
        self._delivered: Commit | None = None  # at least once: its outputs are delivered, its state is not yet
        self._wake = asyncio.Event()
        self._committed = time.monotonic()
        self._uncommitted = 0  # records
        self._open = False  # a transaction
        self._hurry = False
        self._closing = False
        self._loop = asyncio.create_task(self._run(), name=f"lane-{task.number}")

    @property
    def commit_age(self) -> float:
        """Seconds since the last commit while something waits for the next; 0 where nothing does."""
        return self._age if self._events else 0.0

    @property
    def _age(self) -> float:
        """Seconds since the last commit."""
        return time.monotonic() - self._committed

    @property
    def is_dead(self) -> bool:
        """Whether it has stopped sending."""
        return self._loop.done()

    def process(self, event: Any, records: list[Any]) -> None:
        """Apply the records of one event."""
        self.task.process(records)
        self._events.append(event)
        self._uncommitted += len(records)
        records.clear()  # the event waits for its ack; what it brought need not
        self._wake.set()

    def hurry(self) -> None:
        """Commit now and from now on at once: the partition is about to be given up."""
        self._hurry = True
        self._wake.set()

    async def close(self) -> bool:
        """Save what is not saved, and stop sending; say whether all is saved.

        What is not acked by now will be processed again by whoever owns the partition next.
        """
        if not self._events:
            self._closing = True
            self.hurry()
        try:
            if self._closing:
                await asyncio.wait([self._loop], timeout=CLOSE_S)
            return self._loop.done()
        finally:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while not self._closing or self._events or self._delivered or self.task.unsaved:
                await self._wait()
                await self._send()
        except asyncio.CancelledError:
            raise
        except ProducerFenced:
            end(f"partition {self.task.number}: this worker stood still; another has it, or its transaction timed out")
        except (OperationNotAttempted, UnknownTopicOrPartitionError):
            end(f"partition {self.task.number}: a topic is missing: `tickloom topics check` says which")
        except Exception:  # noqa: BLE001  whatever it is, going on could ack what is not safe
            end(f"partition {self.task.number}: delivery failed", exc_info=True)

    async def _wait(self) -> None:
        if self._pace and not self._hurry:
            soon = self._commit_seconds - self._age if self._events else 0.0
            await asyncio.sleep(soon if 0 < soon < 2 * self._pace else self._pace)  # none is sent just before a commit
        if self.task.waiting == 0 and self._delivered is None and not self._is_due():
            self._wake.clear()
            left = None
            if self._events or self.task.unsaved:
                left = (self._commit_seconds if self._events else SAVE_SECONDS) - self._age
            try:
                await asyncio.wait_for(self._wake.wait(), left)
            except TimeoutError:
                return

    def _is_due(self) -> bool:
        if not self._events:  # no more has come, but a restart should not have to go over it again
            return self.task.unsaved > 0 and (self._hurry or self._age >= SAVE_SECONDS)
        return self._hurry or self._age >= self._commit_seconds or self._uncommitted >= COMMIT_RECORDS

    async def _send(self) -> None:
        """Send what has been made, as late as possible; where it is time, commit all up to here."""
        outputs = dict(zip(self._topics, self.task.take(), strict=True))
        self._took()
        commit, self._delivered = self._delivered, None
        if commit is None and self._is_due():
            commit = self._take_commit()
            if not self._transactional:  # the state goes with the next outputs: nobody waits for it
                await self._deliver(outputs)
                self._delivered = commit
                return
        if commit is None:
            await self._deliver(outputs)
            return
        changed = {self._changelog: Records()}
        for key, value in commit.state:
            changed[self._changelog].add(key, value, self._headers)
        end = await self._deliver(outputs | changed)
        if self._transactional:
            await self._producer.commit_transaction()
            self._open = False
            self._usual, self._sent = self._sent, set()
        for key, value in commit.state:
            self._saved(key, value)
        self._wrote(end, len(commit.state))
        for event in commit.events:
            event.ack()

    def _take_commit(self) -> Commit:
        events, self._events = self._events, []
        share = max(self._age / SAVE_SECONDS, self._uncommitted / SAVE_RECORDS)
        share = min(1.0 if self._hurry else share, SAVE_AT_ONCE / max(1, self.task.unsaved))
        self._uncommitted = 0
        self._committed = time.monotonic()
        return Commit(self.task.save(share), events)

    async def _deliver(self, records: dict[str, Records]) -> int:
        """Send records by topic, all at once, and wait until they are delivered; give the last offset of the last.

        What goes to one topic arrives in its order or not at all: the partition's own record is never there before
        the states of its symbols.
        """
        self._sent.update(topic for topic, of_it in records.items() if len(of_it))
        batches = [
            (topic, Batch(number, data, transactional=self._transactional))
            for topic, of_it in records.items()
            for number, data in of_it.batches()
        ]
        if not batches:
            return -1
        if self._transactional and not self._open:
            await self._begin()
        send, number = self._producer.send_batch, self.task.number
        try:
            futures = [await send(batch, topic, partition=number) for topic, batch in batches]
        except IllegalOperation as error:  # the sender has ended the transaction meanwhile, and knows why
            raise self._producer._txn_manager.wait_for_transaction_end().exception() or error from None
        delivered: list[RecordMetadata] = await asyncio.gather(*futures)
        return int(delivered[-1].offset + batches[-1][1].record_count() - 1)

    async def _begin(self) -> None:
        """Open a transaction; what the last one had is added in a single request, not topic by topic as it comes."""
        await self._producer.begin_transaction()
        self._open = True
        for topic in self._usual:
            self._producer._txn_manager.maybe_add_partition_to_txn(TopicPartition(topic, self.task.number))


def end(text: str, *, exc_info: bool = False) -> None:
    """End the process: an exception would only end the agent, and Faust would ack what it was working on."""
    log.critical("%s; the worker ends", text, exc_info=exc_info)
    logging.shutdown()
    os._exit(1)


class Batch(BatchBuilder):  # type: ignore[misc]  # aiokafka has no types
    """A batch for aiokafka's producer whose records are encoded already."""

    def __init__(self, number: int, records: bytes, *, transactional: bool) -> None:
        super().__init__(0, SNAPPY, is_transactional=transactional)
        self._relative_offset = number
        self._records = records
        self._attributes = SNAPPY | (TRANSACTIONAL if transactional else 0)
        self._state = (-1, -1, -1)
        self._closed = True
        self._buffer: bytes | None = None

    def _set_producer_state(self, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
        self._state = (producer_id, producer_epoch, base_sequence)

    def _build(self) -> bytes:
        if self._buffer is None:
            now, number = int(time.time() * 1000), self._relative_offset
            told = COUNTED.pack(self._attributes, number - 1, now, now, *self._state, number)
            counted = told + snappy_encode(self._records)
            self._buffer = HEADER.pack(0, len(counted) + 9, -1, 2, calc_crc32c(counted)) + counted
        return self._buffer

    def size(self) -> int:
        """The bytes of the records."""
        return len(self._records)
