"""How the core's cost grows with symbols and sources: `python -m bench.stages --scaling`. No Kafka.

Each point runs in a process of its own. Every source of every symbol ticks once a second in turn, so that a tick
stands for the same passing of time at every point, and its windows are full before anything is measured.
"""

import gc
import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Final

import msgspec
from rich.table import Table

from bench import market
from bench.machine import ROOT
from schemas import topics
from schemas.codec import Codec
from schemas.instrument import Instrument
from schemas.record import Quote
from topology.fetched import Fetched, fetched
from topology.task import Task

SECOND: Final = 1_000_000_000
MILLISECOND: Final = 1_000_000
POINTS: Final = [(10, 4), (100, 4), (1_000, 4), (10_000, 4), (100, 1), (100, 16)]  # (symbols, sources of each)
TICKS: Final = 200_000  # about as many are measured
FULL: Final = 17 * 60  # seconds after which no window and no list of minutes grows any more


class Point(msgspec.Struct, frozen=True):
    """One row of the table."""

    symbols: int
    sources: int
    us_per_tick: float  # CPU: decode, stages, encode
    outputs_per_tick: float
    save_us: float  # of one symbol's state
    state_bytes: float  # of one source of one symbol, as it goes to the changelog
    memory_bytes: float  # that a source of a symbol takes


def points() -> list[Point]:
    """All points, one after the other."""
    return [measured(*size) for size in POINTS]


def measured(symbols: int, sources: int) -> Point:
    """One point, in a process of its own."""
    command = [sys.executable, "-m", "bench.scaling", str(symbols), str(sources)]
    return msgspec.json.decode(subprocess.check_output(command, cwd=ROOT), type=Point)


def table(rows: list[Point]) -> Table:
    """The points for people."""
    shown = Table(box=None, pad_edge=False)
    sizes = "state B/pair", "memory B/pair"
    for name in ("symbols", "sources", "us/tick", "outputs/tick", "save us/symbol", *sizes):
        shown.add_column(name, justify="right")
    for each in rows:
        numbers = (each.save_us, each.state_bytes, each.memory_bytes)
        rates = f"{each.us_per_tick:.2f}", f"{each.outputs_per_tick:.2f}"
        shown.add_row(f"{each.symbols:,}", str(each.sources), *rates, *(f"{number:,.0f}" for number in numbers))
    return shown


def point(symbols: int, sources: int) -> Point:
    """Measure one point, in this process."""
    names = [market.symbol(number) for number in range(symbols)]
    task = Task(0, {name: Instrument(name, "fx", 5, "always") for name in names}, Codec())
    pairs = [(name, source) for name in names for source in [f"source{number:02d}" for number in range(sources)]]
    turns = max(20, TICKS // len(pairs))  # seconds
    gc.collect()
    before = _resident()
    # Slowly at first, so that all minutes are there, then a tick a second.
    for batch in _batches(names, pairs, 60, FULL / 60, market.START):
        task.process(batch)
        task.take()
    gc.collect()
    memory = _resident() - before
    saved = dict(task.save(1.0))
    spent, outputs = 0.0, 0
    for batch in _batches(names, pairs, turns, 1.0, market.START + FULL * SECOND):
        begun = time.process_time()
        task.process(batch)
        spent += time.process_time() - begun
        outputs += sum(map(len, task.take()))
    ticks = len(pairs) * turns
    begun = time.process_time()
    state = task.save(1.0)
    saving = time.process_time() - begun
    saved.update(state)
    size = sum(map(len, saved.values()))
    rates = spent / ticks * 1e6, outputs / ticks, saving / symbols * 1e6
    return Point(symbols, sources, *rates, size / len(pairs), memory / len(pairs))


def _batches(
    names: list[str], pairs: list[tuple[str, str]], turns: int, every_s: float, start: int, at_once: int = 1_000
) -> Iterator[list[Fetched]]:
    rng, codec = random.Random(7), Codec()
    mids = dict.fromkeys(names, 110_000)
    step = int(every_s * SECOND / len(pairs))
    batch: list[Fetched] = []
    now, offset = start, (start - market.START) // SECOND * 1_000_000
    for _ in range(turns):
        rng.shuffle(pairs)
        for name, source in pairs:
            now, offset = now + step, offset + 1
            mids[name] += rng.randrange(-2, 3)
            bid = mids[name] - rng.randrange(3, 6)
            sizes = rng.randrange(1, 100) * 10_000, rng.randrange(1, 100) * 10_000
            event = (now // MILLISECOND - 3) * MILLISECOND  # most brokers tell no more
            quote = Quote(name, source, event, now, bid, bid + 8, *sizes, "", offset)
            batch.append(fetched(topics.RAW.name, 0, offset, now // MILLISECOND, name.encode(), codec.encode(quote)))
            if len(batch) == at_once:
                yield batch
                batch = []
    if batch:
        yield batch


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096


if __name__ == "__main__":
    print(json.dumps(msgspec.to_builtins(point(int(sys.argv[1]), int(sys.argv[2])))))
