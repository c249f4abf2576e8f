"""Microseconds per tick of the pure core alone, plain and compiled: `python -m bench.stages`.

No Kafka: ready-made records go through one task, as a worker's consumer would hand them over. The tree is copied to a
scratch directory and compiled there, so that what lies beside the sources does not matter and is not touched.
"""

import gc
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.table import Table

from bench import market
from bench.machine import ROOT
from bench.market import Market
from bench.scaling import points, table
from schemas import instrument, topics
from schemas.codec import Codec
from topology.fetched import fetched
from topology.stages.partition import Partition
from topology.task import Task

COPIED: Final = ("bench", "connectors", "deploy", "schemas", "topology", "setup.py", "pyproject.toml")
SYMBOLS: Final = 13  # of one partition out of eight, when there are a hundred
RECORDS_AT_ONCE: Final = 1_000
REPEATS: Final = 3

Parts = dict[str, float]


@click.command()
@click.option("--ticks", default=100_000, show_default=True, help="How many go through.")
@click.option("--scaling", is_flag=True, help="Instead: this tree, by symbols and sources; with state and memory.")
@click.option("--here", is_flag=True, hidden=True, help="Measure this tree as it is; one line of JSON.")
def main(ticks: int, scaling: bool, here: bool) -> None:
    """Microseconds per tick of decode, stages and encode, without Kafka: plain Python and compiled."""
    if here:
        print(json.dumps(measure(ticks)))
        return
    if scaling:
        Console().print(table(points()))
        return
    with tempfile.TemporaryDirectory(prefix="tickloom-stages-") as scratch:
        plain = _in_copy(Path(scratch, "plain"), ticks)
        compiled = _in_copy(Path(scratch, "compiled"), ticks, compile_it=True)
    shown = Table("us per tick, CPU time, best of 3", "plain", "compiled", box=None, pad_edge=False)
    for part in plain:
        shown.add_row(part, f"{plain[part]:,.2f}", f"{compiled[part]:,.2f}" if compiled else "not compiled")
    Console().print(shown)


def measure(ticks: int) -> Parts:
    """Time the parts of a task's work, each alone."""
    names = [market.symbol(number) for number in range(SYMBOLS)]
    instruments = {name: instrument.Instrument(name, "fx", 5, "always") for name in names}
    codec = Codec()
    records = [
        fetched(topics.RAW.name, 0, offset, quote.ts_recv // 1_000_000, quote.symbol.encode(), codec.encode(quote))
        for offset, quote in enumerate(market.quotes(Market(SYMBOLS, ticks, ticks * 3_600 // 125_000)))
    ]
    decoded = [codec.decode(record.value) for record in records]
    task = Task(0, instruments, codec)
    outputs = 0

    def decode() -> None:
        for record in records:
            codec.decode(record.value)

    def apply() -> None:
        partition = Partition(0, instruments)
        for record, tick in zip(records, decoded, strict=True):
            partition.apply(tick, record.offset, record.timestamp * 1_000_000)
            partition.out.clear()

    def whole() -> None:
        nonlocal task, outputs
        task, outputs = Task(0, instruments, codec), 0
        for start in range(0, ticks, RECORDS_AT_ONCE):
            task.process(records[start : start + RECORDS_AT_ONCE])
            outputs += sum(map(len, task.take()))

    gc.collect()
    gc.freeze()
    parts = {"decode": _best(decode), "stages": _best(apply), "task: all of it, with encode": _best(whole)}
    parts = {name: seconds / ticks * 1e6 for name, seconds in parts.items()}
    begun = time.process_time()
    state = task.save(1.0)
    parts["save, us per symbol"] = (time.process_time() - begun) / len(state) * 1e6
    parts["state, bytes per symbol"] = sum(len(value) for _, value in state) / len(state)
    parts["outputs per tick"] = outputs / ticks
    return parts


def _best(work: Callable[[], None]) -> float:
    seconds = []
    for _ in range(REPEATS):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def _in_copy(directory: Path, ticks: int, *, compile_it: bool = False) -> Parts:
    """Measure a copy of the tree; empty where it could not be compiled."""
    directory.mkdir()
    ignored = shutil.ignore_patterns("*.so", "*.pyd", "__pycache__")
    for name in COPIED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, directory / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, directory / name)
    if compile_it:
        command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
        subprocess.run(command, cwd=directory, capture_output=True, check=False)
        if not list((directory / "topology").glob("task.*.so")):
            return {}
    command = [sys.executable, "-m", "bench.stages", "--here", "--ticks", str(ticks)]
    parts: Parts = json.loads(subprocess.check_output(command, cwd=directory, text=True))
    return parts


if __name__ == "__main__":
    main()
