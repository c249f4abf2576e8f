"""`tickloom import`, from files to rows in PostgreSQL, beside the topology alone on the same records.

The files hold the market of the throughput measurement, each source in a format of its own. Worker and sink of the run
are up before the import begins, so that their start is not counted. The time is the import's own: from when it begins
to read until all rows are committed. Then a worker alone goes over the market.raw that the import has written: that is
the topology's own rate in the same minutes, and its outputs say which rows are right.
"""

import gzip
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec
from psycopg import sql

from bench import check, kafka, machine, throughput
from bench.market import SECOND, SOURCES, START, Market, quotes
from bench.process import WORKER, BenchError, Process
from bench.rig import Rig
from bench.throughput import Input
from deploy import local
from schemas import topics
from schemas.record import Quote
from topology import admin
from topology.config import Settings
from topology.importing import job
from topology.storage import database

RUNS: Final = 3
SINK: Final = ("-m", "topology.cli", "sink")
IMPORT: Final = ("-m", "topology.cli", "import", "--manifest")
START_S: Final = 60.0
LIMIT_S: Final = 1_800.0
LOOK_S: Final = 0.05
DONE: Final = re.compile(r"^([\d,]+) ticks in ([\d.]+) s, ")
MS: Final = 1_000_000
SCALE: Final = 5  # of every price of the market
START_OF_DAY: Final = START // (86_400 * SECOND) * 86_400 * SECOND

Cpu = dict[str, float]  # seconds, by process


def measure(rig: Rig, *, scale: float = 1.0, runs: int = RUNS) -> dict[str, Any]:
    """Make all the runs; ``scale`` shrinks the input."""
    whole = throughput.WHOLE
    market = Market(whole.symbols, int(whole.ticks * scale), whole.seconds * scale)
    stack = local.start(rig.directory, kafka=False, say=rig.say)
    with rig.progress("writing files", market.ticks) as tell:
        manifest = write_files(rig.directory / "files", market, tell)
    rows = []
    for number in range(1, runs + 1):
        settings = rig.settings(f"bench-import-{number}", market.symbols)
        settings = msgspec.structs.replace(settings, database=stack.database, commit_seconds=job.COMMIT_SECONDS)
        row = _run_once(rig, settings, manifest, market.ticks, stack.postgres_pid)
        rows.append(row)
        rig.say(
            f"  {number}/{runs}  import      {row['rate']:>9,} ticks/s  {row['cpu_s_per_million']['all']:>6} CPU s per "
            f"million, {row['ratio']} times the topology's {row['topology_rate']:,}  "
            f"{'; '.join(row['wrong']) or 'rows right'}"
        )
    size = sum(path.stat().st_size for path in manifest.parent.rglob("*") if path.is_file())
    return {"market": {**msgspec.structs.asdict(market), "sources": len(SOURCES), "bytes": size}, "runs": rows}


def _run_once(rig: Rig, settings: Settings, manifest: Path, ticks: int, postgres: int | None) -> dict[str, Any]:
    run = settings.run
    rig.make(run)
    database.migrate(settings.database, lambda _: None)
    time.sleep(throughput.SETTLE_S)
    before = machine.speed()
    with (
        Process(WORKER, rig.log(f"{run}-worker"), settings) as worker,
        Process(SINK, rig.log(f"{run}-sink"), settings) as sink,
    ):
        _await_members(rig, run, worker, sink)
        with Process((*IMPORT, str(manifest)), rig.log(run), settings) as feeder:
            feeder.wait_for("^run ", START_S)
            pids = {"import": feeder.pid, "worker": worker.pid, "sink": sink.pid}

            def cpu() -> Cpu:
                used = {name: machine.cpu_seconds(pid) for name, pid in pids.items()}
                return used | {"kafka": rig.kafka_cpu_seconds(), "postgres": _family_cpu_seconds(postgres)}

            begun = cpu()
            count, seconds = _await_end(feeder)
            used = cpu()
        peaks = {"worker": worker.memory_mb()[1], "sink": sink.memory_mb()[1]}
    source = Input(
        settings=settings,
        ticks=ticks,
        ends=kafka.ends(rig.client, topics.named(topics.RAW.name, run)),
        outputs=check.outputs_offline(rig.client, settings),
        copies={},
    )
    wrong = [] if count == ticks else [f"{count:,} of {ticks:,} ticks came in"]
    wrong += _wrong_rows(settings, source)
    topology = throughput.run_once(rig, throughput.EXACTLY_ONCE, source)  # with the import's commits, too
    share = {name: round((used[name] - begun[name]) / ticks * 1e6, 2) for name in used}
    return {
        "ticks": ticks,
        "rate": round(ticks / seconds),
        "seconds": seconds,
        "cpu_s_per_million": {**share, "all": round(sum(share.values()), 2)},
        "peak_mb": peaks,
        "topology_rate": topology["rate"],
        "topology_cpu_s_per_million": topology["cpu_s_per_million"],
        "ratio": round(ticks / seconds / topology["rate"], 3),
        "speed": [before, machine.speed()],
        "wrong": wrong + topology["wrong"],
    }


def _await_members(rig: Rig, run: str, *processes: Process) -> None:
    """Wait until worker and sink have their partitions, so that the import finds them at work."""
    limit = time.monotonic() + START_S
    while not all(group.state == "stable" and group.members for group in admin.groups(rig.client, run)):
        for process in processes:
            process.check()
        if time.monotonic() > limit:
            raise BenchError(f"worker and sink of {run} are not up after {START_S:.0f} s")
        time.sleep(0.2)


