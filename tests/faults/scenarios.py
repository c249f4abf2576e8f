"""The faults, one scenario for each kind: what is done to the system while the feed goes on.

A scenario gets a world (world.py) and decides with its seeded chance. Whatever it does, afterwards everything is
compared with the undisturbed run; so a scenario itself only checks what a comparison can't see.
"""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from tests.faults import poison
from tests.faults.feed import Shift
from tests.faults.imports import import_killed, imported
from tests.faults.sinks import kill_sink
from tests.faults.topics import input_deleted, output_deleted, state_deleted
from tests.faults.world import FaultError, Plan, World

SESSION_S: Final = 6.0  # broker_session_timeout of the workers
RECOVERY_S: Final = 30.0  # the target, always


def _no_shifts(_: World) -> list[Shift]:
    return []


def _as_it_is(plan: Plan, _: Path) -> Plan:
    return plan


class Scenario(msgspec.Struct, frozen=True):
    """A kind of fault."""

    name: str
    number: str  # in the list
    play: Callable[[World], None]
    workers: int = 1
    cluster: bool = False  # needs the three brokers
    small_disk: bool = False  # needs a database whose disk can be filled
    short: bool = False  # part of the short form
    fed: bool = True  # by the feed
    compared: bool = True
    target_s: float | None = None  # for every recovery: first new output
    shifts: Callable[[World], list[Shift]] = _no_shifts  # of the feed's clocks
    plan: Callable[[Plan, Path], Plan] = _as_it_is
    comparison: Any = None  # another way to compare


def nothing(world: World) -> None:
    """No fault: the comparison itself, with real processes that nothing disturbs."""
    world.pause(2.0)


# Workers.


def kill_worker(world: World) -> None:
    """SIGKILL of the only worker at random moments, with restart; sometimes before it has recovered."""
    for number in range(4 if world.plan.short else 22):
        world.pause(world.chance.uniform(0.2, 3.0))
        worker = world.workers[0]
        began = time.monotonic()
        worker.kill()
        fault = world.fault("SIGKILL", worker.name)
        world.restart(worker)
        if number % 5 == 2:
            world.pause(world.chance.uniform(0.5, 8.0))  # the next kill finds it at any point of its start
        else:
            world.recovered(fault, began, RECOVERY_S)


def stop_worker(world: World) -> None:
    """SIGTERM: all is committed, exit code 0, in time."""
    for _ in range(2 if world.plan.short else 6):
        world.pause(world.chance.uniform(0.5, 3.0))
        worker = world.workers[0]
        fault = world.fault("SIGTERM", worker.name)
        began = time.monotonic()
        world.stop_programs([worker])
        world.assert_all_is_committed()
        world.restart(worker)
        world.recovered(fault, began, RECOVERY_S)


def hold_worker(world: World) -> None:
    """SIGSTOP for longer than the session, until another has taken over; then SIGCONT: the zombie must not write."""
    for number in range(2 if world.plan.short else 6):
        world.pause(world.chance.uniform(1.0, 3.0))
        worker = world.chance.choice(world.workers)
        fault = world.fault("SIGSTOP", worker.name)
        began = time.monotonic()
        worker.hold()
        world.pause(SESSION_S + world.chance.uniform(1.0, 2.5))  # below the 10 s after which Kafka ends a transaction
        if number % 2:
            world.recovered(fault, began, RECOVERY_S)
        world.fault("SIGCONT", worker.name)
        worker.release()
        if not number % 2:
            world.recovered(fault, began, RECOVERY_S)
        world.pause(world.chance.uniform(3.0, 6.0))


def hold_only_worker(world: World) -> None:
    """SIGSTOP of the only worker, with a replacement started meanwhile, as a scheduler does with a lost node."""
    for _ in range(1 if world.plan.short else 3):
        worker = world.workers[0]
        fault = world.fault("SIGSTOP", worker.name)
        began = time.monotonic()
        worker.hold()
        world.add_worker()
        world.pause(SESSION_S)
        world.recovered(fault, began, RECOVERY_S)
        world.fault("SIGCONT", worker.name)
        worker.release()
        world.pause(world.chance.uniform(2.0, 4.0))
        world.stop_programs([world.workers.pop(0)])


