"""The local stack, with real servers: found again, repaired after kill -9, and no other process killed."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from deploy import local

pytestmark = pytest.mark.integration

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("stack")
    yield path
    local.stop(path)


@pytest.fixture
def stack(directory: Path) -> local.Stack:
    """Return the module's stack, running: what an earlier test killed is started again."""
    return local.start(directory)


def create(broker: str, topic: str) -> None:
    admin = AdminClient(
        {"bootstrap.servers": broker, "log_level": 0}
    )  # it outlives the servers until the next collection
    admin.create_topics([NewTopic(topic, 1, 1)])[topic].result(20)


def produce(broker: str, topic: str, value: bytes) -> None:
    producer = Producer({"bootstrap.servers": broker, "acks": "all", "log_level": 0})
    producer.produce(topic, value)
    assert producer.flush(20) == 0


def consume(broker: str, topic: str) -> bytes | None:
    consumer = Consumer({"bootstrap.servers": broker, "group.id": topic, "auto.offset.reset": "earliest"})
    consumer.subscribe([topic])
    try:
        message = consumer.poll(20)
        assert message is not None
        assert message.error() is None
        return message.value()
    finally:
        consumer.close()


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def gone(pid: int | None, within_s: float = 5.0) -> bool:
    limit = time.monotonic() + within_s
    while time.monotonic() < limit:
        try:
            if not Path(f"/proc/{pid}/cmdline").read_bytes():
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.02)
    return False


def test_kafka_takes_topics_and_records_as_soon_as_start_returns(stack: local.Stack) -> None:
    create(stack.broker, "first")
    produce(stack.broker, "first", b"1.1012")
    assert consume(stack.broker, "first") == b"1.1012"


