"""The worker on real Kafka gives what the driver gives without it: whatever the batches, workers and kills."""

import asyncio
import random
import signal
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.coordination import FindCoordinatorRequest
from confluent_kafka import Consumer, TopicPartition

from deploy.local import Stack
from schemas import flags, topics
from schemas.codec import Codec
from schemas.record import replace
from tests.market import NOON, SECOND, link, market, quote
from tests.topology.processes import (
    PARTITIONS,
    Process,
    assert_as_expected,
    free_ports,
    produce,
    read,
    wait_for_no_lag,
    written,
)
from topology import admin
from topology.app import new_producer
from topology.task import applied_offset, state_offset

pytestmark = pytest.mark.integration

CODEC = Codec()


@pytest.fixture
def workers(environment: dict[str, str], tmp_path: Path) -> Iterator["list[Process]"]:
    """Workers that end with the test; ``start`` adds one."""
    started = Workers(environment, tmp_path)
    yield started
    for worker in started:
        worker.kill()


class Workers(list[Process]):
    """The workers of a test."""

    def __init__(self, environment: dict[str, str], directory: Path) -> None:
        super().__init__()
        self.environment = environment
        self._directory = directory

    def start(self) -> Process:
        """One more worker, with a data directory of its own."""
        name = f"worker-{len(self)}"
        data = {"TICKLOOM_DATA": str(self._directory / name)}
        worker = Process(self.environment | data, "worker", log=self._directory / f"{name}.log")
        self.append(worker)
        return worker


def test_a_worker_writes_what_the_driver_says(stack: Stack, run: str, workers: Workers) -> None:
    """One worker, no fault: the same records in the same order, byte for byte, each once."""
    produce(stack.broker, run, market(1, 5_000))
    worker = workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    assert worker.stop() == 0
    assert_as_expected(stack.broker, run, exactly=True)
    claims = read(stack.broker, admin.owners_topic(run))
    left = {(claim.partition(), claim.key()): claim.value() for claim in claims}
    assert len(left) == PARTITIONS  # each was claimed once, and has been released
    assert set(left.values()) == {None}


def test_where_the_group_is_ahead_of_the_state_nothing_is_passed_over(stack: Stack, run: str, workers: Workers) -> None:
    """As after a reset to the latest by hand: where reading begins is for the state to say."""
    records = market(4, 4_000)
    produce(stack.broker, run, records[:2_000])
    worker = workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    assert worker.stop() == 0
    produce(stack.broker, run, records[2_000:])
    raw = topics.named(topics.RAW.name, run)
    ends = admin.offsets(admin.connect(stack.broker), [raw], admin.LATEST)[raw]
    group = Consumer({"bootstrap.servers": stack.broker, "group.id": admin.app_id(run)})
    group.commit(offsets=[TopicPartition(raw, number, end) for number, end in ends.items()], asynchronous=False)
    group.close()
    workers[:] = []
    workers.start()
    wait_until_it_writes(stack.broker, run, workers)
    deadline = time.monotonic() + 40
    while reached(stack.broker, run) != {number: end - 1 for number, end in ends.items()}:
        assert time.monotonic() < deadline, workers[-1].tail()
        time.sleep(0.2)  # polling
    assert_as_expected(stack.broker, run, exactly=True)


def test_what_retention_has_taken_is_counted_and_a_gap(stack: Stack, run: str, workers: Workers) -> None:
    every = [quote(at=NOON + n * SECOND, bid_size=n + 1) for n in range(180)]
    produce(stack.broker, run, [link(), *every[:60]])  # a source that sends heartbeats is never just quiet
    workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    assert workers.pop().stop() == 0
    produce(stack.broker, run, every[60:])
    raw = topics.named(topics.RAW.name, run)
    [message] = [
        message
        for message in read(stack.broker, raw)
        if getattr(CODEC.decode(message.value()), "ts_recv", 0) == every[120].ts_recv
    ]
    partition, kept = message.partition(), message.offset()
    was_read = [each.offset() for each in read(stack.broker, raw) if each.partition() == partition]
    client = admin.connect(stack.broker)
    before = admin.committed(client, admin.app_id(run), [(raw, partition)])[raw, partition]
    assert 0 < before < kept < was_read[-1]
    [done] = client.delete_records([TopicPartition(raw, partition, kept)]).values()
    assert done.result(30).low_watermark == kept
    [port] = free_ports(1)
    workers.environment["TICKLOOM_WEB_PORT"] = str(port)
    worker = workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    assert f"{raw}-{partition}: offsets {before} to {kept - 1} were deleted before they were read" in worker.tail()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        assert f'tickloom_records_missed_total{{partition="{partition}"}} {kept - before}.0' in answer.read().decode()
    gaps = [CODEC.decode(each.value()) for each in read(stack.broker, topics.named(topics.GAP.name, run))]
    assert [(gap.start, gap.end) for gap in gaps if gap.status != "open"] == [(every[59].ts_recv, every[120].ts_recv)]


