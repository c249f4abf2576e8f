"""Faust transport that hands an agent runs of records instead of single ones: `tickloom://host:port[;host:port]`.

    @app.agent(app.topic("market.raw"))
    async def pipeline(stream):
        async for batch in stream:      # list[topology.fetched.Fetched] of one partition, never empty
            ...                         # the batch is acked when this body returns; an exception acks nothing

Theory of operation.
 - A *span* is the life of a partition from one seek (every assignment ends in one) to the next, or to its
   revocation. One `Acks` object stands for it: made in the consumer's thread at the seek, dropped at the
   revocation. Every run of records carries the Acks of the span in which it was taken out of aiokafka.
   A run whose Acks is not the partition's present one is dropped, for the seek delivers it again; an ack of
   an earlier span lands in an object that nobody commits from. No generation numbers are compared.
 - The offset committed is that of the last record of the longest acked prefix, in delivery order, plus one.
   Holes in the offsets (compaction, transaction markers) mean nothing here; markers at the end of a partition
   count as done, or it would seem to lag for ever. Faust's own `_acked`, `_gap` and `_read_offset` stay empty.
 - Backpressure: a partition is not taken from while WAITING of its batches have not been begun by an agent, or
   while OUT_RECORDS or OUT_BYTES of it are not acked. A batch has at most `broker_max_poll_records` records and
   comes from one fetch of at most `consumer_max_fetch_size` bytes; aiokafka holds one more fetch per partition.
   While every partition waits for its agent, nothing is polled, so an agent that acks nothing for
   `broker_max_poll_interval` loses its partitions to others. A worker without partitions stays, as a spare.
 - Latency: one request is always waiting in the consumer's thread, so a record costs one hop between the two
   event loops; an ack that makes room ends that request early. Records that have come wait for nothing; only
   the next fetch is put off by PACE_S, or a trickle would cost a core.
 - Changelog partitions: each run goes straight into its table, in log order, and only its end is told to
   Faust's recovery, which stays in charge of when recovery is over. The end is aiokafka's position, so it
   is also reached when the log ends in transaction markers or in records that compaction removed. When Faust
   pauses a changelog it is paused in aiokafka too, else our own writes to it would be fetched back.
 - Retention: where the broker has deleted what was to be read next, aiokafka goes on behind it without a word.
   Here that is an error in the log, and counted (`Consumer.missed`).

State of the application: forget a partition's in-memory state in `@app.on_partitions_revoked.connect`; no body
of an agent runs then. Load it from the table when the first batch of a partition arrives: none is delivered
before its table is recovered (`on_partitions_assigned` fires before that).

All topics except changelogs come as batches, so Faust's reply topics and leader election cannot be used.
"""

import asyncio
import logging
import os
from collections import Counter, deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from threading import Timer
from time import monotonic
from typing import Any, ClassVar, Final, NamedTuple, Protocol

import aiokafka
import faust
from aiokafka.consumer import fetcher as aiokafka_fetcher
from aiokafka.errors import (
    ConsumerStoppedError,
    GroupCoordinatorNotAvailableError,
    IllegalStateError,
    KafkaError,
    NotCoordinatorForGroupError,
    for_code,
)
from aiokafka.protocol.commit import OffsetFetchRequest
from aiokafka.protocol.group import LeaveGroupRequest
from aiokafka.record.memory_records import MemoryRecords
from faust import Stream as FaustStream
from faust.exceptions import ImproperlyConfigured
from faust.tables import TableManager as FaustTableManager
from faust.tables.recovery import Recovery as FaustRecovery
from faust.tables.recovery import ServiceStopped
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, EventT
from faust.types.tuples import ConsumerMessage, Message, ack_lock
from mode import Service

from topology.fetched import Unpacked
from topology.membership import Membership

