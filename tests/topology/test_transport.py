"""The transport commits only what was processed, whatever comes between, and loses nothing when workers die."""

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import faust
import pytest
from aiokafka.consumer.group_coordinator import GroupCoordinator
from aiokafka.errors import IllegalStateError
from aiokafka.protocol.commit import OffsetFetchResponse_v3
from confluent_kafka import Consumer as PlainConsumer
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from faust.exceptions import ImproperlyConfigured
from faust.tables.recovery import ServiceStopped
from faust.transport.drivers.aiokafka import server_list
from faust.types import TP
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local import Stack
from topology import transport
from topology.fetched import Fetched, fetched
from topology.transport import SETTINGS, Acks, BatchMessage, Consumer, Run, Transport

SOURCE = TP("source", 0)
PARTITIONS = 4
ROOT = Path(__file__).parents[2]


# Acks alone.


def test_the_commit_is_the_end_of_the_longest_acked_prefix() -> None:
    acks = Acks()
    for offset in (9, 17, 40):
        acks.deliver(offset)
    acks.ack(40)
    acks.ack(17)
    assert acks.commit is None
    acks.ack(9)
    assert acks.commit == 41


def test_a_batch_is_acked_once_and_only_after_its_delivery() -> None:
    acks = Acks()
    acks.deliver(5)
    with pytest.raises(KeyError):
        acks.ack(6)
    acks.ack(5)
    with pytest.raises(KeyError):
        acks.ack(5)
    with pytest.raises(ValueError, match="offset 5 delivered after the one to 5"):
        acks.deliver(5)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=12), st.randoms(use_true_random=False), st.data())
def test_in_any_order_of_acks_the_commit_is_that_of_the_obvious_model(
    steps: list[int], chance: Any, data: st.DataObject
) -> None:
    ends = [sum(steps[: count + 1]) for count in range(len(steps))]
    acks, acked, delivered = Acks(), set[int](), 0
    while len(acked) < len(ends):
        if delivered < len(ends) and (delivered == len(acked) or data.draw(st.booleans())):
            acks.deliver(ends[delivered], 3, 7)
            delivered += 1
        else:
            end = chance.choice([end for end in ends[:delivered] if end not in acked])
            acks.ack(end)
            acked.add(end)
        done = next((count for count, end in enumerate(ends[:delivered]) if end not in acked), delivered)
        assert acks.commit == (ends[done - 1] + 1 if done else None)
        assert (acks.records, acks.bytes) == (3 * (delivered - len(acked)), 7 * (delivered - len(acked)))


@pytest.mark.parametrize(
    ("batches", "records", "size"),
    [(transport.WAITING, 1, 1), (1, transport.OUT_RECORDS, 1), (1, 1, transport.OUT_BYTES)],
)
def test_a_partition_is_full_by_batches_records_or_bytes(batches: int, records: int, size: int) -> None:
    acks = Acks()
    for offset in range(batches):
        assert not acks.is_full()
        acks.deliver(offset, records, size)
    assert acks.is_full()
    acks.begin()
    acks.ack(0)
    assert not acks.is_full()


# The consumer, its thread's methods and its streams, without a broker, at every interleaving.


