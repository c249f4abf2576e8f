"""One source of a symbol: what each stage keeps of it, and the count of every tick."""

import sys
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, put_counts, put_long, put_string
from schemas.instrument import Instrument
from schemas.record import Status
from topology.stages import candle, liveness
from topology.stages.best_price import Leg
from topology.stages.candle import Candles
from topology.stages.dedup import Dedup
from topology.stages.liveness import NEVER, Liveness
from topology.stages.spike import Spike

NONE: Final[dict[str, int]] = {}  # rejected, so far


@mypyc_attr(acyclic=True)
class Feed:
    """One source of a symbol: a part for each stage, and the count of every tick."""

    def __init__(self, instrument: Instrument, name: str) -> None:
        source = instrument.source(name)
        rules = instrument.rules
        name = sys.intern(name)  # other symbols have the source too
        self.name = name
        self.contiguous = source.contiguous
        self.calendar = source.calendar or instrument.calendar
        self.dedup = Dedup()
        self.spike = Spike(rules)
        self.life = Liveness(instrument.symbol, name, rules)
        self.leg = Leg(name, source.priority, source.weight, self.life)
        self.candles = Candles(instrument.symbol, name, rules, self.life)
        self.open = True
        self.session_at: i64 = NEVER  # when the session next opens or closes
        self.good: i64 = 0  # the last good mid
        self.event: i64 = 0  # of the newest tick
        self.recv: i64 = 0
        self.latency: i64 = 0
        self.spread: i64 = 0
        self.arrived: i64 = 0
        self.accepted: i64 = 0
        self.rejected = NONE
        self.unused: i64 = 0  # fetched candles that were not needed
        self.report_at: i64 = NEVER
        self.reported: i64 = -1  # the status last written

    def deadline(self) -> i64:
        """When time alone next changes something here."""
        due = min(self.session_at, self.life.deadline)
        due = min(due, self.candles.deadline())
        due = min(due, self.report_at)
        if self.spike.deadline > 0:
            due = min(due, self.spike.deadline)
        return due

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        put_string(out, self.name)
        put_long(out, self.good)
        put_long(out, self.event)
        put_long(out, self.recv)
        put_long(out, self.latency)
        put_long(out, self.spread)
        put_long(out, self.arrived)
        put_long(out, self.accepted)
        put_counts(out, self.rejected)
        put_long(out, self.unused)
        put_long(out, self.report_at)
        put_long(out, self.reported)
        self.dedup.dump(out)
        self.spike.dump(out)
        self.life.dump(out)
        self.leg.dump(out)
        candle.dump(self.candles, out)

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave, but for the name."""
        self.good = cursor.long()
        self.event = cursor.long()
        self.recv = cursor.long()
        self.latency = cursor.long()
        self.spread = cursor.long()
        self.arrived = cursor.long()
        self.accepted = cursor.long()
        self.rejected = cursor.counts() or NONE
        self.unused = cursor.long()
        self.report_at = cursor.long()
        self.reported = cursor.long()
        self.dedup.load(cursor)
        self.spike.load(cursor)
        self.life.load(cursor)
        self.leg.load(cursor)
        candle.load(self.candles, cursor)


def status(symbol: str, feed: Feed) -> Status:
    """The scoreboard of one source as it is now."""
    life = feed.life
    name = liveness.NAMES[life.status]
    return Status(
        symbol, feed.name, name, life.since, feed.event, feed.recv, feed.latency, life.interval, feed.spread,
        feed.arrived, feed.accepted, len(feed.spike.held), life.opened, dict(feed.rejected),
    )  # fmt: skip