WAITING: Final = 4  # batches of a partition that are delivered and not begun
OUT_RECORDS: Final = 100_000  # of a partition, delivered and not acked; agents that flush in bulk ack late
OUT_BYTES: Final = 64 << 20
BATCH_RECORDS: Final = 2_000  # where broker_max_poll_records is not set
FETCH_WAIT_MS: Final = 100  # how long a broker may hold a fetch; another partition may have to wait for it
PACE_S: Final = 0.002  # from a take to the next fetch: it costs 0.2 ms of CPU, however little it brings (app.pace_s)
RECORD_PACE_S: Final = 0.00001  # more for each record taken: where many come they wait for one another anyway
LONGEST_PACE_S: Final = 0.008
IDLE_WAIT_S: Final = 0.1  # how long a request waits in the thread before it is renewed
HELD_WAIT_S: Final = 0.01  # between two looks whether a rebalance is over
GROUP_LOOK_S: Final = 1.0  # between two looks whether the group takes this worker
LEAVE_S: Final = 5.0  # for the group to let a dead member go
COMMIT_WAIT_S: Final = 5.0  # at least, for Kafka to take the last offsets
STOP_WAIT_S: Final = 20.0  # how long a rebalance or a stop waits for the batch that an agent is working on
STOP_LIMIT_S: Final = 25.0  # of a whole stop, however silent Kafka or the database is; service managers kill after 30

# What an App on this transport needs. Log at info (`faust worker -l info`): at warn Faust hides every recovery
# and rebalance. `-L uvloop` makes both event loops uvloop.
SETTINGS: Final[dict[str, Any]] = {
    "Stream": "topology.transport:Stream",
    "TableManager": "topology.transport:TableManager",
    "agent_supervisor": "mode.supervisors:CrashingSupervisor",  # a failed batch ends the process
    "broker_commit_interval": 1.0,
    "broker_max_poll_interval": 300.0,
    "broker_max_poll_records": BATCH_RECORDS,
    "broker_request_timeout": 60.0,
    "broker_session_timeout": 6.0,  # the broker's own minimum: a killed worker's partitions stand still so long
    "broker_heartbeat_interval": 0.5,  # by its answer a worker learns that another has joined or left
    "broker_rebalance_timeout": 60.0,
    "consumer_auto_offset_reset": "earliest",  # what Faust's recovery relies on
    "consumer_max_fetch_size": 1 << 20,
    "stream_wait_empty": True,  # finish and commit the batch in hand on SIGTERM
    "table_standby_replicas": 0,
    "topic_allow_declare": False,
    "topic_disable_leader": True,
}


log = logging.getLogger(__name__)