def reached(broker: str, run: str) -> dict[int, int]:
    """By partition the offset up to which all is processed, as the changelog says."""
    states = read(broker, admin.state_topic(run))
    return {each.partition(): applied_offset(each.value()) for each in states if each.key().startswith(b"#")}


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_an_idle_worker_has_saved_all(stack: Stack, run: str, workers: Workers, delivery: str) -> None:
    """No clock ticks in a run that has been worked off: nothing comes that a commit could go with."""
    workers.environment["TICKLOOM_DELIVERY"] = delivery
    produce(stack.broker, run, market(3, 3_000))
    workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    deadline, behind = time.monotonic() + 20, {b"": (1, 0)}
    while any(reached > complete for reached, complete in behind.values()):
        assert time.monotonic() < deadline, behind
        time.sleep(0.2)  # polling
        states = [(each.key(), each.value()) for each in read(stack.broker, admin.state_topic(run))]
        own = {key: value for key, value in states if key.startswith(b"#")}
        behind = {key: (applied_offset(value), state_offset(value)) for key, value in own.items()}
    assert len(behind) > 1


@pytest.mark.parametrize("delivery", ["exactly_once", "at_least_once"])
def test_killed_workers_leave_the_same_state_and_values(
    stack: Stack, run: str, workers: Workers, delivery: str
) -> None:
    """SIGKILL at random moments: nothing is lost, and nothing is there twice; at least once, what is is the same."""
    workers.environment["TICKLOOM_DELIVERY"] = delivery
    records = market(2, 12_000)
    chance = random.Random(2)
    for part in range(4):
        produce(stack.broker, run, records[part * 3_000 : (part + 1) * 3_000])
        worker = workers.start()
        wait_until_it_writes(stack.broker, run, workers)
        signal.sigtimedwait([], chance.random())  # a random moment, not a wait for anything
        worker.kill()
        workers.remove(worker)
    workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    assert_as_expected(stack.broker, run, exactly=delivery == "exactly_once")


def wait_until_it_writes(broker: str, run: str, workers: Workers) -> None:
    """Wait until the outputs have grown."""
    name = topics.named(topics.TICK.name, run)
    before = written(broker, name)
    deadline = time.monotonic() + 40
    while written(broker, name) <= before:
        assert workers[-1].is_running(), workers[-1].tail()
        assert time.monotonic() < deadline, workers[-1].tail()
        time.sleep(0.05)


def test_partitions_move_between_workers_without_loss(stack: Stack, run: str, workers: Workers) -> None:
    """One worker, then two, then the other one alone, while records come."""
    records = market(3, 9_000)
    produce(stack.broker, run, records[:3_000])
    first = workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    workers.start()
    produce(stack.broker, run, records[3_000:6_000])
    wait_for_no_lag(stack.broker, run, workers)
    assert first.stop() == 0
    workers.remove(first)
    produce(stack.broker, run, records[6_000:])
    wait_for_no_lag(stack.broker, run, workers)
    assert_as_expected(stack.broker, run, exactly=True)


def test_a_connection_that_breaks_while_the_coordinator_is_looked_up_ends_no_producer(stack: Stack, run: str) -> None:
    """As a broker that goes down breaks it: aiokafka's sender would end with the worker (aiokafka issue 1004)."""

    async def transaction() -> int:
        producer = new_producer({"bootstrap_servers": stack.broker}, f"{run}-1")
        send, broken = producer.client.send, []

        async def breaking(node: int, request: Any, **options: Any) -> Any:
            if isinstance(request, FindCoordinatorRequest) and len(broken) < 2:
                broken.append(request)
                raise KafkaConnectionError("closed")
            return await send(node, request, **options)

        producer.client.send = breaking
        try:
            await producer.start()
            async with producer.transaction():
                await producer.send_and_wait(topics.named(topics.TICK.name, run), b"value", b"key", 0)
        finally:
            await producer.stop()
        return len(broken)

    assert asyncio.run(asyncio.wait_for(transaction(), 60)) == 2
    [written] = read(stack.broker, topics.named(topics.TICK.name, run))
    assert written.value() == b"value"


def test_what_cannot_be_applied_is_a_dead_letter_and_the_rest_goes_on(stack: Stack, run: str, workers: Workers) -> None:
    """Undecodable bytes, an unknown symbol: set aside with coordinates and reason."""
    good = market(4, 200)
    stranger = replace(good[0], symbol="NOSUCH")
    produce(stack.broker, run, [*good[:100], b"not avro", stranger, *good[100:]])
    workers.start()
    wait_for_no_lag(stack.broker, run, workers)
    letters = read(stack.broker, topics.named(topics.DEAD_LETTER.name, run))
    found = {dict(each.headers())["reason"].decode(): each for each in letters}
    assert set(found) == {flags.UNKNOWN_SCHEMA, flags.UNKNOWN_SYMBOL}
    headers = dict(found[flags.UNKNOWN_SCHEMA].headers())
    assert headers["topic"].decode() == topics.named(topics.RAW.name, run)
    assert found[flags.UNKNOWN_SCHEMA].value() == b"not avro"
    assert_as_expected(stack.broker, run, exactly=True)