def scale_workers(world: World) -> None:
    """Workers are added and removed while data flow: 1, 3, 2, 1."""
    for _ in range(1 if world.plan.short else 3):
        began = time.monotonic()
        fault = world.fault("added", "two workers")
        world.add_worker()
        world.add_worker()
        world.pause(world.chance.uniform(6.0, 10.0))
        world.recovered(fault, began, RECOVERY_S)
        for _ in range(2):
            leaving = world.workers.pop(world.chance.randrange(len(world.workers)))
            fault = world.fault("removed", leaving.name)
            began = time.monotonic()
            world.stop_programs([leaving])
            world.recovered(fault, began, RECOVERY_S)
            world.pause(world.chance.uniform(1.0, 3.0))


def late_markers(world: World) -> None:
    """Workers come and go just when Kafka is late with what shows that a transaction was committed."""
    for _ in range(2 if world.plan.short else 6):
        for change in ("added", "removed"):
            seconds = world.chance.choice((0.3, 0.5))  # each way
            world.single.late(seconds)
            world.pause(world.chance.uniform(0.2, 0.6))
            began = time.monotonic()
            if change == "added":
                fault = world.fault(f"markers late by {seconds} s, and added", "a worker")
                world.add_worker()
            else:
                leaving = world.workers.pop(world.chance.randrange(len(world.workers)))
                fault = world.fault(f"markers late by {seconds} s, and removed", leaving.name)
                world.stop_programs([leaving])
            world.recovered(fault, began, RECOVERY_S)
            world.single.late(0.0)
            world.pause(world.chance.uniform(1.0, 3.0))


def lose_state(world: World) -> None:
    """The state directory is deleted under the worker, and between two of its lives."""
    for number in range(1 if world.plan.short else 4):
        world.pause(world.chance.uniform(1.0, 3.0))
        worker = world.workers[0]
        if number % 2:
            world.fault("deleted, under the worker", f"data of {worker.name}")
            shutil.rmtree(world.directory / worker.name)
            world.pause(2.0)
        began = time.monotonic()
        worker.kill()
        fault = world.fault("SIGKILL and deleted", f"data of {worker.name}")
        shutil.rmtree(world.directory / worker.name, ignore_errors=True)
        world.restart(worker)
        world.recovered(fault, began, RECOVERY_S)


# Brokers.


def lose_leader(world: World) -> None:
    """The broker that leads a partition of market.raw is killed, and restarted."""
    for _ in range(1 if world.plan.short else 4):
        world.pause(world.chance.uniform(1.0, 3.0))
        node = world.cluster.leader(f"{world.run}.market.raw", world.chance.randrange(4))
        began = time.monotonic()
        world.cluster.kill(node)
        fault = world.fault("SIGKILL", f"broker {node}")
        world.recovered(fault, began, RECOVERY_S)
        world.cluster.start(node)
        world.until(world.cluster.is_whole, 120, "the cluster does not become whole")


def restart_brokers(world: World) -> None:
    """All brokers are restarted: all at once, then one after the other."""
    for at_once in (True,) if world.plan.short else (True, False, True, False):
        world.pause(world.chance.uniform(1.0, 3.0))
        for nodes in ((1, 2, 3),) if at_once else ((1,), (2,), (3,)):
            fault = world.fault("SIGTERM and restart", f"brokers {nodes}")
            began = time.monotonic()
            world.cluster.stop(*nodes)
            for node in nodes:
                world.cluster.start(node)
            world.recovered(fault, began, 90.0 if at_once else RECOVERY_S)
            world.until(world.cluster.is_whole, 120, "the cluster does not become whole")


