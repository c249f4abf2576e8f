"""From produce to best price consumed, live, with the load generator on the same cores.

    feeder --market.raw--> Kafka --> worker --market.data.best--> Kafka --> listener

The feeder stamps ts_recv just before it produces; a best price carries the ts_recv of the tick that made it. The
same with market.raw itself in place of the worker's output shows what Kafka and the load generator cost: the floor.
"""

import gc
import itertools
import multiprocessing
import statistics
import time
from array import array
from collections.abc import Iterator
from multiprocessing.sharedctypes import Synchronized
from typing import Any, Final

import msgspec
from confluent_kafka import Producer, TopicPartition

from bench import kafka, machine, market
from bench.market import SECOND, Market
from bench.process import BenchError, worker
from bench.rig import Rig
from connectors.runtime.producer import partition_of
from schemas import topics
from schemas.codec import Codec
from schemas.record import Best, Clock, Quote
from topology import admin
from topology.config import DELIVERIES

RATE: Final = 5_000
WARM_S: Final = 20.0  # for Java to have compiled what Kafka does at this rate
WARM_HALF_S: Final = 90.0  # it takes so long at the high one, half a core for half a second at a time
MEASURED_S: Final = 20.0
PATIENCE_S: Final = 30.0  # for what is still under way when the feeder has ended
SYMBOLS: Final = 100
CYCLE: Final = 200_000  # ticks, then their prices begin anew
QUEUE: Final = 2_000_000  # ticks that wait for Kafka: a standstill of seconds must not end the feeder
HELD: Final = 0.98  # of the rate must have been sent

spawn = multiprocessing.get_context("spawn")


def measure(rig: Rig, half: int, *, warm: float = WARM_S, measured: float = MEASURED_S) -> dict[str, Any]:
    """Measure the worker in both kinds of delivery, then the floor; all of it again at ``half`` ticks/s, if any."""
    at_half = {}
    exactly, once, floor = _all(rig, RATE, warm, measured)
    if half:
        at_half = dict(zip((*DELIVERIES, "floor"), _all(rig, half, warm / WARM_S * WARM_HALF_S, measured), strict=True))
    return {**once, "exactly_once": exactly, "floor": floor, "half": at_half}


def _all(rig: Rig, rate: int, warm: float, measured: float) -> list[dict[str, Any]]:
    rows = []
    for delivery in (*DELIVERIES, ""):
        row = _worker(rig, delivery, rate, warm, measured) if delivery else _floor(rig, rate, warm / 2, measured / 2)
        _say(rig, delivery or "floor", row)
        rows.append(row)
    return rows


def _worker(rig: Rig, delivery: str, rate: int, warm: float, measured: float) -> dict[str, Any]:
    run = f"bench-{delivery}-{rate}"
    settings = rig.fill(run, Market(SYMBOLS, SYMBOLS, 1))  # a tick of each, so that we see it come up
    settings = msgspec.structs.replace(settings, delivery=delivery)
    with worker(settings, rig.log(run)) as process:
        rig.await_worker(process, run)
        time.sleep(1.0)
        at = {topic: kafka.ends(rig.client, topics.named(topic.name, run)) for topic in _TICKS}
        result = _drive(rig, run, topics.BEST.name, rate, warm, measured, [process.pid])
        rig.await_worker(process, run)
        _, result["peak_mb"] = process.memory_mb()
    came = sum(
        1 for topic in _TICKS for _ in kafka.read(rig.client, rig.broker, topics.named(topic.name, run), at[topic])
    )
    result["wrong"] = [] if came == result["sent"] else [f"{result['sent']:,} ticks sent, {came:,} accounted for"]
    if result["sent"] < HELD * rate * (warm + measured):
        result["wrong"].append(f"the feeder could not hold {rate:,} ticks/s: {result['sent']:,} sent")
    return result


def _floor(rig: Rig, rate: int, warm: float, measured: float) -> dict[str, Any]:
    run = f"bench-floor-{rate}"
    admin.create_topics(rig.broker, run, replication=1)
    return _drive(rig, run, topics.RAW.name, rate, warm, measured, [])


_TICKS: Final = (topics.TICK, topics.REJECTED)


