"""docs/scaling.md: what 64 partitions carry, computed from the figures in results.json. No more than arithmetic."""

import math
import statistics
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from bench.machine import ROOT
from bench.targets import Results, rates
from topology.delivery import COMMIT_SECONDS, SAVE_SECONDS

PAGE: Final = ROOT / "docs" / "scaling.md"
NEEDED: Final = ("throughput", "scaling")
PARTITIONS: Final = 64
SYMBOLS: Final = 10_000
SOURCES: Final = 4
MILLION: Final = 1_000_000  # ticks a second, evenly over the symbols
REPLICAS: Final = 3
COMMIT_S: Final = COMMIT_SECONDS["exactly_once"]
WRITTEN: Final = 5  # of them a partition writes in every commit: ticks, best prices, status, candles, state
BUSY: Final = 0.5  # of a worker's core: it works off a backlog as fast again as more comes

Row = tuple[str, ...]


class Figures(msgspec.Struct, frozen=True):
    """What was measured; times are CPU."""

    worker_us: float  # of a worker, for a tick, exactly once
    kafka_us: float  # of a single Kafka, for a tick
    save_us: float  # to encode the state of a symbol
    state_kb: float  # the same as it goes to the changelog, before compression
    raw: int  # bytes of a tick in market.raw, compressed
    out: int  # bytes of what is made of it
    pair_kb: float  # memory of a source of a symbol
    hot: int  # ticks/s of one symbol alone

    def rows(self) -> list[Row]:
        """(figure, value, section and row of results.json)."""
        return [
            ("CPU of a worker per tick", f"{self.worker_us:g} us", "throughput, exactly once"),
            ("CPU of Kafka per tick, one replica", f"{self.kafka_us:g} us", "throughput, exactly once"),
            ("CPU to encode the state of a symbol", f"{self.save_us:.0f} us", "scaling, core, 1,000 x 4"),
            ("that state, not compressed", f"{self.state_kb:.1f} KB", "scaling, core, 1,000 x 4"),
            ("a tick in `market.raw`, compressed", f"{self.raw} bytes", "scaling, worker, 1,000 x 4"),
            ("what is made of it, compressed", f"{self.out} bytes", "scaling, worker, 1,000 x 4"),
            ("memory of a source of a symbol", f"{self.pair_kb:.1f} KB", "scaling, core, 1,000 x 4"),
            ("one symbol alone", f"{self.hot:,} ticks/s", "scaling, hot"),
        ]


def figures(results: Results) -> Figures:
    """Take them from results that have all that is NEEDED."""
    [point] = [row for row in results["scaling"]["rows"] if (row["symbols"], row["sources"]) == (1_000, SOURCES)]
    return Figures(
        worker_us=statistics.median(rates(results, "tickloom-eos", "cpu_s_per_million")),
        kafka_us=statistics.median(rates(results, "tickloom-eos", "kafka_cpu_s_per_million")),
        save_us=point["save_us"],
        state_kb=point["state_bytes"] * SOURCES / 1e3,
        raw=point["worker"]["raw_bytes_per_tick"],
        out=point["worker"]["output_bytes_per_tick"],
        pair_kb=point["memory_bytes"] / 1e3,
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
    states = SYMBOLS / SAVE_SECONDS
    cores = (MILLION * of.worker_us + states * of.save_us) / 1e6
    workers = math.ceil(cores / BUSY)
    changelog = states * of.state_kb * 1e3
    memory = SYMBOLS * SOURCES * of.pair_kb / 1e3
    return [
        ("most ticks/s, 64 cores full", f"{PARTITIONS} x 1 s / {of.worker_us:g} us", f"{most / 1e6:.1f} million"),
        ("most ticks/s of one symbol", "measured", f"{of.hot:,}"),
        ("states a second", f"{SYMBOLS:,} / {SAVE_SECONDS:g} s", f"{states:,.0f}"),
        (
            "workers' CPU",
            f"1 million x {of.worker_us:g} us + {states:,.0f} x {of.save_us:.0f} us",
            f"{cores:.1f} cores",
        ),
        ("workers, each half busy", f"{cores:.1f} / {BUSY:g}", f"{workers}"),
        ("Kafka's CPU, one replica", f"1 million x {of.kafka_us:g} us", f"{of.kafka_us:.1f} cores"),
        ("transactions a second", f"{workers} / {COMMIT_S:g} s", f"{workers / COMMIT_S:,.0f}"),
        (
            "their batches and markers a second, each",
            f"{PARTITIONS} x {WRITTEN} topics / {COMMIT_S:g} s",
            f"{PARTITIONS * WRITTEN / COMMIT_S:,.0f}",
        ),
        ("network, `market.raw`", f"1 million x {of.raw} bytes", _rate(MILLION * of.raw)),
        ("network, outputs", f"1 million x {of.out} bytes", _rate(MILLION * of.out)),
        ("network, changelog", f"{states:,.0f} x {of.state_kb:.1f} KB", _rate(changelog)),
        (
            "disks",
            f"{REPLICAS} x (raw + outputs + changelog)",
            _rate(REPLICAS * (MILLION * (of.raw + of.out) + changelog)),
        ),
        ("memory for state, all workers", f"{SYMBOLS:,} x {SOURCES} x {of.pair_kb:.1f} KB", f"{memory:,.0f} MB"),
    ]


def _rate(size: float) -> str:
    return f"{size / 1e6:,.0f} MB/s"