class Batches(MemoryRecords):  # type: ignore[misc]  # aiokafka has no types
    """aiokafka's batches of a fetch, which let their bytes be seen."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.data = data


aiokafka_fetcher.MemoryRecords = Batches  # what it makes of a partition's part of an answer


class Acks:
    """Which deliveries of one partition, since its last seek, are done. Offsets are those of last records."""

    def __init__(self) -> None:
        self.taken = -1  # offset of the last record taken out of aiokafka
        self.commit: int | None = None  # everything delivered below this offset is done
        self.waiting = 0  # batches delivered that no agent has begun
        self.records = self.bytes = 0  # in batches that are out: delivered and not acked
        self._out: dict[int, tuple[int, int]] = {}
        self._order: deque[int] = deque()  # as delivered, from the first that is out

    def is_full(self) -> bool:
        """Whether nothing more should be taken."""
        return self.waiting >= WAITING or self.records >= OUT_RECORDS or self.bytes >= OUT_BYTES

    def deliver(self, offset: int, records: int = 1, size: int = 0) -> None:
        """A batch that ends at this offset goes out; ValueError where one that ends there or later did."""
        last = self._order[-1] if self._order else -1 if self.commit is None else self.commit - 1
        if offset <= last:
            raise ValueError(f"batch to offset {offset} delivered after the one to {last}")
        self._out[offset] = records, size
        self._order.append(offset)
        self.waiting += 1
        self.records += records
        self.bytes += size

    def skip(self, position: int) -> None:
        """Nothing is left to deliver below this offset: what ends a partition are transaction markers."""
        if not self._order:
            self.commit = max(position, self.commit or 0)
        elif position - 1 > self._order[-1]:  # done as soon as what is out before it is
            self.deliver(position - 1)
            self.begin()
            self.ack(position - 1)

    def begin(self) -> None:
        """An agent begins the next batch."""
        self.waiting -= 1

    def ack(self, offset: int) -> None:
        """The batch that ends at this offset is done; KeyError where it is not out."""
        records, size = self._out.pop(offset)
        self.records -= records
        self.bytes -= size
        while self._order and self._order[0] not in self._out:
            self.commit = self._order.popleft() + 1


class Run(NamedTuple):
    """Records of one partition as taken from aiokafka; none where only its position moved."""

    tp: TP
    acks: Acks
    records: list[Any]  # Fetched; of a changelog aiokafka's own, which is what Faust reads
    position: int  # the offset that is read next
    highwater: int | None


class BatchMessage(ConsumerMessage):
    """The message of a batch: value is the list of records, offset that of the last one."""

    def __init__(self, run: Run, generation: int) -> None:
        last = run.records[-1]
        value: Any = run.records
        super().__init__(
            last.topic, last.partition, last.offset, last.timestamp / 1000, 0, None,
            None, value, None, 0, 0, run.tp, generation_id=generation,
        )  # fmt: skip
        self.acks = run.acks


class Stream(FaustStream[Any]):
    """Acks a batch when the loop's body has returned, never when it raised or was cancelled.

    Faust's own iterators ack in a `finally`, and ack what they skip because a rebalance has begun.
    """

    app: Any

    def __aiter__(self) -> AsyncGenerator[Any]:
        batches = self._batches()
        self._active_agens.add(batches)
        return batches

    async def _batches(self) -> AsyncGenerator[Any]:
        started = await self.maybe_start()
        try:
            while not self.should_stop:
                try:
                    event = await self.channel.__anext__()
                except StopAsyncIteration:  # the agent is being stopped
                    return
                if not self.app.consumer.begin(event.message):
                    continue
                self._on_stream_event_in(event.message.tp, event.message.offset, self, event)
                self._set_current_event(event)
                yield event.value
                self.current_event = None
                if self.enable_acks:
                    await self.ack(event)
        finally:
            self.current_event = None
            self._channel_stop_iteration(self.channel)
            if started:
                await self.stop()
                self.service_reset()


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """aiokafka's side: takes runs of records out of it, and begins a span at every seek."""

    consumer: "Consumer"
    transport: "Transport"
    _woken = False
    _waiter: asyncio.Future[None] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._cut: dict[TP, int] = {}  # where reading stood as the broker said that it has nothing there
        super().__init__(*args, **kwargs)

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust leaves no way to set these two; aiokafka reads them when it starts.
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        consumer._isolation_level = "read_committed"
        return consumer

    async def on_start(self) -> None:
        """Connect; where a worker in this directory has died, leave the group in its name."""
        await super().on_start()
        coordinator = self._ensure_consumer()._coordinator
        coordinator._send_req = _checked(coordinator, coordinator._send_req)
        if self._membership is not None and self._membership.former:
            await self._leave(self._membership.former)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Stay a member while partitions are taken over, and write down which one this is.

        aiokafka's heartbeats begin after this. Where it lasts longer than a session, as the dozen requests by which
        former owners are fenced do with a slow broker, the member would be gone by then, and begin again for ever.
        """
        consumer = self._ensure_consumer()
        coordinator = consumer._coordinator
        coordinator._start_heartbeat_task()
        if self._membership is not None:
            self._membership.remember(coordinator.member_id)
        self._cut.clear()
        for tp in assigned:
            if not self.consumer._is_changelog_tp(tp):
                self._note_cuts(tp, consumer._subscription.subscription.assignment.state_value(tp))
        await super().on_partitions_assigned(assigned, generation_id)

    def _note_cuts(self, tp: TP, state: Any) -> None:
        """Note where a partition is read when aiokafka resets that, which it does where the broker has deleted it."""
        reset = state.await_reset

        def await_reset(strategy: int) -> None:
            if state.has_valid_position:
                self._cut[tp] = state.position
            reset(strategy)

        state.await_reset = await_reset

    def _miss(self, tp: TP, since: int, until: int) -> None:
        if since < until:  # else the topic was made anew
            self.consumer.missed[tp] += until - since
            self.log.error(
                "%s-%d: offsets %d to %d were deleted before they were read: the topic's retention is shorter than "
                "what was to be caught up with",
                *(*tp, since, until - 1),
            )

    @property
    def _membership(self) -> Membership | None:
        return getattr(self.app, "membership", None)

    async def _leave(self, former: str) -> None:
        coordinator = self._ensure_consumer()._coordinator
        try:
            async with asyncio.timeout(LEAVE_S):
                await coordinator.ensure_coordinator_known()
                answer = await coordinator._send_req(LeaveGroupRequest(coordinator.group_id, former))
        except (KafkaError, TimeoutError) as error:
            self.log.warning("could not sign off the worker that has died (%r): its session has to run out", error)
        else:
            if not answer.error_code:  # else it had left, or its session had run out
                self.log.info("signed off the worker that has died here: %s", former)

    async def on_thread_stop(self) -> None:
        """Leave the group. Where a connection has just gone aiokafka lets its own cancellation out of that.

        Mode's thread would die of it without a word, and the worker wait for the thread for ever.
        """
        try:
            await super().on_thread_stop()
        except (asyncio.CancelledError, KafkaError) as error:
            self.log.warning("the consumer did not end in order: %r", error)

    async def fetch(self, wanted: frozenset[TP]) -> list[Run]:
        """Called from the app's loop: runs as soon as there are any; none when woken, or after IDLE_WAIT_S."""
        request = asyncio.run_coroutine_threadsafe(self._fetch(wanted), self.thread_loop)
        return await asyncio.wrap_future(request)

    def wake(self) -> None:
        """Called from any thread: end the waiting request, since other partitions are wanted now."""
        self.thread_loop.call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        self._woken = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _fetch(self, wanted: frozenset[TP]) -> list[Run]:
        consumer = self._ensure_consumer()
        fetcher = consumer._fetcher
        if consumer._closed or fetcher._closed:
            raise ConsumerStoppedError
        # Faust asks neither, and is silent for ever when one of them has failed.
        consumer._coordinator.check_errors()
        if fetcher.error_future.done():
            fetcher.error_future.result()
        if wanted or not self.consumer.spans:
            # Else every partition waits for its agent. After broker_max_poll_interval of that aiokafka leaves the
            # group; a worker that has no partition must not, it is there for when another dies.
            fetcher._subscriptions._last_fetch_ended = monotonic()
        runs = await self._take(consumer, wanted)
        if not runs and not self._woken:
            self._waiter = fetcher._create_fetch_waiter()
            await asyncio.wait([self._waiter], timeout=IDLE_WAIT_S)
            self._waiter.cancel()
            self._waiter = None
            runs = await self._take(consumer, wanted)
        self._woken = False
        return runs

    async def _take(self, consumer: aiokafka.AIOKafkaConsumer, wanted: frozenset[TP]) -> list[Run]:
        """Suspends nowhere, so that a run and the Acks of its span cannot come apart."""
        fetcher = consumer._fetcher
        if fetcher._subscriptions.reassignment_in_progress:
            return []
        assignment = fetcher._subscriptions.subscription.assignment
        spans = self.consumer.spans
        limit = consumer._max_poll_records or BATCH_RECORDS
        runs = []
        # What tells aiokafka that its buffers are empty, so that it fetches again: not at once.
        emptied, fetcher._wait_consume_future = fetcher._wait_consume_future, None
        for tp in wanted.intersection(fetcher._records):
            acks = spans.get(tp)
            if acks is None:
                continue
            if not self.consumer._is_changelog_tp(tp):
                _unpack(fetcher._records[tp])
            records = (await fetcher.fetched_records([tp], 0, limit)).get(tp, [])
            if records and records[0].offset <= acks.taken:
                # The log was cut, or the topic made anew, and aiokafka has reset the position.
                acks = spans[tp] = Acks()
            if records:
                acks.taken = records[-1].offset
                if self._cut and (since := self._cut.pop(tp, None)) is not None:
                    self._miss(tp, since, records[0].offset)
            state = assignment.state_value(tp)
            if state is not None and state.has_valid_position:
                runs.append(Run(tp, acks, records, state.position, state.highwater))
        fetcher._wait_consume_future = emptied
        if runs:
            taken = sum(len(run.records) for run in runs if not self.consumer._is_changelog_tp(run.tp))
            pace: float = getattr(self.app, "pace_s", PACE_S)
            pace = min(pace + taken * RECORD_PACE_S, max(pace, LONGEST_PACE_S))
            self.thread_loop.call_later(pace, fetcher._notify, emptied)
        return runs

    async def seek_to_committed(self) -> Mapping[TP, int]:
        """Begin a span of every assigned partition that is not a changelog's; give the committed offsets.

        Where the state that was recovered is older than the commit, reading begins there: the commit isn't believed.
        """
        restart: Callable[[TP], int | None] = getattr(self.app, "restart_offset", lambda _tp: None)
        restarts = {tp: offset for tp in self.assignment() if (offset := restart(tp)) is not None}
        found: Mapping[TP, int] = await self.call_thread(self._seek_to_committed, restarts)
        return found

    async def _seek_to_committed(self, restarts: Mapping[TP, int]) -> dict[TP, int | None]:
        consumer = self._ensure_consumer()
        subscriptions = consumer._subscription
        assignment = subscriptions.subscription.assignment

        def check() -> None:
            if subscriptions.reassignment_in_progress or subscriptions.subscription.assignment is not assignment:
                # Faust's recovery would let records flow in the middle of the next rebalance; so it waits for its end.
                raise IllegalStateError("the partitions are being given up again")

        check()
        tps = [tp for tp in self.assignment() if not self.consumer._is_changelog_tp(tp)]
        for tp in tps:
            self.consumer.spans.pop(tp, None)
        topics = [aiokafka.TopicPartition(*tp) for tp in tps]
        offsets = await asyncio.gather(*map(consumer.committed, topics))
        for topic, offset in zip(topics, offsets, strict=True):
            if offset is not None:
                consumer.seek(topic, min(offset, restarts.get(TP(*topic), offset)))
        if unread := [topic for topic, offset in zip(topics, offsets, strict=True) if offset is None]:
            await consumer.seek_to_beginning(*unread)
        check()
        for tp in tps:
            self.consumer.spans[tp] = Acks()
        return dict(zip(tps, offsets, strict=True))

    async def _seek_wait(self, consumer: aiokafka.AIOKafkaConsumer, partitions: Mapping[TP, int]) -> None:
        for tp in partitions:
            self.consumer.spans.pop(tp, None)
        await super()._seek_wait(consumer, partitions)
        for tp in partitions:
            self.consumer.spans[tp] = Acks()

    def pause(self, tps: set[TP], *, paused: bool) -> None:
        """Called from the app's loop: stop or go on fetching from the broker."""
        self.thread_loop.call_soon_threadsafe(self._pause, tps, paused)

    def _pause(self, tps: set[TP], paused: bool) -> None:
        consumer = self._ensure_consumer()
        for tp in tps & self.assignment():
            (consumer.pause if paused else consumer.resume)(aiokafka.TopicPartition(*tp))