def slow_broker(world: World) -> None:
    """A broker answers slowly, then tears its connections, again and again."""
    for _ in range(1 if world.plan.short else 4):
        world.pause(1.0)
        port = world.cluster.port(world.chance.choice((1, 2, 3)))
        began = time.monotonic()
        seconds = world.chance.choice((0.2, 0.5, 1.0))  # each way: a transaction takes three rounds, and may take 10 s
        fault = world.fault(f"delay of {seconds} s", f"port {port}")
        world.cluster.proxy.delay(port, seconds)
        world.recovered(fault, began, RECOVERY_S)
        for _ in range(3):
            began = time.monotonic()
            fault = world.fault("cut", f"{world.cluster.proxy.cut(port)} connections of port {port}")
            world.recovered(fault, began, RECOVERY_S)
            world.pause(world.chance.uniform(0.5, 3.0))
        world.cluster.proxy.delay(port, 0.0)
        world.recovered(world.fault("no delay", f"port {port}"), time.monotonic(), RECOVERY_S)


# Database.


def lose_database(world: World) -> None:
    """PostgreSQL is stopped for a minute, restarted, killed in the middle of a transaction."""
    away = (5.0,) if world.plan.short else (60.0, 2.0, 15.0)
    for seconds in away:
        world.pause(world.chance.uniform(1.0, 3.0))
        world.fault(f"stopped for {seconds} s", "PostgreSQL")
        world.postgres.stop()
        world.pause(seconds)
        world.postgres.start()
    for _ in range(2 if world.plan.short else 8):
        world.pause(world.chance.uniform(0.5, 4.0))
        world.fault("SIGKILL", "PostgreSQL")
        world.postgres.kill()
        world.pause(world.chance.uniform(0.0, 2.0))
        world.postgres.start()


def fill_disk(world: World) -> None:
    """The disk of the database is full, for a while; PostgreSQL is started again as long as it ends by itself."""
    for _ in range(1 if world.plan.short else 2):
        size = world.postgres.fill()
        world.fault("full", f"disk of PostgreSQL: the last {size >> 20} MB taken")
        world.pause(10.0 if world.plan.short else 40.0)
        said = [sink.tail(200) for sink in world.sinks]
        if not any("the sink waits for it" in text for text in said):
            raise FaultError("the sink says nothing of the full disk:\n" + said[0][-2000:])
        world.notes["ended"] = world.notes.get("ended", 0) + (not world.postgres.is_running())
        world.postgres.make_room()
        world.postgres.start()
        world.pause(5.0)


# Input.


def clock_shifts(world: World) -> list[Shift]:
    """Half the time one connector's host is an hour ahead, or behind."""
    until = world.plan.ticks / world.plan.rate
    found, at = [], 5.0
    while at < until:
        length = world.chance.uniform(1.0, 6.0)
        source = world.chance.choice(("alfa", "bravo", "delta", "echo"))
        found.append(Shift(source, at, at + length, world.chance.choice((3600.0, -3600.0))))
        at += length + world.chance.uniform(0.5, 6.0)
    return found


def wrong_clocks(world: World) -> None:
    """Clocks of one connector's host jump by an hour, forward and back; a worker is killed meanwhile."""
    for shift in clock_shifts(world):
        world.fault(f"clock {shift.by_s:+.0f} s", shift.source)
    kills = 1 if world.plan.short else 4
    for _ in range(kills):
        world.pause(world.chance.uniform(2.0, 6.0))
        worker = world.workers[0]
        began = time.monotonic()
        worker.kill()
        fault = world.fault("SIGKILL", worker.name)
        world.restart(worker)
        world.recovered(fault, began, RECOVERY_S)


# All together.


