"""Records that nothing can be made of: they become dead letters, and everything else goes on.

Some are put straight into market.raw. One kind is sound and makes a stage raise: for that the suite runs a copy of
the system in plain Python, in which `tests/faults/raising.py` has spoiled a stage; the undisturbed run is computed
in the same copy.
"""

import json
import time
from pathlib import Path

import msgspec
from confluent_kafka import Producer

from connectors.runtime.producer import partition_of
from schemas import flags, topics
from schemas.codec import Codec
from schemas.record import Best, Quote
from schemas.topics import named
from tests.faults.compare import INJECTED, Compared, Subject
from tests.faults.copies import copy_tree
from tests.faults.feed import markets
from tests.faults.programs import Program
from tests.faults.raising import MAGIC
from tests.faults.world import PARTITIONS, FaultError, Plan, World

RATE = 1_000.0  # ticks/s that plain Python carries easily
COMPARE_LIMIT_S = 300.0


def poisoned(world: World) -> None:
    """Undecodable bytes, records of a future schema, of an unknown symbol, with a wrong key, of a wrong kind."""
    for number in range(2 if world.plan.short else 8):
        world.pause(world.chance.uniform(0.5, 2.0))
        inject(world)
        if number % 2:
            worker = world.workers[0]
            began = time.monotonic()
            worker.kill()
            fault = world.fault("SIGKILL", worker.name)
            world.restart(worker)
            world.recovered(fault, began, 30.0)


def inject(world: World) -> None:
    """Put one of each kind into market.raw."""
    codec = Codec()
    now = time.time_ns()
    symbol = world.chance.choice(markets(1)).symbol
    good = codec.encode(Quote(symbol, "alfa", now, now, 100_000, 100_010))
    stranger = codec.encode(Quote("NOSUCH", "alfa", now, now, 100_000, 100_010))
    output = codec.encode(Best(symbol, now, now, "normal", 1, 1, "alfa", 2, 1, "bravo", 15, 2))
    long = codec.encode(Quote(symbol, "alfa", now, now, 100_000, 100_010, id=world.chance.randbytes(300_000).hex()))
    future = good[:2] + world.chance.randbytes(8) + good[10:]  # single-object encoding: the schema's fingerprint
    key = symbol.encode()
    records = [
        (key, world.chance.randbytes(40), "undecodable bytes"),
        (key, good[:-4], "cut off"),
        (key, b"", "empty"),
        (key, None, "no value"),
        (key, future, "a future schema"),
        (b"NOSUCH", stranger, "unknown symbol"),
        (b"EURUSD", good, "wrong key"),
        (key, output, "an output as input"),
        (key, long, "an id of 600,000 characters"),
    ]
    put(world, records)


def put(world: World, records: list[tuple[bytes, bytes | None, str]]) -> None:
    """Write records to market.raw, marked as not of the feed."""
    producer = Producer({"bootstrap.servers": world.broker, "enable.idempotence": True, "log_level": 0})
    name = named(topics.RAW.name, world.run)
    for key, value, what in records:
        world.fault("poison", what)
        producer.produce(name, value, key, partition_of(key, PARTITIONS), headers=[(INJECTED, b"1")])
    if producer.flush(60):
        raise FaultError("the poison could not be delivered")


# A stage that raises.


def plain(plan: Plan, directory: Path) -> Plan:
    """Run a copy in plain Python with the spoiled stage."""
    copy_tree(directory / "tree")
    entry = ("-m", "tests.faults.raising")
    rate = min(plan.rate, RATE)
    ticks = min(plan.ticks, int(RATE * 120))
    return msgspec.structs.replace(plan, tree=directory / "tree", entry=entry, rate=rate, ticks=ticks)


def raising(world: World) -> None:
    """A record that is sound makes a stage raise when the stages before it have changed their state."""
    codec = Codec()
    for _ in range(2 if world.plan.short else 6):
        world.pause(world.chance.uniform(0.5, 2.0))
        now = time.time_ns()
        market = world.chance.choice(markets(1))
        quote = Quote(market.symbol, "alfa", now, now, market.price, market.price + market.spread, MAGIC, 1)
        put(world, [(market.symbol.encode(), codec.encode(quote), "raises in a stage")] * 2)
        worker = world.workers[0]
        began = time.monotonic()
        worker.kill()
        fault = world.fault("SIGKILL", worker.name)
        world.restart(worker)
        world.recovered(fault, began, 30.0)


def compared_raising(world: World, subject: Subject, digests: dict[int, str] | None) -> Compared:
    """Compare by the same copy."""
    asked, answer = world.directory / "subject.json", world.directory / "compared.json"
    content = msgspec.to_builtins(msgspec.structs.asdict(subject) | {"instruments": str(world.instruments)})
    asked.write_text(json.dumps({"subject": content, "digests": digests}))
    arguments = [*world.plan.entry, "compare", str(asked), str(answer)]
    program = Program("compare", arguments, {}, world.directory / "compare.log", world.plan.tree)
    world.until(lambda: program.code is not None, COMPARE_LIMIT_S, "the comparison does not end")
    if program.code:
        raise FaultError(f"the comparison failed:\n{program.tail()}")
    found = msgspec.json.decode(answer.read_bytes(), type=Compared)
    reasons = json.loads((world.directory / "compared.json.reasons").read_text())
    if not reasons.get(flags.FAILED):
        raise FaultError(f"no dead letter says {flags.FAILED}: {reasons}")
    return found