def _checked(coordinator: Any, send: Callable[[Any], Awaitable[Any]]) -> Callable[[Any], Awaitable[Any]]:
    """Send requests to a group's coordinator, and see the errors of a whole answer about committed offsets.

    aiokafka looks at those of its partitions only. A coordinator that has just moved names none: without this nothing
    would seem to be committed, and everything be read again.
    """

    async def sent(request: Any) -> Any:
        answer = await send(request)
        code = getattr(answer, "error_code", 0) if isinstance(request, OffsetFetchRequest) else 0
        if code:
            error: KafkaError = for_code(code)()
            if isinstance(error, (GroupCoordinatorNotAvailableError, NotCoordinatorForGroupError)):
                coordinator.coordinator_dead()
            raise error
        return answer

    return sent


def _unpack(result: Any) -> None:
    """Have a fetch taken apart by our own code, unless it failed or its partition has left."""
    if type(getattr(result, "_partition_records", None)) is aiokafka_fetcher.PartitionRecords:
        result._partition_records = Unpacked(result._partition_records)


class Consumer(driver.Consumer):
    """The app's side: delivers runs to agents and tables, keeps count of acks, commits."""

    app: Any
    _thread: ConsumerThread

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.spans: dict[TP, Acks] = {}
        self._asked: set[TP] = set()  # what the request that waits in the thread may take
        self.missed: Counter[TP] = Counter()  # records that were deleted before they were read
        super().__init__(*args, **kwargs)
        conf = self.app.conf
        if not issubclass(conf.Stream, Stream) or conf.consumer_auto_offset_reset != "earliest":
            raise ImproperlyConfigured("tickloom:// needs faust.App(..., **topology.transport.SETTINGS)")

    def close(self) -> None:
        """Do nothing: a stop leaves the group by itself. Faust closes it in a rebalance, from another thread's loop."""

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    @Service.task
    async def _watch_group(self) -> None:
        """Crash where the group refuses this worker: before the first fetch nobody asks."""
        while not self.should_stop:
            await self.sleep(GROUP_LOOK_S)
            client = self._thread._consumer
            coordinator = client._coordinator if client is not None else None  # none before it has connected
            if coordinator is None:
                continue
            if coordinator._pending_exception is not None:
                await self.crash(coordinator._pending_exception)
            elif (task := coordinator._coordination_task).done() and not task.cancelled() and task.exception():
                await self.crash(task.exception())

    # Delivery.

    async def _drain_messages(self, fetcher: Any) -> None:
        while not (self.should_stop or fetcher.should_stop):
            self._asked = {
                tp
                for tp in self._get_active_partitions()
                if self.flow_active and (acks := self.spans.get(tp)) is not None and not acks.is_full()
            }
            try:
                for run in await self._thread.fetch(frozenset(self._asked)):
                    await self._handle(run)
            except (ConsumerStoppedError, asyncio.CancelledError):
                if self.app.should_stop:
                    return
                raise

    async def _handle(self, run: Run) -> None:
        changelog = self._is_changelog_tp(run.tp)
        while self.spans.get(run.tp) is run.acks:
            # Faust empties the queues of streams at both ends of a rebalance: hold the run meanwhile.
            if self.flow_active and (changelog or not self.app.rebalancing):
                if changelog:
                    await self._recover(run)
                else:
                    if run.records:
                        self._deliver(run)
                    run.acks.skip(run.position)
                return
            await asyncio.sleep(HELD_WAIT_S)

    def _deliver(self, run: Run) -> None:
        message = BatchMessage(run, self.app.consumer_generation_id)
        channels = self.app.topics._tp_index[run.tp]
        message.incref(len(channels))
        size = sum([record.size for record in run.records])
        run.acks.deliver(message.offset, len(run.records), size)
        for channel in channels:
            channel.queue.force_put_nowait(self.app.create_event(None, run.records, {}, message))
        self.app.monitor.track_tp_end_offset(run.tp, run.highwater)

    async def _recover(self, run: Run) -> None:
        """Apply a run to its table; then Faust's recovery looks whether that was the last."""
        tables = self.app.tables
        recovery = tables.recovery
        if run.tp not in recovery.active_tps | recovery.standby_tps:
            return  # a later recovery seeks back
        offsets = recovery.active_offsets if run.tp in recovery.active_tps else recovery.standby_offsets
        table = recovery.tp_to_table[run.tp]
        channel = tables._channels[table]
        seen = -1 if offsets[run.tp] is None else offsets[run.tp]
        events: list[EventT[Any]] = []
        for record in run.records:
            if record.offset > seen:
                event = await channel.decode(self._to_message(run.tp, record), propagate=True)
                await table.on_changelog_event(event)
                events.append(event)
        table.apply_changelog_batch(events)
        recovery._last_flush_at = monotonic()  # else it warns that nothing was applied
        offsets[run.tp] = max(seen, run.position - 1)
        table.data.set_persisted_offset(run.tp, offsets[run.tp])
        if offsets is recovery.standby_offsets and run.highwater is not None:
            recovery.standby_highwaters[run.tp] = run.highwater - 1  # Faust asks once, and a standby follows for ever
        # An event at an offset that recovery has seen is not applied, but makes it look whether it is done.
        end = ConsumerMessage(*run.tp, offsets[run.tp], 0.0, 0, None, None, None, None, tp=run.tp)
        tables.changelog_queue.force_put_nowait(self.app.create_event(None, None, {}, end))

    def pause_partitions(self, tps: Iterable[TP]) -> None:
        """Stop taking from partitions; changelogs are not fetched either."""
        tps = set(tps)
        super().pause_partitions(tps)
        self._thread.pause({tp for tp in tps if self._is_changelog_tp(tp)}, paused=True)

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Go on taking from partitions."""
        tps = set(tps)
        super().resume_partitions(tps)
        self._thread.pause({tp for tp in tps if self._is_changelog_tp(tp)}, paused=False)

    def resume_flow(self) -> None:
        """Go on after a rebalance."""
        super().resume_flow()
        self._thread.wake()

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Faust's watch for partitions that stand still; changelogs that are paused do so rightly."""
        if not self._is_changelog_tp(tp):
            super().verify_event_path(now, tp)

    async def _seek(self, partition: TP, offset: int) -> None:
        await self._thread.seek_wait({partition: offset})

    # Acks and commits.

    def begin(self, message: Message) -> bool:
        """A stream is about to hand out this message; False: its span is over or ending, drop it."""
        if not isinstance(message, BatchMessage):
            raise TypeError(f"{message!r} is not a batch of this transport")
        if self.spans.get(message.tp) is not message.acks or not self.flow_active:
            return False
        if not message.tracked:
            message.tracked = True
            self.track_message(message)
            message.acks.begin()
            self._take_more(message)
        return True

    def ack(self, message: Message) -> bool:
        """Every stream is done with this message."""
        with ack_lock:
            if message.acked or not isinstance(message, BatchMessage):
                return False
            message.acked = True
            self._unacked_messages.discard(message)
            message.acks.ack(message.offset)
        if self._waiting_for_ack is not None and not self._waiting_for_ack.done():
            self._waiting_for_ack.set_result(None)
        self._take_more(message)
        return True

    def _take_more(self, message: BatchMessage) -> None:
        if message.tp not in self._asked and not message.acks.is_full():
            self._asked.add(message.tp)  # woken once is enough
            self._thread.wake()

    def _filter_tps_with_pending_acks(self, topics: Any = None) -> Iterator[TP]:
        for tp, acks in list(self.spans.items()):
            if acks.commit is not None and (topics is None or tp in topics or tp.topic in topics):
                yield tp

    def _new_offset(self, tp: TP) -> int | None:
        acks = self.spans.get(tp)
        return None if acks is None else acks.commit

    async def _commit(self, offsets: Mapping[TP, int]) -> bool:
        # Faust has awaited its producer since it asked for these offsets: a seek may have come between.
        present = {tp: offset for tp, offset in offsets.items() if offset <= (self._new_offset(tp) or -1)}
        return bool(present) and await super()._commit(present)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Let Faust stop the flow, wait for the batches in hand and commit; then end the spans."""
        await super().on_partitions_revoked(revoked)
        for tp in revoked:
            self.spans.pop(tp, None)
            self._committed_offset.pop(tp, None)

    async def wait_empty(self) -> None:
        """Wait for the batches in hand, not for ever, and commit what is acked."""
        deadline = monotonic() + STOP_WAIT_S
        while self._unacked_messages and not self.app.crashed:
            if monotonic() > deadline:
                self.log.warning("gave up on %d batches in hand: not acked", len(self._unacked_messages))
                break
            await self._wait_for_ack(timeout=1.0)
        try:
            async with asyncio.timeout(max(COMMIT_WAIT_S, deadline - monotonic())):
                await self.maybe_wait_for_commit_to_finish()  # one that began before the last ack
                await self.commit_and_end_transactions()
        except TimeoutError:
            self.log.warning("Kafka did not take the last offsets: what was acked since will be read again")


class Recovery(FaustRecovery):
    """Faust's, but that a Kafka which does not answer ends the process: Faust takes it for a stop, and stands still."""

    def _add(self, table: Any, tp: TP, offsets: Any) -> None:
        offsets.pop(tp, None)  # of a partition that comes back: what its table says counts, also where it says nothing
        super()._add(table, tp, offsets)

    async def _wait(self, *waited: Any, **limit: Any) -> None:
        try:
            await super()._wait(*waited, **limit)
        except ServiceStopped:
            if self.should_stop or self.crashed:
                raise
            raise TimeoutError("Kafka did not answer while the state was recovered") from None


