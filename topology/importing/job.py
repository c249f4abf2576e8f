"""`tickloom import`: recorded ticks of several brokers become one run, with all that the stages make of them.

Rule: the same files give the same run, however often the import is interrupted. What is missing is started
(local servers, a worker and a sink of the run) and stopped at the end; what ran before is left running.

    files -> connectors/archive -> connectors/runtime/history -> market.raw of the run -> worker -> sink
                                                                     summary <- topics of the run
"""

import fcntl
import hashlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from connectors.archive import manifest as listing
from connectors.archive.file import ArchiveError, Asked, BadRow, TickFile
from connectors.runtime.history import History
from connectors.runtime.producer import RawProducer
from deploy import local
from schemas import instrument
from schemas.instrument import ConfigError, Instrument
from schemas.registry import codec_for
from topology import admin
from topology.config import Settings
from topology.importing import summary
from topology.storage import database

NAMES: Final = ("worker", "sink")  # the commands, in the order of admin.groups
LOOK_EVERY_S: Final = 1.0  # at the groups and processes
STUCK_S: Final = 120.0
STOP_LIMIT_S: Final = 30.0
SHOWN: Final = 10  # bad files and rows named one by one


class ImportStopped(OSError):
    """The import cannot go on; the text is one line that says why and what to do."""


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
    console = Console()
    if not console.is_terminal:
        console = Console(width=160)
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
    name = settings.run or run_name(files, unreadable)
    describe(console, files, name)
    settings = msgspec.structs.replace(settings, run=name)
    with stopping(), ExitStack() as stack:
        try:
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


def run_name(files: Iterable[TickFile], unreadable: Iterable[BadRow]) -> str:
    """A name that the same input always gets, wherever its files lie."""
    names = sorted([file.identity for file in files] + [(row.file.path.name, row.reason) for row in unreadable])
    symbols = sorted({file.symbol.lower() for file in files})
    shown = "-".join(re.sub(r"[^a-z0-9]", "", symbol) for symbol in symbols[:3])
    return f"import-{shown}-{hashlib.sha256(repr(names).encode()).hexdigest()[:8]}"


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


