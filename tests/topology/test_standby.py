"""Standby: another worker holds the state ready. And what a worker refuses to go on from."""

import json
import re
import threading
import time
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.local import Stack
from schemas import topics
from tests.market import market
from tests.topology.processes import (
    PARTITIONS,
    Process,
    assert_as_expected,
    free_ports,
    produce,
    read,
    wait_for_no_lag,
)
from tests.topology.test_worker import Workers, workers
from topology import admin, status
from topology.membership import Membership

pytestmark = pytest.mark.integration

__all__ = ["workers"]  # a fixture

PORTS: dict[int, int] = {}  # of the web views, by process


def until(done: Callable[[], bool], workers: list[Process], seconds: float = 40) -> None:
    """Wait for something that the workers bring about."""
    deadline = time.monotonic() + seconds
    while not done():
        for worker in workers:
            assert worker.is_running(), worker.tail()
        assert time.monotonic() < deadline, "\n\n".join(worker.tail() for worker in workers)
        time.sleep(0.05)


def start(workers: Workers) -> Process:
    """A worker with a port of its own for its web views."""
    [port] = free_ports(1)
    workers.environment["TICKLOOM_WEB_PORT"] = str(port)
    worker = workers.start()
    PORTS[worker.pid] = port
    return worker


def readiness(worker: Process) -> dict[str, object]:
    """What a worker says of itself; nothing while it is not ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{PORTS[worker.pid]}/readyz", timeout=2) as answer:
            said: dict[str, object] = json.load(answer)
            return said
    except OSError:
        return {}


def is_warm(worker: Process) -> bool:
    """Whether it has half of the partitions, and the state of the others to the last record."""
    said = readiness(worker)
    standby = said.get("standby")
    return isinstance(standby, dict) and list(standby.values()) == [0] * (PARTITIONS // 2)


def changelog_reads(worker: Process) -> list[tuple[int, int]]:
    """(records read, own partitions) of each recovery."""
    found = re.findall(r"(\d+) changelog records read; (\d+) partitions are ours", worker.log.read_text())
    return [(int(records), int(own)) for records, own in found]


def test_a_standby_takes_over_without_reading_the_state_again(stack: Stack, run: str, workers: Workers) -> None:
    """Killed in quiet: nothing is read. While records come: every topic is as the driver says, record for record."""
    workers.environment |= {"TICKLOOM_STANDBY": "1", "TICKLOOM_SESSION_SECONDS": "2"}
    records = market(5, 12_000)
    first, second = start(workers), start(workers)
    produce(stack.broker, run, records[:6_000])
    until(lambda: all(is_warm(worker) for worker in workers), workers)
    wait_for_no_lag(stack.broker, run, workers)
    until(lambda: all(is_warm(worker) for worker in workers), workers)
    recoveries = len(changelog_reads(second))
    first.kill()
    workers.remove(first)
    until(lambda: len(changelog_reads(second)) > recoveries, workers)
    assert changelog_reads(second)[-1] == (0, PARTITIONS)

    third = start(workers)
    until(lambda: is_warm(third), workers)
    produce(stack.broker, run, records[6_000:])
    second.kill()
    workers.remove(second)
    wait_for_no_lag(stack.broker, run, workers)
    written = len(read(stack.broker, admin.state_topic(run)))
    assert changelog_reads(third)[-1][1] == PARTITIONS
    assert changelog_reads(third)[-1][0] < written / 2
    assert_as_expected(stack.broker, run, exactly=True)


def test_a_worker_that_starts_again_signs_off_the_killed_one(stack: Stack, run: str, workers: Workers) -> None:
    """Its partitions do not wait for the session of the dead member to run out."""
    workers.environment["TICKLOOM_SESSION_SECONDS"] = "30"
    records = market(6, 4_000)
    worker = start(workers)
    produce(stack.broker, run, records[:2_000])
    wait_for_no_lag(stack.broker, run, workers)
    worker.kill()
    workers.clear()
    produce(stack.broker, run, records[2_000:])
    again = start(workers)
    wait_for_no_lag(stack.broker, run, workers, 25)
    assert "signed off the worker that has died here" in again.log.read_text()
    assert_as_expected(stack.broker, run, exactly=True)


def test_status_says_how_far_a_worker_is() -> None:
    """As the worker's own web views say it."""

    class Recovering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"error": "recovering state: 12 changelog records left in 2 partitions"}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Recovering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{server.server_port}"
        group = admin.Group("tickloom", "stable", 2, {}, [f"{admin.CLIENT}{address}", "somebody else"])
        found = status._workers(group)
        server.shutdown()
    assert found == [status.Worker(address, "recovering state: 12 changelog records left in 2 partitions")]
    silent = status._worker(address)
    assert "do not answer" in silent.unready


