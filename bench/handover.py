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

from bench import kafka
from bench.market import SECOND, Market, quotes
from bench.process import BenchError, Process, worker
from bench.rig import Rig
from connectors.runtime.producer import RawProducer
from schemas import topics
from schemas.codec import Codec
from schemas.record import Quote, replace
from topology.config import Settings

SESSION_S: Final = 1.5  # session_seconds of the workers
RATE: Final = 1_000  # ticks a second while it happens
KILLS: Final = 3
READY_S: Final = 120.0
SURE_S: Final = 0.2  # what Kafka appends later than this after the kill is not the dead worker's
SETTLE_S: Final = 5.0  # for the standby to have read all


def measure(rig: Rig, settings: Settings, of: Market, since: int, *, kills: int = KILLS) -> dict[str, Any]:
    """Kill one of two workers again and again; ``since``: seconds of the market that have been fed."""
    settings = msgspec.structs.replace(settings, standby=1, session_seconds=SESSION_S)
    last = {(quote.symbol, quote.source): quote for quote in quotes(of)}
    pair = [_start(rig, settings, number) for number in range(2)]
    taken: list[float] = []
    moved = 0
    try:
        with _feed(rig, settings.run, list(last.values()), since) as feed:
            for number in range(kills):
                _settle(pair, settings)
                times = _kill(rig, settings, pair, number % 2)
                taken.append(max(times.values()))
                moved = max(moved, len(times))
                feed.check()
                pair[number % 2] = _start(rig, settings, number % 2)
    finally:
        for each in pair:
            each.kill()
    return {
        "session_s": SESSION_S,
        "rate": RATE,
        "partitions": moved,
        "seconds": [round(each, 2) for each in taken],
        "median_s": round(statistics.median(taken), 2),
        "max_s": round(max(taken), 2),
    }


def _start(rig: Rig, settings: Settings, number: int) -> Process:
    own = msgspec.structs.replace(settings, data=rig.directory / f"hand-over-{number}", web_port=_port(number))
    return worker(own, rig.log(f"hand-over-{number}"))


def _port(number: int) -> int:
    return 19_460 + number


def _partitions(number: int) -> list[int]:
    """Those of a worker; none while it isn't ready."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{_port(number)}/readyz", timeout=2) as answer:
            return list(msgspec.json.decode(answer.read())["partitions"])
    except OSError:
        return []


def _settle(pair: list[Process], settings: Settings) -> None:
    """Wait until both workers have partitions, and their standbys had time to read."""
    limit = time.monotonic() + READY_S
    while not all(_partitions(number) for number in range(2)):
        for each in pair:
            each.check()
        if time.monotonic() > limit:
            raise BenchError(f"two workers of {settings.run} were not ready after {READY_S:.0f} s")
        time.sleep(0.1)
    time.sleep(SETTLE_S)


def _kill(rig: Rig, settings: Settings, pair: list[Process], victim: int) -> dict[int, float]:
    """Kill a worker; seconds to the first new best price by partition."""
    best = topics.named(topics.BEST.name, settings.run)
    moving = set(_partitions(victim))
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


class _Feeder(threading.Thread):
    """Ticks of all symbols and sources in turn, each with a new price."""

    def __init__(self, rig: Rig, run: str, last: list[Quote], since: int) -> None:
        super().__init__(daemon=True)
        self._producer = RawProducer(rig.broker, run, Codec())
        self._last = last
        self._since = since
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
        began, sent = time.monotonic(), 0
        while not self.over.wait(0.005):
            while sent < (time.monotonic() - began) * RATE:
                turn, which = divmod(sent, len(self._last))
                quote = self._last[which]
                at = self._since * SECOND + int(sent / RATE * SECOND)
                up = turn % 2 * 2
                self._producer.send(
                    replace(
                        quote, ts_event=at, ts_recv=at, bid=quote.bid + up, ask=quote.ask + up, seq=quote.seq + turn + 1
                    )
                )
                sent += 1
            self._producer.poll()
        self._producer.flush()

    def check(self) -> None:
        """Raise BenchError where it has failed."""
        if self.failure is not None:
            raise BenchError(f"feeding failed: {self.failure}")


@contextmanager
def _feed(rig: Rig, run: str, last: list[Quote], since: int) -> Iterator[_Feeder]:
    feeder = _Feeder(rig, run, last, since)
    feeder.start()
    try:
        yield feeder
    finally:
        feeder.over.set()
        feeder.join(30)
