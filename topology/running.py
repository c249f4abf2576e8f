"""What an import or a replay has beside it: servers, workers and a sink of its run, started where they are missing.

What is started here ends here, in order, however the command ends; what ran before is left running. A child process
ends by itself when the command that started it has gone.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from deploy import local
from topology import admin
from topology.config import Settings
from topology.storage import database

LOOK_EVERY_S: Final = 1.0  # at the groups and processes
STUCK_S: Final = 120.0
STOP_LIMIT_S: Final = 30.0
STOPS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunStopped(OSError):
    """What was under way cannot go on; the text is one line that says why and what to do."""


class Running:
    """The servers and processes of one run. ``settings`` names the servers once they are started."""

    def __init__(self, console: Console, settings: Settings, *, workers: int = 1) -> None:
        self.settings = settings
        self.folder = settings.state / "runs" / settings.run
        self._console = console
        self._workers = ["worker", *(f"worker-{number}" for number in range(2, workers + 1))]
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._looked = 0.0
        self._moved = time.monotonic()
        self._behind: tuple[int, int] | None = None

    def start_servers(self, stack: ExitStack) -> None:
        """Start Kafka and PostgreSQL where they are missing, and bring the schema up to date."""
        given = self.settings
        for folder in (self.folder, given.data_dir):
            folder.mkdir(parents=True, exist_ok=True)
        before = local.status(given.state)
        is_ours = not (given.broker and given.database)  # else nothing is started here, so nothing is stopped
        if is_ours and not (before and (before.kafka_pid or before.postgres_pid)):
            stack.callback(local.stop, given.state)
        with self._console.status("starting") as status:
            started = local.start(
                given.state, kafka=not given.broker, postgres=not given.database, say=lambda line: status.update(line)
            )
            self.settings = msgspec.structs.replace(
                given, broker=given.broker or started.broker, database=given.database or started.database
            )
            database.migrate(self.settings.database, status.update)

    def start_processes(self, stack: ExitStack, partitions: int | None = None) -> None:
        """Make topics, start workers and sink: each where it is missing."""
        settings = self.settings
        made = admin.create_topics(settings.kafka, settings.run, partitions=partitions)
        stack.callback(self._end)
        if made:  # nobody can be at work in it yet
            groups = [admin.Group(name, "dead", 0, {}) for name in ("workers", "sink")]
        else:
            groups = admin.groups(admin.connect(settings.kafka), settings.run)
        self._start_missing(groups)

    def _start_missing(self, groups: Sequence[admin.Group]) -> None:
        """Start workers and a sink where nobody does their work. Looked at again later: one may be ending."""
        for names, group in zip((self._workers, ["sink"]), groups, strict=True):
            if not group.members and names[0] not in self._processes:
                self._processes.update({name: self._process(name) for name in names})

    def _process(self, name: str) -> "subprocess.Popen[bytes]":
        more = {"TICKLOOM_WEB_PORT": "0", "TICKLOOM_SINK_WEB_PORT": "0"}  # those that are set may be another run's
        if name.startswith("worker-"):  # each needs files of its own
            more["TICKLOOM_DATA"] = str(self.folder / name)
        code = f"from topology.running import child; child({os.getpid()})"
        with (self.folder / f"{name}.log").open("wb") as log:
            return subprocess.Popen(
                [sys.executable, "-c", code, name.partition("-")[0]],
                env={**os.environ, **self.settings.environment(), **more},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for the command, which stops them in order
            )

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

    def look(self) -> None:
        """See now and then whether the processes are still there. Raises RunStopped."""
        if time.monotonic() - self._looked > LOOK_EVERY_S:
            self._check_processes()

    def settle(self, progress: Progress) -> None:
        """Wait until the workers have processed everything and the sink has stored what came of it."""
        client = admin.connect(self.settings.kafka)
        bars = [progress.add_task(name, total=None, note="") for name in ("worker", "database")]
        most = [0, 0]
        began = time.monotonic()
        while True:
            groups = admin.groups(client, self.settings.run)
            self._start_missing(groups)
            behind = (groups[0].total, groups[1].total)
            for number, left in enumerate(behind):
                most[number] = max(most[number], left)
                _bar(progress, bars[number], left, most[number], time.monotonic() - began)
            if not any(behind):
                return
            self._check_processes()
            self._check_movement(behind)
            time.sleep(LOOK_EVERY_S)  # it costs Kafka 50 ms of CPU

    def _check_processes(self) -> None:
        self._looked = time.monotonic()
        for name, process in self._processes.items():
            if (code := process.poll()) is not None:
                log = self.folder / f"{name}.log"
                reason = why(log.read_text(errors="replace"))
                raise RunStopped(f"the {name} ended with code {code}: {reason} (all of it: {log})")

    def _check_movement(self, behind: tuple[int, int]) -> None:
        if behind != self._behind:
            self._behind, self._moved = behind, time.monotonic()
        elif time.monotonic() - self._moved > STUCK_S:
            raise RunStopped(
                f"nothing has moved for {STUCK_S:.0f} s ({behind[0]:,} records before the worker, {behind[1]:,} "
                f"before the database): see the logs in {self.folder}; the same command goes on"
            )


def bars(console: Console) -> Progress:
    """Progress bars, each with a note of its own and the time left."""
    return Progress(
        TextColumn("{task.description:<8}"),
        BarColumn(),
        TextColumn("{task.percentage:>4.0f} %  {task.fields[note]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
    )


def _bar(progress: Progress, bar: TaskID, left: int, most: int, seconds: float) -> None:
    pace = (most - left) / max(seconds, 0.001)
    note = f"{left:>12,} records to go {pace:>9,.0f}/s"
    progress.update(bar, total=max(most, 1), completed=max(most, 1) - left, note=note)


def plain_console() -> Console:
    """The terminal; where there is none, wide enough for whole lines."""
    console = Console()
    return console if console.is_terminal else Console(width=160)


def why(log: str) -> str:
    """The line of a log that tells most of an end: its last error, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()] or ["it said nothing"]
    return next((line for line in reversed(lines) if re.search(r"\b(CRITICAL|ERROR)\b|^Error", line)), lines[-1])


@contextmanager
def alone(path: Path, run: str, what: str = "import") -> Iterator[None]:
    """Hold a run's lock. Raises RunStopped where another holds it."""
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunStopped(f"another {what} of run {run} is under way: wait for it, or stop it") from error
        yield


@contextmanager
def stopping() -> Iterator[None]:
    """Let SIGTERM and a terminal that goes away end a command as Ctrl-C does, and each of them as KeyboardInterrupt.

    What is raised while C code runs can come out of it as an error of its own: confluent_kafka's Consumer says that
    its settings are of a wrong type.
    """
    came = False

    def interrupt(*_: object) -> None:
        nonlocal came
        came = True
        raise KeyboardInterrupt

    heeded = [number for number in STOPS if signal.getsignal(number) is not signal.SIG_IGN]  # as nohup has it
    before = {number: signal.signal(number, interrupt) for number in heeded}
    try:
        yield
    except (TypeError, SystemError) as error:
        if came:
            raise KeyboardInterrupt from error
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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
