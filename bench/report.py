"""The results as a page: results.json has all figures, README.md the tables between its markers, scaling.svg a plot."""

import json
import statistics
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

import msgspec

from bench import cluster, growth, plot, processes, start
from bench.peers import report as peers_report
from bench.targets import Results, import_share, rates, ratio, targets
from bench.throughput import ENGINES

HERE: Final = Path(__file__).parent
RESULTS: Final = HERE / "results.json"
README: Final = HERE / "README.md"
PLOT: Final = HERE / "scaling.svg"
BEGIN: Final = "<!-- results: written by `make bench` -->"
END: Final = "<!-- end of results -->"
COMPUTED: Final = "<!-- computed: written by `make bench` -->"
COMPUTED_END: Final = "<!-- end of computed -->"

SECTIONS: Final = ("throughput", "processes", "latency", "state", "start", "handover", "scaling", "import", "peers")


def load() -> Results:
    """The results as they were last written."""
    found: Results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    return found


def save(results: Results) -> None:
    """Write the figures, the pages and the plot."""
    results["targets"] = [msgspec.structs.asdict(target) | {"met": target.met} for target in targets(results)]
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n")
    _put(README, BEGIN, markdown(results), END)
    if "scaling" in results:
        PLOT.write_text(plot.svg(growth.plot(results["scaling"], results.get("state"))))
    if all(name in results for name in cluster.NEEDED):
        _put(cluster.PAGE, COMPUTED, cluster.text(results, _table), COMPUTED_END)


def _put(path: Path, begin: str, text: str, end: str) -> None:
    """Put a text between two lines of a file."""
    before, rest = path.read_text().split(begin)
    after = rest.split(end)[1]
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}")


def markdown(results: Results) -> str:
    """The page's tables."""
    tables: dict[str, Callable[[dict[str, Any]], str]] = {
        "throughput": lambda _: _throughput(results),
        "processes": lambda section: processes.markdown(section, _table),
        "latency": _latency,
        "state": _state,
        "start": lambda section: start.markdown(section, _table),
        "handover": _handover,
        "scaling": lambda section: growth.markdown(section, results.get("state"), _table),
        "import": _import,
        "peers": lambda section: peers_report.markdown(section, _table),
    }
    parts = [tables[name](results[name]) for name in SECTIONS if name in results]
    return "\n\n".join([_targets(results), *parts, _machines(results)])


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


def _latency(section: dict[str, Any]) -> str:
    half = section.get("half", {})
    kinds = {
        "best price": section,
        "best price, exactly once": section.get("exactly_once"),
        "floor: market.raw itself": section["floor"],
        "best price, half of the maximum": half.get("at_least_once"),
        "the same, exactly once": half.get("exactly_once"),
        "its floor": half.get("floor"),
    }
    rows = []
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
    live = [
        (
            f"{row['symbols']:,} x {row['sources']}",
            each["delivery"].replace("_", " "),
            f"{each['rate']:,}",
            f"{each['changelog_records_per_tick']:.2f}",
            f"{each['changelog_bytes_per_tick']:,}",
            each["cpu_s_per_million"],
            each["kafka_cpu_s_per_million"],
        )
        for row in section["rows"]
        for each in row.get("live", [])
    ]
    text = f"### State: memory and recovery\n\n{_table(head, rows)}"
    if not live:
        return text
    head = (
        "live, full windows | delivery | ticks/s | states written per tick | changelog bytes per tick | "
        "CPU s per million | Kafka's"
    )
    return f"{text}\n\n{_table(head, live)}"


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


def _import(section: dict[str, Any]) -> str:
    runs = section["runs"]
    market = section["market"]
    cpu = {name: sorted(row["cpu_s_per_million"][name] for row in runs) for name in runs[0]["cpu_s_per_million"]}
    head = ["rows", "ticks/s: min / **median** / max", "the topology alone", "of that", *cpu, "rows right"]
    row = (
        f"{market['ticks']:,}",
        _spread(sorted(row["rate"] for row in runs)),
        f"{statistics.median(row['topology_rate'] for row in runs):,.0f}",
        import_share(section),
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
    together: dict[str, list[str]] = {}  # sections of one run of the bench
    for name in SECTIONS:
        if name in results:
            on = results[name]["on"]
            machine = (
                f"{on['date']}, {on['cores']} cores ({on['cpu']}, {on['speed']} M turns/s of an empty Python "
                f"loop), {on['memory_gib']} GiB, Linux {on['kernel']}, Python {on['python']}, Kafka {on['kafka']}, "
                f"commit {on['commit'] or 'unknown'}, core {'compiled' if on['compiled'] else 'plain Python'}; "
                f"{on['others']} cores were busy with something else when it began."
            )
            together.setdefault(machine, []).append(name)
    return "Measured:\n\n" + "\n".join(f"* {', '.join(names)}: {machine}" for machine, names in together.items())
