"""What is to be reached (issues 3 and 5), as far as it has been measured, and what a check found wrong."""

import statistics
from collections.abc import Iterator
from typing import Any, Final

import msgspec

from bench import growth, processes, start
from bench.peers import report as peers_report

Results = dict[str, Any]  # by measurement; each has its machine under "on"
PAIR_BYTES: Final = 4_000  # of memory, for a source of a symbol


class Target(msgspec.Struct, frozen=True):
    """A figure that is to be reached."""

    what: str
    value: float
    limit: float
    unit: str
    least: bool  # at least the limit; else below it

    @property
    def met(self) -> bool:
        """Whether it is."""
        return self.value >= self.limit if self.least else self.value < self.limit


def rates(results: Results, engine: str, field: str = "rate") -> list[float]:
    """What the runs of an engine gave, in ascending order."""
    return sorted(row[field] for row in results["throughput"]["runs"] if row["engine"] == engine)


def ratio(results: Results, engine: str) -> float:
    """How many times as fast as an engine tickloom is, by the medians."""
    return statistics.median(rates(results, "tickloom")) / statistics.median(rates(results, engine))


def half_rate(results: Results) -> int:
    """Half of the rate that a worker reached, in ticks/s; 0 where that has not been measured."""
    if "throughput" not in results:
        return 0
    most = max(statistics.median(rates(results, engine)) for engine in ("tickloom", "tickloom-eos"))
    return int(most / 2 // 1_000 * 1_000)


def import_share(section: dict[str, Any]) -> float:
    """The import's rate, of the topology's own."""
    return float(round(statistics.median(row["ratio"] for row in section["runs"]), 2))


def targets(results: Results) -> Iterator[Target]:
    """All of them."""
    if "throughput" in results:
        yield from _throughput(results)
    if section := results.get("processes"):
        for count in processes.COUNTS[1:]:
            times = round(processes.cost(section, count) / processes.cost(section, 1), 2)
            yield Target(f"CPU of {count} processes, of one's", times, processes.MORE, "x", least=False)
    if "latency" in results:
        yield from _latency(results["latency"])
    if section := results.get("import"):
        what = "import until rows are in PostgreSQL, of the topology's own rate"
        yield Target(what, import_share(section), 0.5, "x", least=True)
    if "peers" in results:
        yield from (Target(*figure) for figure in peers_report.targets(results["peers"]))
    if row := results.get("handover"):
        what = f"kill -9 to the standby's first best prices, {row['symbols']:,} symbols x {row['sources']}, median"
        yield Target(what, row["median_s"], 3, "s", least=False)
    for row in results.get("state", {}).get("rows", []):
        size = f"{row['symbols']:,} symbols x {row['sources']}"
        if row["symbols"] == 100:
            yield Target(f"peak memory of a worker, {size}", row["peak_mb"], 300, "MB", least=False)
        yield Target(f"kill -9 to ready again, {size}", row["killed"]["ready_s"], 10, "s", least=False)
    if weighed := growth.weighed(results.get("scaling", {}).get("rows", [])):
        most = max(row["memory_bytes"] for row in weighed)
        what = "memory of a (symbol, source), full windows, the most"
        yield Target(what, round(most), PAIR_BYTES, "bytes", least=False)
    if section := results.get("start"):
        yield Target("`tickloom --help`", start.median(section, "help_s"), 0.3, "s", least=False)
        yield Target("worker from start to ready, empty state", start.median(section, "ready_s"), 5, "s", least=False)


def _throughput(results: Results) -> Iterator[Target]:
    yield Target("times stock Faust, one worker", round(ratio(results, "faust"), 1), 25, "x", least=True)
    yield Target("times a bare loop, one worker, at least once", round(ratio(results, "loop"), 2), 1.5, "x", least=True)
    exactly = round(1 / ratio(results, "tickloom-eos"), 2)
    yield Target("exactly once, of the rate of at least once", exactly, 0.8, "x", least=True)
    for engine, delivery in (("tickloom", "at least once"), ("tickloom-eos", "exactly once")):
        cost = statistics.median(rates(results, engine, "cpu_s_per_million"))
        yield Target(f"CPU per million ticks, {delivery}", cost, 10, "s", least=False)


def _latency(section: dict[str, Any]) -> Iterator[Target]:
    rate = f"at {section['rate']:,} ticks/s"
    yield Target(f"p50, produce to best price consumed, {rate}", section["p50_ms"], 10, "ms", least=False)
    yield Target(f"p99 {rate}", section["p99_ms"], 50, "ms", least=False)
    for delivery in ("at_least_once", "exactly_once"):
        if row := section.get("half", {}).get(delivery):
            what = f"p99 at half of the maximum rate, {row['rate']:,} ticks/s, {delivery.replace('_', ' ')}"
            yield Target(what, row["p99_ms"], 100, "ms", least=False)


def wrong(results: Results) -> list[str]:
    """Everything that a check found wrong."""
    latency = results.get("latency", {})
    half = latency.get("half", {})
    live = [latency, latency.get("exactly_once", {}), *half.values()]
    rows = [("latency", row) for row in live]
    rows += [(row["engine"], row) for row in results.get("throughput", {}).get("runs", [])]
    rows += [(f"{row['processes']} processes", row) for row in results.get("processes", {}).get("runs", [])]
    scaling = results.get("scaling", {})
    rows += [(f"{row['symbols']} x {row['sources']}", row["worker"]) for row in scaling.get("rows", [])]
    rows += [("one hot symbol", scaling.get("hot", {}))]
    rows += [("import", row) for row in results.get("import", {}).get("runs", [])]
    return [f"{what}: {line}" for what, row in rows for line in row.get("wrong", [])] + peers_report.wrong(results)