class Log:
    """One partition in place of aiokafka: its records, our position in it, and the insides that the consumer reads."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.end = 0
        self.at = 0
        self.committed_offset: int | None = None
        self._max_poll_records = 3
        self.reassignment_in_progress = False
        self._fetcher = self._subscriptions = self._subscription = self.subscription = self.assignment = self
        self._wait_consume_future = self._notify = None
        self._records = {SOURCE: None}

    def state_value(self, _tp: TP) -> SimpleNamespace:
        return SimpleNamespace(has_valid_position=True, position=self.at, highwater=0)

    async def fetched_records(self, _tps: list[TP], _timeout: float, limit: int) -> dict[TP, list[Fetched]]:
        ahead = [offset for offset in self.offsets if offset >= self.at][:limit]
        if not ahead:
            return {}
        self.at = ahead[-1] + 1
        return {SOURCE: [_record(offset) for offset in ahead]}

    async def committed(self, _tp: TP) -> int | None:
        return self.committed_offset

    async def position(self, _tp: TP) -> int:
        return self.at

    def seek(self, _tp: TP, offset: int) -> None:
        self.at = offset

    async def seek_to_beginning(self, *_tps: TP) -> None:
        self.at = 0


def _record(offset: int) -> Fetched:
    return fetched(SOURCE.topic, SOURCE.partition, offset, 0, None, b"%d" % offset)


class Queue(list[Any]):
    """The one subscribed channel and its queue."""

    @property
    def queue(self) -> "Queue":
        return self

    force_put_nowait = list.append


@cache
def unconnected() -> tuple[asyncio.AbstractEventLoop, Any]:
    """A consumer that has never been started, and the loop it belongs to."""

    async def make() -> Any:
        return faust.App("t", broker="tickloom://nowhere:1", store="memory://", **SETTINGS).consumer

    loop = asyncio.new_event_loop()
    return loop, loop.run_until_complete(make())


class Story:
    """Fetching, handing over, processing, acking, committing, rebalancing, seeking and cutting, a step at a time."""

    def __init__(self) -> None:
        self.log = Log()
        self.queue = Queue()
        self.taken: list[Run] = []  # on their way from the thread to the app
        self.hand: list[BatchMessage] = []  # begun by the agent, not acked
        self.commits: list[dict[TP, int]] = []  # asked for, not yet sent
        self.assigned = False
        # The model: what was handed over since the last seek, of that what is acked, what anyone ever processed.
        self.span: list[BatchMessage] = []
        self.acked: list[BatchMessage] = []
        self.processed: set[int] = set()
        self.loop, self.consumer = unconnected()
        self.consumer.spans.clear()
        self.consumer._committed_offset.clear()
        self.consumer.app.topics._tp_index[SOURCE] = {id(self.queue): self.queue}.values()
        self.consumer._on_partitions_revoked = self._stop
        self.thread = self.consumer._thread
        self.thread._consumer = self.log
        self.thread.assignment = lambda: {SOURCE} if self.assigned else set()
        self.thread.call_thread = lambda method, *arguments: method(*arguments)
        self.thread.commit = self._commit_reaches_the_broker
        self.append(3)
        self.assign(0)

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(work)

    async def _stop(self, _revoked: set[TP]) -> None:
        self.consumer.stop_flow()
        self.queue.clear()

    async def _commit_reaches_the_broker(self, offsets: dict[TP, int]) -> bool:
        offset = offsets[SOURCE]
        assert not self.unacked_below(offset)
        missed = [each for each in self.log.offsets if each < offset and each not in self.processed]
        assert not missed, f"{missed} were passed and nobody processed them"
        self.log.committed_offset = offset
        return True

    def unacked_below(self, offset: int) -> list[BatchMessage]:
        return [each for each in self.span if each not in self.acked and each.value[0].offset < offset]

    def append(self, number: int) -> None:
        self.log.offsets += range(self.log.end, self.log.end + number + 1)
        self.log.end += number + 1

    def compact(self, number: int) -> None:
        if self.log.offsets:
            del self.log.offsets[number % len(self.log.offsets)]

    def take(self, _number: int) -> None:
        if self.assigned:
            self.taken += self.do(self.thread._take(self.log, frozenset([SOURCE])))

    def hand_over(self, _number: int) -> None:
        if not self.taken:
            return
        before = list(self.queue)
        self.do(self.consumer._handle(self.taken.pop(0)))
        for event in self.queue[len(before) :]:
            if self.span and event.message.acks is not self.span[-1].acks:
                self.span = []  # the log was cut, and is read again
            self.span.append(event.message)

    def begin(self, _number: int) -> None:
        if self.queue:
            message = self.queue.pop(0).message
            if self.consumer.begin(message):
                assert message in self.span
                self.hand.append(message)

    def ack(self, number: int) -> None:
        if self.hand:
            message = self.hand.pop(number % len(self.hand))
            assert message.ack(self.consumer)
            self.acked.append(message)
            self.processed |= {record.offset for record in message.value}

    def ask_for_commit(self, _number: int) -> None:
        tps = list(self.consumer._filter_tps_with_pending_acks())
        if offsets := self.consumer._filter_committable_offsets(tps):
            self.commits.append(offsets)

    def send_commit(self, _number: int) -> None:
        if self.commits:
            self.do(self.consumer._commit(self.commits.pop(0)))

    def assign(self, _number: int) -> None:
        if not self.assigned:
            self.assigned = True
            self.log.at = self.log.committed_offset or 0
            self.do(self.consumer.perform_seek())
            self.consumer.resume_flow()
            self.span = []

    def revoke(self, _number: int) -> None:
        if self.assigned:
            self.do(self.consumer.on_partitions_revoked({SOURCE}))
            assert self.consumer._new_offset(SOURCE) is None
            self.assigned = False
            self.span = []

    def another_worker_goes_on(self, number: int) -> None:
        end = self.log.offsets[number % len(self.log.offsets)] + 1 if self.log.offsets else 0
        if not self.assigned and end > (self.log.committed_offset or 0):
            self.processed |= {offset for offset in self.log.offsets if offset < end}
            self.log.committed_offset = end

    def seek_back(self, number: int) -> None:
        if self.assigned:  # not past what nobody has processed, which would be to ask for its loss
            missing = [offset for offset in self.log.offsets if offset not in self.processed]
            self.do(self.consumer.seek(SOURCE, number % (min(self.log.at, *missing, self.log.at) + 1)))
            self.span = []

    def aiokafka_resets_the_position(self, _number: int) -> None:
        if self.assigned:
            self.log.at = 0


OFTEN = [
    Story.take, Story.hand_over, Story.begin, Story.ack, Story.ask_for_commit, Story.send_commit, Story.assign,
]  # fmt: skip
SELDOM = [
    Story.append, Story.compact, Story.revoke, Story.another_worker_goes_on, Story.seek_back,
    Story.aiokafka_resets_the_position,
]  # fmt: skip
STEPS = [*OFTEN * 4, *SELDOM]
Steps = list[tuple[Callable[[Story, int], None], int]]


def play(steps: Steps) -> None:
    story = Story()
    for step, number in steps:
        step(story, number)
        offered = story.consumer._new_offset(SOURCE)
        assert offered is None or not story.unacked_below(offered)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 8)), min_size=20, max_size=60))
def test_at_every_interleaving_no_commit_passes_an_unacked_record(steps: Steps) -> None:
    play(steps)


def test_nor_in_thousands_of_long_stories() -> None:
    for seed in range(4_000):
        chance = random.Random(seed)
        steps = [(chance.choice(STEPS), chance.randrange(9)) for _ in range(60)]
        try:
            play(steps)
        except AssertionError as error:
            error.add_note(f"seed {seed}: {[(step.__name__, number) for step, number in steps]}")
            raise


# Settings.


def test_the_scheme_finds_the_transport_and_every_broker() -> None:
    app = faust.App("t", broker="tickloom://a:1;b:2,c", **SETTINGS)
    assert isinstance(app.transport, Transport)
    assert server_list(app.transport.url, app.transport.default_port) == ["a:1", "b:2", "c:9092"]


@pytest.mark.parametrize("wrong", [{"Stream": faust.Stream}, {"consumer_auto_offset_reset": "latest"}])
def test_without_the_settings_no_worker_starts(wrong: dict[str, Any]) -> None:
    app = faust.App("t", broker="tickloom://a:1", **{**SETTINGS, **wrong})
    with pytest.raises(ImproperlyConfigured, match="SETTINGS"):
        Consumer(app.transport, callback=app.topics.on_message, on_partitions_revoked=None, on_partitions_assigned=None)


def test_a_kafka_that_does_not_answer_during_recovery_is_an_error_and_a_stop_is_none() -> None:
    """Faust takes the first for the second: the worker would keep its partitions and never process again."""

    async def waited(*, stop: bool) -> None:
        app: Any = SimpleNamespace(conf=SimpleNamespace(stream_recovery_delay=0.0))
        recovery = transport.Recovery(app, SimpleNamespace())  # type: ignore[arg-type]
        recovery._stopped = asyncio.Event()
        if stop:
            recovery._stopped.set()
        await recovery._wait(asyncio.Event().wait(), timeout=0.05)

    with pytest.raises(TimeoutError, match="did not answer"):
        asyncio.run(waited(stop=False))
    with pytest.raises(ServiceStopped):
        asyncio.run(waited(stop=True))


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_a_recovery_that_a_rebalance_has_overtaken_lets_nothing_flow(when: str) -> None:
    """Faust goes on with it otherwise, and hands out records of partitions that are being given up."""

    class Overtaken(Log):
        async def committed(self, _tp: TP) -> int | None:
            self.reassignment_in_progress = True
            return 0

    story = Story()
    story.revoke(0)
    story.assigned = True
    story.thread._consumer = log = Overtaken() if when == "meanwhile" else Log()
    log.reassignment_in_progress = when == "before"
    with pytest.raises(IllegalStateError):  # by which Faust waits for the next one
        story.do(story.consumer.perform_seek())
    assert not story.consumer.spans


def test_a_rebalance_during_a_stop_does_not_close_the_consumer() -> None:
    """The stop would then find it closed, and not leave the group."""
    _, consumer = unconnected()
    consumer._thread._consumer = client = SimpleNamespace(_closed=False)
    consumer.app._on_rebalance_when_stopped()
    assert not client._closed


def test_a_stop_while_records_are_held_is_no_crash() -> None:
    """Faust takes a fetcher that is cancelled in a rebalance for one that has crashed, unless it returns."""
    story = Story()
    story.append(3)
    story.consumer.stop_flow()  # as in a rebalance: what was taken is held
    story.consumer._get_active_partitions = lambda: {SOURCE}

    async def fetch(_wanted: frozenset[TP]) -> list[Run]:
        return await story.thread._take(story.log, frozenset([SOURCE]))

    story.thread.fetch = fetch

    async def stopped() -> None:
        draining = asyncio.create_task(story.consumer._drain_messages(SimpleNamespace(should_stop=False)))
        await asyncio.sleep(0.05)
        story.consumer.app._stopped.set()
        draining.cancel()
        await draining

    try:
        story.do(stopped())
    finally:
        unconnected.cache_clear()


def test_a_coordinator_that_has_moved_is_asked_again_for_what_is_committed() -> None:
    """Its answer has no partitions but an error of its own, which aiokafka takes for `nothing is committed`."""
    answers = [OffsetFetchResponse_v3(0, [], 16), OffsetFetchResponse_v3(0, [("t", [(0, 7, "", 0)])], 0)]
    coordinator: Any = GroupCoordinator.__new__(GroupCoordinator)
    coordinator.group_id = "group"
    coordinator._retry_backoff_ms = 1
    dead = []
    coordinator.coordinator_dead = lambda: dead.append(1)

    async def known() -> None:
        """The coordinator is found."""

    async def send(request: Any) -> Any:
        return answers.pop(0)

    coordinator.ensure_coordinator_known = known
    coordinator._send_req = transport._checked(coordinator, send)
    place = TopicPartition("t", 0)
    found = asyncio.run(coordinator.fetch_committed_offsets([SimpleNamespace(topic="t", partition=0)]))
    assert [(at.topic, at.partition, kept.offset) for at, kept in found.items()] == [(place.topic, place.partition, 7)]
    assert dead == [1]


@pytest.mark.parametrize("where", ["pending", "task"])
def test_what_ends_the_work_with_the_group_ends_the_worker(where: str) -> None:
    """Before the first fetch nobody else asks: it would stand there without partitions."""

    async def watched() -> list[BaseException]:
        async def coordinate() -> None:
            if where == "task":
                raise ValueError("what nobody thought of")

        task = asyncio.ensure_future(coordinate())
        await asyncio.wait([task])
        pending = ValueError("refused") if where == "pending" else None
        coordinator = SimpleNamespace(_pending_exception=pending, _coordination_task=task)
        crashed: list[BaseException] = []

        async def crash(error: BaseException) -> None:
            crashed.append(error)
            consumer.should_stop = True

        consumer = SimpleNamespace(
            should_stop=False,
            sleep=lambda _: asyncio.sleep(0),
            crash=crash,
            _thread=SimpleNamespace(_consumer=SimpleNamespace(_coordinator=coordinator)),
        )
        async with asyncio.timeout(5):
            await Consumer._watch_group.fun(consumer)
        return crashed

    assert [type(error) for error in asyncio.run(watched())] == [ValueError]


def test_fetch_wait_and_isolation_level_reach_aiokafka() -> None:
    async def connected() -> Any:
        app = faust.App("t", broker="tickloom://a:1", **SETTINGS)
        app.transport.isolation_level = "read_committed"
        return app.consumer._thread._create_worker_consumer(app.transport)

    consumer = asyncio.run(connected())
    assert consumer._isolation_level == "read_committed"
    assert consumer._fetch_max_wait_ms == transport.FETCH_WAIT_MS


# Real workers on a real Kafka. What a worker has processed it notes in a file, before the batch is acked.


class App(faust.App):
    """Takes its time to take partitions over."""

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await asyncio.sleep(float(os.environ.get("TAKEOVER", "0")))
        await super()._on_partitions_assigned(assigned, generation_id)


def work() -> None:
    """The process under test."""
    environment = os.environ
    group, topic = environment["GROUP"], environment["TOPIC"]
    app = App(
        group,
        broker=f"tickloom://{environment['TICKLOOM_BROKER']}",
        datadir=environment["DATADIR"],
        web_enabled=False,
        **SETTINGS | {"broker_max_poll_interval": float(environment.get("LONGEST", "300"))},
    )
    poison = int(environment.get("POISON", "-1"))
    table = app.Table("keys", key_type=bytes, value_type=bytes) if "TABLE" in environment else {}

    @app.agent(app.topic(topic))
    async def process(stream: Any) -> None:
        async for batch in stream:
            delay = time.time() - batch[0].timestamp / 1000
            await asyncio.sleep(float(environment.get("SECONDS", "0")))
            if batch[0].offset <= poison <= batch[-1].offset:
                raise ValueError("poison")
            note(batch, delay, table)

    def note(batch: list[Fetched], delay: float, table: Any) -> None:
        offsets = ",".join(str(record.offset) for record in batch)
        sizes = f"{len(table)}:{sum(len(value) for value in table.values())}"
        with Path(environment["NOTES"]).open("a") as notes:
            notes.write(f"{batch[0].partition} {delay:.6f} {sizes} {offsets}\n")

    sys.argv = ["worker", "worker", "-l", "info", "--without-web"]
    app.main()


class Worker:
    """A worker process and its notes."""

    def __init__(self, group: "Group", number: int, **environment: str) -> None:
        self.notes_path = group.directory / f"notes-{number}"
        self.log = group.directory / f"log-{number}"
        self.notes_path.touch()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, __file__],
                cwd=ROOT,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={
                    **os.environ,
                    "PYTHONPATH": str(ROOT),
                    "TICKLOOM_BROKER": group.broker,
                    "TOPIC": group.topic,
                    "GROUP": group.name,
                    "DATADIR": str(group.directory / f"data-{number}"),
                    "NOTES": str(self.notes_path),
                    **environment,
                },
            )

    def notes(self) -> list[tuple[int, float, str, list[int]]]:
        """Partition, delay in seconds, the table's size, offsets; by batch."""
        lines = [line.split() for line in self.notes_path.read_text().split("\n")[:-1]]
        return [(int(a), float(b), c, [int(each) for each in d.split(",")]) for a, b, c, d in lines]

    def stop(self) -> tuple[int, float]:
        """SIGTERM: exit code and seconds."""
        begun = time.monotonic()
        self.process.terminate()
        return self.process.wait(30), time.monotonic() - begun