class TableManager(FaustTableManager):
    """Registers its tables as soon as there is a consumer; Faust's own waits a second for it."""

    app: Any
    _recovery: Recovery | None = None

    @property
    def recovery(self) -> Recovery:
        """What reads the changelogs."""
        if self._recovery is None:
            self._recovery = Recovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery

    async def on_start(self) -> None:
        """Begin."""
        while not self.should_stop and self.app.consumer._thread._consumer is None:
            await self.sleep(HELD_WAIT_S)
        if not self.should_stop:
            await self._update_channels()
            await self.recovery.start()


class Commits(Protocol):
    """What an application does with its events: it acks them once they are committed."""

    def hurry(self) -> None:
        """Commit what waits at once."""


class App(faust.App):
    """An application that commits what was taken before it gives partitions up, and whose stop has an end."""

    tickloom: Commits

    def on_rebalance_start(self) -> None:
        """Partitions are about to be given up: Faust waits until what was taken is acked."""
        self.loop.call_soon_threadsafe(self.tickloom.hurry)  # this is the consumer's thread
        super().on_rebalance_start()

    async def on_stop(self) -> None:
        """The process ends: commit what was taken."""
        limit = Timer(STOP_LIMIT_S, _give_up_stopping)
        limit.daemon = True
        limit.start()
        self.tickloom.hurry()
        await super().on_stop()


def _give_up_stopping() -> None:
    log.critical("not stopped within %g s: what is not committed is done again; the process ends", STOP_LIMIT_S)
    logging.shutdown()
    os._exit(1)


class Transport(driver.Transport):
    """Faust's aiokafka transport with batches; find it as `tickloom://`."""

    Consumer: ClassVar[type[Consumer]] = Consumer