def _await_end(feeder: Process) -> tuple[int, float]:
    """Wait until an import has said how many ticks came in and in how many seconds. Not reaped: its CPU counts."""
    limit = time.monotonic() + LIMIT_S
    while True:
        ended = machine.is_zombie(feeder.pid)
        found = next((found for _, text in feeder.lines if (found := DONE.search(text))), None)
        if found:
            return int(found.group(1).replace(",", "")), float(found.group(2))
        if ended:
            feeder.check()
        if time.monotonic() > limit:
            raise BenchError(f"the import has not ended after {LIMIT_S:.0f} s (what it said: {feeder.log})")
        time.sleep(LOOK_S)


def _family_cpu_seconds(pid: int | None) -> float:
    """CPU time of a server, of the processes that it has now and of those that it had; 0 where it is not ours."""
    if pid is None:
        return 0.0
    return machine.cpu_seconds(pid, reaped=True) + sum(map(machine.cpu_seconds, machine.children(pid)))


def _wrong_rows(settings: Settings, source: Input) -> list[str]:
    """Count the rows of a run; the records that should be in them are known."""
    right = {
        "ticks": source.outputs[topics.TICK.name].total,
        "candles": len(source.outputs[topics.CANDLE.name].keys),
        "best_prices": len(source.outputs[topics.BEST.name].keys),
        "gaps": len(source.outputs[topics.GAP.name].keys),
        "source_status": len(source.outputs[topics.STATUS.name].keys),
        "dead_letter": source.outputs[topics.DEAD_LETTER.name].total,
    }
    with database.connect(settings.database) as connection:
        found = {table: _count(connection, table, settings.run) for table in right}
    return [
        f"{found[table]:,} rows in {table} instead of {count:,}"
        for table, count in right.items()
        if found[table] != count
    ]


def _count(connection: database.Connection, table: str, run: str) -> int:
    query = sql.SQL("SELECT count(*) FROM {} WHERE run = %s").format(sql.Identifier(table))
    return int(connection.execute(query, [run]).fetchall()[0][0])


# The files.


def write_files(folder: Path, market: Market, tell: Callable[[int], None]) -> Path:
    """Write the market, a file for each symbol and source, and the manifest that names them; return its path.

    A time in a file is of event time, in ms; the repeats of a source stand behind later rows, as they came in.
    """
    rows: dict[tuple[str, str], list[str]] = {}
    for made, quote in enumerate(quotes(market), 1):
        rows.setdefault((quote.symbol, quote.source), []).append(FORMS[quote.source].row(quote))
        if made % 10_000 == 0:
            tell(made)
    entries = []
    for (name, source), lines in sorted(rows.items()):
        form = FORMS[source]
        path = folder / source / name / form.file
        path.parent.mkdir(parents=True)
        content = "\n".join([*form.head, *lines, ""]).encode()
        if path.suffix == ".zip":
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
                packed.writestr("ticks.csv", content)
        else:
            path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
        place = f"path: {path.relative_to(folder)}, source: {source}, symbol: {name}"
        entries.append(f"- {{{place}, format: {form.name}, timezone: UTC}}\n")
    manifest = folder / "manifest.yaml"
    manifest.write_text("".join(entries))
    return manifest


def _lean(quote: Quote) -> str:
    ms = (quote.ts_event - START_OF_DAY) // MS
    return f"{ms},{_price(quote.bid)},{quote.bid_size},{_price(quote.ask)},{quote.ask_size}"


def _histdata(quote: Quote) -> str:
    return f"{_time(quote, '%Y%m%d %H%M%S')}{_ms(quote)},{_price(quote.bid)},{_price(quote.ask)},0"


def _truefx(quote: Quote) -> str:
    pair = f"{quote.symbol[:3]}/{quote.symbol[3:]}"
    return f"{pair},{_time(quote, '%Y%m%d %H:%M:%S')}.{_ms(quote)},{_price(quote.bid)},{_price(quote.ask)}"


def _plain(quote: Quote) -> str:
    at = f"{_time(quote, '%Y-%m-%d %H:%M:%S')}.{_ms(quote)}"
    return f"{at},{_price(quote.bid)},{_price(quote.ask)},{quote.bid_size},{quote.ask_size}"


def _time(quote: Quote, form: str) -> str:
    return time.strftime(form, time.gmtime(quote.ts_event // SECOND))


def _ms(quote: Quote) -> str:
    return f"{quote.ts_event // MS % 1000:03}"


def _price(mantissa: int) -> str:
    return f"{mantissa // 10**SCALE}.{mantissa % 10**SCALE:0{SCALE}}"


class Form(msgspec.Struct, frozen=True):
    """How the files of one source look."""

    name: str
    file: str
    row: Callable[[Quote], str]
    head: tuple[str, ...] = ()


FORMS: Final = {
    "alfa": Form("lean", "20250106_quote.zip", _lean),
    "bravo": Form("histdata", "ticks.txt", _histdata),
    "delta": Form("truefx", "ticks.txt", _truefx),
    "echo": Form("csv", "ticks.csv.gz", _plain, ("ts_event,bid,ask,bid_size,ask_size",)),
}
