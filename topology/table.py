"""The table of the workers' states, as the changelog holds them: of the partitions that are ours, and of standbys.

Faust's own table in memory has one dictionary for all partitions and doesn't know how far it has read a changelog: so
it reads all of it again at every change of owner, throws away what a standby has gathered, and keeps keys of partitions
that have left. Here every partition is a dictionary with the offset it has reached, and that is what Faust takes for
the offset of a store on disk: a partition that stays, or was a standby, is read on from there.

While a task works on a partition the task has its states, and only the partition's own is here, too.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import faust
from faust.stores import memory
from faust.types import TP
from yarl import URL

from topology.stages.partition import PARTITION_KEY
from topology.task import applied_offset, state_offset

ORIGIN = "raw"  # header of every state record: Kafka's id of the market.raw whose offsets it counts

log = logging.getLogger(__name__)


class States:
    """The newest state of every key of one partition."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}
        self.offset: int | None = None  # all of the changelog up to here is in them
        self.origin = ""  # the id of market.raw that the records name; "": there are none, or they are older than that
        self.read = 0  # changelog records read since the last rebalance

    def reach(self, offset: int) -> None:
        """What the changelog has up to this offset is known."""
        self.offset = offset if self.offset is None else max(offset, self.offset)

    def wrote(self, end: int, count: int) -> None:
        """So many records of the task are in the changelog, up to this offset.

        Where they do not follow on what is known, another worker has written there: that is still to be read.
        """
        known = -1 if self.offset is None else self.offset
        self.reach(end if end - count == known else known)

    def applied(self, number: int) -> int:
        """The offset of market.raw up to which they have processed all records; -1: none."""
        value = self.values.get(PARTITION_KEY + b"%d" % number)
        return -1 if value is None else applied_offset(value)

    def restart(self, number: int) -> int | None:
        """The offset of market.raw from which on they lack something; None: there are none."""
        value = self.values.get(PARTITION_KEY + b"%d" % number)
        return None if value is None else state_offset(value) + 1

    def is_behind(self, number: int) -> bool:
        """Whether they lack some of what was processed."""
        value = self.values.get(PARTITION_KEY + b"%d" % number)
        return value is not None and state_offset(value) < applied_offset(value)

    def lend(self) -> Iterator[tuple[bytes, bytes]]:
        """Hand over all of them to a task; only the partition's own stays."""
        for key in list(self.values):
            yield key, self.values[key] if key.startswith(PARTITION_KEY) else self.values.pop(key)

    def save(self, key: bytes, value: bytes) -> None:
        """The changelog has this record of the task that has them."""
        if key.startswith(PARTITION_KEY):
            self.values[key] = value

    def take_back(self, states: Iterable[tuple[bytes, bytes]]) -> None:
        """The task gives the partition up, and has saved all."""
        self.values.update(states)

    def forget(self) -> None:
        """The task gives the partition up, and has not saved all: only the changelog knows what counts."""
        self.values.clear()
        self.offset = None

    def close(self) -> None:
        """The partition has left."""

    def apply(self, key: bytes, value: bytes | None, headers: Mapping[str, bytes]) -> None:
        """Take in a record of the changelog. The one that has applied more wins, whoever wrote last.

        A paused old worker that writes after its partitions moved can't push the state back.
        """
        self.read += 1
        if value is None:
            self.put(key, None)
            return
        held = self.values.get(key)
        if held is None or applied_offset(value) >= applied_offset(held):
            self.put(key, value)
            if key.startswith(PARTITION_KEY):
                self.origin = headers.get(ORIGIN, b"").decode()

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep a state; None: there is none."""
        if value is None:
            self.values.pop(key, None)
        else:
            self.values[key] = value


class Store(memory.Store):  # type: ignore[type-arg]
    """The states by partition; Faust asks it how far they go."""

    def __post_init__(self) -> None:
        super().__post_init__()
        self._partitions: dict[int, States] = {}
        self.new_states: Callable[[int], States] = lambda _number: States()  # or on disk, too (`disk.py`)

    def close(self) -> None:
        """Let all files go. RocksDB's timer may run while the process exits, and crashes it with a database open."""
        while self._partitions:
            self._partitions.popitem()[1].close()

    def states(self, number: int) -> States:
        """What is known of one partition."""
        if number not in self._partitions:
            self._partitions[number] = self.new_states(number)
        return self._partitions[number]

    def apply_changelog_batch(self, batch: Iterable[Any], to_key: Any, to_value: Any) -> None:
        """Take in records of the changelog, in its order."""
        for event in batch:
            self.states(event.message.partition).apply(event.key, event.value, dict(event.headers or {}))

    def persisted_offset(self, tp: TP) -> int | None:
        """How far the changelog of a partition is known."""
        return self.states(tp.partition).offset

    def set_persisted_offset(self, tp: TP, offset: int) -> None:
        """It is known up to here."""
        self.states(tp.partition).reach(offset)

    async def on_rebalance(self, *_: Any, **__: Any) -> None:
        """Begin to count what the changelogs bring."""
        for states in self._partitions.values():
            states.read = 0

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """Forget what is no longer here."""
        active = {tp.partition for tp in active_tps}
        standby = {tp.partition for tp in standby_tps}
        for number in self._partitions.keys() - active - standby:
            self._partitions.pop(number).close()
        read = sum(states.read for number, states in self._partitions.items() if number in active)
        log.info("%d changelog records read; %d partitions are ours, %d standby", read, len(active), len(standby))


class StateTable(faust.Table):  # type: ignore[type-arg]
    """Faust's table on that store."""

    data: Store

    def _new_store(self) -> Store:
        return Store(URL("memory://"), self.app, self)
