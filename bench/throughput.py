"""Ticks/s of one worker through the whole topology, beside stock Faust and a bare loop on the same input.

The input lies in Kafka before a run begins. Time runs from the first record that the process takes up (it writes a
line then) to the moment when its group has committed the end of the input: all outputs are delivered by then. Every
run writes topics of its own and is checked. The engines take turns, so that a slow minute of the machine hits all.
"""

import time
from array import array
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from bench import check, kafka, machine
from bench.check import Digest
from bench.market import Market
from bench.process import WORKER, BenchError, Process
from bench.rig import PEER, Rig
from schemas import topics
from topology import admin
from topology.config import Settings

RUNS: Final = 3
WHOLE: Final = Market(symbols=100, ticks=3_000_000, seconds=10_800)
PREFIX_TICKS: Final = 30_000  # for peers that would take minutes
SETTLE_S: Final = 3.0  # new topics have leaders and files by then
START_S: Final = 120.0


class Input(msgspec.Struct, frozen=True):
    """A run whose market.raw is loaded, and what is right for it."""

    settings: Settings
    ticks: int
    ends: dict[int, int]  # of market.raw
    outputs: dict[str, Digest]  # of tickloom, by topic
    copies: dict[str, Digest]  # of a peer

    @property
    def topic(self) -> str:
        """Its market.raw."""
        return topics.named(topics.RAW.name, self.settings.run)


class Trial(msgspec.Struct, frozen=True):
    """A run that is about to be made."""

    arguments: Sequence[str]
    settings: Settings | None
    group: str
    outputs: dict[str, str]  # its topics, by the names that they have among the right ones
    begins: str  # the line that says: the first record is being taken up
    right: dict[str, Digest]


class Engine(msgspec.Struct, frozen=True):
    """Something that does the work; ``prepare`` makes its topics for one run."""

    name: str
    title: str
    whole: bool  # takes the whole input, else the prefix
    prepare: Callable[[Rig, Input], Trial]


def _tickloom(delivery: str) -> Callable[[Rig, Input], Trial]:
    def prepare(rig: Rig, source: Input) -> Trial:
        run = source.settings.run
        kafka.reset(rig.client, rig.broker, run)
        outputs = {topic.name: topics.named(topic.name, run) for topic in check.OUTPUTS}
        settings = msgspec.structs.replace(source.settings, delivery=delivery)
        return Trial(WORKER, settings, admin.app_id(run), outputs, "0 states loaded", source.outputs)

    return prepare


def _peer(module: str, last: Callable[[Input], Sequence[str]]) -> Callable[[Rig, Input], Trial]:
    def prepare(rig: Rig, source: Input) -> Trial:
        group = f"{PEER}{time.time_ns()}"
        output = f"{group}-output"
        kafka.create(rig.client, output, len(source.ends))
        arguments = ("-m", f"bench.{module}", rig.broker, source.topic, output, group, *last(source))
        return Trial(arguments, None, group, {topics.TICK.name: output}, "^FIRST", source.copies)

    return prepare


def _records(source: Input) -> Sequence[str]:
    return (str(sum(source.ends.values())),)


def _partitions(source: Input) -> Sequence[str]:
    return (str(len(source.ends)),)


def _partitions_info(source: Input) -> Sequence[str]:
    return (str(len(source.ends)), "info")


EXACTLY_ONCE: Final = Engine("tickloom-eos", "tickloom, every stage, exactly once", True, _tickloom("exactly_once"))
ENGINES: Final = (
    Engine("tickloom", "tickloom, every stage, at least once", True, _tickloom("at_least_once")),
    EXACTLY_ONCE,
    Engine("loop", "bare confluent-kafka loop: decode, encode, produce", True, _peer("peer_loop", _records)),
    Engine("faust", "stock Faust: one table write, one output", False, _peer("peer_faust", _partitions)),
    Engine("faust-info", "the same with `-l info`", False, _peer("peer_faust", _partitions_info)),
)


