"""`tickloom replay` and `compare` on real servers: the same rules give the same, other rules what the driver says."""

import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from connectors.runtime.log import LogReader
from deploy.local import Stack
from schemas import topics
from schemas.codec import Codec
from schemas.instrument import load
from schemas.record import Clock
from schemas.topics import Topic
from tests.market import HOUR, market, moment
from tests.stages.test_recorded_days import recorded as recorded_ticks
from tests.topology.processes import expected
from tests.topology.replaying import Base, tighter
from topology.replay.outputs import symbol_of

pytestmark = pytest.mark.integration

CODEC = Codec()


@pytest.fixture(scope="module")
def base(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Base:
    """A simulated log and what a worker and a sink made of it."""
    return Base(stack, "replayed-market", tmp_path_factory.mktemp("base"), market(11, 6_000))


@pytest.fixture(scope="module")
def changed(base: Base, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another rule, and a replay by it."""
    rules = tighter(tmp_path_factory.mktemp("rules") / "tighter.yaml", 1)
    code, output = base.replay("--run", "tighter", "--config", rules)
    assert code == 0, output
    return rules


def test_unchanged_rules_give_no_difference_with_other_batches_partitions_and_workers(base: Base) -> None:
    settings = {"TICKLOOM_COMMIT_SECONDS": "0.37", "TICKLOOM_DELIVERY": "at_least_once"}
    code, output = base.replay("--run", "same", "--times", 2, "--workers", 2, **settings)
    assert code == 0, output
    code, found = base.compare("same")
    assert found["differences"] == 0, found["first"]
    assert code == 0
    totals = Counter()
    for each in found["topics"]:
        totals[each["topic"]] += each["equal"]
        assert each["live"] == each["replay"] == each["equal"]
    assert all(totals[topic.name] > 10 for topic in (topics.TICK, topics.REJECTED, topics.BEST, topics.CANDLE)), totals


class Oracle:
    """What the driver, without Kafka, makes of a log by given rules, and how that differs from another."""

    def __init__(self, base: Base, rules: Path | None) -> None:
        self.made = expected(base.stack.broker, base.run, load(rules))

    def by_key(self, topic: Topic) -> dict[Any, bytes]:
        """The last value of every key; of ticks, refusals and best prices by the record that they came from."""
        if topic in (topics.CANDLE, topics.GAP):
            return {output.key: output.value for output in self.made[topic.name]}
        return {(output.key, output.offset): output.value for output in self.made[topic.name]}

    def differences(self, other: "Oracle", topic: Topic) -> tuple[Counter[str], int]:
        """Per symbol, how many keys differ; and how many of all are minutes or gaps without an end in one of them."""
        ours, theirs = self.by_key(topic), other.by_key(topic)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        open_ = {key for key in differing if is_provisional(ours.get(key)) or is_provisional(theirs.get(key))}
        return Counter(symbol_of(key if isinstance(key, bytes) else key[0]) for key in differing - open_), len(open_)


def is_provisional(value: bytes | None) -> bool:
    """Whether it is a candle that is not final, or a gap that is open."""
    record = CODEC.decode(value) if value is not None else None
    return getattr(record, "revision", 0) < 0 or getattr(record, "status", "") == "open"


def test_another_rule_gives_exactly_the_differences_that_the_driver_says(base: Base, changed: Path) -> None:
    code, found = base.compare("tighter")
    assert code == 1
    live, replay = Oracle(base, None), Oracle(base, changed)
    for topic in (topics.TICK, topics.REJECTED, topics.CANDLE, topics.GAP, topics.BEST):
        tallies = {each["symbol"]: each for each in found["topics"] if each["topic"] == topic.name}
        expected, provisional = live.differences(replay, topic)
        got = Counter({symbol: sum(each["differences"].values()) for symbol, each in tallies.items()})
        unknown = sum(each["not_compared"] for each in tallies.values())
        if topic is topics.BEST:  # where a transaction ended, nothing is known of the moment between
            assert got <= expected, topic.name
            assert expected.total() - got.total() <= unknown < expected.total() / 5
        else:
            assert (+got, unknown) == (expected, provisional), topic.name
        assert expected.total() > 0, topic.name
    first = [each for each in found["first"] if each["what"] == "newly refused" and each["topic"] == topics.TICK.name]
    assert first[0]["live"]["bid"]
    assert first[0]["replay"] is None


def test_a_replay_interrupted_then_killed_goes_on_and_gives_the_same(base: Base) -> None:
    arguments = ("--run", "interrupted", "--rate", 2500)
    for number, seconds in ((signal.SIGINT, 0.3), (signal.SIGKILL, 0.9)):
        process = base.start(*arguments)
        wait_for_copies(base, "replay-interrupted", process)
        signal.sigtimedwait([], seconds)  # somewhere in the middle, not a wait for anything
        process.send_signal(number)
        output, _ = process.communicate(timeout=90)
        assert process.returncode == (130 if number is signal.SIGINT else -signal.SIGKILL), output
        code, output = base.replay("compare", "interrupted")
        assert (code, "is not finished" in output) == (2, True), output
    code, output = base.replay("--run", "interrupted")
    assert code == 0, output
    assert base.compare("interrupted")[0] == 0
    code, output = base.replay("--run", "interrupted", "--symbols", "EURUSD")
    assert (code, "was begun with another range, symbols or rules" in output) == (1, True)


def wait_for_copies(base: Base, run: str, process: "subprocess.Popen[str]") -> None:
    """Wait until there are more copies than before."""
    name = topics.named(topics.RAW.name, run)
    deadline = time.monotonic() + 60
    with LogReader(base.stack.broker) as log:
        before = sum(end for _, end in log.bounds(name).values())
        while sum(end for _, end in log.bounds(name).values()) <= before:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_from_the_middle_with_some_symbols_only_what_is_asked_for_is_compared(base: Base) -> None:
    """With no warm-up the stages know nothing of before; with enough of it there is no difference."""
    with LogReader(base.stack.broker) as log:
        ends = {number: end for number, (_, end) in log.bounds(topics.named(topics.RAW.name, base.run)).items()}
    middle = max(ends.values()) // 2
    asked = ("--from", middle, "--to", middle + 300, "--symbols", "EURUSD,USDJPY")
    code, output = base.replay("--run", "warm", *asked)
    assert code == 0, output
    code, found = base.compare("warm")
    assert {each["symbol"] for each in found["topics"]} == {"EURUSD", "USDJPY"}
    assert (code, found["first"]) == (0, [])
    assert {each["end"] - each["start"] for each in found["stretches"] if each["end"] < ends[each["partition"]]} == {
        300
    }
    code, output = base.replay("--run", "cold", "--from", middle, "--warm-up", 0)  # to the end: minutes become final
    assert code == 0, output
    code, found = base.compare("cold")
    assert code == 1, found


def test_recorded_ticks_give_no_difference(stack: Stack, recorded: Path, run_name: str, tmp_path: Path) -> None:
    """Two brokers' hours as an import wrote them, with other partitions, workers and batches."""
    start = moment("2014-05-01T12:00:00")
    ticks = [piped.record for piped in recorded_ticks("EURUSD", start, start + HOUR // 2)]
    base = Base(stack, run_name, tmp_path, [tick for tick in ticks if not isinstance(tick, Clock)])
    settings = {"TICKLOOM_COMMIT_SECONDS": "0.6", "TICKLOOM_DELIVERY": "at_least_once"}
    code, output = base.replay("--run", run_name, "--times", 3, "--workers", 2, **settings)
    assert code == 0, output
    code, found = base.compare(run_name)
    assert (code, found["differences"]) == (0, 0), found["first"]
    equal = {each["topic"]: each["equal"] for each in found["topics"]}
    assert equal[topics.TICK.name] > 1000
    assert equal[topics.CANDLE.name] > 50
