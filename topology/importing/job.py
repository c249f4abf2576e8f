"""`tickloom import`: recorded ticks of several brokers become one run, with all that the stages make of them.

Rule: the same files give the same run, however often the import is interrupted. What is missing is started
(local servers, a worker and a sink of the run) and stopped at the end; what ran before is left running.

    files -> connectors/archive -> connectors/runtime/history -> market.raw of the run -> worker -> sink
                                                                     summary <- tables of the run
"""

import gc
import hashlib
import re
import time
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import Progress

from connectors.archive import manifest as listing
from connectors.archive.file import ArchiveError, Asked, BadRow, TickFile
from connectors.runtime.history import History
from connectors.runtime.producer import RawProducer
from schemas import flags, instrument
from schemas.instrument import ConfigError, Instrument
from schemas.registry import codec_for
from topology.config import Settings
from topology.dead_letters.topic import open_reasons
from topology.importing import summary
from topology.replay.ledger import rules_of
from topology.running import Running, alone, bars, plain_console, stopping

# Nobody waits for a single tick: large batches and few commits cost less.
LINGER_MS: Final = 100
COMMIT_SECONDS: Final = 0.5
SHOW_S: Final = 0.1  # between two looks at how far the files are: there may be thousands of them
SHOWN: Final = 10  # bad files and rows named one by one
LETTERS_S: Final = 30.0  # for what became a dead letter


def run_import(
    settings: Settings,
    paths: Sequence[Path],
    sources: Sequence[str],
    symbols: Sequence[str],
    manifest: Path | None,
    *,
    format: str = "",
    timezone: str = "",
    decimals: int | None = None,
    hour: str = "",
) -> int:
    """Import, and return the exit code: 1 where a file could not be read. Raises what `tickloom` explains."""
    console = plain_console()
    instruments = instrument.load(settings.instruments)
    if manifest and paths:
        raise ConfigError("give paths or --manifest, not both")
    if not manifest and not paths:
        raise ConfigError("nothing to import: give paths with --source and --symbol, or --manifest")
    entries = (
        listing.read(manifest)
        if manifest
        else listing.from_arguments(
            paths, sources, symbols, format=format, timezone=timezone, decimals=decimals, hour=hour
        )
    )
    files, unreadable = recognise(listing.files(entries, instruments), instruments)
    for row in unreadable[:SHOWN]:
        console.print(f"[red]not read[/] {row.file.path}: {row.reason}", highlight=False)
    if not files:
        raise ConfigError("none of the files can be read")
    with console.status("reading the files once, for the name of the run"):
        name = settings.run or run_name(files, unreadable, rules_of(settings.instruments)[1])
    describe(console, files, name)
    settings = msgspec.structs.replace(settings, run=name, commit_seconds=settings.commit_seconds or COMMIT_SECONDS)
    gc.freeze()  # what is there stays
    gc.set_threshold(50_000, 20, 50)  # rows come and go by the thousand without a cycle among them
    try:
        with stopping(), ExitStack() as stack:
            return Import(console, settings, instruments, files, unreadable).run(stack)
    except KeyboardInterrupt:
        console.print(f"[yellow]interrupted[/]: the same command goes on where it stopped (run {name})")
        return 130


def recognise(asked: Iterable[Asked], instruments: dict[str, Instrument]) -> tuple[list[TickFile], list[BadRow]]:
    """The files that hold ticks, and a bad row for each of those that do not. Raises ConfigError."""
    files: list[TickFile] = []
    unreadable: list[BadRow] = []
    for each in asked:
        try:
            files.append(TickFile(each, instruments[each.symbol]))
        except ArchiveError as error:
            unreadable.append(error.bad_row)
    unreadable.sort(key=lambda row: (row.file.symbol, row.file.source, row.file.path.name, str(row.file.path)))
    return files, unreadable


def run_name(files: Iterable[TickFile], unreadable: Iterable[BadRow], rules: str) -> str:
    """A name that the same input always gets by the same rules and code, wherever its files lie."""
    read = [(*file.identity, _digest(file.path)) for file in files]
    names = [rules, *sorted([*read, *((row.file.path.name, row.reason) for row in unreadable)])]
    symbols = sorted({file.symbol.lower() for file in files})
    shown = "-".join(re.sub(r"[^a-z0-9]", "", symbol) for symbol in symbols[:3])
    return f"import-{shown}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()


