"""A Kafka that has taken a commit and not yet written its markers: what it calls the end lies before what it knows."""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from deploy import local
from deploy.local import Stack
from schemas import topics
from tests.faults.single import Single
from tests.market import market
from tests.topology.processes import PARTITIONS, Process, assert_as_expected, produce, wait_for_no_lag
from tests.topology.test_agents import tasks_of
from tests.topology.test_worker import Workers, workers
from topology import admin
from topology.app import new_producer
from topology.owners import Owners

pytestmark = pytest.mark.integration

__all__ = ["workers"]  # a fixture

LATE_S = 0.25  # each way


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A Kafka of this file's own."""
    kafka = Single(tmp_path_factory.mktemp("late"), lambda _: None)
    kafka.late(LATE_S)
    try:
        yield kafka.start()
    finally:
        kafka.close()


@pytest.fixture
def run(stack: Stack, run_name: str) -> str:
    """A run with its topics."""
    admin.create_topics(stack.broker, run_name, partitions=PARTITIONS)
    return run_name


def test_who_releases_a_partition_has_all_that_it_committed_in_the_log(stack: Stack, run: str) -> None:
    """Else who claims it next would recover its state without the last of it, and make the same outputs again."""
    topic = topics.named(topics.TICK.name, run)

    async def handed_over() -> dict[str, dict[int, int]]:
        make = partial(new_producer, {"bootstrap_servers": stack.broker})
        old, new = (tasks_of(make, Owners(stack.broker, admin.owners_topic(run))) for _ in range(2))
        await old.fence({0})
        producer = old._transactions[0]
        await producer.begin_transaction()
        await producer.send_and_wait(topic, b"the last", partition=0)
        await producer.commit_transaction()
        await old._let_go()
        await new.fence({0})
        ends = admin.offsets(admin.connect(stack.broker), [topic], admin.LATEST, admin.COMMITTED)
        await new._let_go()
        return ends

    assert asyncio.run(handed_over())[topic][0] == 2  # the record and its marker


def test_what_moves_in_order_is_made_once(stack: Stack, run: str, workers: Workers) -> None:
    """Workers come and go in order while records flow: every topic has what the driver says, and no more."""
    parts = [market(11, 6_000)[at : at + 1_500] for at in range(0, 6_000, 1_500)]
    first = workers.start()
    produce(stack.broker, run, parts[0])
    wait_for_no_lag(stack.broker, run, workers)
    produce(stack.broker, run, parts[1])
    workers.start()
    produce(stack.broker, run, parts[2])
    wait_for_no_lag(stack.broker, run, workers)
    produce(stack.broker, run, parts[3])
    assert first.stop() == 0
    assert "LeaveGroup request succeeded" in first.log.read_text()  # it is told in the middle of a rebalance
    workers.remove(first)
    wait_for_no_lag(stack.broker, run, workers)
    assert workers[0].stop() == 0
    assert_as_expected(stack.broker, run, exactly=True)


@pytest.mark.parametrize("command", ["worker", "sink"])
def test_a_stop_has_an_end_also_where_kafka_is_silent(
    stack: Stack, run: str, environment: dict[str, str], tmp_path: Path, command: str
) -> None:
    """What has not been committed will be done again: a crash loses nothing."""
    database = local.start(tmp_path / "servers", kafka=False).database
    process = Process(environment | {"TICKLOOM_DATABASE": database}, command, log=tmp_path / "log")
    assert stack.kafka_pid is not None
    try:
        limit = time.monotonic() + 60
        while "Worker ready" not in process.log.read_text():
            assert time.monotonic() < limit, process.tail()
            time.sleep(0.05)  # polling a log
        os.kill(stack.kafka_pid, signal.SIGSTOP)
        assert process.stop(30) == 1  # when service managers kill
    finally:
        os.kill(stack.kafka_pid, signal.SIGCONT)
        process.kill()
        local.clean(tmp_path / "servers")
    assert "not stopped within 25 s" in process.log.read_text().splitlines()[-1]
