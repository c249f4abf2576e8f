"""What ends a delivery says why. Nothing real gives each error when it is wanted: a producer that fails stands in.

What is delivered, and in which order, is shown on a real Kafka: test_worker.py and the fault suite.
"""

import asyncio
from typing import Any

import pytest
from aiokafka.errors import (
    KafkaError,
    LeaderNotAvailableError,
    NotLeaderForPartitionError,
    OperationNotAttempted,
    ProducerFenced,
    UnknownTopicOrPartitionError,
)
from aiokafka.structs import RecordMetadata, TopicPartition

from topology import delivery
from topology.batch import Records
from topology.delivery import Delivery, Lane


class Task:
    """A partition with one output."""

    number = 3
    unsaved = 0

    def __init__(self) -> None:
        self.waiting = 1

    def take(self) -> list[Records]:
        self.waiting = 0
        records = Records()
        records.add(b"EURUSD", b"value", b"\0")
        return [records]


class Producer:
    """Gives every batch up."""

    def __init__(self, error: KafkaError) -> None:
        self._error = error

    async def partitions_for(self, _topic: str) -> set[int]:
        return {3}

    async def send_batch(self, *_: Any, **__: Any) -> asyncio.Future[Any]:
        given_up: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        given_up.set_exception(self._error)
        return given_up


def test_what_goes_out_together_is_known_and_added_before_the_first_of_it_is_sent() -> None:
    """Else the first goes ahead alone, and the rest waits for its answer."""
    done = []

    class Ordered(Producer):
        def __init__(self) -> None:
            super().__init__(KafkaError())
            self._txn_manager = self

        def is_in_transaction(self) -> bool:
            return True

        def maybe_add_partition_to_txn(self, place: TopicPartition) -> None:
            done.append(f"added {place.topic}")

        async def begin_transaction(self) -> None:
            done.append("begun")

        async def partitions_for(self, topic: str) -> set[int]:
            done.append(f"asked for {topic}")
            return {3}

        async def send_batch(self, _batch: Any, topic: str, **_: Any) -> asyncio.Future[Any]:
            done.append(f"sent {topic}")
            delivered = asyncio.get_running_loop().create_future()
            delivered.set_result(RecordMetadata(topic, 3, None, 0, 0, 0, 0))
            return delivered

    async def send() -> None:
        producer: Any = Ordered()
        made = Delivery(
            [producer], [], "changelog", lambda: None, delivery="exactly_once", commit_seconds=1.0, headers=[]
        )
        records = Records()
        records.add(b"EURUSD", b"value", b"\0")
        await made._deliver([("best", 3, records), ("tick", 3, records)])
        made._loop.cancel()

    asyncio.run(send())
    assert [what.partition(" ")[0] for what in done] == ["asked", "asked", "begun", "added", "added", "sent", "sent"]


@pytest.mark.parametrize("done", ["exactly_once", "at_least_once"])
def test_a_partition_that_is_given_up_as_soon_as_it_is_done_does_not_hold_a_rebalance_up(done: str) -> None:
    """Python 3.11's asyncio.wait_for loses a cancellation that comes with what it waits for: it went on for ever."""

    async def closed() -> bool:
        producer: Any = Producer(KafkaError())
        made = Delivery([producer], [], "changelog", lambda: None, delivery=done, commit_seconds=60, headers=[])
        task: Any = Task()
        task.waiting = 0
        lane = Lane(task, made, lambda *_: None, lambda *_: None)
        lane.events = [None]  # so that it waits with a limit
        for _ in range(3):
            await asyncio.sleep(0)
        lane.events = []
        closing = asyncio.create_task(made.close({3}))
        await asyncio.wait([closing], timeout=2)
        return closing.done() and closing.result() and made.is_dead

    assert asyncio.run(closed())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (OperationNotAttempted(), "partitions 3: a topic is missing"),
        (UnknownTopicOrPartitionError(), "partitions 3: a topic is missing"),
        (NotLeaderForPartitionError(), "partitions 3: a topic is missing"),
        (LeaderNotAvailableError(), "partitions 3: a topic is missing"),
        (ProducerFenced(), "partitions 3: this worker stood still"),
        (KafkaError("what nobody thought of"), "partitions 3: delivery failed"),
    ],
    ids=lambda each: type(each).__name__ if isinstance(each, Exception) else "",
)
def test_the_worker_ends_and_says_what_is_wrong(monkeypatch: pytest.MonkeyPatch, error: KafkaError, said: str) -> None:
    ended: list[str] = []
    monkeypatch.setattr(delivery, "end", lambda text, **_: ended.append(text))

    async def fail() -> None:
        producer: Any = Producer(error)
        made = Delivery(
            [producer], ["best"], "changelog", lambda: None, delivery="at_least_once", commit_seconds=1.0, headers=[]
        )
        task: Any = Task()
        Lane(task, made, lambda *_: None, lambda *_: None)
        made.wake()
        await asyncio.wait_for(made._loop, 10)

    asyncio.run(fail())
    [text] = ended
    assert text.startswith(said)