def test_a_living_worker_is_not_signed_off(tmp_path: Path) -> None:
    """The file is locked for the life of the process."""
    living = Membership(tmp_path)
    living.remember("member-1")
    other = Membership(tmp_path)
    other.remember("member-2")
    assert other.former == ""
    living.close()
    assert Membership(tmp_path).former == "member-1"


def processed(stack: Stack, run: str, workers: Workers) -> None:
    """A worker has processed something and is stopped."""
    produce(stack.broker, run, market(7, 500))
    worker = start(workers)
    wait_for_no_lag(stack.broker, run, workers)
    assert worker.stop() == 0
    workers.clear()


def last_words(worker: Process, seconds: float = 40) -> str:
    """What a worker said that ended by itself, in one line."""
    assert worker.wait(seconds) == 1, worker.tail()
    lines = [line for line in worker.log.read_text().splitlines() if "the worker ends" in line]
    assert len(lines) == 1, worker.tail()
    assert "Traceback" not in worker.log.read_text()
    return lines[0]


def remake(stack: Stack, name: str) -> None:
    """Delete a topic and make it anew, as somebody may who doesn't know better."""
    client = admin.connect(stack.broker)
    plan = next(plan for plan in admin.plans(name.split(".")[0]) if plan.name == name)
    admin._delete(client, name)
    admin._make(client, [plan], PARTITIONS, 1)


def test_a_state_that_is_gone_is_not_invented_anew(stack: Stack, run: str, workers: Workers) -> None:
    """The changelog made anew while the group has committed: the worker ends, and says what helps; that helps."""
    processed(stack, run, workers)
    remake(stack, admin.state_topic(run))
    produce(stack.broker, run, market(8, 10))
    said = last_words(start(workers))
    workers.clear()
    assert "has no state" in said
    command = f"--recreate {admin.state_topic(run)}"
    assert command in said
    done = admin.create_topics(stack.broker, run, recreate=[admin.state_topic(run)])
    assert f"removed group {admin.app_id(run)}" in done
    start(workers)
    wait_for_no_lag(stack.broker, run, workers)


def test_a_market_raw_made_anew_is_not_skipped(stack: Stack, run: str, workers: Workers) -> None:
    """Its offsets begin again below those of the state, and soon are beyond them: neither is taken for the old log."""
    processed(stack, run, workers)
    remake(stack, topics.named(topics.RAW.name, run))
    produce(stack.broker, run, market(9, 900))  # more than there were
    said = last_words(start(workers))
    workers.clear()
    assert "made anew" in said
    admin.create_topics(stack.broker, run, recreate=[admin.state_topic(run)])
    start(workers)
    wait_for_no_lag(stack.broker, run, workers)


@pytest.mark.parametrize("topic", [topics.RAW.name, topics.CANDLE.name, "state"])
def test_a_topic_deleted_under_the_worker_ends_it(stack: Stack, run: str, workers: Workers, topic: str) -> None:
    """One clear line that names it, within seconds."""
    produce(stack.broker, run, market(10, 500))
    worker = start(workers)
    wait_for_no_lag(stack.broker, run, workers)
    name = admin.state_topic(run) if topic == "state" else topics.named(topic, run)
    admin._delete(admin.connect(stack.broker), name)
    assert name in last_words(worker)


def test_a_session_that_kafka_does_not_allow_is_one_line(run: str, workers: Workers) -> None:
    """Faust would wait for ever for a group that refuses it."""
    workers.environment["TICKLOOM_SESSION_SECONDS"] = "0.5"  # the local stack allows 1 s
    assert "TICKLOOM_SESSION_SECONDS" in last_words(start(workers))
