"""SIGKILL of a sink at the moments that matter: just before its commit, just after it, and at any other."""

import time
from typing import Any

import psycopg

from tests.faults.programs import Program
from tests.faults.world import World

POLL_S = 0.001
WAIT_S = 30.0
HOLD_S = 1.5  # whatever was acked too early is committed to Kafka by then


def kill_sink(world: World) -> None:
    """SIGKILL before and after the commit of its transaction, and at random."""
    ways = (before_commit, after_commit, at_random)
    for _ in range(1 if world.plan.short else 5):
        for way in ways:
            world.pause(world.chance.uniform(0.5, 2.0))
            sink = world.sinks[0]
            way(world, sink)
            world.fault(f"SIGKILL {way.__name__.replace('_', ' ')}", sink.name)
            world.restart(sink)


def before_commit(world: World, sink: Program) -> None:
    """All rows are written, and the offsets wait for a lock that we hold: that is the last before the commit."""
    with psycopg.connect(world.database) as connection, psycopg.connect(world.database, autocommit=True) as look:
        connection.execute("LOCK TABLE stream_offsets IN SHARE ROW EXCLUSIVE MODE")
        query = "SELECT count(*) FROM pg_locks WHERE relation = 'stream_offsets'::regclass AND NOT granted"
        world.until(lambda: _one(look, query) > 0, WAIT_S, "the sink does not come to its commit")
        world.pause(HOLD_S)
        sink.kill()


def after_commit(world: World, sink: Program) -> None:
    """The offsets in the database have just moved; Kafka's group has not heard of it."""
    query = "SELECT coalesce(sum(next_offset), 0) FROM stream_offsets WHERE run = %s"
    with psycopg.connect(world.database, autocommit=True) as look:
        former = _one(look, query, world.run)
        limit = time.monotonic() + WAIT_S
        while _one(look, query, world.run) == former and time.monotonic() < limit:
            time.sleep(POLL_S)
        sink.kill()


def at_random(world: World, sink: Program) -> None:
    """Whatever it does just now."""
    world.pause(world.chance.uniform(0.0, 1.5))
    sink.kill()


def _one(connection: psycopg.Connection[Any], query: str, *values: object) -> int:
    row = connection.execute(query, values).fetchone()
    return int(row[0]) if row else 0
