"""The results as a page: `results.json` holds all figures, README.md the table between its markers."""

import json
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench.peers import report as peers_report
from bench.throughput import ENGINES

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"
README: Final = HERE / "README.md"
BEGIN: Final = "<!-- results: written by `make bench` -->"
END: Final = "<!-- end of results -->"

Results = dict[str, Any]  # by measurement; each has its machine under "on"


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


def load() -> Results:
    """The results as they were last written."""
    found: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def save(results: Results) -> None:
    """Write the figures and the page."""
    results["targets"] = [msgspec.structs.asdict(target) | {"met": target.met} for target in targets(results)]
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    page = README.read_text()
    before, rest = page.split(BEGIN)
    after = rest.split(END)[1]
    README.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{after}")


def wrong(results: Results) -> list[str]:
    """Everything that a check found wrong."""
    latency = results.get("latency", {})
    rows = [*results.get("throughput", {}).get("runs", []), latency, latency.get("exactly_once", {})]
    wrong = [f"{row.get('engine', 'latency')}: {line}" for row in rows for line in row.get("wrong", [])]
    wrong += [f"import: {line}" for row in results.get("import", {}).get("runs", []) for line in row["wrong"]]
    return wrong + peers_report.wrong(results)


def rates(results: Results, engine: str, field: str = "rate") -> list[float]:
    """What the runs of an engine gave, in ascending order."""
    return sorted(row[field] for row in results["throughput"]["runs"] if row["engine"] == engine)


def ratio(results: Results, engine: str) -> float:
    """How many times as fast as an engine tickloom is, by the medians."""
    return statistics.median(rates(results, "tickloom")) / statistics.median(rates(results, engine))


def targets(results: Results) -> Iterable[Target]:
    """What issue 3 asks for, as far as it has been measured."""
    if "throughput" in results:
        yield Target("times stock Faust, one worker", round(ratio(results, "faust"), 1), 25, "x", least=True)
        yield Target("times a bare loop, one worker", round(ratio(results, "loop"), 2), 0.5, "x", least=True)
        if rates(results, "tickloom-eos"):
            eos = round(1 / ratio(results, "tickloom-eos"), 2)
            yield Target("exactly once, of the rate of at least once", eos, 0.8, "x", least=True)
    if "latency" in results:
        rate = f"at {results['latency']['rate']:,} ticks/s"
        yield Target(
            f"p50, produce to best price consumed, {rate}", results["latency"]["p50_ms"], 10, "ms", least=False
        )
        yield Target(f"p99 {rate}", results["latency"]["p99_ms"], 50, "ms", least=False)
    if "import" in results:
        yield Target(
            "import until rows are in PostgreSQL, of the topology's own rate", _share(results), 0.5, "x", least=True
        )
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


def markdown(results: Results) -> str:
    """The page's tables."""
    parts = [_targets(results)]
    if "throughput" in results:
        parts.append(_throughput(results))
    if "latency" in results:
        parts.append(_latency(results["latency"]))
    if "state" in results:
        parts.append(_state(results["state"]))
    if "handover" in results:
        parts.append(_handover(results["handover"]))
    if "import" in results:
        parts.append(_import(results["import"]))
    if "peers" in results:
        parts.append(peers_report.markdown(results["peers"], _table))
    parts.append(_machines(results))
    return "\n\n".join(parts)


def _table(head: str, rows: Iterable[Iterable[object]]) -> str:
    columns = head.split(" | ")
    lines = [f"| {head} |", "|---" * len(columns) + "|"]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def _targets(results: Results) -> str:
    rows = [
        (
            target.what,
            f"**{target.value:,g} {target.unit}**",
            f"{'at least' if target.least else 'under'} {target.limit:,g} {target.unit}",
            "yes" if target.met else "**no**",
        )
        for target in targets(results)
    ]
    return _table("figure | measured | to reach | reached", rows)


def _throughput(results: Results) -> str:
    rows = []
    for engine in ENGINES:
        own = [row for row in results["throughput"]["runs"] if row["engine"] == engine.name]
        if not own:
            continue
        rows.append(
            (
                engine.title,
                f"{own[0]['ticks']:,}",
                _spread(rates(results, engine.name)),
                f"{statistics.median(rates(results, engine.name, 'rate_second_half')):,.0f}",
                f"{ratio(results, engine.name):.2f}",
                _spread(rates(results, engine.name, "cpu_s_per_million")),
                f"{statistics.median(rates(results, engine.name, 'kafka_cpu_s_per_million')):.1f}",
                f"{max(row['peak_mb'] for row in own):.0f}",
                "NO" if any(row["wrong"] for row in own) else "yes",
            )
        )
    outputs = results["throughput"]["outputs"]
    ticks = results["throughput"]["market"]["ticks"]
    made = ", ".join(f"{count:,} to `{name}`" for name, count in outputs.items() if count)
    return (
        "### Throughput, one process\n\n"
        + _table(
            "what | ticks | ticks/s: min / **median** / max | second half | tickloom is x times | CPU s per million | "
            "Kafka's CPU s per million | peak MB | outputs right",
            rows,
        )
        + f"\n\nOf its {ticks:,} ticks tickloom makes {sum(outputs.values()) / ticks:.2f} records each: {made}."
    )


