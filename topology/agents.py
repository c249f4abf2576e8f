"""The agent over market.raw: a run of records in, one task and one lane a partition.

Faust's agent drives everything: its event is a list of fetched records (``transport.py``). Acks are given after
delivery (``delivery.py``). A partition that is given up loses its state in memory; one that is taken over loads it from
the recovered table.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Generic

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaConnectionError, TransactionalIdAuthorizationFailed
from faust.types import TP

from schemas import topics
from schemas.codec import Codec
from schemas.record import Clock
from topology.delivery import Delivery, Lane, ProcessorT, end
from topology.owners import Owners
from topology.table import ORIGIN, States, StateTable
from topology.watch import Watch

WAITING: Final = 40_000  # outputs of all lanes not yet handed to a producer, above which nothing more is taken up
TRANSACTIONS_S: Final = 30.0  # for a new Kafka to make its topic of transactions
AGAIN_S: Final = 0.5  # between two tries to reach a broker
STOP_S: Final = 5.0  # for a producer to let go
#: What follows a claim's id in those of its producers, which take turns (``delivery.py``).
TURNS: Final = ("", "-2")

log = logging.getLogger(__name__)


class Tasks(Generic[ProcessorT]):
    """The partitions that this worker owns: their tasks and lanes."""

    def __init__(
        self,
        app: Any,
        table: StateTable,
        raw: str,
        outputs: list[str],
        *,
        task: Callable[[int], ProcessorT],
        producer: Callable[[str | None], AIOKafkaProducer],
        owners: Owners,
        delivery: str,
        commit_seconds: float,
    ) -> None:
        """Begin without any. ``producer`` makes one of a transactional id, or a plain one; ``outputs`` are topics."""
        self._app = app
        self._table = table
        self.raw = raw
        self._outputs = outputs
        self._task = task
        self._new_producer = producer
        self._owners = owners
        self._transactional = delivery == "exactly_once"
        self._new_delivery = partial(Delivery, delivery=delivery, commit_seconds=commit_seconds)
        self._watch: Watch | None = None
        self._plain: list[AIOKafkaProducer] = []  # one, from the start on
        self._started = asyncio.Event()
        self._room = asyncio.Event()
        self._transactions: list[AIOKafkaProducer] = []  # exactly once: of all partitions
        self._id = ""  # under which they are claimed; one that was fenced does not come again
        self._delivery: Delivery | None = None  # and what sends with it
        self._claimed: set[int] = set()  # partitions
        self._fencing: asyncio.Future[Any] | None = None
        self._stopping = False
        self._closing = asyncio.Lock()  # a stop in the middle of a rebalance waits until that has given back
        self.lanes: dict[int, Lane[ProcessorT]] = {}

    async def start(self, watch: Watch | None = None) -> None:
        """Begin: the topics have been checked. ``watch`` knows whether they are those of the state."""
        self._watch = watch
        plain = self._new_producer(None)
        await plain.start()
        self._plain = [plain]
        self._started.set()

    async def fence(self, numbers: set[int]) -> None:
        """Become the only writer of these partitions, before their state is recovered.

        What an earlier owner has not committed is undone, and it can't commit any more.
        """
        if not self._transactional or not numbers or self._stopping:
            return
        self._fencing = asyncio.ensure_future(self._claim(numbers))
        try:
            async with asyncio.timeout(TRANSACTIONS_S):
                await self._fencing
        except asyncio.CancelledError:
            if not self._stopping:
                raise
        except TimeoutError:
            end(
                f"Kafka gave no coordinator of transactions within {TRANSACTIONS_S:.0f} s: none of the brokers named "
                "answers, or there are fewer than its transaction.state.log.replication.factor (TICKLOOM_DELIVERY="
                "at_least_once needs none)"
            )
        except TransactionalIdAuthorizationFailed:
            end(
                f"no right to write transactions: allow transactional ids that begin with {self._app.conf.id}- "
                "(kafka-acls --transactional-id), or set TICKLOOM_DELIVERY=at_least_once"
            )
        except Exception as error:  # noqa: BLE001  aiokafka would log it, and the worker stand there without partitions
            end(f"the partitions can't be taken over: {error!r}")

    async def _claim(self, numbers: set[int]) -> None:
        if not self._transactions:
            # before the claim: made after it they could be younger than the fence of whoever has read it
            self._id = f"{self._app.conf.id}-{uuid.uuid4().hex}"
            self._transactions = await self._fence(self._id)
        self._claimed |= numbers
        others = await asyncio.to_thread(self._owners.claim, self._id, numbers)
        await asyncio.gather(*(self._take_over(other, claimed) for other, claimed in others.items()))

    async def _take_over(self, other: str, claimed: set[int]) -> None:
        log.info("fencing %s, which has not given up partitions %s", other, sorted(claimed))
        await _stop(await self._fence(other))
        await asyncio.to_thread(self._owners.release, other, claimed)

    async def _fence(self, id: str) -> list[AIOKafkaProducer]:
        """Undo what is open under a claim's transactional ids; who has them can't commit any more. Give who can."""
        producers = [self._new_producer(id + end) for end in TURNS]
        await asyncio.gather(*map(_connect, producers))
        return producers

    async def process(self, event: Any, records: list[Any]) -> None:
        """Apply one run of records to the task of its partition; returns as soon as more may come."""
        await self._started.wait()
        number = records[0].partition
        lane = self.lanes.get(number)
        if lane is None:
            lane = self.lanes[number] = await self._open(number)
        elif records[0].offset <= lane.task.offset:
            end(f"{self.raw}-{number} goes on at offset {records[0].offset} after {lane.task.offset}: it was made anew")
        lane.process(event, records)
        while sum(lane.task.waiting for lane in self.lanes.values()) > WAITING:
            self._room.clear()
            await self._room.wait()

    async def _open(self, number: int) -> Lane[ProcessorT]:
        states = self._table.data.states(number)
        if self._watch is not None:
            await self._check(number, states, self._watch)
            states.origin = self._watch.raw  # that of what this worker saves
        task = self._task(number)
        count = len(states.values)
        for key, value in states.lend():
            task.load(key, value)
        log.info("partition %d: %d states loaded", number, count)
        # exactly once nobody else can have written in between
        wrote = (lambda end, _: states.reach(end)) if self._transactional else states.wrote
        return Lane(task, self._delivery_for(), states.save, wrote)

    def _delivery_for(self) -> Delivery:
        """What is to send a new lane's records: exactly once one sends for all, in its transactions."""
        if self._delivery is not None:
            return self._delivery
        producers = self._transactions if self._transactional else self._plain
        assert producers
        delivery = self._new_delivery(
            producers,
            self._outputs,
            self._table.changelog_topic_name,
            self._room.set,
            headers=[(ORIGIN, self._watch.raw.encode())] if self._watch else [],
        )
        if self._transactional:
            self._delivery = delivery
        return delivery

    async def _check(self, number: int, states: States, watch: Watch) -> None:
        """End the worker where state and market.raw do not belong together."""
        applied = states.applied(number)
        log_end = self._app.monitor.tp_end_offsets.get(TP(self.raw, number))
        committed = self._app.consumer._committed_offset.get(TP(self.raw, number))
        if states.origin and states.origin != watch.raw:
            end(f"{self.raw} is not the topic that the state has processed, it was made anew: {watch.remedy}")
        if log_end is not None and log_end <= applied:
            end(f"{self.raw}-{number} ends at offset {log_end}, but {applied} is processed: {watch.remedy}")
        if applied < 0 and committed and await asyncio.to_thread(watch.has_records, number, committed):
            changelog = self._table.changelog_topic_name
            end(f"{self.raw}-{number} is processed up to {committed}, but {changelog} has no state: {watch.remedy}")

    def restart(self, number: int) -> int | None:
        """The offset of market.raw from which on the saved state of a partition lacks something; None: it has none."""
        try:
            return self._table.data.states(number).restart(number)
        except ValueError as error:
            end(f"{error}: work {self.raw} off into a new run, or go on with the version that wrote it")
            return None

    def hurry(self) -> None:
        """Commit everything at once: partitions are about to be given up."""
        for lane in self.lanes.values():
            lane.delivery.hurry()

    async def close(self, numbers: set[int]) -> None:
        """Give partitions up: their state in memory is no longer ours.

        Also of those that come back in the same rebalance. It is eager: aiokafka gives up all of them, and what is
        assigned then may have been another worker's in between (in a generation that this one has missed), so only
        the changelog knows their state. And they are read from the committed offset on again, which a task that was
        kept would have passed. The table gets what the task had, and reads on from there.
        """
        async with self._closing:
            by_delivery: dict[Delivery, set[int]] = {}
            for number in numbers & self.lanes.keys():
                by_delivery.setdefault(self.lanes[number].delivery, set()).add(number)
            await asyncio.gather(*(self._give_back(*each) for each in by_delivery.items()))
            self._room.set()
            if not self.lanes:
                self._delivery = None
                await self._let_go()

    async def _give_back(self, delivery: Delivery, numbers: set[int]) -> None:
        lanes = [self.lanes.pop(number) for number in numbers]
        saved = False
        try:
            saved = await delivery.close(numbers)
        finally:
            for lane in lanes:
                states = self._table.data.states(lane.task.number)
                if saved:
                    states.take_back(lane.task.states())
                else:
                    states.forget()

    async def _let_go(self) -> None:
        """Have nothing more to commit of any partition, and say so. Where Kafka is away those who come fence us.

        Kafka answers a commit before it has written the markers, without which nobody sees what was committed: who
        came then would recover an older state, and make the same outputs again. To begin anew under our own ids waits
        for the markers, and undoes what is open where something could not be saved.
        """
        producers, self._transactions = self._transactions, []
        if not producers:
            return
        await _stop(producers)
        claimed, self._claimed = self._claimed, set()
        try:
            async with asyncio.timeout(STOP_S):
                await _stop(await self._fence(self._id))
                await asyncio.to_thread(self._owners.release, self._id, claimed)
        except Exception as error:  # noqa: BLE001  whatever it is: the claims stand, and whoever reads them fences us
            log.warning("partitions %s are not released: %r", sorted(claimed), error)

    async def tick(self, codec: Codec) -> None:
        """Put a clock record into every partition of market.raw that is ours."""
        if not self._plain:
            return
        value = codec.encode(Clock(time.time_ns()))
        for tp in self._app.consumer.assignment():
            if tp.topic == self.raw:
                sent = await self._plain[0].send(self.raw, value, key=topics.CLOCK_KEY, partition=tp.partition)
                sent.add_done_callback(_end_if_lost)

    async def stop(self) -> None:
        """End: nothing is committed here, the partitions have been given up already."""
        self._stopping = True
        if self._fencing is not None:
            self._fencing.cancel()  # the rebalance that waits for it would hold up the end
        await self.close(set(self.lanes))
        self._table.data.close()
        await _stop(self._plain)


def _end_if_lost(sent: asyncio.Future[Any]) -> None:
    """A clock record that was given up leaves a hole in the producer's sequence: no other would be let in."""
    if not sent.cancelled() and (error := sent.exception()) is not None:
        end(f"the clock can't be written: {error!r}")


async def _connect(producer: AIOKafkaProducer) -> None:
    """Start it, as soon as one of the brokers that are named answers."""
    while True:
        try:
            await producer.start()
            return
        except KafkaConnectionError as error:
            log.warning("%s; trying again", error)
            await asyncio.sleep(AGAIN_S)


async def _stop(producers: list[AIOKafkaProducer]) -> None:
    try:
        async with asyncio.timeout(STOP_S):
            await asyncio.gather(*(producer.stop() for producer in producers))
    except TimeoutError:
        log.warning("a producer did not end within %.0f s: Kafka is away", STOP_S)
