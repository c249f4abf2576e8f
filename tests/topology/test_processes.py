"""`tickloom worker --processes`: real processes on a real Kafka."""

import os
import signal
import time
from pathlib import Path

import pytest

from deploy.local import Stack
from tests.market import market
from tests.topology.processes import PARTITIONS, Process, assert_as_expected, produce, wait_for_no_lag
from topology import admin
from topology.admin import create_topics

pytestmark = pytest.mark.integration


def children(pid: int) -> list[int]:
    """The processes that a process has started."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_there(pid: int) -> bool:
    """Whether a process has not ended; one that has and was not waited for does not count."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")")[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for_members(broker: str, run: str, count: int) -> None:
    """Wait until the group of a run's workers has so many members, and each its partitions."""
    deadline = time.monotonic() + 60
    while (found := admin.groups(admin.connect(broker), run)[0]).members != count or found.state != "stable":
        assert time.monotonic() < deadline, found
        time.sleep(0.2)


def test_two_processes_share_the_work_and_end_together(
    stack: Stack, run_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    create_topics(stack.broker, run_name, partitions=PARTITIONS)
    both = Process(environment, "worker", "--processes", "2", log=tmp_path / "log")
    try:
        wait_for_members(stack.broker, run_name, 2)
        produce(stack.broker, run_name, market(7, 3_000))
        wait_for_no_lag(stack.broker, run_name, [both])
        assert both.stop() == 0
    finally:
        both.kill()
    assert_as_expected(stack.broker, run_name, exactly=True)
    took = [line for line in both.log.read_text().splitlines() if "states loaded" in line]
    assert len({line.split("] [")[1] for line in took}) == 2  # process ids


def test_where_one_process_ends_all_end_with_code_1(
    stack: Stack, run_name: str, environment: dict[str, str], tmp_path: Path
) -> None:
    create_topics(stack.broker, run_name, partitions=PARTITIONS)
    produce(stack.broker, run_name, market(8, 500))
    both = Process(environment, "worker", "--processes", "2", log=tmp_path / "log")
    try:
        wait_for_no_lag(stack.broker, run_name, [both])
        first, second = children(both.pid)
        os.kill(first, signal.SIGKILL)
        assert both.wait(30) == 1
        assert not is_there(second)
        assert f"worker process {first} ended with code -9" in both.log.read_text()
    finally:
        both.kill()