def test_postgres_answers_as_the_owner_of_its_database_but_not_as_superuser(stack: local.Stack) -> None:
    with psycopg.connect(stack.database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        assert connection.execute("SHOW fsync").fetchone() == ("on",)
        connection.execute("CREATE SCHEMA scratch")
        assert connection.execute("SHOW is_superuser").fetchone() == ("off",)
        connection.rollback()
    with pytest.raises(psycopg.OperationalError, match=r"pg_hba\.conf"):
        psycopg.connect(stack.database.replace("tickloom@", "postgres@"))


def test_a_second_start_returns_the_running_stack_at_once(stack: local.Stack) -> None:
    said: list[str] = []
    before = time.monotonic()
    assert local.start(stack.directory, say=said.append) == stack
    assert time.monotonic() - before < 1.0
    assert said == []
    assert local.status(stack.directory) == stack


def test_starts_at_the_same_time_from_several_processes_share_one_stack(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; from deploy import local; "
    program += "print(local.start(Path(sys.argv[1]), kafka=False))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    try:
        with ThreadPoolExecutor(4) as pool:
            runs = pool.map(lambda _: subprocess.check_output(command, cwd=REPOSITORY), range(4))
            answers = set(runs)
        assert len(answers) == 1
        stack = local.status(tmp_path)  # the processes that started it have ended
        assert stack is not None
        assert stack.broker == ""
        assert repr(stack).encode() in answers.pop()
    finally:
        local.clean(tmp_path)
    assert local.status(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]


def test_a_killed_kafka_is_seen_and_repaired_with_its_records(stack: local.Stack) -> None:
    create(stack.broker, "kept")
    produce(stack.broker, "kept", b"before the crash")
    kill(stack.kafka_pid)
    assert gone(stack.kafka_pid)
    seen = local.status(stack.directory)
    assert seen is not None
    assert (seen.broker, seen.kafka_pid) == ("", None)
    assert seen.postgres_pid == stack.postgres_pid

    repaired = local.start(stack.directory)
    assert repaired.kafka_pid != stack.kafka_pid
    assert (repaired.broker, repaired.postgres_pid) == (stack.broker, stack.postgres_pid)
    assert consume(repaired.broker, "kept") == b"before the crash"


def await_statement(database: str, like: str) -> None:
    limit = time.monotonic() + 10
    busy = "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s AND pid <> pg_backend_pid()"
    with psycopg.connect(database, autocommit=True) as connection:
        while connection.execute(busy, [like]).fetchone() != (1,):
            assert time.monotonic() < limit
            time.sleep(0.02)


def test_a_killed_postgres_is_repaired_with_its_rows_though_a_statement_was_under_way(
    stack: local.Stack,
) -> None:
    with psycopg.connect(stack.database) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS row")
    with psycopg.connect(stack.database) as connection, ThreadPoolExecutor(1) as pool:
        long = pool.submit(connection.execute, "SELECT count(*) FROM generate_series(1, 1000000000)")
        await_statement(stack.database, "%generate_series%")
        kill(stack.postgres_pid)
        repaired = local.start(stack.directory)
        assert isinstance(long.exception(), psycopg.OperationalError)
    assert repaired.postgres_pid != stack.postgres_pid
    assert repaired.kafka_pid == stack.kafka_pid
    with psycopg.connect(repaired.database) as connection:
        assert connection.execute("SELECT row FROM kept").fetchone() == (7,)


def test_stop_ends_both_and_the_next_start_has_the_same_ports_and_data(stack: local.Stack) -> None:
    create(stack.broker, "stopped")
    produce(stack.broker, "stopped", b"before the stop")
    with psycopg.connect(stack.database):  # a client that stays does not hold up the stop
        assert local.stop(stack.directory)
    assert gone(stack.kafka_pid, 0.1)
    assert gone(stack.postgres_pid, 0.1)
    assert local.status(stack.directory) is None
    assert not local.stop(stack.directory)

    taken = socket.create_server(("127.0.0.1", int(stack.broker.rpartition(":")[2])))
    with taken:
        again = local.start(stack.directory)
    assert again.broker != stack.broker  # its port went to another program
    assert again.database == stack.database
    assert consume(again.broker, "stopped") == b"before the stop"


def test_servers_whose_stack_file_was_lost_are_replaced_not_doubled(stack: local.Stack) -> None:
    create(stack.broker, "lost")
    produce(stack.broker, "lost", b"before the loss")
    (stack.directory / "stack.json").unlink()
    found = local.start(stack.directory)
    assert gone(stack.kafka_pid, 0.1)
    assert gone(stack.postgres_pid, 0.1)
    assert consume(found.broker, "lost") == b"before the loss"
    with psycopg.connect(found.database) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_pid_that_now_belongs_to_another_process_is_neither_reported_nor_killed(tmp_path: Path) -> None:
    with subprocess.Popen(["sleep", "60"]) as foreign:
        entry = {"pid": foreign.pid, "port": 1, "controller": 2}
        (tmp_path / "stack.json").write_text(json.dumps({"kafka": entry, "postgres": entry}))
        assert local.status(tmp_path) is None
        assert not local.stop(tmp_path)
        local.clean(tmp_path)
        assert foreign.poll() is None
        foreign.kill()


def test_a_failed_download_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    with pytest.raises(local.LocalStackError, match="TICKLOOM_BROKER") as caught:
        local.start(tmp_path / "state", postgres=False)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "cache" / "tickloom" / f"kafka-{local.KAFKA_VERSION}").exists()


def test_a_server_that_dies_at_its_start_leaves_its_reason_and_its_log(tmp_path: Path) -> None:
    local.start(tmp_path, kafka=False)
    local.stop(tmp_path)
    (tmp_path / "postgres" / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(local.LocalStackError, match=r"FATAL.*PostgreSQL version 9.*server\.log"):
        local.start(tmp_path, kafka=False)
    assert local.status(tmp_path) is None


def test_a_full_disk_is_told_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=3_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(local.LocalStackError, match="3 MB of disk left"):
        local.start(tmp_path, kafka=False)
