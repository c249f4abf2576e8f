"""The states of a partition beside the task that works on them."""

from types import SimpleNamespace
from typing import Any

import pytest
from faust.types import TP

from schemas.codec import Codec
from tests import market
from tests.market import NOON, SYMBOL, Piped, instrument
from tests.stages.test_laws import fetched
from topology.stages.partition import PARTITION_KEY
from topology.table import States
from topology.task import Task, applied_offset
from topology.transport import Recovery

OWN = PARTITION_KEY + b"0"
KNOWN = {name: instrument(name) for name in (SYMBOL, "GBPUSD")}


def at_work(count: int) -> Task:
    """A task that has applied so many ticks, of two symbols in turn."""
    task = Task(0, KNOWN, Codec())
    ticks = [market.quote(at=NOON + at, symbol=[SYMBOL, "GBPUSD"][at % 2]) for at in range(count)]
    task.process(fetched([Piped(tick, tick.ts_recv) for tick in ticks]))
    return task


def stored(records: list[tuple[bytes, bytes]]) -> States:
    """What recovery makes of a changelog."""
    states = States()
    for offset, (key, value) in enumerate(records):
        states.apply(key, value, {})
        states.reach(offset)
    return states


def test_a_restart_begins_where_the_oldest_state_ends() -> None:
    task = at_work(10)
    [symbol, own] = task.save(0.5)
    assert symbol[0] == SYMBOL.encode()  # the one that has waited longest
    states = stored([symbol, own])
    assert (states.applied(0), states.restart(0)) == (9, 1)  # the other has lacked all since its first tick
    assert states.is_behind(0)
    states = stored([symbol, *task.save(1.0)])
    assert (states.applied(0), states.restart(0)) == (9, 10)
    assert not states.is_behind(0)
    assert (States().restart(0), States().is_behind(0)) == (None, False)


def test_a_task_has_the_states_until_it_gives_them_back() -> None:
    before = stored(at_work(10).save(1.0))
    task = Task(0, KNOWN, Codec())
    for key, value in before.lend():
        task.load(key, value)
    assert list(before.values) == [OWN]
    assert before.applied(0) == 9
    before.take_back(task.states())
    again = stored(at_work(10).save(1.0))
    assert before.values == again.values
    assert before.offset == again.offset


def test_what_a_task_has_not_saved_is_read_from_the_changelog_again() -> None:
    states = stored(at_work(10).save(1.0))
    dict(states.lend())
    states.save(OWN, b"\0" * 17)
    states.save(SYMBOL.encode(), b"\0" * 8)
    assert applied_offset(states.values[OWN]) == 0
    assert list(states.values) == [OWN]
    states.forget()
    assert (states.values, states.offset) == ({}, None)


def test_what_another_worker_wrote_in_between_is_still_to_be_read() -> None:
    """At least once nothing keeps two workers apart that both take the partition for theirs."""
    states = stored(at_work(10).save(1.0))  # three records
    states.wrote(4, 2)
    assert states.offset == 4
    states.wrote(9, 2)  # 5 to 7 are not ours
    assert states.offset == 4
    states.wrote(11, 2)
    assert states.offset == 4
    nothing = States()
    nothing.wrote(1, 2)
    assert nothing.offset == 1


def test_a_state_of_an_older_version_says_so() -> None:
    states = States()
    states.apply(OWN, b"\0" * 8 + b"\x92\x00" + b"\xcf" + b"\0" * 8, {})
    with pytest.raises(ValueError, match="not of version"):
        states.restart(0)


@pytest.mark.parametrize("known", [None, 7])
def test_recovery_begins_where_the_table_says_also_of_a_partition_that_comes_back(known: int | None) -> None:
    """Faust would begin where it once ended, though what was there has been forgotten since."""
    recovery: Any = Recovery.__new__(Recovery)
    recovery.tp_to_table = {}
    table: Any = SimpleNamespace(persisted_offset=lambda _tp: known)
    offsets = {TP("changelog", 0): 100}
    recovery._add(table, TP("changelog", 0), offsets)
    assert offsets == {TP("changelog", 0): known}
