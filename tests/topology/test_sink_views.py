"""What a real sink says of itself: its metrics are what was done, and it is ready while rows get into the database."""

import json
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer, TopicPartition
from prometheus_client.parser import text_string_to_metric_families

from deploy.local import Stack
from schemas.codec import Codec
from schemas.topics import TICK, named
from tests.faults.proxy import Proxy
from tests.market import NOON, quote
from tests.topology.processes import Process, free_ports
from topology import admin

pytestmark = pytest.mark.integration

CODEC = Codec()


def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; 0 where nothing listens yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def scraped(port: int) -> dict[tuple[str, ...], float]:
    """Samples by name and label values in the order of the labels."""
    _, text = get(port, "/metrics")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def wait_for(sink: Process, what: Callable[[], Any], seconds: float = 60) -> Any:
    """Poll until something is so; give it."""
    limit = time.monotonic() + seconds
    while not (found := what()):
        assert sink.is_running(), sink.tail()
        assert time.monotonic() < limit, sink.tail()
        time.sleep(0.05)  # polling a web view
    return found


def produce(broker: str, run: str, *values: bytes, partition: int = 0) -> None:
    producer = Producer({"bootstrap.servers": broker})
    for offset, value in enumerate(values):
        headers: list[Any] = [("offset", str(offset))]
        producer.produce(named(TICK.name, run), value, b"EURUSD", partition, headers=headers)
    assert producer.flush(30) == 0


def ticks(first: int, count: int) -> list[bytes]:
    return [CODEC.encode(quote(at=NOON + number, seq=number)) for number in range(first, first + count)]


def test_the_metrics_are_what_was_done(stack: Stack, run: str, start: Callable[..., Process]) -> None:
    [port] = free_ports(1)
    sink = start("sink", TICKLOOM_SINK_WEB_PORT=str(port))
    produce(stack.broker, run, *ticks(0, 40), b"rubbish", CODEC.encode(quote(symbol="NOSUCH")))
    # 40 rows of ticks and 2 of the letters that the sink has written itself
    wait_for(sink, lambda: scraped(port).get(("tickloom_sink_rows_written_total",)) == 43)
    wait_for(
        sink, lambda: sum(n for (name, *_), n in scraped(port).items() if name == "tickloom_sink_lag_records") == 0
    )
    values = scraped(port)
    assert values["tickloom_sink_dead_letters_total", "UNKNOWN_SCHEMA"] == 1
    assert values["tickloom_sink_dead_letters_total", "UNKNOWN_SYMBOL"] == 1
    assert values["tickloom_sink_lag_records", "0", named(TICK.name, run)] == 0
    assert values["tickloom_sink_ready",] == values["tickloom_sink_database_up",] == 1
    assert values["tickloom_sink_database_retries_total",] == 0
    assert values["tickloom_sink_commits_total",] >= 2
    assert values["tickloom_sink_commit_seconds_total",] > 0
    assert values["tickloom_sink_rows_waiting",] == values["tickloom_sink_commit_age_seconds",] == 0
    assert values["process_resident_memory_bytes",] > 1_000_000
    assert get(port, "/healthz")[0] == 200
    status, text = get(port, "/readyz")
    assert (status, json.loads(text)["status"], json.loads(text)["lag"]) == (200, "ready", 0)
    assert get(port, "/symbols")[0] == 404
    assert sink.stop() == 0


def test_what_was_deleted_before_it_was_read_is_counted(stack: Stack, run: str, start: Callable[..., Process]) -> None:
    [port] = free_ports(1)
    sink = start("sink")
    produce(stack.broker, run, *ticks(0, 40))
    client = admin.connect(stack.broker)
    wait_for(sink, lambda: not admin.groups(client, run)[1].total)
    assert sink.stop() == 0
    produce(stack.broker, run, *ticks(40, 10))
    [done] = client.delete_records([TopicPartition(named(TICK.name, run), 0, 45)]).values()  # as retention does
    assert done.result(30).low_watermark == 45
    sink = start("sink", TICKLOOM_SINK_WEB_PORT=str(port))
    wait_for(sink, lambda: scraped(port).get(("tickloom_sink_rows_written_total",)) == 5)
    assert scraped(port)["tickloom_sink_records_missed_total", "0", named(TICK.name, run)] == 5


def test_without_its_database_it_is_healthy_but_not_ready(
    stack: Stack, run: str, start: Callable[..., Process]
) -> None:
    port, front = free_ports(2)
    behind = int(stack.database.rpartition(":")[2].partition("/")[0])
    database = stack.database.replace(f":{behind}/", f":{front}/")
    proxy = Proxy({front: behind})
    sink = start("sink", TICKLOOM_SINK_WEB_PORT=str(port), TICKLOOM_DATABASE=database)
    try:
        produce(stack.broker, run, *ticks(0, 3))
        wait_for(sink, lambda: get(port, "/readyz")[0] == 200)
        wait_for(sink, lambda: scraped(port).get(("tickloom_sink_rows_written_total",)) == 3)
    finally:
        proxy.close()
    produce(stack.broker, run, *ticks(3, 3))
    _, text = wait_for(sink, lambda: (answer := get(port, "/readyz"))[0] == 503 and answer)
    assert "the database has been away for" in text
    assert get(port, "/healthz")[0] == 200
    values = scraped(port)
    assert values["tickloom_sink_ready",] == values["tickloom_sink_database_up",] == 0
    assert values["tickloom_sink_database_retries_total",] >= 1
    assert values["tickloom_sink_commit_age_seconds",] > 0
    proxy = Proxy({front: behind})
    try:
        wait_for(sink, lambda: scraped(port).get(("tickloom_sink_rows_written_total",)) == 6)
        assert get(port, "/readyz")[0] == 200
        assert sink.stop() == 0
    finally:
        proxy.close()


@pytest.mark.parametrize(("command", "variable"), [("worker", "TICKLOOM_WEB_PORT"), ("sink", "TICKLOOM_SINK_WEB_PORT")])
def test_a_port_that_is_in_use_is_one_clear_line(
    run: str, start: Callable[..., Process], command: str, variable: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start(command, **{variable: str(port)})
        limit = time.monotonic() + 60
        while process.is_running():
            assert time.monotonic() < limit, process.tail()
            time.sleep(0.05)  # polling the end of a process
    lines = process.log.read_text().strip().splitlines()
    assert (
        lines[-1] == f"Error: port {port} on 127.0.0.1 is in use: set {variable} to another one, or to 0 for a free one"
    )
    assert "Traceback" not in "".join(lines)


@pytest.mark.parametrize("command", ["worker", "sink"])
def test_those_that_start_together_find_ports_of_their_own(
    run: str, start: Callable[..., Process], tmp_path: Path, command: str
) -> None:
    """The default port goes to one of them, whoever is first; all work."""
    every = [start(command, TICKLOOM_DATA=str(tmp_path / str(number))) for number in range(3)]
    ports = [wait_for(each, lambda one=each: web_port(one.log.read_text())) for each in every]
    assert len(set(ports)) == 3
    for each, port in zip(every, ports, strict=True):
        wait_for(each, lambda at=port: get(at, "/healthz")[0] == 200)


def web_port(log: str) -> int:
    """What a worker or sink says."""
    _, found, rest = log.partition("web views at http://127.0.0.1:")
    return int(rest.partition("/")[0]) if found else 0