class Group:
    """A topic, its consumer group and the workers in it."""

    def __init__(self, broker: str, name: str, directory: Path) -> None:
        self.broker, self.name, self.directory = broker, name, directory
        self.topic = f"{name}.source"
        self.workers: list[Worker] = []
        self.produced = 0
        self.create(self.topic)

    def create(self, topic: str, **configuration: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.broker})
        admin.create_topics([NewTopic(topic, PARTITIONS, 1, config=configuration)])[topic].result(30)

    def delete(self, partition: int, before: int) -> None:
        """As retention does."""
        admin = AdminClient({"bootstrap.servers": self.broker})  # which must live until it is done
        [done] = admin.delete_records([TopicPartition(self.topic, partition, before)]).values()
        assert done.result(30).low_watermark == before

    def missed(self, worker: Worker) -> dict[int, list[range]]:
        """What it says that it has missed, by partition."""
        found: dict[int, list[range]] = {}
        for number, first, last in re.findall(r"-(\d): offsets (\d+) to (\d+) were deleted", worker.log.read_text()):
            found.setdefault(int(number), []).append(range(int(first), int(last) + 1))
        return found

    def start(self, **environment: str) -> Worker:
        worker = Worker(self, len(self.workers), **environment)
        self.workers.append(worker)
        return worker

    def produce(self, count: int, every: float = 0.0) -> None:
        producer = Producer({"bootstrap.servers": self.broker, "linger.ms": 0 if every else 20})
        for number in range(count):
            producer.produce(self.topic, b"%d" % number, partition=number % PARTITIONS)
            producer.poll(every)
        assert producer.flush(30) == 0
        self.produced += count

    def produce_until(self, condition: Callable[[], bool]) -> None:
        """A steady flow."""
        self.wait(lambda: condition() or self.produce(200, 0.001) is not None)

    def committed(self) -> dict[int, int]:
        """The group's offset by partition, 0 where there is none."""
        reader = PlainConsumer({"bootstrap.servers": self.broker, "group.id": self.name})
        found = reader.committed([TopicPartition(self.topic, number) for number in range(PARTITIONS)], timeout=30)
        reader.close()
        return {each.partition: max(each.offset, 0) for each in found}

    def processed(self) -> dict[int, list[int]]:
        """Offsets by partition, as often as they were noted by any worker."""
        offsets = defaultdict(list)
        for worker in self.workers:
            for partition, _, _, noted in worker.notes():
                offsets[partition] += noted
        return offsets

    def assert_nothing_was_skipped(self) -> None:
        """Every offset below a committed one has been processed."""
        committed = self.committed()  # before the notes: those only grow
        processed = self.processed()
        for partition, offset in committed.items():
            missed = set(range(offset)) - set(processed[partition])
            assert not missed, f"partition {partition}: committed {offset}, never processed {sorted(missed)[:5]}"

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            ends = "".join(worker.log.read_text(errors="replace")[-3000:] for worker in self.workers)
            assert time.monotonic() < deadline, ends
            time.sleep(0.05)  # what other processes have done is only to be seen by looking again

    def wait_for(self, count: int, seconds: float = 60) -> None:
        """Until so many offsets are processed, counted once."""
        self.wait(lambda: self.count() >= count, seconds)

    def count(self) -> int:
        """Offsets that are processed, each counted once."""
        return sum(len(set(each)) for each in self.processed().values())


