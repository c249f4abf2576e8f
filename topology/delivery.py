"""The way out: outputs at once, state and offset in the way that makes a crash harmless.

    exactly_once    outputs of all partitions sent at once, in a transaction; every COMMIT seconds some symbols' state
                    and, last, each partition's own record with the offset reached join it; committed -> acked
    at_least_once   outputs sent at once; every COMMIT seconds: outputs delivered -> the same state delivered, beside
                    the next outputs -> acked; each partition by itself

The source offset is part of the state, so it is in the transaction. The state of a symbol is written every SAVE
seconds only, as it is large and changes with every tick; the partition's own record says how far back the oldest is.
After a crash reading begins there, and of what was processed before nothing is made again: it was delivered. A crash
before that record is durable repeats records and gives the same outputs again: in a transaction the first ones were
never visible. Any failed delivery ends the process: nothing unsafe is ever acked. So it does when another worker has
taken a partition over (``owners.py``).
"""

import asyncio
import logging
import os
import struct
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Final, Generic, NamedTuple, TypeVar

from aiokafka import AIOKafkaProducer
from aiokafka.codec import snappy_encode
from aiokafka.errors import (
    IllegalOperation,
    LeaderNotAvailableError,
    NotLeaderForPartitionError,
    OperationNotAttempted,
    ProducerFenced,
    UnknownTopicOrPartitionError,
)
from aiokafka.producer.message_accumulator import BatchBuilder
from aiokafka.record.util import calc_crc32c
from aiokafka.structs import RecordMetadata, TopicPartition

from topology.batch import Records, encode_headers
from topology.processor import Processor

COMMIT_SECONDS: Final = {"exactly_once": 0.02, "at_least_once": 1.0}
COMMIT_RECORDS: Final = 50_000  # whichever comes first
SAVE_SECONDS: Final = 5.0  # in which every symbol's state is written
SAVE_RECORDS: Final = 200_000  # or so many of the partition: what a crash repeats is a second's work
SAVE_AT_ONCE: Final = 1_000  # states or so: a transaction may take 10 s
CLOSE_S: Final = 5.0  # for the last state of a partition that is given up
PACE_S: Final = 0.05  # exactly once: the longest between two sends, of which nobody sees anything before the commit
SEND_RECORDS: Final = 20_000  # whichever comes first: while these are sent as many are made, and no lane waits

SNAPPY: Final = 2  # aiokafka's lz4 works at level 9: a quarter of a worker's time
TRANSACTIONAL: Final = 16
#: What a batch is given up with whose topic is gone, or whose partition has had no leader for as long as it may take.
LEADERLESS: Final = (
    OperationNotAttempted,
    UnknownTopicOrPartitionError,
    NotLeaderForPartitionError,
    LeaderNotAvailableError,
)
#: A record batch's header: offset, length, leader's epoch, format, CRC; then what the CRC counts with the records.
HEADER: Final = struct.Struct(">qiibI")
COUNTED: Final = struct.Struct(">hiqqqhii")

ProcessorT = TypeVar("ProcessorT", bound=Processor)

log = logging.getLogger(__name__)


class Commit(NamedTuple):
    """What of a partition becomes durable together."""

    lane: "Lane[Any]"
    state: list[tuple[bytes, bytes]]
    events: list[Any]  # to ack


class Lane(Generic[ProcessorT]):
    """One partition: its task, and the events that wait until what the task made of them is safe."""

    def __init__(
        self,
        task: ProcessorT,
        delivery: "Delivery",
        saved: Callable[[bytes, bytes], None],
        wrote: Callable[[int, int], None],
    ) -> None:
        """Let a delivery send what the task makes.

        ``saved`` is told of every state record that is durable, ``wrote`` of the last offset of so many of them.
        """
        self.task = task
        self.delivery = delivery
        self.saved = saved
        self.wrote = wrote
        self.events: list[Any] = []  # Faust events to ack, in order
        self.uncommitted = 0  # records
        self.committing = False
        delivery.lanes[task.number] = self

    @property
    def commit_age(self) -> float:
        """Seconds since the last commit while something waits for the next; 0 where nothing does."""
        return self.delivery.age if self.events else 0.0

    @property
    def is_done(self) -> bool:
        """Whether all that the task made is safe, and its state is saved."""
        return not (self.events or self.committing or self.task.waiting or self.task.unsaved)

    def process(self, event: Any, records: list[Any]) -> None:
        """Apply the records of one event."""
        self.task.process(records)
        self.events.append(event)
        self.uncommitted += len(records)
        records.clear()  # the event waits for its ack; what it brought need not
        self.delivery.wake()