def mixed(world: World) -> None:
    """Everything at random, for ten minutes."""
    actions = [
        _mixed_kill,
        _mixed_kill,
        _mixed_hold,
        _mixed_scale,
        _mixed_sink,
        _mixed_broker,
        _mixed_cut,
        _mixed_database,
        poison.inject,
    ]
    limit = time.monotonic() + (60.0 if world.plan.short else 600.0)
    while time.monotonic() < limit:
        world.pause(world.chance.uniform(0.2, 5.0))
        world.chance.choice(actions)(world)
        if world.chance.random() < 0.5:
            fault = world.fault("none", "a look whether all recovers")
            world.until(world.cluster.is_whole, 120, "the cluster does not become whole")
            world.recovered(fault, time.monotonic(), 60.0)
    world.until(world.cluster.is_whole, 120, "the cluster does not become whole")


def _mixed_kill(world: World) -> None:
    worker = world.chance.choice(world.workers)
    worker.kill()
    world.fault("SIGKILL", worker.name)
    world.restart(worker)


def _mixed_hold(world: World) -> None:
    worker = world.chance.choice(world.workers)
    world.fault("SIGSTOP", worker.name)
    worker.hold()
    world.pause(world.chance.uniform(1.0, 12.0))
    worker.release()
    world.fault("SIGCONT", worker.name)


def _mixed_scale(world: World) -> None:
    if len(world.workers) < 3:
        world.fault("added", world.add_worker().name)
    else:
        leaving = world.workers.pop(world.chance.randrange(len(world.workers)))
        world.fault("SIGTERM", leaving.name)
        leaving.ask_to_end()
        world.leaving.append(leaving)


def _mixed_sink(world: World) -> None:
    sink = world.sinks[0]
    sink.kill()
    world.fault("SIGKILL", sink.name)
    world.restart(sink)


def _mixed_broker(world: World) -> None:
    node = world.chance.choice((1, 2, 3))
    world.until(world.cluster.is_whole, 120, "the cluster does not become whole")  # two away would stop everything
    world.cluster.kill(node)
    world.fault("SIGKILL", f"broker {node}")
    world.pause(world.chance.uniform(1.0, 8.0))
    world.cluster.start(node)


def _mixed_cut(world: World) -> None:
    port = world.cluster.port(world.chance.choice((1, 2, 3)))
    world.cluster.proxy.delay(port, world.chance.choice((0.0, 0.2, 0.5)))
    world.fault("cut and delayed", f"{world.cluster.proxy.cut(port)} connections of port {port}")
    world.pause(world.chance.uniform(0.5, 4.0))
    world.cluster.proxy.delay(port, 0.0)


def _mixed_database(world: World) -> None:
    world.fault("SIGKILL", "PostgreSQL")
    world.postgres.kill()
    world.pause(world.chance.uniform(0.0, 5.0))
    world.postgres.start()


SCENARIOS: Final = (
    Scenario("none", "0", nothing),
    Scenario("kill", "1", kill_worker, short=True, target_s=10.0),
    Scenario("term", "2", stop_worker),
    Scenario("zombie", "3", hold_worker, workers=2, short=True),
    Scenario("replaced", "3", hold_only_worker),
    Scenario("scale", "4", scale_workers, short=True),
    Scenario("markers", "4", late_markers),
    Scenario("leader", "5", lose_leader, cluster=True, workers=2),
    Scenario("brokers", "5", restart_brokers, cluster=True),
    Scenario("slow", "5", slow_broker, cluster=True),
    Scenario("database", "6", lose_database, short=True),
    Scenario("sink", "6", kill_sink, short=True),
    Scenario("state", "7", lose_state, target_s=10.0),
    Scenario("import", "8", import_killed, fed=False, comparison=imported),
    Scenario("poison", "9", poison.poisoned, short=True),
    Scenario("raising", "9", poison.raising, plan=poison.plain, comparison=poison.compared_raising),
    Scenario("clocks", "10", wrong_clocks, shifts=clock_shifts),
    Scenario("disk", "11", fill_disk, small_disk=True),
    Scenario("no-output", "11", output_deleted, compared=False),
    Scenario("no-input", "11", input_deleted, compared=False),
    Scenario("no-state", "11", state_deleted, compared=False),
    Scenario("mixed", "12", mixed, cluster=True, workers=2),
)
