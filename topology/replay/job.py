"""`tickloom replay`: a part of market.raw goes once more through the stages, in a run of its own.

    market.raw of the base -> copy -> market.raw of the replay -> worker -> sink
                                                     summary <- topics of the replay

The base is only read. What is missing is started (local servers, workers and a sink of the replay, which stand back
for whatever else runs here) and stopped at the end. Interrupted, the same command goes on.
"""

import hashlib
import os
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from rich.console import Console

from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer
from schemas import instrument
from schemas.instrument import ConfigError
from schemas.registry import codec_for
from schemas.topics import RAW, named
from topology import admin
from topology.config import Settings
from topology.importing import summary
from topology.replay import ledger
from topology.replay.copy import Copy
from topology.replay.ledger import Replay
from topology.replay.stretch import Place, stretches
from topology.running import Running, alone, bars, plain_console, stopping
from topology.storage import database

RULES: Final = "instruments.yaml"  # in the folder of the replay


class Asked(msgspec.Struct, frozen=True):
    """What a user asks for."""

    since: Place = None
    until: Place = None
    symbols: tuple[str, ...] = ()
    config: Path | None = None
    warm_up_s: float = 1800.0
    times: int = 1  # partitions of the replay for each one of the base

    def noted(self) -> dict[str, Any]:
        """As it is kept: nothing that differs from machine to machine."""
        shown = {"from": self.since, "to": self.until, "warm_up_s": self.warm_up_s, "times": self.times}
        return {
            name: value.isoformat() if isinstance(value, datetime) else value
            for name, value in shown.items()
            if value is not None
        }


def run_replay(
    settings: Settings, asked: Asked, name: str, *, rate: float = 0.0, workers: int = 1, nice: int = 10
) -> int:
    """Replay, and return the exit code. Raises what `tickloom` explains."""
    console = plain_console()
    rules, version = ledger.rules_of(asked.config or settings.instruments)
    instruments = instrument.load(asked.config or settings.instruments)
    for symbol in asked.symbols:
        if symbol not in instruments:
            raise ConfigError(f"{symbol} is no instrument; those are {', '.join(instruments)}")
    run = ledger.full_name(name) if name else run_name(settings.run, asked, version)
    console.print(f"run [bold]{run}[/], rules {version}", highlight=False)
    folder = settings.state / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    replayed = msgspec.structs.replace(settings, run=run, instruments=folder / RULES)
    if nice:
        os.nice(nice)  # and so are the processes that it starts
    try:
        with stopping(), ExitStack() as stack:
            stack.enter_context(alone(folder / "lock", run, "replay"))
            (folder / RULES).write_text(rules)
            running = Running(console, replayed, workers=workers)
            running.start_servers(stack)
            replay = _begun(running.settings, settings.run, asked, rules, version)
            return _go(console, stack, running, replay, rate)
    except KeyboardInterrupt:
        console.print(f"[yellow]interrupted[/]: the same command goes on where it stopped (run {run})")
        return 130


def run_name(base: str, asked: Asked, version: str) -> str:
    """A name that the same command always gets."""
    said = repr((base, sorted(asked.noted().items()), sorted(asked.symbols), version))
    return f"{admin.REPLAY}{hashlib.sha256(said.encode()).hexdigest()[:8]}"


def _begun(settings: Settings, base: str, asked: Asked, rules: str, version: str) -> Replay:
    """The replay as it was begun, or begin it. Raises ConfigError where it was begun in another way."""
    with database.connect(settings.database) as connection, LogReader(settings.kafka) as log:
        symbols = sorted(asked.symbols)
        replay = ledger.find(connection, settings.run)
        if replay is None:
            raw = named(RAW.name, base)
            parts = stretches(log, raw, asked.since, asked.until, asked.warm_up_s)
            partitions = len(parts) * asked.times
            replay = Replay(settings.run, base, asked.noted(), parts, partitions, symbols, version, rules)
            ledger.begin(connection, replay)
        given = (base, asked.noted(), symbols, version)
        if given != (replay.base, replay.asked, replay.symbols, replay.rules_version):
            raise ConfigError(
                f"{replay.run} was begun with another range, symbols or rules: choose another --run, "
                f"or `tickloom replay drop {replay.run}`"
            )
        return replay


def _go(console: Console, stack: ExitStack, running: Running, replay: Replay, rate: float) -> int:
    settings = running.settings
    _describe(console, replay)
    running.start_processes(stack, replay.partitions)
    codec = codec_for(settings.schema_registry_url)
    began = time.monotonic()
    producer = RawProducer(settings.kafka, replay.run, codec)
    stack.callback(producer.abandon)
    with LogReader(settings.kafka) as log, bars(console) as progress:
        copy = Copy(log, producer, replay)
        bar = progress.add_task("copying", total=copy.total, note="")

        def report() -> None:
            pace = copy.written / max(time.monotonic() - began, 0.001)
            progress.update(bar, completed=copy.read, note=f"{copy.read:>12,} records {pace:>9,.0f}/s")
            running.look()

        copy.run(rate, report)
        running.settle(progress)
    with database.connect(settings.database) as connection:
        ledger.finish(connection, replay.run)
    seconds = time.monotonic() - began
    console.print(summary.table(summary.account(settings.kafka, replay.run, codec), 0))
    again = copy.total - copy.written if copy.written < copy.total and not replay.symbols else 0
    there = f", {again:,} were there already" if again > 0 else ""
    pace = f"{copy.written / seconds:,.0f} a second{there}"
    console.print(f"{copy.total:,} records of {replay.base_raw} in {seconds:.1f} s, {pace}", highlight=False)
    console.print(f"what differs: tickloom replay compare {replay.run}", highlight=False)
    return 0


def _describe(console: Console, replay: Replay) -> None:
    """Say what is replayed: a wrong range is best seen before."""
    copied = sum(stretch.end - stretch.copied_from for stretch in replay.stretches)
    compared = sum(stretch.end - stretch.start for stretch in replay.stretches)
    warm = f", the first {copied - compared:,} to warm up" if compared < copied else ""
    symbols = f", of them {', '.join(replay.symbols)}" if replay.symbols else ""
    console.print(f"{copied:,} records of {replay.base_raw}{warm}{symbols}", highlight=False)