@contextmanager
def stopping() -> Iterator[None]:
    """Let SIGTERM end an import as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


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
        self._folder = settings.state / "runs" / settings.run
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._looked = 0.0
        self._moved = time.monotonic()
        self._behind: tuple[int, int] | None = None

    def run(self, stack: ExitStack) -> int:
        """Do it all; what is started is stopped by ``stack``."""
        for folder in (self._folder, self._settings.data_dir):
            folder.mkdir(parents=True, exist_ok=True)
        stack.enter_context(alone(self._folder / "lock", self._settings.run))
        self._start(stack)
        settings = self._settings
        began = time.monotonic()
        producer = RawProducer(settings.broker, settings.run, self._codec)
        stack.callback(producer.abandon)
        history = History(producer, settings.broker, settings.run, self._codec)
        with self._progress() as progress:
            self._write(history, progress)
            self._settle(history, progress)
        return self._report(history, time.monotonic() - began)

    def _start(self, stack: ExitStack) -> None:
        """Start the servers, make topics and tables, start worker and sink: each where it is missing."""
        given = self._settings
        before = local.status(given.state)
        if not (before and (before.kafka_pid or before.postgres_pid)):
            stack.callback(local.stop, given.state)
        with self._console.status("starting") as status:
            started = local.start(
                given.state, kafka=not given.broker, postgres=not given.database, say=lambda line: status.update(line)
            )
            settings = self._settings = msgspec.structs.replace(
                given, broker=given.broker or started.broker, database=given.database or started.database
            )
            made = admin.create_topics(settings.broker, settings.run)
            database.migrate(settings.database, status.update)
            stack.callback(self._end)
            if made:  # nobody can be at work in it yet
                groups = [admin.Group(name, "dead", 0, {}) for name in NAMES]
            else:
                groups = admin.groups(admin.connect(settings.broker), settings.run)
            self._start_missing(groups)

    def _start_missing(self, groups: Sequence[admin.Group]) -> None:
        """Start a worker and a sink where nobody does their work. Looked at again later: one may be ending."""
        for name, group in zip(NAMES, groups, strict=True):
            if not group.members and name not in self._processes:
                self._processes[name] = self._process(name)

    def _end(self) -> None:
        """Stop what was started, in the end by force."""
        for process in self._processes.values():
            process.terminate()
        for process in self._processes.values():
            try:
                process.wait(STOP_LIMIT_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _process(self, name: str) -> "subprocess.Popen[bytes]":
        with (self._folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", f"from topology.importing.job import child; child({os.getpid()})", name],
                env={**os.environ, **self._settings.environment()},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the import, which stops them in order
            )

    def _progress(self) -> Progress:
        return Progress(
            TextColumn("{task.description:<8}"),
            BarColumn(),
            TextColumn("{task.percentage:>4.0f} %  {task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self._console,
        )

    def _write(self, history: History, progress: Progress) -> None:
        total = sum(file.size for file in self._files)
        reading = progress.add_task("reading", total=total, note="")
        began = time.monotonic()

        def report() -> None:
            rate = history.rows / (time.monotonic() - began)
            progress.update(
                reading,
                completed=sum(file.read for file in self._files),
                note=f"{history.rows:>12,} rows {rate:>9,.0f}/s",
            )
            if time.monotonic() - self._looked > LOOK_EVERY_S:
                self._check_processes()

        grace = max(self._instruments[file.symbol].rules.grace_ns for file in self._files)
        history.write(self._files, self._unreadable, grace, report)
        progress.update(reading, completed=total)

    def _settle(self, history: History, progress: Progress) -> None:
        """Wait until the worker has processed everything and the sink has stored what came of it."""
        client = admin.connect(self._settings.broker)
        bars = [progress.add_task(name, total=None, note="") for name in ("worker", "database")]
        most = [0, 0]
        while True:
            groups = admin.groups(client, self._settings.run)
            self._start_missing(groups)
            behind = [group.total for group in groups]
            for number, left in enumerate(behind):
                most[number] = max(most[number], left)
                self._bar(progress, bars[number], left, most[number])
            if not any(behind):
                return
            self._check_processes()
            self._check_movement((behind[0], behind[1]))
            time.sleep(0.2)

    def _bar(self, progress: Progress, bar: TaskID, left: int, most: int) -> None:
        progress.update(bar, total=max(most, 1), completed=max(most, 1) - left, note=f"{left:>12,} records to go")

    def _check_processes(self) -> None:
        self._looked = time.monotonic()
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                log = self._folder / f"{name}.log"
                reason = why(log.read_text(errors="replace"))
                raise ImportStopped(f"the {name} ended with code {code}: {reason} (all of it: {log})")

    def _check_movement(self, behind: tuple[int, int]) -> None:
        if behind != self._behind:
            self._behind, self._moved = behind, time.monotonic()
        elif time.monotonic() - self._moved > STUCK_S:
            raise ImportStopped(
                f"nothing has moved for {STUCK_S:.0f} s ({behind[0]:,} records before the worker, {behind[1]:,} "
                f"before the database): see the logs in {self._folder}; the same command goes on"
            )

    def _report(self, history: History, seconds: float) -> int:
        console, run = self._console, self._settings.run
        found = summary.account(self._settings.broker, run, self._codec)
        bad = sum(history.bad.values())
        console.print(summary.table(found, bad))
        ticks = sum(history.ticks.values())
        again = f", {history.resumed:,} records were there already" if history.resumed else ""
        console.print(f"{ticks:,} ticks in {seconds:.1f} s, {ticks / seconds:,.0f} a second{again}", highlight=False)
        for path, count in history.bad.most_common(SHOWN):
            console.print(f"[yellow]{count:,} bad rows[/] in {path}: see market.dead_letter", highlight=False)
        missing = found.missing(history.ticks)
        if missing:
            console.print(f"[red]{missing:,} ticks are not accounted for[/]: please report it", highlight=False)
        console.print(f"look at it: TICKLOOM_RUN={run} tickloom candles {self._files[0].symbol}", highlight=False)
        return 1 if missing or history.unreadable else 0


def why(log: str) -> str:
    """The line of a log that tells most of an end: its last error, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if re.search(r"\b(CRITICAL|ERROR)\b|^Error", line)), lines[-1])


@contextmanager
def alone(path: Path, run: str) -> Iterator[None]:
    """Hold a run's lock. Raises ImportStopped where another import holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ImportStopped(f"another import of run {run} is under way: wait for it, or stop it") from error
        yield


def child(parent: int) -> None:
    """Run a `tickloom` command that ends when the process ``parent`` has gone, however that ended."""
    end_with(parent)
    from topology.cli import main

    main(prog_name="tickloom")


def end_with(parent: int) -> None:
    """Send this process SIGTERM once it is no longer a child of ``parent``."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
