"""What the state of many symbols costs: memory of a worker that holds it, and the time to read it back.

Every source has filled its windows and its 16 minutes of candles. The worker is killed (-9) and started again; it is
ready when every partition has written an output anew. Kafka lets a killed member go only when its session has run out,
so beside that stands a start after an orderly stop: the recovery itself. Last, ticks come at a steady rate (live.py).
"""

import statistics
import time
from typing import Any, Final

from bench import kafka, live, market
from bench.market import SECOND, START, Market
from bench.process import BenchError, Process, worker
from bench.rig import Rig
from connectors.runtime.producer import RawProducer
from schemas import topics
from schemas.codec import Codec
from schemas.record import Quote, replace
from topology import admin
from topology.config import Settings
from topology.stages.partition import PARTITION_KEY

SIZES: Final = (100, 1_000)
TICKS: Final = 160  # of each source, on average: the least heard of 4,000 still has more than 100
SECONDS: Final = 18 * 60
KILLS: Final = 3
SETTLE_S: Final = 3.0
READY_S: Final = 180.0


def measure(
    rig: Rig, *, ticks: int = TICKS, kills: int = KILLS, live_s: float = live.MEASURED_S
) -> list[dict[str, Any]]:
    """Fill a worker for each size, weigh it, kill it, and time its return."""
    rows = []
    for symbols in SIZES:
        row = _size(rig, symbols, ticks, kills, live_s)
        rows.append(row)
        rig.say(
            f"  {symbols:>5} x 4     {row['memory_mb']} MB (peak {row['peak_mb']}), {row['states']:,} states of "
            f"{row['state_bytes']:,} bytes; ready {row['killed']['ready_s']} s after kill -9, "
            f"{row['stopped']['ready_s']} s after a stop"
        )
    return rows


def _size(rig: Rig, symbols: int, ticks: int, kills: int, live_s: float) -> dict[str, Any]:
    run = f"bench-{symbols}"
    of = Market(symbols, symbols * 4 * ticks, SECONDS, even=True)
    settings = rig.fill(run, of)
    with worker(settings, rig.log(run)) as process, rig.progress(f"{run}, worker", of.ticks) as tell:
        rig.await_worker(process, run, tell)
        time.sleep(SETTLE_S)
        memory, peak = process.memory_mb()
        process.kill()
    pairs = {(quote.symbol, quote.source): quote for quote in market.quotes(of)}
    last = {quote.symbol: quote for quote in pairs.values()}
    killed = [_restart(rig, settings, last, number, kill=number < kills) for number in range(1, kills + 1)]
    stopped = _restart(rig, settings, last, kills + 1, kill=False)
    changelog = admin.state_topic(run)
    newest = {record.key or b"": len(record.value or b"") for record in kafka.read(rig.client, rig.broker, changelog)}
    states = [size for key, size in newest.items() if not key.startswith(PARTITION_KEY)]
    return {
        "symbols": symbols,
        "sources": len(market.SOURCES),
        "ticks": of.ticks,
        "memory_mb": memory,
        "peak_mb": peak,
        "states": len(states),
        "state_bytes": round(statistics.mean(states)),
        "changelog_records": sum(kafka.ends(rig.client, changelog).values()),
        "killed": {name: round(statistics.median(each[name] for each in killed), 2) for name in killed[0]},
        "killed_ready_s": [each["ready_s"] for each in killed],
        "stopped": stopped,
        "live": live.measure(rig, settings, list(pairs.values()), seconds=live_s),
    }


def _restart(rig: Rig, settings: Settings, last: dict[str, Quote], number: int, *, kill: bool) -> dict[str, float]:
    """Start a worker and time it; then kill it, or let it stop."""
    run = settings.run
    tick = topics.named(topics.TICK.name, run)
    since = kafka.ends(rig.client, tick)
    _touch(rig, run, last, number)
    with worker(settings, rig.log(run)) as process:
        ready = _await_outputs(rig, process, tick, since)
        rig.await_worker(process, run)
        time.sleep(SETTLE_S)
        memory, peak = process.memory_mb()
        if kill:
            process.kill()
    return {
        "ready_s": round(ready - process.started, 2),
        "after_import_s": round(ready - process.lines[0][0], 2),  # its first line comes when all is imported
        "memory_mb": memory,
        "peak_mb": peak,
    }


def _touch(rig: Rig, run: str, last: dict[str, Quote], number: int) -> None:
    """One more tick of every symbol, so that every partition has something to say."""
    producer = RawProducer(rig.broker, run, Codec())
    at = START + (SECONDS + number) * SECOND
    for quote in last.values():
        producer.send(replace(quote, ts_event=at, ts_recv=at, seq=quote.seq + number))
    producer.flush()


def _await_outputs(rig: Rig, process: Process, topic: str, since: dict[int, int]) -> float:
    """Wait until every partition has a new record; say when Kafka got the last of these."""
    limit = time.monotonic() + READY_S
    while any(end <= since[number] for number, end in kafka.ends(rig.client, topic).items()):
        process.check()
        if time.monotonic() > limit:
            raise BenchError(f"not every partition of {topic} has a new record after {READY_S:.0f} s")
        time.sleep(0.05)
    first: dict[int, int] = {}
    for record in kafka.read(rig.client, rig.broker, topic, since):
        first.setdefault(record.partition, record.timestamp)
    return max(first.values()) / 1e3
