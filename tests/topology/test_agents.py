"""Taking partitions over: what goes wrong there ends the worker, which would else stand still without a word."""

import asyncio
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError, ProducerFenced

from deploy.local import Stack
from schemas import topics
from tests.topology.processes import read
from topology import admin, agents
from topology.agents import Tasks
from topology.app import new_producer
from topology.owners import Owners


class Producer:
    """Fails to start as often as it is told to; no Kafka."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)

    async def start(self) -> None:
        if self.errors:
            raise self.errors.pop(0)


class EndedError(Exception):
    """The worker has ended."""


@pytest.fixture(autouse=True)
def _ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(text: str, **_: Any) -> None:
        raise EndedError(text)

    monkeypatch.setattr(agents, "end", end)
    monkeypatch.setattr(agents, "AGAIN_S", 0.01)


def tasks_of(producer: Callable[[str | None], Any], owners: Any) -> Tasks[Any]:
    return Tasks(
        SimpleNamespace(conf=SimpleNamespace(id="app")),
        SimpleNamespace(data=SimpleNamespace(close=lambda: None)),  # type: ignore[arg-type]
        "market.raw",
        [],
        task=lambda _: None,
        producer=producer,
        owners=owners,
        delivery="exactly_once",
        commit_seconds=0.1,
    )


def fence(producer: Producer) -> None:
    owners = SimpleNamespace(claim=lambda _id, _numbers: {})
    asyncio.run(tasks_of(lambda _: producer, owners).fence({0, 1}))


def test_a_broker_that_does_not_answer_yet_is_asked_again() -> None:
    producer = Producer(KafkaConnectionError("refused"), KafkaConnectionError("refused"))
    fence(producer)
    assert producer.errors == []


def test_whatever_else_goes_wrong_ends_the_worker() -> None:
    """aiokafka logs what its listener raises, and goes on as a member of the group."""
    with pytest.raises(EndedError, match="can't be taken over"):
        fence(Producer(ValueError("what nobody thought of")))


def test_it_can_be_fenced_before_anybody_reads_its_claim() -> None:
    """An id that Kafka gets to know after it was fenced could commit."""
    done = []

    class Told(Producer):
        async def start(self) -> None:
            done.append("started")

    owners = SimpleNamespace(claim=lambda _id, _numbers: done.append("claimed") or {})
    asyncio.run(tasks_of(lambda _: Told(), owners).fence({0}))
    assert done == ["started", "started", "claimed"]


def test_a_stop_waits_for_a_rebalance_that_is_giving_partitions_back() -> None:
    """Else the producers would go while the last of it is being sent."""
    done = []

    async def stopped() -> None:
        sent = asyncio.Event()

        class Sending:
            async def close(self, _numbers: set[int]) -> bool:
                await sent.wait()
                done.append("sent")
                return True

        async def producer_stops() -> None:
            done.append("producer stopped")

        owners = SimpleNamespace(release=lambda _id, _numbers: None)
        tasks = tasks_of(lambda _: Producer(), owners)
        states = SimpleNamespace(take_back=lambda _: None)
        tasks._table.data.states = lambda _: states
        tasks._transactions = [SimpleNamespace(stop=producer_stops)]
        task = SimpleNamespace(number=0, states=list)
        tasks.lanes[0] = SimpleNamespace(task=task, delivery=Sending())  # type: ignore[assignment]
        rebalance = asyncio.create_task(tasks.close({0}))
        stop = asyncio.create_task(tasks.stop())
        for _ in range(20):  # turns of the loop, in which both go as far as they can
            await asyncio.sleep(0)
        sent.set()
        await asyncio.gather(rebalance, stop)

    asyncio.run(stopped())
    assert done == ["sent", "producer stopped"]


def test_a_worker_that_ends_takes_nothing_over() -> None:
    producer = Producer(ValueError("it was started"))
    tasks = tasks_of(lambda _: producer, SimpleNamespace())

    async def stopped() -> None:
        await tasks.stop()
        await tasks.fence({0})

    asyncio.run(stopped())
    assert producer.errors


@pytest.mark.integration
def test_of_whoever_has_not_released_both_transactions_are_undone(stack: Stack, run: str) -> None:
    """They take turns, so that either can be the one that is open; no commit of it is let in any more."""
    topic = topics.named(topics.TICK.name, run)

    async def taken_over() -> None:
        make = partial(new_producer, {"bootstrap_servers": stack.broker})
        old, new = (tasks_of(make, Owners(stack.broker, admin.owners_topic(run))) for _ in range(2))
        await old.fence({0})
        held = list(old._transactions)
        assert len(held) == 2
        for producer in held:
            await producer.begin_transaction()
            await producer.send_and_wait(topic, b"of the old one", partition=0)
        await new.fence({0})
        for producer in held:
            with pytest.raises(ProducerFenced):
                await producer.commit_transaction()
        await asyncio.gather(*(producer.stop() for producer in held), return_exceptions=True)  # they have failed
        await new._let_go()

    asyncio.run(taken_over())
    assert read(stack.broker, topic) == []


def test_a_clock_record_that_was_given_up_ends_the_worker() -> None:
    """It leaves a hole in the sequence of the producer, which Kafka lets nothing follow."""

    async def lost() -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(KafkaTimeoutError())
        agents._end_if_lost(future)

    with pytest.raises(EndedError, match="clock"):
        asyncio.run(lost())