def _drive(rig: Rig, run: str, topic: str, rate: int, warm: float, measured: float, pids: list[int]) -> dict[str, Any]:
    """Feed, listen, and say what was seen; ``pids`` are the processes whose use of the cores counts."""
    name = topics.named(topic, run)
    sent, done = spawn.Value("q", 0), spawn.Value("b", 0)
    results: Any = spawn.SimpleQueue()
    listener = spawn.Process(target=listen, args=(rig.broker, name, kafka.ends(rig.client, name), done, results))
    feeder = spawn.Process(target=feed, args=(rig.broker, run, rate, warm + measured, sent))
    listener.start()
    results.get()  # it listens
    feeder.start()
    while not sent.value:
        if not feeder.is_alive():
            raise BenchError("the feeder ended before it began")
        time.sleep(0.005)
    begun = time.time_ns()
    load = [pid for pid in (feeder.pid, listener.pid) if pid]
    used: dict[str, list[int]] = {"worker": pids, "kafka": [rig.kafka_pid], "load": load}
    rig.wait(f"{name}, warming up", warm)
    before = {what: sum(map(machine.cpu_seconds, own)) for what, own in used.items()}
    rig.wait(f"{name}, measuring", measured - 0.5)
    cores = {
        what: round((sum(map(machine.cpu_seconds, own)) - before[what]) / (measured - 0.5), 2)
        for what, own in used.items()
        if own
    }
    feeder.join()
    _await_quiet(rig, name)
    done.value = 1
    stamps, delays = (array("q", data) for data in results.get())
    listener.join()
    since, until = begun + int(warm * SECOND), begun + int((warm + measured) * SECOND)
    counted = [delay / 1e6 for stamp, delay in zip(stamps, delays, strict=True) if since <= stamp < until]
    if len(counted) < 100:
        raise BenchError(f"only {len(counted)} records of {name} came while it was measured")
    return {"rate": rate, "seconds": measured, "sent": sent.value, "records": len(counted), "cores": cores} | _cuts(
        counted
    )


def _cuts(delays: list[float]) -> dict[str, float]:
    cuts = statistics.quantiles(delays, n=1000)
    return {
        "p50_ms": round(cuts[499], 2),
        "p99_ms": round(cuts[989], 2),
        "p999_ms": round(cuts[998], 2),
        "max_ms": round(max(delays), 2),
    }


def _await_quiet(rig: Rig, topic: str) -> None:
    """Wait until nothing more is appended: a worker that could not hold the rate is let finish."""
    limit = time.monotonic() + PATIENCE_S
    last: dict[int, int] = {}
    while (now := kafka.ends(rig.client, topic)) != last and time.monotonic() < limit:
        last = now
        time.sleep(1.5)


def _say(rig: Rig, what: str, row: dict[str, Any]) -> None:
    rig.say(
        f"  {what:<13}  {row['rate']:,}/s: p50 {row['p50_ms']} ms, p99 {row['p99_ms']} ms, p99.9 {row['p999_ms']} ms, "
        f"max {row['max_ms']} ms; cores {row['cores']}  {'; '.join(row.get('wrong', []))}"
    )


def feed(broker: str, run: str, rate: int, seconds: float, sent: "Synchronized[int]") -> None:
    """Process: write ticks at a steady rate with the time as it is, and a clock record every second."""
    encode = Codec().encode
    raw = topics.named(topics.RAW.name, run)
    settings: dict[str, Any] = {
        "bootstrap.servers": broker,
        "enable.idempotence": True,
        "compression.type": "lz4",
        "linger.ms": 1,
        "queue.buffering.max.messages": QUEUE,
    }
    producer = Producer(settings)
    partitions = len(producer.list_topics(timeout=10).topics[raw].partitions)
    place = {
        market.symbol(number): partition_of(market.symbol(number).encode(), partitions) for number in range(SYMBOLS)
    }
    ticks = itertools.cycle(list(market.quotes(Market(SYMBOLS, CYCLE, CYCLE / rate))))
    gc.collect()
    gc.freeze()
    begin, count, clock = time.perf_counter(), 0, 0.0
    while (elapsed := time.perf_counter() - begin) < seconds:
        if elapsed >= clock:
            for number in range(partitions):
                producer.produce(raw, encode(Clock(time.time_ns())), topics.CLOCK_KEY, number)
            clock += 1.0
        due = int(elapsed * rate)
        for tick in itertools.islice(ticks, due - count):
            now = time.time_ns()
            value = encode(
                Quote(
                    tick.symbol, tick.source, now - (tick.ts_recv - tick.ts_event), now, tick.bid, tick.ask,
                    tick.bid_size, tick.ask_size,
                )
            )  # fmt: skip
            producer.produce(raw, value, tick.symbol.encode(), place[tick.symbol])
        count = sent.value = due
        producer.poll(0)
        time.sleep(0.001)
    if producer.flush(PATIENCE_S):
        raise BenchError("Kafka did not take what the feeder sent")


def listen(broker: str, topic: str, since: dict[int, int], done: "Synchronized[int]", results: Any) -> None:
    """Process: note for each record of a topic the ts_recv in it, and how many ns later it came."""
    came: list[tuple[int, bytes]] = []
    at = [TopicPartition(topic, number, offset) for number, offset in since.items()]
    gc.disable()
    with kafka.consumer(broker, at, **{"fetch.wait.max.ms": 100, "fetch.min.bytes": 1}) as source:
        source.poll(0.5)
        results.put(True)
        while not done.value:
            message = source.poll(0.1)
            if message is not None and not message.error():
                came.append((time.time_ns(), message.value() or b""))
    stamps, delays = array("q"), array("q")
    for stamp, now in _stamps(came):
        stamps.append(stamp)
        delays.append(now - stamp)
    results.put((stamps.tobytes(), delays.tobytes()))


def _stamps(came: list[tuple[int, bytes]]) -> Iterator[tuple[int, int]]:
    decode = Codec().decode
    for now, value in came:
        record = decode(value)
        if isinstance(record, Best | Quote):
            yield record.ts_recv, now
