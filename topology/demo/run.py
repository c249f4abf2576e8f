"""`tickloom demo`: the whole system on this machine, fed by simulated brokers, watched, and checked at the end.

Rule: a run of its own (`demo-<time>`: topics, groups, state, rows), so that nothing else is disturbed; what was
started here is stopped here, and what was made is removed. The exit code is 0 only if the pipeline reported and
stored exactly what follows from what was injected.

    feed --> market.raw --> worker --> market.data.* --> sink --> database
     |                                      |                        |
     '-- Expected           compare         '-- Seen        Stored --'
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

import msgspec
import yaml
from rich.console import Console

from connectors import simulated
from connectors.runtime.producer import ProducerError
from deploy import local
from schemas import instrument
from schemas.instrument import ConfigError
from topology import admin, config
from topology.config import Settings
from topology.demo import rows
from topology.demo.play import Demo, DemoError, check_alive, play
from topology.demo.report import compare
from topology.demo.view import summary
from topology.running import STOPS, stopping
from topology.storage import database

SHORTEST_S: Final = 25  # each fault occurs in this time
START_LIMIT_S: Final = 60
STOP_LIMIT_S: Final = 15
LEAVE_LIMIT_S: Final = 30
NAME: Final = "demo-%Y%m%d-%H%M%S"  # of a run, by its start in UTC
KILLED_AFTER: Final = timedelta(minutes=10)  # older demo runs without a worker were killed: they are removed


def run_demo(seconds: float | None) -> int:
    """Run until Ctrl-C or for so many seconds; give the exit code. Raises what the command line explains."""
    if seconds is not None and seconds < SHORTEST_S:
        raise ConfigError(f"--seconds {seconds:g} is too short for anything to happen: {SHORTEST_S} or more")
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    try:
        with stopping(), Undo() as undo:
            return _run(_prepare(undo, console, seconds))
    except (ProducerError, admin.BrokerError) as error:
        raise DemoError(str(error)) from error
    except KeyboardInterrupt:
        console.print("[yellow]stopped, without the comparison[/]")
        return 130


class Undo(ExitStack):
    """What is to be undone at the end. Once that has begun it goes through: half of it would leave processes."""

    def __exit__(self, *details: Any) -> None:
        """Undo it, deaf to Ctrl-C."""
        handlers = {number: signal.signal(number, signal.SIG_IGN) for number in STOPS}
        try:
            super().__exit__(*details)
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _run(demo: Demo) -> int:
    began = time.monotonic()
    play(demo)
    with database.connect(demo.settings.database) as connection:
        instruments = instrument.load(demo.settings.instruments)
        stored = rows.stored(connection, demo.settings.run, instruments)
    compared = compare(demo.expected, demo.seen, stored)
    demo.console.print(summary(compared, demo.seen, time.monotonic() - began))
    demo.agreed = all(row.ok for row in compared)
    if not demo.agreed:
        demo.console.print(f"[red]  feed: {demo.recipe}; logs of worker and sink: {demo.folder}[/]")
    return 0 if demo.agreed else 1


# Before: servers, topics, tables, processes.


def _prepare(undo: Undo, console: Console, seconds: float | None) -> Demo:
    """Start everything that is missing; `undo` undoes it in the reverse order."""
    given = config.load()
    settings = _start_servers(undo, console, given)
    run = datetime.now(UTC).strftime(NAME)
    folder = settings.state.absolute() / run
    settings = msgspec.structs.replace(
        settings,
        run=run,
        instruments=folder / "instruments.yaml",
        data=folder / "data",
    )
    demo = Demo(settings, folder, console, seconds)
    (folder / "data").mkdir(parents=True)
    undo.push(partial(_remove_folder, demo))
    classes = yaml.safe_load(instrument.DEFAULT.read_text())["classes"]
    text = yaml.safe_dump(simulated.instruments(classes), sort_keys=False)
    (folder / "instruments.yaml").write_text(text)
    with _step(console, "Topics and tables") as say:
        client = admin.connect(settings.kafka)
        found: list[str] = []
        database.migrate(settings.database, found.append)
        _remove_killed(client, settings)
        undo.callback(_remove_run, demo)
        topics = admin.create_topics(settings.kafka, run)
        say(f"{len(topics)} topics of run {run}; {found[-1].removeprefix('database: ')}")
    with _step(console, "Worker and sink") as say:
        undo.callback(_stop, demo)
        for name in ("worker", "sink"):
            _start(demo, name)
        _await_ready(demo, client)
        say(f"web views at {demo.web}")
    return demo


def _start_servers(undo: Undo, console: Console, given: Settings) -> Settings:
    with _step(console, "Kafka and PostgreSQL") as say:
        before = local.status(given.state)
        found = local.start(given.state, kafka=not given.broker, postgres=not given.database, say=say)
        if not (before and (before.kafka_pid or before.postgres_pid)) and (found.kafka_pid or found.postgres_pid):
            undo.callback(_stop_servers, console, given)
        settings = msgspec.structs.replace(
            given, broker=given.broker or found.broker, database=given.database or found.database
        )
        say(f"{settings.broker} and {config.without_password(settings.database)}")
    return settings


def _stop_servers(console: Console, given: Settings) -> None:
    with _step(console, "Kafka and PostgreSQL") as say:
        local.stop(given.state)
        say("stopped, as they were before; `make up` starts them to stay")


@contextmanager
def _step(console: Console, what: str) -> Iterator[Callable[[str], None]]:
    """Show what is under way; once it is done, the last that was said of it and the time it took."""
    began = time.monotonic()
    last = ""
    with console.status(f"{what} …") as status:

        def say(text: str) -> None:
            nonlocal last
            last = text
            status.update(f"{what}: {text}")
            if not console.is_terminal and text.endswith("..."):  # what takes long
                console.print(f"  {what}: {text}", highlight=False)

        yield say
    took = f"[dim]({time.monotonic() - began:.1f} s)[/]"
    console.print(f"[green]✓[/] [bold]{what}[/]: {last} {took}", highlight=False, soft_wrap=True)


def _start(demo: Demo, name: str) -> None:
    """Start a worker or sink as a user would, in a session of its own: Ctrl-C is for the demo."""
    with demo.log(name).open("wb") as log:
        demo.processes[name] = subprocess.Popen(
            [sys.executable, "-m", "topology.cli", name],
            env={**os.environ, **demo.settings.environment()},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _stop(demo: Demo) -> None:
    """Stop worker and sink, both at once."""
    limit = time.monotonic() + STOP_LIMIT_S
    for process in demo.processes.values():
        process.terminate()
    for process in demo.processes.values():
        try:
            process.wait(max(0.0, limit - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _await_ready(demo: Demo, client: Any) -> None:
    """Wait until the worker says that it has recovered, and the sink takes part in its group."""
    limit = time.monotonic() + START_LIMIT_S
    while True:
        workers, sink = admin.groups(client, demo.settings.run)
        demo.web = next((f"http://{address}/" for address in workers.addresses), "")
        if sink.members and demo.web and _is_ready(demo):
            return
        check_alive(demo)
        if time.monotonic() > limit:
            raise DemoError(f"worker and sink were not ready within {START_LIMIT_S} s; their logs: {demo.folder}")
        time.sleep(0.1)


def _is_ready(demo: Demo) -> bool:
    try:
        with urllib.request.urlopen(f"{demo.web}readyz", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


# After: remove what was made.


def _remove_folder(demo: Demo, error: type[BaseException] | None, *_: object) -> None:
    """Remove instruments, state and logs; not where there is reason to look at the logs."""
    nothing_to_look_at = demo.agreed and error in (None, KeyboardInterrupt)
    if nothing_to_look_at or not demo.processes:
        shutil.rmtree(demo.folder)


def _remove_run(demo: Demo) -> None:
    with _step(demo.console, "Clean-up") as say:
        client = admin.connect(demo.settings.kafka)
        limit = time.monotonic() + LEAVE_LIMIT_S
        while time.monotonic() < limit and _has_members(client, demo.settings.run):
            time.sleep(0.2)  # a process that was killed is a member until its session has run out
        _remove(demo.settings, demo.settings.run)
        say(f"topics, groups and rows of run {demo.settings.run} removed")


def _has_members(client: Any, run: str) -> bool:
    return any(group.members for group in admin.groups(client, run))


def _remove(settings: Settings, run: str) -> None:
    admin.delete_run(settings.kafka, run)
    with database.connect(settings.database) as connection:
        database.delete_run(connection, run)


def _remove_killed(client: Any, settings: Settings) -> None:
    """Remove what is left of demos that were killed."""
    names = {name.split(".")[0] for name in client.list_topics(timeout=10).topics}
    for run in sorted(names):
        if not re.fullmatch(r"demo-\d{8}-\d{6}", run):
            continue
        age = datetime.now(UTC) - datetime.strptime(run, NAME).replace(tzinfo=UTC)
        if age > KILLED_AFTER and not _has_members(client, run):
            _remove(settings, run)
