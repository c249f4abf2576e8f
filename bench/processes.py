"""What `tickloom worker --processes N` costs: CPU of all its processes for the same input, exactly once.

The input lies in Kafka before they start, so the first that is up begins alone. What counts begins when the group has
all N members and every partition has moved since; it ends when the end of the input is committed.
"""

import statistics
import time
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from bench import kafka, machine, throughput
from bench.market import Market
from bench.process import WORKER, BenchError, Process
from bench.rig import Rig
from bench.throughput import EXACTLY_ONCE, WHOLE, Input, Trial
from topology import admin

COUNTS: Final = (1, 2, 4)
START_S: Final = 60.0
MORE: Final = 1.1  # CPU of N processes may be so many times that of one


def measure(rig: Rig, *, scale: float = 1.0, runs: int = throughput.RUNS) -> dict[str, Any]:
    """Make all the runs; ``scale`` shrinks the input, of which there must be enough until all are up."""
    market = Market(WHOLE.symbols, int(WHOLE.ticks * scale), WHOLE.seconds * scale)
    source = throughput.load(rig, "bench-processes", market)
    rows = []
    for number in range(1, runs + 1):
        for count in COUNTS:
            row = _run_once(rig, source, count)
            rows.append(row)
            rig.say(
                f"  {number}/{runs}  {count} processes  {row['rate']:>9,} ticks/s  {row['cpu_s_per_million']:>6} CPU s "
                f"per million  {'; '.join(row['wrong']) or 'outputs right'}"
            )
    return {"market": msgspec.structs.asdict(market), "runs": rows}


def _run_once(rig: Rig, source: Input, count: int) -> dict[str, Any]:
    trial = EXACTLY_ONCE.prepare(rig, source)
    time.sleep(throughput.SETTLE_S)
    total = sum(source.ends.values())
    with (
        rig.progress(f"{count} processes", total) as tell,
        Process((*WORKER, "--processes", str(count)), rig.log(f"processes-{count}"), trial.settings) as process,
    ):
        left = _await_all(rig, process, trial, source, count)
        begun = time.time()
        pids = [process.pid, *machine.children(process.pid)]
        cpu, broker = sum(map(machine.cpu_seconds, pids)), rig.kafka_cpu_seconds()
        done = kafka.await_commit(rig.client, rig.broker, trial.group, source.topic, process, tell)
        cpu, broker = sum(map(machine.cpu_seconds, pids)) - cpu, rig.kafka_cpu_seconds() - broker
        memory = sum(machine.memory_mb(pid)[0] for pid in pids)
    ticks = left / total * source.ticks  # clock records are spread evenly among them
    return {
        "processes": count,
        "ticks": round(ticks),
        "rate": round(ticks / (done - begun)),
        "cpu_s_per_million": round(cpu / ticks * 1e6, 2),
        "kafka_cpu_s_per_million": round(broker / ticks * 1e6, 2),
        "cores": round(cpu / (done - begun), 2),
        "memory_mb": round(memory, 1),
        "wrong": throughput.verify(rig, trial)[0],
    }


def _await_all(rig: Rig, process: Process, trial: Trial, source: Input, count: int) -> int:
    """Wait until all processes are at work; how many records are left to commit then. Raises BenchError."""
    limit = time.monotonic() + START_S
    progress = kafka.Progress(rig.broker, trial.group, source.topic, source.ends)

    def wait(done: Callable[[], bool], what: str) -> None:
        while not done():
            process.check()
            if time.monotonic() > limit or not progress.left():
                raise BenchError(f"{what} before the input was used up, within {START_S:.0f} s")
            time.sleep(0.05)

    try:
        wait(lambda: _members(rig, source) == count, f"the group did not have {count} members")
        since = progress.positions()
        wait(lambda: all(at > since[number] for number, at in progress.positions().items()), "not all began to work")
        return progress.left()
    finally:
        progress.close()


def _members(rig: Rig, source: Input) -> int:
    group = admin.groups(rig.client, source.settings.run)[0]
    return group.members if group.state == "stable" else 0


def cost(section: dict[str, Any], count: int) -> float:
    """CPU s per million ticks of so many processes, the median."""
    return float(statistics.median(row["cpu_s_per_million"] for row in section["runs"] if row["processes"] == count))


def markdown(section: dict[str, Any], table: Callable[[str, Iterable[Iterable[object]]], str]) -> str:
    """The table."""
    rows = []
    for count in COUNTS:
        own = [row for row in section["runs"] if row["processes"] == count]

        def middle(field: str, own: list[dict[str, Any]] = own) -> float:
            return float(statistics.median(row[field] for row in own))

        rows.append(
            (
                count,
                f"{middle('rate'):,.0f}",
                middle("cpu_s_per_million"),
                f"{cost(section, count) / cost(section, 1):.2f}",
                middle("kafka_cpu_s_per_million"),
                middle("cores"),
                f"{middle('memory_mb'):.0f}",
                "NO" if any(row["wrong"] for row in own) else "yes",
            )
        )
    head = (
        "processes | ticks/s | CPU s per million, all | of one process | Kafka's | cores used | MB, all | outputs right"
    )
    return f"### Scale out: `tickloom worker --processes N`, exactly once\n\n{table(head, rows)}"
