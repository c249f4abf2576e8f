"""The faults, one scenario for each kind: what is done to the system while the feed goes on.

A scenario gets a world (world.py) and decides with its seeded chance. Whatever it does, afterwards everything is
compared with the undisturbed run; so a scenario itself only checks what a comparison can't see.
"""

import time
from collections.abc import Callable
from typing import Final

import msgspec

from tests.faults.world import World

SESSION_S: Final = 6.0  # broker_session_timeout of the workers
RECOVERY_S: Final = 30.0  # the target, always


class Scenario(msgspec.Struct, frozen=True):
    """A kind of fault."""

    name: str
    number: str  # in the list
    play: Callable[[World], None]
    workers: int = 1
    cluster: bool = False  # needs the three brokers
    short: bool = False  # part of the short form
    target_s: float | None = None  # for every recovery: first new output


def nothing(world: World) -> None:
    """No fault: the comparison itself, with real processes that nothing disturbs."""
    world.pause(2.0)


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
        world.restart(worker)
        world.recovered(fault, began, RECOVERY_S)


SCENARIOS: Final = (
    Scenario("none", "0", nothing, short=True),
    Scenario("kill", "1", kill_worker, short=True, target_s=10.0),
    Scenario("term", "2", stop_worker, short=True),
)
