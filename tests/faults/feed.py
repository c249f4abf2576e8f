"""The input of the fault suite: seeded, the same every time, fed at its own pace whatever breaks meanwhile.

Fifty symbols from four simulated brokers that misbehave (connectors/simulated.py), as records that connectors would
write. `python -m tests.faults.feed` is the connector: it writes them into market.raw when they are due, until it has
fed enough and is told to end (SIGTERM), and leaves `Fed`: what market.raw must hold, as one digest a partition.
"""

import argparse
import hashlib
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import yaml

from connectors.runtime.producer import RawProducer
from connectors.simulated import MARKETS, SECOND, Feed, Market, instruments
from schemas import instrument
from schemas.codec import Codec
from schemas.record import Clock, Quote, Trade
from schemas.record import replace as record_with

SYMBOLS = 50
STALL_S = 180.0  # a broker may be away for long here
PAUSE_S = 0.01
TELL_S = 0.5


class Shift(msgspec.Struct, frozen=True):
    """The host of one connector has a wrong clock for a while; seconds since the feed began."""

    source: str
    begin_s: float
    end_s: float
    by_s: float


class Fed(msgspec.Struct, frozen=True):
    """What has been fed: by partition a digest of all values in order."""

    ticks: int
    records: int
    digests: dict[int, str]


def markets(rate: float) -> tuple[Market, ...]:
    """Fifty markets that tick ``rate`` times a second together, modelled on the demo's six."""
    found = [MARKETS[number % len(MARKETS)] for number in range(SYMBOLS)]
    return tuple(
        replace(model, symbol=f"{model.symbol}{number:02d}", rate=rate / SYMBOLS) for number, model in enumerate(found)
    )


def write_instruments(path: Path) -> None:
    """Write the instruments file that all processes of the suite use."""
    classes = yaml.safe_load(instrument.DEFAULT.read_text())["classes"]
    path.write_text(yaml.safe_dump(instruments(classes, markets(1)), sort_keys=False))


def records(seed: int, start_ns: int, rate: float, shifts: Sequence[Shift] = ()) -> Iterator[tuple[int, Any]]:
    """The input without end: (when due in ns, record); a Clock is for every partition."""
    for due_ns, record, _ in Feed(seed, start_ns, markets=markets(rate)):
        yield due_ns, shifted(record, due_ns, start_ns, shifts)


def shifted(record: Any, due_ns: int, start_ns: int, shifts: Sequence[Shift]) -> Any:
    """The record as stamped by a host with a wrong clock, where it has one just now."""
    if isinstance(record, Clock):
        return record
    since = (due_ns - start_ns) / SECOND
    at_work = [each for each in shifts if each.source == record.source and each.begin_s <= since < each.end_s]
    by_ns = sum(int(each.by_s * SECOND) for each in at_work)
    return record_with(record, ts_recv=record.ts_recv + by_ns) if by_ns else record


class Digest:
    """Digests of values by partition."""

    def __init__(self) -> None:
        self._of: dict[int, Any] = {}

    def add(self, partition: int, value: bytes) -> None:
        """One more value of a partition."""
        if partition not in self._of:
            self._of[partition] = hashlib.blake2b(digest_size=16)
        self._of[partition].update(len(value).to_bytes(4) + value)

    def result(self) -> dict[int, str]:
        """By partition."""
        return {number: digest.hexdigest() for number, digest in sorted(self._of.items())}


def feed(broker: str, run: str, asked: argparse.Namespace) -> Fed:
    """Write the input when it is due; return when there is enough of it and the end has been asked for."""
    told = False

    def tell(*_: object) -> None:
        nonlocal told
        told = True

    signal.signal(signal.SIGTERM, tell)
    shifts = msgspec.json.decode(asked.shifts, type=list[Shift])
    codec, digest = Codec(), Digest()
    producer = RawProducer(broker, run, codec, stall_s=STALL_S)
    ticks = written = 0
    said = 0.0
    for due_ns, record in records(asked.seed, asked.start_ns, asked.rate, shifts):
        if told and ticks >= asked.ticks:
            producer.flush()
            return Fed(ticks, written, digest.result())
        while (early := due_ns - time.time_ns()) > 0:
            producer.poll()
            time.sleep(min(PAUSE_S, early / SECOND))
        value = codec.encode(record)
        if isinstance(record, Clock):
            for number in range(producer.partitions):
                producer.clock(number, record.ts_recv)
                digest.add(number, value)
            written += producer.partitions
        else:
            producer.send(record)
            digest.add(producer.partition_of(record.symbol), value)
            ticks += isinstance(record, Quote | Trade)
            written += 1
        if time.monotonic() - said > TELL_S:
            said = time.monotonic()
            asked.progress.write_text(str(ticks))
    raise AssertionError("the feed has no end")


def first(count: int, seed: int, rate: float) -> list[Quote | Trade]:
    """The first ticks of the input, for who wants them at once."""
    made = (record for _, record in records(seed, 1_772_625_600 * SECOND, rate))
    return list(islice((each for each in made if isinstance(each, Quote | Trade)), count))


def main() -> None:
    """The connector process."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--broker", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--start-ns", type=int, required=True)
    parser.add_argument("--ticks", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--shifts", default="[]")
    parser.add_argument("--progress", type=Path, required=True)
    parser.add_argument("--result", type=Path, required=True)
    asked = parser.parse_args()
    fed = feed(asked.broker, asked.run, asked)
    asked.result.write_bytes(msgspec.json.encode(fed))


if __name__ == "__main__":
    main()
