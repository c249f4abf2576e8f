"""How long the partitions of a killed worker stand still while another one has their state ready.

Two workers with ``standby = 1``, every symbol and source warm, ticks coming all the time. One is killed (-9); what
counts is what a read-committed consumer of market.data.best sees: from the kill to the first new best price of the last
of the partitions that moved.
"""

import statistics
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from confluent_kafka import TopicPartition

from bench import kafka, market
from bench.market import SECOND, START, Market, quotes
from bench.process import BenchError, Process, worker
from bench.rig import Rig
from connectors.runtime.producer import RawProducer
from schemas import topics
from schemas.codec import Codec
from schemas.record import Quote, replace
from topology import admin
from topology.config import Settings

SESSION_S: Final = 1.5  # session_seconds of the workers
RATE: Final = 1_000  # ticks a second while it happens
KILLS: Final = 5
SYMBOLS: Final = 1_000
TICKS: Final = 160  # of each source, on average: windows and candles are full
SECONDS: Final = 18 * 60
READY_S: Final = 120.0
SURE_S: Final = 0.2  # what Kafka appends later than this after the kill is not the dead worker's
SETTLE_S: Final = 3.0  # for the machine to become calm


def measure(rig: Rig, *, ticks: int = TICKS, kills: int = KILLS) -> dict[str, Any]:
    """Fill a worker's state, then kill one of two workers again and again."""
    run = "bench-hand-over"
    of = Market(SYMBOLS, SYMBOLS * 4 * ticks, SECONDS, even=True)
    settings = rig.fill(run, of)
    with worker(settings, rig.log(run)) as process, rig.progress("worker", of.ticks) as tell:
        rig.await_worker(process, run, tell)
    settings = msgspec.structs.replace(settings, standby=1, session_seconds=SESSION_S)
    last = {(quote.symbol, quote.source): quote for quote in quotes(of)}
    taken: list[float] = []
    moved = 0
    pair = [_start(rig, settings, number) for number in range(2)]
    try:
        with feed(rig, run, list(last.values())) as feeder:
            for number in range(kills):
                _settle(rig, pair, run)
                times = _kill(rig, run, pair, number % 2)
                taken.append(max(times.values()))
                moved = max(moved, len(times))
                feeder.check()
                rig.say(f"  {number + 1}/{kills}  {len(times)} partitions taken over in {taken[-1]:.2f} s")
                pair[number % 2] = _start(rig, settings, number % 2)
    finally:
        for each in pair:
            each.kill()
    return {
        "symbols": SYMBOLS,
        "sources": len(market.SOURCES),
        "session_s": SESSION_S,
        "rate": RATE,
        "partitions": moved,
        "kills_s": [round(each, 2) for each in taken],
        "median_s": round(statistics.median(taken), 2),
        "max_s": round(max(taken), 2),
    }


def _start(rig: Rig, settings: Settings, number: int) -> Process:
    own = msgspec.structs.replace(settings, data=rig.directory / f"hand-over-{number}", web_port=_port(number))
    return worker(own, rig.log(f"hand-over-{number}"))


def _port(number: int) -> int:
    return 19_460 + number


class _Ready(msgspec.Struct):
    """What a worker says of itself; nothing while it is not ready."""

    partitions: list[int] = []
    standby: dict[int, int] = {}  # changelog records behind

    @property
    def is_warm(self) -> bool:
        """Whether it could take over: what is written while it looks is not yet read."""
        return bool(self.partitions and self.standby) and sum(self.standby.values()) < RATE


def _ask(number: int) -> _Ready:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_port(number)}/readyz", timeout=2) as answer:
            return msgspec.json.decode(answer.read(), type=_Ready)
    except OSError:
        return _Ready()


def _settle(rig: Rig, pair: list[Process], run: str) -> None:
    """Wait until both workers have partitions and the state of the other's, and are not behind."""
    raw = topics.named(topics.RAW.name, run)
    limit = time.monotonic() + READY_S
    progress = kafka.Progress(rig.broker, admin.app_id(run), raw, kafka.ends(rig.client, raw))
    try:
        while progress.left() > 0 or not all(_ask(number).is_warm for number in range(2)):
            for each in pair:
                each.check()
            if time.monotonic() > limit:
                raise BenchError(f"two workers of {run} were not ready after {READY_S:.0f} s")
            time.sleep(0.1)
    finally:
        progress.close()
    time.sleep(SETTLE_S)


def _kill(rig: Rig, run: str, pair: list[Process], victim: int) -> dict[int, float]:
    """Kill a worker; seconds to the first new best price by partition."""
    best = topics.named(topics.BEST.name, run)
    moving = set(_ask(victim).partitions)
    at = [TopicPartition(best, number, end) for number, end in kafka.ends(rig.client, best).items() if number in moving]
    seen: dict[int, float] = {}
    with kafka.consumer(rig.broker, at, **{"isolation.level": "read_committed", "fetch.wait.max.ms": 20}) as consumer:
        consumer.consume(1_000, 1.0)  # connected
        killed = time.time()
        pair[victim].kill()
        while len(seen) < len(moving):
            pair[1 - victim].check()
            for message in consumer.consume(1_000, 0.01):
                if message.error() is None and message.timestamp()[1] / 1e3 > killed + SURE_S:
                    seen.setdefault(message.partition() or 0, time.time() - killed)
            if time.time() - killed > READY_S:
                raise BenchError(f"partitions {sorted(moving - seen.keys())} were not taken over (log: hand-over-*)")
    return seen


class Feeder(threading.Thread):
    """Ticks of all symbols and sources in turn, each with a new price, until it is over."""

    def __init__(self, rig: Rig, run: str, last: list[Quote], rate: int) -> None:
        super().__init__(daemon=True)
        self._producer = RawProducer(rig.broker, run, Codec())
        self._last = last
        self._rate = rate
        self.sent = 0
        self.over = threading.Event()
        self.failure: BaseException | None = None

    def run(self) -> None:
        """Send until it is over."""
        try:
            self._run()
        except BaseException as error:  # told by check
            self.failure = error
            raise

    def _run(self) -> None:
        began = time.monotonic()
        while not self.over.wait(0.005):
            while self.sent < (time.monotonic() - began) * self._rate:
                turn, which = divmod(self.sent, len(self._last))
                quote = self._last[which]
                at = START + SECONDS * SECOND + int(self.sent / self._rate * SECOND)
                up = turn % 2 * 2
                self._producer.send(
                    replace(
                        quote, ts_event=at, ts_recv=at, bid=quote.bid + up, ask=quote.ask + up, seq=quote.seq + turn + 1
                    )
                )
                self.sent += 1
            self._producer.poll()
        self._producer.flush()

    def check(self) -> None:
        """Raise BenchError where it has failed."""
        if self.failure is not None:
            raise BenchError(f"feeding failed: {self.failure}")


@contextmanager
def feed(rig: Rig, run: str, last: list[Quote], rate: int = RATE) -> Iterator[Feeder]:
    """Send ticks while the block runs: ``last`` of every symbol and source, SECONDS after the market's start."""
    feeder = Feeder(rig, run, last, rate)
    feeder.start()
    try:
        yield feeder
    finally:
        feeder.over.set()
        feeder.join(30)
