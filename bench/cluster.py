"""docs/scaling.md: what 64 partitions carry, computed from the figures in results.json. No more than arithmetic."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from bench import growth
from bench.machine import ROOT
from bench.targets import Results, rates

PAGE: Final = ROOT / "docs" / "scaling.md"
NEEDED: Final = ("throughput", "state", "scaling")
PARTITIONS: Final = 64
SYMBOLS: Final = 10_000
SOURCES: Final = 4
MILLION: Final = 1_000_000  # ticks a second, evenly over the symbols
REPLICAS: Final = 3
COMMITS_S: Final = (0.1, 1.0)
BUSY: Final = 0.5  # of a worker's core: it works off a backlog as fast again as more comes

Row = tuple[str, ...]


class Figures(msgspec.Struct, frozen=True):
    """What was measured; times are CPU."""

    worker_us: float  # of a worker, for a tick, exactly once
    kafka_us: float  # of a single Kafka, for a tick
    save_us: float  # to encode the state of a symbol
    state_kb: float  # the same in the changelog, compressed
    raw: int  # bytes of a tick in market.raw, compressed
    out: int  # bytes of what is made of it
    pair_kb: float  # memory of a source of a symbol
    recovery_s: float  # for 1,000 symbols
    hot: int  # ticks/s of one symbol alone

    def rows(self) -> list[Row]:
        """(figure, value, section and row of results.json)."""
        return [
            ("CPU of a worker per tick", f"{self.worker_us:g} us", "throughput, exactly once"),
            ("CPU of Kafka per tick, one replica", f"{self.kafka_us:g} us", "throughput, exactly once"),
            ("CPU to encode the state of a symbol", f"{self.save_us:.0f} us", "scaling, core, 1,000 x 4"),
            ("a state in the changelog, compressed", f"{self.state_kb:.1f} KB", "state, live, 1,000 x 4"),
            ("a tick in `market.raw`, compressed", f"{self.raw} bytes", "scaling, worker, 1,000 x 4"),
            ("what is made of it, compressed", f"{self.out} bytes", "scaling, worker, 1,000 x 4"),
            ("memory of a source of a symbol", f"{self.pair_kb:.1f} KB", "state, after a stop, 1,000 less 100"),
            ("recovery", f"{self.recovery_s:g} s per 1,000 symbols", "state, after a stop"),
            ("one symbol alone", f"{self.hot:,} ticks/s", "scaling, hot"),
        ]


def figures(results: Results) -> Figures:
    """Take them from results that have all that is NEEDED."""
    [point] = [row for row in results["scaling"]["rows"] if (row["symbols"], row["sources"]) == (1_000, SOURCES)]
    [state] = [row for row in results["state"]["rows"] if row["symbols"] == 1_000]
    [live] = [row for row in state["live"] if row["delivery"] == "exactly_once"]
    return Figures(
        worker_us=statistics.median(rates(results, "tickloom-eos", "cpu_s_per_million")),
        kafka_us=statistics.median(rates(results, "tickloom-eos", "kafka_cpu_s_per_million")),
        save_us=point["save_us"],
        state_kb=live["changelog_bytes_per_tick"] / live["changelog_records_per_tick"] / 1e3,
        raw=point["worker"]["raw_bytes_per_tick"],
        out=point["worker"]["output_bytes_per_tick"],
        pair_kb=growth.worker_pair_bytes(results["state"]) / 1e3,
        recovery_s=growth.recovery_s(results["state"]),
        hot=results["scaling"]["hot"]["rate"],
    )


def text(results: Results, table: Callable[[str, Iterable[Iterable[object]]], str]) -> str:
    """The computed part of the page."""
    found = figures(results)
    dates = ", ".join(f"{name} {results[name]['on']['date']}" for name in NEEDED)
    return (
        f"Measured ({dates}):\n\n{table('figure | value | where it stands', found.rows())}\n\n"
        f"Computed for {SYMBOLS:,} symbols x {SOURCES} sources, a million ticks/s evenly over them, {PARTITIONS} "
        f"partitions, {REPLICAS} replicas, exactly once:\n\n{table('what | how | result', computed(found))}"
    )


def computed(of: Figures) -> list[Row]:
    """(what, the arithmetic, the result)."""
    most = PARTITIONS / of.worker_us * MILLION
    rows: list[Row] = [
        ("most ticks/s, 64 cores full", f"{PARTITIONS} x 1 s / {of.worker_us:g} us", f"{most / 1e6:.1f} million"),
        ("most ticks/s of one symbol", "measured", f"{of.hot:,}"),
    ]
    for commit in COMMITS_S:
        rows += _by_commit(of, commit)
    workers = math.ceil(_cores(of, COMMITS_S[1]) / BUSY)
    own = math.ceil(SYMBOLS / workers)
    stored = MILLION * (of.raw + of.out) + _states_a_second(COMMITS_S[1]) * of.state_kb * 1e3
    memory = SYMBOLS * SOURCES * of.pair_kb / 1e3
    return [
        *rows,
        ("workers, each half busy, 1 s", f"{_cores(of, COMMITS_S[1]):.1f} / {BUSY:g}", f"{workers}"),
        ("Kafka's CPU, one replica", f"1 million x {of.kafka_us:g} us", f"{of.kafka_us:.1f} cores"),
        ("network, `market.raw`", f"1 million x {of.raw} bytes", _rate(MILLION * of.raw)),
        ("network, outputs", f"1 million x {of.out} bytes", _rate(MILLION * of.out)),
        ("disks, 1 s", f"{REPLICAS} x (raw + outputs + changelog)", _rate(REPLICAS * stored)),
        ("memory for state, all workers", f"{SYMBOLS:,} x {SOURCES} x {of.pair_kb:.1f} KB", f"{memory:,.0f} MB"),
        (
            "recovery of one of them",
            f"{own:,} symbols x {of.recovery_s:g} s / 1,000",
            f"{own * of.recovery_s / 1e3:.1f} s",
        ),
    ]


def _by_commit(of: Figures, commit: float) -> list[Row]:
    states, each = _states_a_second(commit), MILLION / SYMBOLS
    touched = f"{SYMBOLS:,} x (1 - e^(-{each:g} x {commit:g})) / {commit:g} s"
    cpu = f"1 million x {of.worker_us:g} us + {states:,.0f} x {of.save_us:.0f} us"
    size = _rate(states * of.state_kb * 1e3)
    return [
        (f"states a second, a commit every {commit:g} s", touched, f"{states:,.0f}"),
        (f"workers' CPU, {commit:g} s", cpu, f"{_cores(of, commit):.1f} cores"),
        (f"network, changelog, {commit:g} s", f"{states:,.0f} x {of.state_kb:.1f} KB", f"**{size}**"),
    ]


def _states_a_second(commit: float) -> float:
    """Those of the symbols that a commit touches, where the ticks of a symbol come at random."""
    return SYMBOLS * (1 - math.exp(-MILLION / SYMBOLS * commit)) / commit


def _cores(of: Figures, commit: float) -> float:
    return (MILLION * of.worker_us + _states_a_second(commit) * of.save_us) / 1e6


def _rate(size: float) -> str:
    return f"{size / 1e6:,.0f} MB/s"
