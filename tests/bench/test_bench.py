"""The bench: does it see what is wrong, do its pages say what was measured, does it come to an end and clean up?

Nothing here looks at how fast anything is.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, TopicPartition

from bench import cluster, kafka, report
from bench.check import Digest
from bench.machine import ROOT
from deploy.local import Stack
from topology import admin

Value = tuple[bytes, bytes]

RIGHT: list[Value] = [(b"EURUSD", b"1"), (b"USDJPY", b"2"), (b"EURUSD", b"3")]


def digest(records: list[Value]) -> Digest:
    made = Digest()
    for key, value in records:
        made.add(key, value)
    return made


def test_the_order_between_keys_does_not_count() -> None:
    assert digest([RIGHT[1], RIGHT[0], RIGHT[2]]).difference(digest(RIGHT)) == ""


@pytest.mark.parametrize(
    ("records", "said"),
    [
        pytest.param(RIGHT[:2], "2 records instead of 3; 1 of 2 keys differ, first EURUSD: 1 instead of 2", id="lost"),
        pytest.param([*RIGHT, RIGHT[2]], "first EURUSD: 3 instead of 2", id="twice"),
        pytest.param([RIGHT[2], RIGHT[1], RIGHT[0]], "first EURUSD: 2 instead of 2", id="order of a key"),
        pytest.param([RIGHT[0], (b"USDJPY", b"0"), RIGHT[2]], "first USDJPY: 1 instead of 1", id="another value"),
        pytest.param([*RIGHT, (b"AUDUSD", b"4")], "first AUDUSD: 1 instead of 0", id="another key"),
    ],
)
def test_wrong_outputs_are_seen(records: list[Value], said: str) -> None:
    assert said in digest(records).difference(digest(RIGHT))


def test_the_pages_say_what_results_json_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written anew from the saved figures they do not change: nobody has put in figures by hand."""
    pages = [(report, "RESULTS"), (report, "README"), (report, "PLOT"), (cluster, "PAGE")]
    written: dict[Path, Path] = {}
    for module, name in pages:
        page: Path = getattr(module, name)
        written[page] = tmp_path / f"{name}{page.suffix}"
        shutil.copy(page, written[page])
        monkeypatch.setattr(module, name, written[page])
    report.save(report.load())
    for page, copy in written.items():
        assert copy.read_text() == page.read_text(), f"{page} is not what `report.save(report.load())` writes"


@pytest.fixture
def topic(stack: Stack, run_name: str) -> Iterator[str]:
    """A topic of two partitions."""
    client = admin.connect(stack.broker)
    kafka.create(client, run_name, 2)
    yield run_name
    client.delete_topics([run_name])[run_name].result(30)


@pytest.mark.integration
def test_what_is_left_is_counted_up_to_the_end_that_was_asked_for(stack: Stack, topic: str) -> None:
    """A group beside a live feed goes on behind it: that makes up for nothing in another partition."""
    consumer = Consumer({"bootstrap.servers": stack.broker, "group.id": topic})
    progress = kafka.Progress(stack.broker, topic, topic, {0: 10, 1: 10})
    try:
        assert progress.left() == 20  # no commit yet
        consumer.commit(offsets=[TopicPartition(topic, 0, 14), TopicPartition(topic, 1, 7)], asynchronous=False)
        assert progress.left() == 3
        consumer.commit(offsets=[TopicPartition(topic, 1, 12)], asynchronous=False)
        assert progress.left() == 0
    finally:
        progress.close()
        consumer.close()


@pytest.mark.integration
@pytest.mark.timeout(600)
def test_a_smoke_run_ends_with_right_outputs_and_leaves_nothing(tmp_path: Path) -> None:
    """All engines through the same input, every output compared, on servers of the bench's own."""
    before = report.RESULTS.read_bytes()
    command = [sys.executable, "-m", "bench", "--quick", "--only", "throughput", "--only", "start"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("outputs right") == 5 + 1, done.stdout  # of every engine, and the column's head
    assert "### Start" in done.stdout
    assert not list(tmp_path.iterdir())
    assert not list(ROOT.glob("bench-*"))  # what stock Faust makes where it runs
    assert report.RESULTS.read_bytes() == before
