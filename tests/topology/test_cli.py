"""The command as a user meets it: what it says, what it exits with, and that no error is a traceback."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from confluent_kafka import Producer
from rich.console import Console

from connectors.runtime import log
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.record import Clock, Gap, Record, Status
from topology import admin, cli
from topology import status as overview
from topology.explain import explain
from topology.status_view import show

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
START = 1_704_441_600 * SECOND  # 2024-01-05 08:00 UTC
NOBODY_THERE = "127.0.0.1:1"


Run = Callable[..., Result]


@pytest.fixture
def tickloom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in an empty directory, with no server named but those in its environment."""
    monkeypatch.chdir(tmp_path)
    bare = dict.fromkeys(("TICKLOOM_BROKER", "TICKLOOM_DATABASE", "TICKLOOM_RUN", "TICKLOOM_STATE"))

    def run(*arguments: str, **environ: str) -> Result:
        env = {**bare, **environ}
        result = CliRunner().invoke(cli.main, list(arguments), env=env, prog_name="tickloom")
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return run


@pytest.fixture
def run(stack: Stack, run_name: str) -> Iterator[str]:
    yield run_name
    admin.delete_run(stack.broker, run_name)


def produce(stack: Stack, run: str, *records: Record, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": stack.broker})
    codec = Codec()
    for record in records:
        topic = topics.RAW if isinstance(record, Clock) else topics.OUTPUT_OF[type(record)]
        key = topics.CLOCK_KEY if isinstance(record, Clock) else topics.key(record)
        producer.produce(topics.named(topic.name, run), codec.encode(record), key=key, partition=partition)
    assert producer.flush(30) == 0


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def test_help_names_every_command_and_every_setting_on_one_screen(tickloom: Run) -> None:
    result = tickloom("--help")
    assert result.exit_code == 0
    assert result.output.count("\n") <= 50
    for path in commands(cli.main):
        assert re.search(rf"\b{path[-1]}\b", result.output), path
    from topology.config import READ

    for field in READ:
        name = "SCHEMA_REGISTRY_URL" if field == "schema_registry_url" else f"TICKLOOM_{field.upper()}"
        assert name in result.output


@pytest.mark.parametrize("path", list(commands(cli.main)), ids=" ".join)
def test_every_command_explains_itself(tickloom: Run, path: tuple[str, ...]) -> None:
    result = tickloom(*path, "--help")
    assert result.exit_code == 0
    assert f"Usage: tickloom {' '.join(path)}" in result.output
    command: Any = cli.main
    for name in path:
        command = command.commands[name]
    options = [each for each in command.params if isinstance(each, click.Option)]
    assert [option.name for option in options if not option.help] == []


def test_help_imports_nothing_but_click() -> None:
    probe = (
        "import sys; from topology import cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'faust', 'aiokafka', 'confluent_kafka', 'psycopg', 'rich', 'msgspec', 'yaml', 'asyncio'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_mistyped_command_is_refused(tickloom: Run) -> None:
    result = tickloom("topic", "check")
    assert result.exit_code == 2
    assert "No such command 'topic'" in result.output


def error_of(result: Result) -> str:
    """The one line that a failed command ends with."""
    assert result.exit_code == 1
    lines = result.output.strip().splitlines()
    assert lines[-1].startswith("Error: ")
    assert "Traceback" not in result.output
    return lines[-1]


def test_without_servers_a_command_says_how_to_get_them(tickloom: Run) -> None:
    assert "make up" in error_of(tickloom("topics", "check"))
    assert "TICKLOOM_BROKER" in error_of(tickloom("worker"))


def test_a_wrong_setting_is_one_line(tickloom: Run) -> None:
    assert "TICKLOOM_RUN: 'a b'" in error_of(tickloom("topics", "check", TICKLOOM_RUN="a b"))


def test_the_name_of_an_imports_run_is_checked_like_any(tickloom: Run) -> None:
    assert "TICKLOOM_RUN: 'a b'" in error_of(tickloom("import", "x.csv", "--run", "a b"))
    assert "nothing to import" in error_of(tickloom("import"))


def test_a_broker_that_is_away_is_one_line(tickloom: Run) -> None:
    line = error_of(tickloom("topics", "list", TICKLOOM_BROKER=NOBODY_THERE))
    assert line.startswith("Error: no Kafka answers at 127.0.0.1:1")


def test_a_disk_without_room_says_where_to_go() -> None:
    text = explain(OSError(28, "No space left on device", "/data/x"))
    assert "No space left" in text
    assert "TICKLOOM_DATA" in text


def test_an_error_of_ours_is_not_hidden() -> None:
    """A defect must show where it is: only known exceptions become one line."""

    @cli.main.command("defect", hidden=True)
    def defect() -> None:
        raise ZeroDivisionError

    try:
        assert isinstance(CliRunner().invoke(cli.main, ["defect"]).exception, ZeroDivisionError)
    finally:
        del cli.main.commands["defect"]


def test_the_local_stack_that_does_not_run(tickloom: Run) -> None:
    result = tickloom("local", "status")
    assert result.exit_code == 1
    assert result.output.count("not running: `make up`") == 2
    assert "nothing was running" in tickloom("local", "stop").output
    assert tickloom("local", "clean", "--yes").exit_code == 0


def test_removing_data_asks_first(tickloom: Run) -> None:
    result = tickloom("local", "clean")
    assert result.exit_code == 1
    assert "Aborted" in result.output


@pytest.mark.integration
def test_a_cluster_of_ones_own_is_shown_and_left_alone(tickloom: Run, stack: Stack) -> None:
    result = tickloom(
        "local", "status", TICKLOOM_BROKER=stack.broker, TICKLOOM_DATABASE="postgresql://me:secret@host/db"
    )
    assert result.exit_code == 0
    assert result.output.count("yours, not looked after here") == 2
    assert "secret" not in result.output


@pytest.mark.integration
def test_topics_are_created_checked_and_listed(tickloom: Run, stack: Stack, run: str) -> None:
    env = {"TICKLOOM_BROKER": stack.broker, "TICKLOOM_RUN": run}
    before = tickloom("topics", "check", **env)
    assert before.exit_code == 1
    assert f"{run}.market.raw: missing; fix: TICKLOOM_RUN={run} tickloom topics create" in before.output
    created = tickloom("topics", "create", "--partitions", "2", **env)
    assert created.exit_code == 0
    assert f"created {run}.market.raw: 2 partitions" in created.output
    after = tickloom("topics", "check", **env)
    assert after.exit_code == 0
    assert after.output.count(": ok") == len(admin.plans(run))
    again = tickloom("topics", "create", **env)
    assert "nothing to do" in again.output
    assert f"{run}.tickloom-symbols-changelog" in tickloom("topics", "list", **env).output


def source(name: str, status: str, **more: int) -> Status:
    counts = {"arrived": 10, "accepted": 6, "held": 1, **more}
    return Status(
        symbol="EURUSD",
        source=name,
        status=status,
        since=START,
        ts_event=START,
        ts_recv=START + SECOND,
        latency_ns=5_000_000,
        interval_ns=SECOND,
        spread=2,
        gaps=1,
        rejected={"DUPLICATE": 2, "SPIKE": 1},
        **counts,
    )


@pytest.mark.integration
def test_status_says_what_flows(tickloom: Run, stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=2)
    produce(stack, run, Clock(START), Clock(START + 7 * SECOND), partition=1)
    produce(stack, run, source("fxcm", "stale"), source("oanda", "live"), source("fxcm", "live"))
    closed = Gap("EURUSD", "oanda", START, START + SECOND, "stale", "closed")
    produce(stack, run, Gap("EURUSD", "fxcm", START, 0, "disconnect", "open"), closed)
    env = {"TICKLOOM_BROKER": stack.broker, "TICKLOOM_DATABASE": stack.database, "TICKLOOM_RUN": run}
    found = json.loads(tickloom("status", "--json", **env).output)
    assert [each["stream_time"] for each in found["partitions"]] == [0, START + 7 * SECOND]
    assert [each["worker_lag"] for each in found["partitions"]] == [0, 2]
    assert [(each["source"], each["status"]) for each in found["sources"]] == [("fxcm", "live"), ("oanda", "live")]
    assert found["rejections"] == {"DUPLICATE": 4, "SPIKE": 2}
    assert found["incomplete"] == []
    assert [each["source"] for each in found["open_gaps"]] == ["fxcm"]
    assert [each["members"] for each in found["groups"]] == [0, 0]
    text = tickloom("status", **env)
    assert text.exit_code == 0
    assert "not running: `tickloom worker`" in text.output
    assert "2024-01-05 08:00:07.000" in text.output
    assert "PostgreSQL" in text.output


def test_status_says_what_it_could_not_read_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent:
        def __init__(self, _settings: object) -> None: ...
        def assign(self, _places: object) -> None: ...
        def unassign(self) -> None: ...
        def close(self) -> None: ...
        def consume(self, _count: int, timeout: float) -> list[object]:
            return []

    monkeypatch.setattr(log, "Consumer", Silent)
    monkeypatch.setattr(overview, "READ_S", 0.01)
    with log.LogReader("127.0.0.1:1") as slow:
        reader = overview.Reader(slow, Codec())
        assert reader.newest("market.data.gap", {0: 0}, {0: 5}, Gap) == []
        assert reader.newest("market.source.status", {0: 5}, {0: 5}, Status) == []
    assert reader.incomplete == ["market.data.gap"]
    console = Console(record=True, width=160)
    show(overview.Overview("", "kafka:9092", incomplete=reader.incomplete), console, START)
    assert "! market.data.gap took too long to read" in console.export_text()


@pytest.mark.integration
def test_status_works_with_either_server_away_and_says_so(tickloom: Run, stack: Stack, run: str) -> None:
    admin.create_topics(stack.broker, run, partitions=1)
    no_database = tickloom(
        "status",
        TICKLOOM_BROKER=stack.broker,
        TICKLOOM_DATABASE=f"postgresql://me:hunter2@{NOBODY_THERE}/db",
        TICKLOOM_RUN=run,
    )
    assert no_database.exit_code == 1
    assert "Connection refused" in no_database.output
    assert "hunter2" not in no_database.output
    assert "market.raw" in no_database.output
    no_kafka = tickloom("status", TICKLOOM_BROKER=NOBODY_THERE, TICKLOOM_DATABASE=stack.database)
    assert no_kafka.exit_code == 1
    assert "no Kafka answers" in no_kafka.output
    assert "PostgreSQL" in no_kafka.output
    neither = tickloom("status")
    assert neither.exit_code == 1
    assert neither.output.count("not running: `make up`") == 2


@pytest.mark.integration
def test_status_before_the_topics_are_made_says_what_to_do(tickloom: Run, stack: Stack, run: str) -> None:
    result = tickloom("status", TICKLOOM_BROKER=stack.broker, TICKLOOM_RUN=run)
    assert result.exit_code == 1
    assert f"TICKLOOM_RUN={run} tickloom topics create" in result.output


@pytest.mark.integration
def test_a_database_that_refuses_the_user_is_one_line(tickloom: Run, stack: Stack) -> None:
    address = stack.database.replace("tickloom@", "somebody:hunter2@")
    result = tickloom("status", TICKLOOM_DATABASE=address)
    assert result.exit_code == 1
    assert "somebody" in result.output
    assert "hunter2" not in result.output