class Delivery:
    """Sends what the tasks of its lanes make and acks what is safe."""

    def __init__(
        self,
        producers: Sequence[AIOKafkaProducer],
        topics: list[str],
        changelog: str,
        took: Callable[[], None],
        *,
        delivery: str,
        commit_seconds: float,
        headers: list[tuple[str, bytes]],
    ) -> None:
        """Begin to send. ``topics``: their names in the order of the tasks' outputs.

        ``producers`` take turns, a transaction each: Kafka lets one wait while it writes the markers of its last.
        ``took`` is told that outputs have been taken. ``headers`` are those of every state record.
        """
        self.lanes: dict[int, Lane[Any]] = {}
        self._producers = deque(producers)
        self._topics = topics
        self._changelog = changelog
        self._took = took
        self._transactional = delivery == "exactly_once"
        self._commit_seconds = commit_seconds
        self._headers = encode_headers(headers)
        self._delivered: list[Commit] = []  # at least once: their outputs are delivered, their state is not yet
        self._wake = asyncio.Event()
        self._much = asyncio.Event()  # has been made
        self._turned = asyncio.Event()  # what has been sent is safe
        self._committed = time.monotonic()
        self._open = False  # a transaction
        self._hurry = False
        self._loop = asyncio.create_task(self._run(), name="delivery")

    @property
    def age(self) -> float:
        """Seconds since the last commit."""
        return time.monotonic() - self._committed

    @property
    def is_dead(self) -> bool:
        """Whether it has stopped sending."""
        return self._loop.done()

    def wake(self) -> None:
        """A task has made something."""
        self._wake.set()
        if self._has_much():
            self._much.set()

    def hurry(self) -> None:
        """Commit now and from now on at once: partitions are about to be given up."""
        self._hurry = True
        self._wake.set()
        self._much.set()

    async def close(self, numbers: set[int]) -> bool:
        """Save what is not saved of partitions, and let them go; say whether all is saved.

        What is not acked by now will be processed again by whoever owns them next.
        """
        closing = [self.lanes[number] for number in numbers]
        try:
            if not any(lane.events for lane in closing):
                self.hurry()
                async with asyncio.timeout(CLOSE_S):
                    while not all(lane.is_done for lane in closing) and not self.is_dead:
                        await self._turned.wait()
        except TimeoutError:
            pass  # the caller is told
        finally:
            for number in numbers:
                del self.lanes[number]
            self._hurry = False
            saved = all(lane.is_done for lane in closing)
            if self.lanes and not saved:
                end(f"partitions {sorted(numbers)} were taken away with work unfinished")
            if not self.lanes:
                self._loop.cancel()
                await asyncio.gather(self._loop, return_exceptions=True)
        return saved

    async def _run(self) -> None:
        try:
            while True:
                await self._wait()
                await self._send()
                self._turned.set()
                self._turned.clear()
        except asyncio.CancelledError:
            raise
        except ProducerFenced:
            end(f"{self._name()}: this worker stood still; another has one of them, or its transaction timed out")
        except LEADERLESS:
            end(f"{self._name()}: a topic is missing, or has no leader: `tickloom topics check` says which")
        except Exception:  # noqa: BLE001  whatever it is, going on could ack what is not safe
            end(f"{self._name()}: delivery failed", exc_info=True)

    def _name(self) -> str:
        return f"partitions {', '.join(map(str, sorted(self.lanes)))}"

    async def _wait(self) -> None:
        left = self._commit_seconds - self.age
        if self._transactional and left > 0 and not self._hurry:
            await self._gather(left if left < 2 * PACE_S else PACE_S)
        if not self._delivered and not any(lane.task.waiting for lane in self.lanes.values()) and not self._is_due():
            self._wake.clear()
            limit = None
            if self._has_events():
                limit = self._commit_seconds - self.age
            elif any(lane.task.unsaved for lane in self.lanes.values()):
                limit = SAVE_SECONDS - self.age
            with suppress(TimeoutError):
                async with asyncio.timeout(limit):  # wait_for can lose a cancellation (Python 3.11)
                    await self._wake.wait()

    async def _gather(self, seconds: float) -> None:
        """Let outputs come together for so long, or until there are many."""
        self._much.clear()
        if not self._has_much():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._much.wait()

    def _has_much(self) -> bool:
        return bool(sum(lane.task.waiting for lane in self.lanes.values()) >= SEND_RECORDS)

    def _has_events(self) -> bool:
        return any(lane.events for lane in self.lanes.values())

    def _is_due(self) -> bool:
        lanes = self.lanes.values()
        if not self._has_events():  # no more has come, but a restart should not have to go over it again
            return any(lane.task.unsaved for lane in lanes) and (self._hurry or self.age >= SAVE_SECONDS)
        many = any(lane.uncommitted >= COMMIT_RECORDS for lane in lanes)
        return self._hurry or self.age >= self._commit_seconds or many

    async def _send(self) -> None:
        """Send what has been made, as late as possible; where it is time, commit all up to here."""
        made = [
            (topic, number, records)
            for number, lane in self.lanes.items()
            for topic, records in zip(self._topics, lane.task.take(), strict=True)
        ]
        self._took()
        commits, self._delivered = self._delivered, []
        if not commits and self._is_due():
            commits = self._take_commits()
            if not self._transactional:  # the state goes with the next outputs: nobody waits for it
                await self._deliver(made)
                self._delivered = commits
                return
        for commit in commits:
            states = Records()
            for key, value in commit.state:
                states.add(key, value, self._headers)
            made.append((self._changelog, commit.lane.task.number, states))
        ends = await self._deliver(made)
        if commits and self._transactional:
            await self._producers[0].commit_transaction()
            self._producers.rotate()
            self._open = False
        for commit in commits:
            for key, value in commit.state:
                commit.lane.saved(key, value)
            commit.lane.wrote(ends[self._changelog, commit.lane.task.number], len(commit.state))
            commit.lane.committing = False
            for event in commit.events:
                event.ack()

    def _take_commits(self) -> list[Commit]:
        lanes = [lane for lane in self.lanes.values() if lane.events or lane.task.unsaved]
        most = SAVE_AT_ONCE / max(1, sum(lane.task.unsaved for lane in lanes))
        commits = []
        for lane in lanes:
            share = max(self.age / SAVE_SECONDS, lane.uncommitted / SAVE_RECORDS)
            commits.append(Commit(lane, lane.task.save(min(1.0 if self._hurry else share, most)), lane.events))
            lane.events, lane.uncommitted, lane.committing = [], 0, True
        self._committed = time.monotonic()
        return commits

    async def _deliver(self, made: list[tuple[str, int, Records]]) -> dict[tuple[str, int], int]:
        """Send records by topic and partition, all at once, and wait until they are delivered; give the last offsets.

        What goes to one of these arrives in its order or not at all: a partition's own record is never there before
        the states of its symbols.
        """
        batches = [
            (TopicPartition(topic, partition), Batch(number, data, transactional=self._transactional))
            for topic, partition, records in made
            for number, data in records.batches()
        ]
        if not batches:
            return {}
        producer = self._producers[0]
        for topic in {place.topic for place, _ in batches}:
            await producer.partitions_for(topic)  # else it is asked for between two batches, and they part
        if self._transactional:
            if not self._open:
                await producer.begin_transaction()
                self._open = True
            if producer._txn_manager.is_in_transaction():  # else the sender has ended it, as is seen below
                for place, _ in batches:  # in a single request, not one by one as they come
                    producer._txn_manager.maybe_add_partition_to_txn(place)
        try:
            futures = [
                await producer.send_batch(batch, place.topic, partition=place.partition) for place, batch in batches
            ]
        except IllegalOperation as error:  # the sender has ended the transaction meanwhile, and knows why
            raise producer._txn_manager.wait_for_transaction_end().exception() or error from None
        delivered: list[RecordMetadata] = await asyncio.gather(*futures)
        return {
            (place.topic, place.partition): int(at.offset + batch.record_count() - 1)
            for (place, batch), at in zip(batches, delivered, strict=True)
        }


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