def _spread(values: list[float]) -> str:
    return f"{values[0]:,g} / **{statistics.median(values):,g}** / {values[-1]:,g}"


def _latency(row: dict[str, Any]) -> str:
    rows = []
    kinds = {
        "best price": row,
        "best price, exactly once": row.get("exactly_once"),
        "floor: market.raw itself": row["floor"],
    }
    for name, each in kinds.items():
        if each is None:
            continue
        cores = ", ".join(f"{what} {used}" for what, used in each["cores"].items())
        rows.append((name, f"{each['rate']:,}", each["p50_ms"], each["p99_ms"], each["p999_ms"], each["max_ms"], cores))
    head = "from produce to … consumed | ticks/s | p50 ms | p99 ms | p99.9 ms | max ms | cores used"
    return f"### Latency, live\n\n{_table(head, rows)}"


def _state(section: dict[str, Any]) -> str:
    rows = [
        (
            f"{row['symbols']:,} x {row['sources']}",
            row["memory_mb"],
            row["peak_mb"],
            f"{row['state_bytes'] / row['sources'] / 1e3:.1f}",
            row["killed"]["ready_s"],
            row["stopped"]["ready_s"],
            row["stopped"]["after_import_s"],
        )
        for row in section["rows"]
    ]
    head = (
        "symbols x sources | memory MB | peak MB | state, KB per source | s from start to ready after kill -9 | "
        "after a stop | of that after imports"
    )
    return f"### State: memory and recovery\n\n{_table(head, rows)}"


def _handover(row: dict[str, Any]) -> str:
    head = "symbols x sources | ticks/s meanwhile | partitions taken over | s, each kill | median | session timeout, s"
    cells = (
        f"{row['symbols']:,} x {row['sources']}",
        f"{row['rate']:,}",
        row["partitions"],
        ", ".join(map(str, row["kills_s"])),
        row["median_s"],
        row["session_s"],
    )
    return f"### Hand-over: one of two workers killed, `standby = 1`\n\n{_table(head, [cells])}"


def _share(results: Results) -> float:
    return round(statistics.median(row["ratio"] for row in results["import"]["runs"]), 2)


def _import(section: dict[str, Any]) -> str:
    runs = section["runs"]
    market = section["market"]
    cpu = {name: sorted(row["cpu_s_per_million"][name] for row in runs) for name in runs[0]["cpu_s_per_million"]}
    head = ["rows", "ticks/s: min / **median** / max", "the topology alone", "of that", *cpu, "rows right"]
    row = (
        f"{market['ticks']:,}",
        _spread(sorted(row["rate"] for row in runs)),
        f"{statistics.median(row['topology_rate'] for row in runs):,.0f}",
        f"{statistics.median(row['ratio'] for row in runs):.2f}",
        *(f"{statistics.median(values):.1f}" for values in cpu.values()),
        "NO" if any(row["wrong"] for row in runs) else "yes",
    )
    return (
        "### Import, from files to rows in PostgreSQL\n\n"
        + _table(" | ".join(head), [row])
        + "\n\nThe columns from `import` to `all`: CPU s per million ticks, by process. "
        f"{market['bytes'] / 1e6:,.0f} MB of files (LEAN zip, HistData, TrueFX, gzipped CSV); the topology alone "
        "worked on the same `market.raw`."
    )


def _machines(results: Results) -> str:
    lines = []
    for name in ("throughput", "latency", "state", "handover", "import", "peers"):
        if name in results:
            on = results[name]["on"]
            lines.append(
                f"{name}: {on['date']}, {on['cores']} cores ({on['cpu']}, {on['speed']} M turns/s of an empty Python "
                f"loop), {on['memory_gib']} GiB, Linux {on['kernel']}, Python {on['python']}, Kafka {on['kafka']}, "
                f"commit {on['commit'] or 'unknown'}, core {'compiled' if on['compiled'] else 'plain Python'}; "
                f"{on['others']} cores were busy with something else when it began."
            )
    return "Measured: " + "\n".join(f"\n* {line}" for line in lines)