@pytest.fixture
def group(stack: Stack, run_name: str, tmp_path: Path) -> Iterator[Group]:
    made = Group(stack.broker, run_name, tmp_path)
    yield made
    for worker in made.workers:
        worker.process.kill()
        worker.process.wait()


@pytest.mark.integration
def test_sigterm_finishes_the_batch_in_hand_commits_it_and_exits_with_0(group: Group) -> None:
    group.produce(40_000)
    worker = group.start(SECONDS="0.3")
    group.wait(lambda: len(worker.notes()) >= 3)
    code, seconds = worker.stop()
    assert (code, seconds < 10) == (0, True), worker.log.read_text()
    processed = group.processed()
    assert sum(map(len, processed.values())) < 40_000
    assert group.committed() == {number: len(processed[number]) for number in range(PARTITIONS)}


@pytest.mark.integration
def test_graceful_rebalances_process_every_record_once(group: Group) -> None:
    first = group.start(SECONDS="0.01")
    group.produce_until(lambda: bool(first.notes()))
    second = group.start(SECONDS="0.01")
    group.produce_until(lambda: len(second.notes()) > 20)
    assert second.stop()[0] == 0, second.log.read_text()
    group.produce(4_000)
    group.wait_for(group.produced)
    assert first.stop()[0] == 0, first.log.read_text()
    each = list(range(group.produced // PARTITIONS))
    assert all(sorted(offsets) == each for offsets in group.processed().values())
    assert group.committed() == dict.fromkeys(range(PARTITIONS), len(each))


@pytest.mark.integration
@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
def test_a_worker_that_dies_or_hangs_loses_nothing_and_no_commit_passes_an_unprocessed_record(
    group: Group, fault: signal.Signals
) -> None:
    first, second = group.start(SECONDS="0.02"), group.start(SECONDS="0.02")
    group.produce_until(lambda: bool(first.notes() and second.notes()))
    group.produce(20_000)
    group.wait(lambda: group.count() > group.produced - 15_000)
    first.process.send_signal(fault)
    group.assert_nothing_was_skipped()
    begun, held = len(second.notes()), {partition for partition, *_ in first.notes()[-2:]}
    group.produce_until(lambda: held <= {partition for partition, *_ in second.notes()[begun:]})
    group.assert_nothing_was_skipped()
    if fault == signal.SIGSTOP:
        first.process.send_signal(signal.SIGCONT)  # it goes on with what is no longer its own
    else:
        first.process.wait()
        first = group.start()
    begun = len(first.notes())
    group.produce_until(lambda: len(first.notes()) > begun + 20)
    group.wait_for(group.produced)
    for worker in (first, second):
        assert worker.stop()[0] == 0, worker.log.read_text()
    group.assert_nothing_was_skipped()
    assert group.committed() == dict.fromkeys(range(PARTITIONS), group.produced // PARTITIONS)


@pytest.mark.integration
def test_taking_partitions_over_may_last_longer_than_a_session(group: Group) -> None:
    """Fencing former owners asks Kafka a dozen times; with a slow broker the group must not take us for dead."""
    seconds = 1.5 * SETTINGS["broker_session_timeout"]
    worker = group.start(TAKEOVER=str(seconds))
    group.produce(400)
    group.wait_for(400)
    group.produce(400, 0.005)  # for longer than until the next heartbeat
    group.wait_for(800)
    assert "not recognized" not in worker.log.read_text(), worker.log.read_text()


@pytest.mark.integration
def test_a_worker_without_partitions_stays_in_the_group_and_takes_over(group: Group) -> None:
    """aiokafka leaves a group, for good, where nothing has been fetched for broker_max_poll_interval."""
    workers = [group.start(LONGEST="1.5") for _ in range(PARTITIONS + 1)]
    group.wait(lambda: all("Worker ready" in worker.log.read_text() for worker in workers))
    group.produce(100, 0.01)
    group.wait_for(group.produced)
    begun = [len(worker.notes()) for worker in workers]
    group.produce(500, 0.01)
    group.wait_for(group.produced)
    [spare] = [worker for worker, count in zip(workers, begun, strict=True) if len(worker.notes()) == count]
    before = len(spare.notes())
    for worker in workers:
        if worker is not spare:
            worker.process.kill()
    group.produce_until(lambda: len(spare.notes()) > before)
    group.wait_for(group.produced)


@pytest.mark.integration
def test_what_was_deleted_before_it_was_read_is_said_and_the_rest_is_processed(group: Group) -> None:
    """aiokafka goes on behind it without a word; so a hole would look like a quiet market."""
    worker = group.start()
    group.produce(400)
    group.wait_for(400)
    assert worker.stop()[0] == 0, worker.log.read_text()
    group.produce(400)
    group.delete(0, before=150)
    worker = group.start()
    group.wait_for(750)
    assert sorted(group.processed()[0]) == [*range(100), *range(150, 200)]
    assert group.missed(worker) == {0: [range(100, 150)]}


@pytest.mark.integration
def test_a_worker_that_deletion_overtakes_says_what_it_has_missed(group: Group) -> None:
    worker = group.start()
    group.produce(400)
    group.wait_for(400)
    worker.process.send_signal(signal.SIGSTOP)  # for less than its session
    group.produce(40_000)
    group.delete(0, before=10_000)
    worker.process.send_signal(signal.SIGCONT)
    group.wait(lambda: 10_099 in group.processed()[0])
    group.wait(lambda: all(len(set(group.processed()[number])) == 10_100 for number in range(1, PARTITIONS)))
    [missed] = group.missed(worker)[0]  # it may have had the first of them on the way
    assert sorted({*group.processed()[0], *missed}) == list(range(10_100))
    assert len(group.processed()[0]) + len(missed) == 10_100


@pytest.mark.integration
def test_an_exception_in_an_agent_acks_nothing_and_ends_the_process(group: Group) -> None:
    group.produce(8_000)
    worker = group.start(POISON="1500")
    assert worker.process.wait(60) != 0
    assert "poison" in worker.log.read_text()
    processed = group.processed()
    assert all(max(processed[number], default=-1) < 1_500 for number in range(PARTITIONS))
    group.assert_nothing_was_skipped()
    group.start()
    group.wait_for(8_000)


@pytest.mark.integration
def test_a_trickle_arrives_without_stalls(group: Group) -> None:
    worker = group.start()
    group.produce_until(lambda: bool(worker.notes()))
    group.wait_for(group.produced)
    begun = len(worker.notes())
    group.produce(400, every=0.005)
    group.wait_for(group.produced)
    delays = sorted(delay for _, delay, _, _ in worker.notes()[begun:])
    assert delays[len(delays) // 2] < 0.1
    assert delays[-1] < 0.9  # Faust sleeps whole seconds where it stalls


@pytest.mark.integration
def test_a_table_is_recovered_within_seconds_also_behind_transaction_markers(group: Group) -> None:
    changelog = f"{group.name}-keys-changelog"
    group.create(changelog, **{"cleanup.policy": "compact"})
    group.produce(PARTITIONS)
    producer = Producer({"bootstrap.servers": group.broker, "transactional.id": group.name, "linger.ms": 20})
    producer.init_transactions(30)
    for size in (20_000, 10, 20_000, 5):  # the last is aborted
        producer.begin_transaction()
        for number in range(1_000):
            producer.produce(changelog, b"x" * size, b"key-%d" % number, number % PARTITIONS)
            producer.poll(0)
        assert producer.flush(30) == 0
        (producer.abort_transaction if size == 5 else producer.commit_transaction)(30)
    worker = group.start(TABLE="keys")
    group.wait_for(PARTITIONS, 20)
    assert worker.notes()[0][2] == f"1000:{1_000 * 20_000}"


@pytest.mark.integration
def test_read_committed_hides_aborted_records(group: Group) -> None:
    producer = Producer({"bootstrap.servers": group.broker, "transactional.id": group.name})
    producer.init_transactions(30)
    for number in range(6):
        producer.begin_transaction()
        for _ in range(10):
            producer.produce(group.topic, b"%d" % number, partition=0)
        assert producer.flush(30) == 0  # an abort would forget what has not been sent
        (producer.abort_transaction if number % 2 else producer.commit_transaction)(30)
    group.produce(PARTITIONS)
    worker = group.start(ISOLATION="read_committed")
    group.wait_for(30 + PARTITIONS)
    kept = [offset for number in (0, 2, 4) for offset in range(11 * number, 11 * number + 10)]
    assert sorted(group.processed()[0]) == [*kept, 66]
    assert worker.stop()[0] == 0
    assert group.committed()[0] == 67


if __name__ == "__main__":
    work()
