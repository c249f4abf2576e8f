"""The connector of files, `tickloom import`, is killed in the middle of a batch, and started again until it is done.

Then market.raw holds, of each symbol and source, the ticks of its file, in order, each once; and the outputs are those
of that log.
"""

from collections import defaultdict

import yaml

from schemas import topics
from schemas.codec import Codec
from schemas.instrument import text
from schemas.record import Quote
from schemas.topics import named
from tests.faults import feed, log
from tests.faults.compare import Compared, Difference, Subject, compare
from tests.faults.programs import Program
from tests.faults.world import PARTITIONS, FaultError, World

LIMIT_S = 900.0
Place = tuple[str, str]  # symbol, source


def import_killed(world: World) -> None:
    """SIGKILL of `tickloom import` while it writes; the same command goes on where it stopped."""
    made = write_files(world)
    kills = 2 if world.plan.short else 8
    total = sum(len(lines) for lines in made.values())
    for number in range(1, kills + 1):
        program = start(world)
        _wait_until_written(world, program, int(total * (number - 1 + world.chance.random()) / (kills + 1)))
        program.kill()
        world.fault("SIGKILL", f"import, {written(world)} of some {total} records written")
        world.pause(world.chance.uniform(0.0, 2.0))
    program = start(world)
    world.until(lambda: program.code is not None, LIMIT_S, "the import does not end")
    if program.code:
        raise FaultError(f"the import ended with code {program.code}:\n{program.tail()}")


def _wait_until_written(world: World, program: Program, goal: int) -> None:
    world.until(lambda: written(world) >= goal or program.code is not None, LIMIT_S, "nothing is written")
    if program.code is not None:
        raise FaultError(f"the import ended by itself with code {program.code}:\n{program.tail()}")


def start(world: World) -> Program:
    """One more import of the same files."""
    environment = world.environment("import")
    arguments = ["-m", "topology.cli", "import", "--manifest", str(world.directory / "files" / "manifest.yaml")]
    return Program("import", arguments, environment, world.directory / "import.log", world.plan.tree)


def written(world: World) -> int:
    """How many records market.raw has."""
    return sum(world.raw_ends().values())


def write_files(world: World) -> dict[Place, list[Quote]]:
    """Write the input as CSV, one file a symbol and source, and a manifest; give the ticks."""
    folder = world.directory / "files"
    folder.mkdir()
    made = quotes(world.plan.seed, world.plan.ticks, world.plan.rate)
    scales = {market.symbol: market.price_scale for market in feed.markets(1)}
    entries = []
    for (symbol, source), ticks in made.items():
        path = folder / f"{symbol}-{source}.csv"
        scale = scales[symbol]
        lines = (f"{tick.ts_event},{text(tick.bid, scale)},{text(tick.ask, scale)}" for tick in ticks)
        path.write_text("\n".join(["ts_event,bid,ask", *lines, ""]))
        entries.append({"path": path.name, "source": source, "symbol": symbol})
    (folder / "manifest.yaml").write_text(yaml.safe_dump(entries))
    return made


def quotes(seed: int, count: int, rate: float) -> dict[Place, list[Quote]]:
    """The quotes of the input by symbol and source, in order of their time."""
    made: dict[Place, list[Quote]] = defaultdict(list)
    for tick in feed.first(count, seed, rate):
        if isinstance(tick, Quote) and tick.bid and tick.ask:
            made[tick.symbol, tick.source].append(tick)
    return {place: sorted(ticks, key=lambda tick: tick.ts_event) for place, ticks in made.items()}


def imported(world: World, subject: Subject, _: dict[int, str] | None) -> Compared:
    """Compare market.raw with the files, then all else with market.raw."""
    wanted = quotes(world.plan.seed, world.plan.ticks, world.plan.rate)
    found: dict[Place, list[tuple[int, int, int]]] = defaultdict(list)
    codec = Codec()
    for number in range(PARTITIONS):
        for each in log.read(subject.broker, named(topics.RAW.name, subject.run), number):
            record = codec.decode(each.value or b"")
            if isinstance(record, Quote):
                found[record.symbol, record.source].append((record.ts_event, record.bid, record.ask))
    compared = Compared({}, [])
    for place, ticks in wanted.items():
        ours = found.pop(place, [])
        same = ours == [(tick.ts_event, tick.bid, tick.ask) for tick in ticks]
        what = f"{len(ours)} ticks instead of {len(ticks)}, or another order"
        compared.add("files", len(ticks), [] if same else [Difference(f"file of {place}", what)])
    compared.add("files", 0, [Difference(f"file of {place}", "there is none") for place in found])
    rest = compare(subject, None)
    rest.records |= compared.records
    rest.differences += compared.differences
    rest.number += compared.number
    return rest
