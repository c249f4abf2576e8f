"""`tickloom status` on a terminal: the overview as tables, the trouble first in each."""

from collections import Counter
from datetime import UTC, datetime
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

from schemas.flags import DEAD_LETTER_REASONS, REASONS
from schemas.record import Status
from topology.admin import create_command
from topology.status import Database, Overview

SECOND: Final = 1_000_000_000
SHOWN: Final = 30  # rows of a table; the JSON has all of them
COLOUR: Final = {"live": "green", "quiet": "cyan", "closed": "dim", "stale": "yellow", "disconnected": "red"}
STATES: Final = tuple(COLOUR)


def show(overview: Overview, console: Console, now: int) -> None:
    """Print everything. ``now``: the clock on the wall, nanoseconds, from which ages in the live run count."""
    console.print(Text.assemble(("run ", "bold"), (overview.run or "live", "bold")))
    if overview.kafka_error:
        console.print(Text.assemble(("Kafka     ", "bold"), (overview.kafka_error, "red")))
    else:
        console.print(Text.assemble(("Kafka     ", "bold"), overview.broker))
        none = [f"no topics yet: {create_command(overview.run)}"]
        for line in overview.topic_problems if overview.partitions else none:
            console.print(Text.assemble(("  ! ", "red"), line))
        for topic in overview.incomplete:
            console.print(Text.assemble(("  ! ", "yellow"), f"{topic} took too long to read: below is not all of it"))
    _database(overview.database, console)
    if not overview.kafka_error and overview.partitions:
        _groups(overview, console)
        _partitions(overview, console, now)
        _sources(overview, console, now)
        _rejections(overview, console)
        _gaps(overview, console)


def when(ns: int) -> str:
    """A time as people read it, UTC; empty for none."""
    if not ns:
        return ""
    return f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%d %H:%M:%S}.{ns % SECOND // 1_000_000:03}"


def lasting(ns: int) -> str:
    """A duration as people read it: three digits and a unit."""
    for unit, size in (("d", 86_400 * SECOND), ("h", 3_600 * SECOND), ("min", 60 * SECOND), ("s", SECOND)):
        if abs(ns) >= size:
            return f"{ns / size:.3g} {unit}"
    return f"{ns / 1_000_000:.3g} ms"


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left")
    return table


def _print(table: Table, console: Console, left_out: int = 0) -> None:
    console.print()
    console.print(table)
    if left_out > 0:
        console.print(f"and {left_out} more: --json has all of them", style="dim")


def _database(database: Database, console: Console) -> None:
    if database.error:
        text = Text.assemble(f"{database.address} ".lstrip(), (database.error, "red"))
    else:
        kind = f"TimescaleDB {database.timescaledb}" if database.timescaledb else "plain, without TimescaleDB"
        text = Text(f"{database.address} (PostgreSQL {database.version}, {kind})")
    console.print(Text.assemble(("Database  ", "bold"), text))
    if database.error:
        return
    counts = [
        f"{'about ' if name in database.estimated else ''}{rows:,} {name}" for name, rows in database.rows.items()
    ]
    newest = f"; newest candle {when(database.newest_candle)}" if database.newest_candle else ""
    console.print(f"          {', '.join(counts) or 'no tables yet: start `tickloom sink`'}{newest}", highlight=False)


def _groups(overview: Overview, console: Console) -> None:
    table = _table("Processes", "", "group", "state", ">members", ">lag, records")
    for name, group in zip(("worker", "sink"), overview.groups, strict=True):
        state = Text(group.state, "green") if group.members else Text(f"not running: `tickloom {name}`", "yellow")
        table.add_row(name, group.name, state, str(group.members), f"{group.total:,}")
    _print(table, console)
    for worker in overview.workers:
        if worker.unready:
            console.print(f"worker {worker.address}: {worker.unready}", style="yellow", highlight=False)
        elif worker.standby:
            behind = sum(worker.standby.values())
            ready = f"ready to take over {len(worker.standby)} more"
            left = f", {behind:,} changelog records behind" if behind else ""
            console.print(
                f"worker {worker.address}: {len(worker.partitions)} partitions, {ready}{left}", highlight=False
            )


def _partitions(overview: Overview, console: Console, now: int) -> None:
    table = _table("market.raw", ">partition", ">records", ">worker lag", "stream time (UTC)", ">behind")
    for each in overview.partitions:
        live = each.stream_time and not overview.run  # a named run is history: its time is not ours
        behind = lasting(now - each.stream_time) if live else ""
        table.add_row(str(each.number), f"{each.records:,}", f"{each.worker_lag:,}", when(each.stream_time), behind)
    _print(table, console)


def _sources(overview: Overview, console: Console, now: int) -> None:
    if not overview.sources:
        console.print("\nno source has been seen", style="dim")
        return
    summary = _table("Sources", "source", *(f">{state}" for state in STATES), ">ticks in", ">accepted", ">held")
    names = sorted({each.source for each in overview.sources})
    for name in names:
        of = [each for each in overview.sources if each.source == name]
        states = Counter(each.status for each in of)
        sums = (sum(each.arrived for each in of), sum(each.accepted for each in of), sum(each.held for each in of))
        cells = [Text(str(states[state]), COLOUR[state]) if states[state] else Text("") for state in STATES]
        summary.add_row(name, *cells, *(f"{value:,}" for value in sums))
    _print(summary, console)
    rows = sorted(overview.sources, key=lambda each: (-STATES.index(each.status), each.symbol, each.source))
    table = _table("", "symbol", "source", "state", "since (UTC)", ">newest tick", ">latency", ">every", ">gaps")
    latest = max(each.ts_recv for each in overview.sources) if overview.run else now
    for each in rows[:SHOWN]:
        _source(table, each, latest)
    _print(table, console, len(rows) - SHOWN)


def _source(table: Table, each: Status, latest: int) -> None:
    table.add_row(
        each.symbol,
        each.source,
        Text(each.status, COLOUR[each.status]),
        when(each.since),
        f"{lasting(latest - each.ts_recv)} ago" if each.ts_recv else "none",
        lasting(each.latency_ns),
        lasting(each.interval_ns),
        str(each.gaps),
    )


def _rejections(overview: Overview, console: Console) -> None:
    table = _table("Refused", "reason", ">records", "meaning")
    for reason, count in overview.rejections.items():
        table.add_row(reason, f"{count:,}", REASONS.get(reason, ""))
    for reason, count in overview.dead_letters.items():
        meaning = f"{DEAD_LETTER_REASONS.get(reason, 'not one of ours')}: `tickloom dead-letter list`"
        table.add_row(f"dead letter {reason}", f"{count:,}", meaning)
    if overview.unreadable:
        table.add_row("unreadable here", f"{overview.unreadable:,}", "records that this version cannot decode")
    if table.row_count:
        _print(table, console)


def _gaps(overview: Overview, console: Console) -> None:
    if not overview.open_gaps:
        console.print("\nno open gaps", style="dim")
        return
    table = _table("Open gaps", "symbol", "source", "since (UTC)", "cause")
    for each in overview.open_gaps[:SHOWN]:
        table.add_row(each.symbol, each.source, when(each.start), each.cause)
    _print(table, console, len(overview.open_gaps) - SHOWN)
