"""Taking partitions over: what goes wrong there ends the worker, which would else stand still without a word."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaTimeoutError

from topology import agents
from topology.agents import Tasks


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


def fence(producer: Producer) -> None:
    owners: Any = SimpleNamespace(claim=lambda _id, _numbers: {})
    tasks: Tasks[Any] = Tasks(
        SimpleNamespace(conf=SimpleNamespace(id="app")),
        SimpleNamespace(),  # type: ignore[arg-type]
        "market.raw",
        [],
        task=lambda _: None,
        producer=lambda _: producer,
        owners=owners,
        delivery="exactly_once",
        commit_seconds=0.1,
    )
    asyncio.run(tasks.fence({0, 1}))


def test_a_broker_that_does_not_answer_yet_is_asked_again() -> None:
    producer = Producer(KafkaConnectionError("refused"), KafkaConnectionError("refused"))
    fence(producer)
    assert producer.errors == []


def test_whatever_else_goes_wrong_ends_the_worker() -> None:
    """aiokafka logs what its listener raises, and goes on as a member of the group."""
    with pytest.raises(EndedError, match="can't be taken over"):
        fence(Producer(ValueError("what nobody thought of")))


def test_a_clock_record_that_was_given_up_ends_the_worker() -> None:
    """It leaves a hole in the sequence of the producer, which Kafka lets nothing follow."""

    async def lost() -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        future.set_exception(KafkaTimeoutError())
        agents._end_if_lost(future)

    with pytest.raises(EndedError, match="clock"):
        asyncio.run(lost())
