"""The section `scaling`: what a tick costs as symbols and sources become more, in the core alone and in a worker.

The core's figures (``scaling.py``) are of full windows. A worker gets as many ticks at every point, and every source
speaks once a second; it works off a backlog, exactly once. Nothing of its changelog is compacted, so that the size of
its log is all that was written, as it went over the network. What a tick costs live is with the state (``live.py``).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

from bench import kafka, scaling, throughput
from bench.market import Market
from bench.plot import Line, Panel
from bench.rig import Rig
from bench.throughput import EXACTLY_ONCE, Input, Trial
from schemas import topics
from topology import admin

TICKS: Final = 600_000
HOT_RATE: Final = 5_000.0  # ticks/s of each source of a symbol that has more than any other
WEIGHED: Final = 4_000  # pairs at least, or the process itself is what is weighed
Rows = list[dict[str, Any]]


def measure(rig: Rig, *, points: list[tuple[int, int]] = scaling.POINTS, ticks: int = TICKS) -> dict[str, Any]:
    """Measure every point, first in the core, then in a worker."""
    rows = []
    for symbols, sources in points:
        core = msgspec.to_builtins(scaling.measured(symbols, sources))
        row = core | {"worker": _worker(rig, symbols, sources, ticks)}
        rows.append(row)
        rig.say(f"  {symbols:>6,} x {sources:<3} core {row['us_per_tick']:.2f} us per tick, {_line(row['worker'])}")
    hot = _worker(rig, 1, 4, ticks, HOT_RATE)
    rig.say(f"  one hot symbol: {_line(hot)}")
    return {"rows": rows, "hot": hot}


def _line(row: dict[str, Any]) -> str:
    return (
        f"worker {row['cpu_s_per_million']} CPU s per million, {row['rate']:,} ticks/s, "
        f"{row['changelog_bytes_per_tick']:,} changelog bytes per tick  {'; '.join(row['wrong']) or 'outputs right'}"
    )


def _worker(rig: Rig, symbols: int, sources: int, ticks: int, pair_rate: float = 1.0) -> dict[str, Any]:
    """Let a worker work off so many ticks; ``pair_rate``: ticks/s of each source, in event time."""
    run = f"bench-{symbols}-{sources}"
    market = Market(symbols, ticks, ticks / (symbols * sources * pair_rate), even=True, sources=sources)
    source = throughput.load(rig, run, market)
    row = throughput.run_once(rig, msgspec.structs.replace(EXACTLY_ONCE, prepare=_prepare), source)
    made = {topic.name: rig.stored_bytes(topics.named(topic.name, run)) for topic in topics.TOPICS}
    raw = made.pop(topics.RAW.name)
    changelog = admin.state_topic(run)
    return {
        **{name: row[name] for name in ("rate", "cpu_s_per_million", "kafka_cpu_s_per_million", "peak_mb", "wrong")},
        "raw_bytes_per_tick": round(raw / ticks),
        "output_bytes_per_tick": round(sum(made.values()) / ticks),
        "changelog_bytes_per_tick": round(rig.stored_bytes(changelog) / ticks),
        "changelog_records_per_tick": round(sum(kafka.ends(rig.client, changelog).values()) / ticks, 3),
    }


def _prepare(rig: Rig, source: Input) -> Trial:
    trial = EXACTLY_ONCE.prepare(rig, source)
    kafka.keep(rig.client, admin.state_topic(source.settings.run))
    return trial


def weighed(rows: Rows) -> Rows:
    """The points of which a pair's memory can be told."""
    return [row for row in rows if row["symbols"] * row["sources"] >= WEIGHED]


def recovery_s(state: dict[str, Any]) -> float:
    """Seconds of recovery per 1,000 symbols: what an orderly start takes longer, once it has imported everything."""
    return round(_per_symbol(state, "after_import_s") * 1_000, 2)


def worker_pair_bytes(state: dict[str, Any]) -> float:
    """Memory of a source of a symbol in a whole worker that has recovered: what more symbols take."""
    return _per_symbol(state, "memory_mb") * 1e6 / int(state["rows"][0]["sources"])


def _per_symbol(state: dict[str, Any], field: str) -> float:
    few, many = sorted(state["rows"], key=lambda row: int(row["symbols"]))
    more = many["stopped"][field] - few["stopped"][field]
    return float(more / (many["symbols"] - few["symbols"]))


