"""The states of a partition beside the task that works on them."""

from schemas.codec import Codec
from tests import market
from tests.market import NOON, SYMBOL, Piped, instrument
from tests.stages.test_laws import fetched
from topology.stages.partition import PARTITION_KEY
from topology.table import States
from topology.task import Task, applied_offset

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
    assert stored([symbol, *task.save(1.0)]).restart(0) is None
    assert States().restart(0) is None


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
    states.save(OWN, b"\0" * 16)
    states.save(SYMBOL.encode(), b"\0" * 8)
    assert applied_offset(states.values[OWN]) == 0
    assert list(states.values) == [OWN]
    states.forget()
    assert (states.values, states.offset) == ({}, None)
