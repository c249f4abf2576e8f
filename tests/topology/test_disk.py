"""States on disk: what was committed and nothing else, of the changelog that is there; a worker goes on from it."""

import random
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.local import Stack
from schemas import topics
from schemas.instrument import ConfigError
from tests.market import market
from tests.topology.processes import PARTITIONS, Process, assert_as_expected, produce, read, wait_for_no_lag
from topology import admin, config, disk
from topology.disk import DiskStates
from topology.table import States
from topology.task import _OFFSET, applied_offset

pytest.importorskip("rocksdict", reason="pip install 'tickloom[rocksdb]'")


def value(applied: int, text: bytes = b"x") -> bytes:
    return _OFFSET.pack(applied) + text


def test_what_was_reached_is_there_again_and_what_was_not_is_not(tmp_path: Path) -> None:
    states = DiskStates(tmp_path, "topic", 100)
    assert (states.offset, states.values) == (None, {})
    states.put(b"EURUSD", value(1))
    states.apply(b"#3", value(5), {"raw": b"id"})
    states.reach(7)
    states.put(b"EURUSD", value(9))
    states.close()
    again = DiskStates(tmp_path, "topic", 100)
    assert (again.offset, again.origin) == (7, "id")
    assert again.values == {b"EURUSD": value(1), b"#3": value(5)}
    again.put(b"EURUSD", value(8))
    again.forget()  # a task had not saved all
    assert (again.offset, again.values) == (7, {b"EURUSD": value(1), b"#3": value(5)})
    again.apply(b"EURUSD", None, {})
    again.reach(8)
    again.close()
    last = DiskStates(tmp_path, "topic", 100)
    assert (last.offset, last.values) == (8, {b"#3": value(5)})
    last.close()


@pytest.mark.parametrize(("topic", "end"), [("another", 100), ("topic", 7)])
def test_the_files_of_another_changelog_are_thrown_away(tmp_path: Path, topic: str, end: int) -> None:
    states = DiskStates(tmp_path, "topic", 100)
    states.put(b"EURUSD", value(1))
    states.reach(7)
    states.close()
    states = DiskStates(tmp_path, topic, end)
    assert (states.offset, states.values, states.origin) == (None, {}, "")
    states.reach(3)
    states.close()
    states = DiskStates(tmp_path, topic, end)
    assert states.offset == 3
    states.close()


KEYS = st.sampled_from([b"EURUSD", b"GBPUSD", b"#1", b"offset"])
CHANGES = st.lists(st.tuples(KEYS, st.none() | st.integers(0, 9), st.booleans()), max_size=30)


@settings(max_examples=15, deadline=None)  # each opens two databases
@given(CHANGES)
def test_killed_anywhere_it_holds_a_beginning_of_the_changelog(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[bytes, int | None, bool]]
) -> None:
    path = tmp_path_factory.mktemp("states")
    states, kept = DiskStates(path, "topic", 1_000), States()
    begun: dict[bytes, bytes] = {}
    for offset, (key, applied, reached) in enumerate(changes):
        for each in (states, kept):
            each.apply(key, None if applied is None else value(applied, b"%d" % offset), {})
            each.reach(offset) if reached else None
        if reached:
            begun = dict(kept.values)
    assert states.values == kept.values
    states.close()  # as a kill: what was not reached is not written
    again = DiskStates(path, "topic", 1_000)
    assert (again.values, again.offset) == (begun, kept.offset)
    again.close()


def test_a_directory_that_can_not_be_used_costs_only_time(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "states").write_text("")
    nowhere = config.Settings(broker="127.0.0.1:1", state_store="rocksdb")
    states = disk.new_states(nowhere, tmp_path)(3)
    assert type(states) is States
    assert "the state is read from Kafka" in caplog.text