def measure(rig: Rig, *, scale: float = 1.0, runs: int = RUNS) -> dict[str, Any]:
    """Make all the runs; ``scale`` shrinks the input."""
    size = int(WHOLE.ticks * scale)
    market = Market(WHOLE.symbols, size, WHOLE.seconds * scale)
    whole = load(rig, "bench-whole", market)
    # The same seed and the same pace: the same first ticks.
    first = PREFIX_TICKS if scale == 1.0 else PREFIX_TICKS // 5
    prefix = load(rig, "bench-prefix", Market(market.symbols, first, market.seconds * first / size))
    rows = []
    for number in range(1, runs + 1):
        for engine in ENGINES:
            row = run_once(rig, engine, whole if engine.whole else prefix)
            rows.append(row)
            rig.say(
                f"  {number}/{runs}  {engine.name:<12}  {row['rate']:>9,} ticks/s  "
                f"{row['cpu_s_per_million']:>6} CPU s per million  {'; '.join(row['wrong']) or 'outputs right'}"
            )
    return {
        "market": {"symbols": market.symbols, "sources": 4, "seconds": market.seconds, "ticks": size},
        "outputs": {name: digest.total for name, digest in whole.outputs.items()},
        "runs": rows,
    }


def load(rig: Rig, run: str, market: Market) -> Input:
    """Load a market into a run, and work out what is right for it."""
    settings = rig.fill(run, market)
    raw = topics.named(topics.RAW.name, run)
    rig.say(f"working out what is right for {run} ...")
    return Input(
        settings=settings,
        ticks=market.ticks,
        ends=kafka.ends(rig.client, raw),
        outputs=check.outputs_offline(rig.client, settings),
        copies=check.copies_offline(rig.client, rig.broker, raw),
    )


def run_once(rig: Rig, engine: Engine, source: Input) -> dict[str, Any]:
    """Make one run of an engine and check what it wrote. Raises BenchError where it does not come to an end."""
    trial = engine.prepare(rig, source)
    time.sleep(SETTLE_S)
    before = machine.speed()
    with (
        rig.progress(engine.name, sum(source.ends.values())) as tell,
        Process(trial.arguments, rig.log(engine.name), trial.settings) as process,
    ):
        begun = process.wait_for(trial.begins, START_S)
        cpu, broker = process.cpu_seconds(), rig.kafka_cpu_seconds()
        done = kafka.await_commit(rig.client, rig.broker, trial.group, source.topic, process, tell)
        cpu, broker = process.cpu_seconds() - cpu, rig.kafka_cpu_seconds() - broker
        _, peak = process.memory_mb()
    after = machine.speed()
    wrong, first, last, steady = verify(rig, trial)
    millions = source.ticks / 1e6
    return {
        "engine": engine.name,
        "ticks": source.ticks,
        "rate": round(source.ticks / (done - begun)),
        "rate_by_append_time": round(source.ticks / max(1e-3, last - first)),
        "rate_second_half": round(steady),
        "seconds": round(done - begun, 2),
        "cpu_s_per_million": round(cpu / millions, 2),
        "kafka_cpu_s_per_million": round(broker / millions, 2),
        "cores": round(cpu / (done - begun), 2),
        "peak_mb": peak,
        "speed": [before, after],
        "wrong": wrong,
    }


def verify(rig: Rig, trial: Trial) -> tuple[list[str], float, float, float]:
    """What is wrong; when Kafka got the first and the last output; accepted ticks/s in the second half."""
    wrong, accepted = [], array("q")
    first, last = 1 << 62, 0
    for name, topic in trial.outputs.items():
        digest = Digest()
        for record in kafka.read(rig.client, rig.broker, topic):
            digest.add(record.key or b"", record.value or b"")
            first, last = min(first, record.timestamp), max(last, record.timestamp)
            if name == topics.TICK.name:
                accepted.append(record.timestamp)
        if difference := digest.difference(trial.right[name]):
            wrong.append(f"{name}: {difference}")
    if not accepted:
        raise BenchError(f"nothing came out: {wrong}")
    half = sorted(accepted)[len(accepted) // 2 :]
    steady = len(half) / max(1e-3, (half[-1] - half[0]) / 1e3)
    return wrong, first / 1e3, last / 1e3, steady
