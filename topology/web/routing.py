"""Which worker has which partition, and how to ask it: any worker answers for all of them.

Faust hands every worker the assignment of all others, by their web addresses, with each rebalance (its assignor's
metadata). What belongs to another worker is asked of that worker once; a request that was passed on already is
answered from here or refused, so two workers that disagree can't send it round in circles.
"""

import asyncio
from typing import Any, Final

import aiohttp
import msgspec

from connectors.runtime.producer import partition_of
from schemas.codec import Codec
from schemas.instrument import Instrument
from topology.agents import Tasks
from topology.stages.partition import Partition
from topology.task import Task

ANSWER_S: Final = 3.0  # another worker that is there answers within this
AGAIN: Final = "the last records before the partition's owner ended are being worked into its state again"
PASSED_ON: Final = "X-Tickloom-Passed-On"  # by which worker


class Unavailable(Exception):
    """Nobody can answer now; the text says why, and asking again in a moment may help."""


class Answer(msgspec.Struct, frozen=True):
    """What another worker said."""

    status: int
    body: bytes


class Router:
    """The partitions of this worker, and the way to those of the others."""

    def __init__(self, app: Any, tasks: Tasks[Task], raw: str, instruments: dict[str, Instrument]) -> None:
        self._app = app
        self._tasks = tasks
        self._raw = raw
        self._instruments = instruments
        self._codec = Codec()
        self._idle: dict[int, tuple[int, Partition]] = {}  # by number: (generation, state as recovered)

    @property
    def address(self) -> str:
        """The web address under which the other workers know this one."""
        return str(self._app.conf.canonical_url)

    def unsettled(self) -> str:
        """Why nothing can be said of the partitions now; empty: it can."""
        app = self._app
        if app.should_stop:
            return "the worker is stopping"
        if app.tables.actives_ready and not app.rebalancing:
            return ""
        recovery = app.tables.recovery
        if recovery.in_recovery:
            stats = recovery.active_stats()
            left = sum(each.remaining for each in stats.values())
            return f"recovering state: {left:,} changelog records left in {len(stats)} partitions"
        if app.rebalancing_count:
            return "partitions are being reassigned among the workers"
        return "joining the group of workers, no partition is assigned yet"

    @property
    def count(self) -> int:
        """How many partitions there are. Raises Unavailable while that is not known."""
        # Faust's own consumer.topic_partitions knows it only in the worker that leads the group.
        client = self._app.consumer._thread._consumer
        count = len(client.partitions_for_topic(self._raw) or ()) if client else 0
        if not count:
            raise Unavailable("not connected to Kafka yet")
        return count

    def numbers(self) -> list[int]:
        """The partitions of this worker. Raises Unavailable."""
        if reason := self.unsettled():
            raise Unavailable(reason)
        return sorted(tp.partition for tp in self._app.consumer.assignment() if tp.topic == self._raw)

    def standbys(self) -> dict[int, int]:
        """The partitions whose state is held here for another worker, and how many changelog records it is behind."""
        recovery = self._app.tables.recovery
        known, highwaters = recovery.standby_offsets, recovery.standby_highwaters
        return {
            tp.partition: max(0, highwaters[tp] - (-1 if known[tp] is None else known[tp]))
            for tp in sorted(recovery.standby_tps)
            if tp in highwaters
        }

    def partition(self, number: int) -> Partition:
        """The state of one of this worker's partitions. Raises Unavailable."""
        lane = self._tasks.lanes.get(number)
        if lane is not None:
            self._idle.pop(number, None)
            if lane.task.is_behind:
                raise Unavailable(AGAIN)
            return lane.task.partition
        generation = self._app.consumer_generation_id
        known, partition = self._idle.get(number, (-1, None))
        if partition is None or known != generation:
            partition = self._recovered(number)
            self._idle[number] = generation, partition
        return partition

    def owner(self, symbol: str) -> tuple[int, str]:
        """The partition of a symbol and the address of the other worker that has it; "": this one.

        Raises Unavailable where no such address is known.
        """
        mine = self.numbers()
        number = partition_of(symbol.encode(), self.count)
        if number in mine:
            return number, ""
        address = self.addresses().get(number, "")
        if address in ("", self.address):
            raise Unavailable(_shared_address(number, self.address))
        return number, address

    async def ask(self, address: str, path: str) -> Answer:
        """Pass a request on. Raises Unavailable where the other worker doesn't answer."""
        try:
            async with self._app.http_client.get(
                address.rstrip("/") + path,
                headers={PASSED_ON: self.address},
                timeout=aiohttp.ClientTimeout(total=ANSWER_S),
                allow_redirects=False,
            ) as response:
                return Answer(response.status, await response.read())
        except TimeoutError as error:
            raise Unavailable(f"worker {address} did not answer within {ANSWER_S:.0f} s") from error
        except aiohttp.ClientError as error:
            raise Unavailable(f"worker {address} does not answer: {error}") from error

    async def ask_others(self, path: str) -> tuple[list[dict[str, Any]], list[str]]:
        """Ask every other worker the same; give their answers, and a line for each part that is missing."""
        others: dict[str, list[int]] = {}
        mine, addresses = self.numbers(), self.addresses()
        for number in sorted(set(range(self.count)) - set(mine)):
            others.setdefault(addresses.get(number, ""), []).append(number)
        hidden = others.pop("", []) + others.pop(self.address, [])
        missing = [_shared_address(number, self.address) for number in sorted(hidden)[:1]]
        answers = []
        replies = await asyncio.gather(*(self._ask_json(address, path) for address in others))
        for (address, numbers), reply in zip(others.items(), replies, strict=True):
            if isinstance(reply, str):
                missing.append(f"partitions {', '.join(map(str, numbers))}: worker {address}: {reply}")
            else:
                answers.append(reply)
        return answers, missing

    async def _ask_json(self, address: str, path: str) -> dict[str, Any] | str:
        """The answer, or what is wrong."""
        try:
            answer = await self.ask(address, path)
            data = msgspec.json.decode(answer.body, type=dict[str, Any])
        except (Unavailable, msgspec.DecodeError) as error:
            return str(error)
        return data if answer.status == 200 else str(data.get("error", answer.status))

    def addresses(self) -> dict[int, str]:
        """The address of the worker of every partition, as Faust's assignor told all of them."""
        distribution = self._app.router.external_topics_metadata()
        return {number: address for address, topics in distribution.items() for number in topics.get(self._raw, ())}

    def _recovered(self, number: int) -> Partition:
        """The state of a partition of which no record has come since it was assigned."""
        task = Task(number, self._instruments, self._codec)
        states = self._app.tables["symbols"].data.states(number)
        if states.is_behind(number):
            raise Unavailable(AGAIN)
        for key, value in states.values.items():
            try:
                task.load(key, value)
            except ValueError as error:
                raise Unavailable(str(error)) from error
        return task.partition


def _shared_address(number: int, address: str) -> str:
    return (
        f"partition {number} is with another worker, whose web address is not known because workers share one: "
        f"this is {address}; give each a TICKLOOM_WEB_HOST that the others reach, or a TICKLOOM_WEB_PORT of its own"
    )