def markdown(
    section: dict[str, Any], state: dict[str, Any] | None, table: Callable[[str, Iterable[Iterable[object]]], str]
) -> str:
    """The tables; ``state`` is the section of that name."""
    rows = [
        (
            f"{row['symbols']:,} x {row['sources']}",
            f"{row['us_per_tick']:.2f}",
            f"{row['outputs_per_tick']:.2f}",
            f"{row['save_us']:.0f}",
            f"{row['state_bytes'] / 1e3:.1f}",
            f"{row['memory_bytes'] / 1e3:.1f}" if row in weighed([row]) else "",
            f"{worker['cpu_s_per_million']:.1f}",
            f"{worker['kafka_cpu_s_per_million']:.1f}",
            f"{worker['rate']:,}",
            f"{worker['changelog_bytes_per_tick']:,}",
            "NO" if worker["wrong"] else "yes",
        )
        for row in section["rows"]
        for worker in [row["worker"]]
    ]
    head = (
        "symbols x sources | core: us per tick | outputs per tick | us to save a symbol | state, KB per source | "
        "memory, KB per source | worker: CPU s per million | Kafka's | ticks/s | changelog bytes per tick | "
        "outputs right"
    )
    text = f"### Scaling\n\n![The same as a plot](scaling.svg)\n\n{table(head, rows)}"
    hot = section["hot"]
    text += (
        f"\n\nOne symbol alone, {HOT_RATE:,.0f} ticks/s of each of its 4 sources, so one partition: "
        f"**{hot['rate']:,} ticks/s**, {hot['cpu_s_per_million']} CPU s per million."
    )
    if state:
        text += (
            f"\n\nBy the difference of the two workers after a stop: recovery **{recovery_s(state)} s** per 1,000 "
            f"symbols x 4; memory {worker_pair_bytes(state) / 1e3:.1f} KB for a source of a symbol, with the state as "
            "it lies in the changelog and all buffers."
        )
    return text


def plot(section: dict[str, Any], state: dict[str, Any] | None) -> list[Panel]:
    """The same as panels, symbols on a logarithmic axis."""
    by_symbols = sorted((row for row in section["rows"] if row["sources"] == 4), key=lambda row: int(row["symbols"]))
    by_sources = sorted((row for row in section["rows"] if row["symbols"] == 100), key=lambda row: int(row["sources"]))
    panels = [
        _panel(f"CPU us per tick, by {axis}{more}", axis, own, {"worker": _worker_us, "core": _core_us})
        for axis, own, more in (
            ("symbols", by_symbols, " (4 sources each)"),
            ("sources", by_sources, " (of 100 symbols)"),
        )
    ]
    panels += [
        _panel("changelog bytes per tick, a backlog, by symbols", "symbols", by_symbols, {"bytes": _changelog}),
        _panel("memory bytes per (symbol, source), by symbols", "symbols", weighed(by_symbols), {"bytes": _memory}),
    ]
    if state:
        starts = sorted(state["rows"], key=lambda row: int(row["symbols"]))
        kinds: dict[str, Callable[[dict[str, Any]], float]] = {
            "after a stop": lambda row: row["stopped"]["ready_s"],
            "after kill -9": lambda row: row["killed"]["ready_s"],
        }
        panels.append(_panel("seconds from start to ready, by symbols", "symbols", starts, kinds))
    return panels


def _panel(title: str, axis: str, rows: Rows, lines: dict[str, Callable[[dict[str, Any]], float]]) -> Panel:
    def line(of: Callable[[dict[str, Any]], float]) -> Line:
        return [(math.log10(row[axis]), of(row)) for row in rows]

    marks = {f"{row[axis]:,}": math.log10(row[axis]) for row in rows}
    return Panel(title, {name: line(of) for name, of in lines.items()}, marks, dots=True)


def _worker_us(row: dict[str, Any]) -> float:
    return float(row["worker"]["cpu_s_per_million"])  # s per million are us per tick


def _core_us(row: dict[str, Any]) -> float:
    return float(row["us_per_tick"])


def _changelog(row: dict[str, Any]) -> float:
    return float(row["worker"]["changelog_bytes_per_tick"])


def _memory(row: dict[str, Any]) -> float:
    return float(row["memory_bytes"])