def test_a_full_disk_leaves_a_beginning_and_stops_nothing(tmp_path: Path) -> None:
    command = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(tmp_path)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("a filesystem can't be mounted here")
    chance = random.Random(1)
    try:
        states = DiskStates(tmp_path / "0", "topic", 10_000)
        for offset in range(1_500):
            states.put(b"%d" % (offset % 50), value(offset, chance.randbytes(4_000)))
            states.reach(offset)
        assert states.offset == 1_499
        assert len(states.values) == 50
        states.close()
        subprocess.run(["mount", "-o", "remount,size=30m", str(tmp_path)], check=True)
        states = DiskStates(tmp_path / "0", "topic", 10_000)
        end = (states.offset or 0) + 1
        assert 50 < end < 1_500
        assert sorted(map(applied_offset, states.values.values())) == list(range(end - 50, end))
        states.close()
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_the_store_is_a_setting() -> None:
    assert config.load({"TICKLOOM_STATE_STORE": "rocksdb"}).state_store == "rocksdb"
    assert type(disk.new_states(config.Settings(), Path())(1)) is States
    with pytest.raises(ConfigError, match="neither memory nor rocksdb"):
        config.load({"TICKLOOM_STATE_STORE": "redis"})


# A real worker.


def recovered(worker: Process) -> int:
    """How many changelog records it has read."""
    return int(re.findall(r"(\d+) changelog records read", worker.log.read_text())[0])


@pytest.mark.integration
def test_a_killed_worker_goes_on_from_its_files(
    stack: Stack, run: str, start: Callable[..., Process], environment: dict[str, str]
) -> None:
    settings = {"TICKLOOM_STATE_STORE": "rocksdb", "TICKLOOM_DATA": environment["TICKLOOM_DATA"]}
    records = market(1, 6_000)
    worker = start("worker", **settings)
    produce(stack.broker, run, records[:3_000])
    wait_for_no_lag(stack.broker, run, [worker])
    worker.kill()
    changelog = len(read(stack.broker, admin.state_topic(run)))
    assert changelog > 1
    worker = start("worker", **settings)
    produce(stack.broker, run, records[3_000:])
    wait_for_no_lag(stack.broker, run, [worker])
    assert recovered(worker) == 0
    assert worker.stop() == 0
    ends = [path.read_text().splitlines()[-1] for path in Path(environment["TICKLOOM_DATA"]).rglob("states/*/LOG")]
    assert len(ends) == PARTITIONS
    assert all("Shutdown complete" in line for line in ends)  # left open it can crash a process that exits
    assert_as_expected(stack.broker, run, exactly=True)
    for path in Path(environment["TICKLOOM_DATA"]).rglob("states"):
        path.rename(path.with_name("elsewhere"))
    worker = start("worker", **settings)
    wait_for_no_lag(stack.broker, run, [worker])
    produce(stack.broker, run, market(2, 500))
    wait_for_no_lag(stack.broker, run, [worker])
    assert recovered(worker) > changelog
    assert worker.stop() == 0


@pytest.mark.integration
def test_it_knows_from_its_files_that_the_input_was_made_anew(
    stack: Stack, run: str, start: Callable[..., Process], environment: dict[str, str]
) -> None:
    """Else as many records of the new one would be passed over as the old one had."""
    settings = {"TICKLOOM_STATE_STORE": "rocksdb", "TICKLOOM_DATA": environment["TICKLOOM_DATA"]}
    worker = start("worker", **settings)
    produce(stack.broker, run, market(1, 1_000))
    wait_for_no_lag(stack.broker, run, [worker])
    assert worker.stop() == 0
    raw = topics.named(topics.RAW.name, run)
    client = admin.connect(stack.broker)  # has to live until it is done
    client.delete_topics([raw])[raw].result(30)
    admin.create_topics(stack.broker, run, partitions=PARTITIONS)
    produce(stack.broker, run, market(2, 2_000))
    worker = start("worker", **settings)
    limit = time.monotonic() + 60
    while worker.is_running():
        assert time.monotonic() < limit, worker.tail()
        time.sleep(0.05)  # polling the end of a process
    assert "is not the topic that the state has processed" in worker.log.read_text(), worker.tail()