def describe(console: Console, files: Sequence[TickFile], run: str) -> None:
    """Say what will be read as what: a wrong time zone is best seen before."""
    groups: dict[tuple[str, ...], list[TickFile]] = {}
    for file in files:
        groups.setdefault((file.symbol, file.source, file.format, file.timezone), []).append(file)
    for (symbol, source, form, zone), members in sorted(groups.items()):
        size = sum(file.size for file in members) / 1e6
        count = f"{len(members)} file{'s' if len(members) > 1 else ''}"
        console.print(
            f"{symbol} from {source}: {count}, {size:,.1f} MB, format {form}, times in {zone}", highlight=False
        )
    console.print(f"run [bold]{run}[/]", highlight=False)


class Import:
    """One import under way."""

    def __init__(
        self,
        console: Console,
        settings: Settings,
        instruments: dict[str, Instrument],
        files: Sequence[TickFile],
        unreadable: Sequence[BadRow],
    ) -> None:
        self._console = console
        self._settings = settings
        self._instruments = instruments
        self._files = files
        self._unreadable = unreadable
        self._codec = codec_for(settings.schema_registry_url)
        self._running = Running(console, settings)

    def run(self, stack: ExitStack) -> int:
        """Do it all; what is started is stopped by ``stack``."""
        running = self._running
        running.folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone(running.folder / "lock", self._settings.run))
        running.start_servers(stack)
        running.start_processes(stack)
        settings = self._settings = running.settings
        began = time.monotonic()
        producer = RawProducer(settings.kafka, settings.run, self._codec, linger_ms=LINGER_MS)
        stack.callback(producer.abandon)
        history = History(producer, settings.kafka, settings.run, self._codec)
        with bars(self._console) as progress:
            self._write(history, progress)
            running.settle(progress)
        return self._report(history, time.monotonic() - began)

    def _write(self, history: History, progress: Progress) -> None:
        total = sum(file.size for file in self._files)
        reading = progress.add_task("reading", total=total, note="")
        began = shown = time.monotonic()

        def report() -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < SHOW_S:
                return
            shown = now
            rate = history.rows / (now - began)
            progress.update(
                reading,
                completed=sum(file.read for file in self._files),
                note=f"{history.rows:>12,} rows {rate:>9,.0f}/s",
            )
            self._running.look()

        grace = max(self._instruments[file.symbol].rules.grace_ns for file in self._files)
        history.write(self._files, self._unreadable, grace, report)
        progress.update(reading, completed=total)

    def _report(self, history: History, seconds: float) -> int:
        console, run = self._console, self._settings.run
        found = summary.stored(self._settings.database, run)
        bad = sum(history.bad.values())
        console.print(summary.table(found, bad))
        ticks = sum(history.ticks.values())
        again = f", {history.resumed:,} records were there already" if history.resumed else ""
        console.print(f"{ticks:,} ticks in {seconds:.1f} s, {ticks / seconds:,.0f} a second{again}", highlight=False)
        for path, count in history.bad.most_common(SHOWN):
            console.print(f"[yellow]{count:,} bad rows[/] in {path}: see market.dead_letter", highlight=False)
        letters, is_whole = open_reasons(self._settings, LETTERS_S)
        others = {reason: count for reason, count in letters.items() if reason != flags.BAD_ROW}
        look = f"see `TICKLOOM_RUN={run} tickloom dead-letter list`"
        for reason, count in others.items():
            console.print(f"[red]{count:,} records are not in the run[/]: {reason}, {look}", highlight=False)
        if not is_whole:
            console.print(f"market.dead_letter is too long to be read through: {look}", highlight=False)
        refused = sum(count for reason, count in others.items() if reason != flags.UNSTORABLE)  # those had arrived
        missing = found.missing(history.ticks) - refused
        if missing:
            deleted = f"Kafka has deleted {history.deleted:,} records of market.raw since: choose another --run"
            why = deleted if history.deleted else "please report it"
            console.print(f"[red]{missing:,} ticks are not accounted for[/]: {why}", highlight=False)
        console.print(f"look at it: TICKLOOM_RUN={run} tickloom candles {self._files[0].symbol}", highlight=False)
        return 1 if missing or others or history.unreadable else 0
