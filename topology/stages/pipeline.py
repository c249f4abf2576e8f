"""The way of a tick through the stages: the only place that knows their order.

    time -> dedup -> validity -> spike -> liveness -> best price -> candle

A ``Symbol`` is everything that is kept of one symbol, changed by one record at a time; its outputs go to
a list. It knows no clock: time comes with the records, and what silence means is decided by deadlines that fire
at their own times when a later record or clock record passes them (docs/stages.md).
"""

from typing import Final, final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from schemas import flags
from schemas.avro import Cursor, put_long
from schemas.instrument import Instrument
from schemas.record import Candle, Gap, Link, Quote, Record, Rejected, Tick, Trade
from topology.stages import best_price, calendar, candle, dedup, liveness, spike, stamp, validity
from topology.stages.best_price import BestPrice, Leg
from topology.stages.candle import Candles
from topology.stages.feed import Feed, status
from topology.stages.liveness import NEVER
from topology.stages.validity import Bounds, Refusal

REPORT_NS: Final = 10_000_000_000
MAX_SOURCES: Final = 64  # of one symbol: its state must stay bounded
VERSION: Final = 4  # of the dumped state


@final
@mypyc_attr(acyclic=True)
class Made:
    """An output, and the offset of the record in market.raw that it comes from."""

    def __init__(self, record: Record, offset: i64) -> None:
        self.record = record
        self.offset: i64 = offset


@mypyc_attr(acyclic=True)
class Symbol:
    """All sources of one symbol, their best price, and the time they live in."""

    def __init__(self, instrument: Instrument, out: list[Made]) -> None:
        self.instrument = instrument
        self.name = instrument.symbol
        self.out = out
        self.bounds = Bounds(instrument)
        self.feeds: list[Feed] = []  # by name
        self.by_name: dict[str, Feed] = {}
        self.legs: list[Leg] = []  # of the feeds, by mid
        self.best = BestPrice(instrument)
        self.composite = Candles(instrument.symbol, "best", instrument.rules, None)
        self.now: i64 = 0
        self.due: i64 = NEVER  # no deadline is before this
        self.offset: i64 = -1  # of the last record that changed anything here
        self.touched = False  # since it was last saved
        self.stale_best = False  # an input of the best price has changed
        self.trigger: i64 = 0  # event time of the record, or the time of the deadline, that is at work

    def on_quote(self, tick: Quote, offset: i64, append: i64, clock: i64) -> str:
        """Apply a quote; give a dead-letter reason or nothing."""
        event: i64 = tick.ts_event
        recv: i64 = tick.ts_recv
        marks: i64 = tick.flags
        if recv > append + stamp.SKEW_NS or event > recv + stamp.SKEW_NS or event <= 0:
            recv, event, marks = stamp.clamp(recv, event, marks, append)
            tick = stamp.quote_with(tick, event, recv, marks)
        feed = self._begin(tick.source, recv, clock, offset)
        if feed is None:
            return flags.TOO_MANY_SOURCES
        self.trigger = event
        if self._is_new(feed, tick, event, recv, marks, offset):
            bid = tick.bid
            ask = tick.ask
            refusal = validity.judge_quote(self.bounds, self.now, tick, event, feed.good)
            if refusal is not None:
                self._refuse(feed, tick, refusal, offset)
            else:
                quality = validity.quality(bid, ask)
                if quality:
                    marks |= quality
                    tick = stamp.quote_with(tick, event, recv, marks)
                if marks & flags.NOT_CLEAN:
                    self._accept(feed, tick, event, recv, offset)
                    if feed.open:
                        self._requote(feed, tick, event)
                else:
                    self._judge(feed, tick, (bid + ask) * 5, event, recv, offset)
        self._end(feed, offset)
        return ""

    def on_trade(self, tick: Trade, offset: i64, append: i64, clock: i64) -> str:
        """Apply a trade; give a dead-letter reason or nothing."""
        recv, event, marks = stamp.clamp(tick.ts_recv, tick.ts_event, tick.flags, append)
        feed = self._begin(tick.source, recv, clock, offset)
        if feed is None:
            return flags.TOO_MANY_SOURCES
        self.trigger = event
        tick = stamp.trade_with(tick, event, recv, marks)
        if self._is_new(feed, tick, event, recv, marks, offset):
            refusal = validity.judge_trade(self.bounds, self.now, tick, event, feed.good)
            if refusal is not None:
                self._refuse(feed, tick, refusal, offset)
            else:
                self._judge(feed, tick, tick.price * 10, event, recv, offset)
        self._end(feed, offset)
        return ""

    def on_link(self, link: Link, offset: i64, append: i64, clock: i64) -> str:
        """Apply a heartbeat, connected or disconnected; give a dead-letter reason or nothing."""
        recv, event, _ = stamp.clamp(link.ts_recv, link.ts_event, 0, append)
        feed = self._begin(link.source, recv, clock, offset)
        if feed is None:
            return flags.TOO_MANY_SOURCES
        self.trigger = event
        before: i64 = feed.life.status
        if link.event == "disconnected":
            feed.leg.suspect = True  # what it quoted before is no quote after the reconnect
            self._write(liveness.disconnect(feed.life, self.now), offset)
        else:
            if link.event == "heartbeat":
                feed.life.heartbeats = True
            liveness.sign_of_life(feed.life, self.now, event, recv)
        if feed.life.status != before:
            self.stale_best = True
        self._end(feed, offset)
        return ""

    def on_candle(self, fetched: Candle, offset: i64, clock: i64) -> str:
        """Apply a candle that backfill or repair has fetched; give a dead-letter reason or nothing."""
        if fetched.source == self.composite.source:
            return flags.UNEXPECTED_RECORD
        feed = self._begin(fetched.source, max(self.now, clock), clock, offset)
        if feed is None:
            return flags.TOO_MANY_SOURCES
        row = candle.replace(feed.candles, self.now, fetched)
        if row is None:
            feed.unused += 1
        self._write(row, offset)
        self._end(feed, offset)
        return ""

    def advance(self, now: i64, offset: i64) -> None:
        """Let time pass: every deadline at or before ``now`` fires, at its own time."""
        now = max(now, self.now)  # a delayed record: what it left due fires too
        while self.due <= now:
            due = self._earliest()
            self.due = due
            if due > now:
                break
            self.now = max(self.now, due)
            self._fire(self.now, offset)
            self.offset = offset
        self.now = now

    # Beginning and end of a record.

    def _begin(self, name: str, recv: i64, clock: i64, offset: i64) -> Feed | None:
        now: i64 = max(recv, clock)
        self.advance(now, offset)
        self.offset = offset
        feed = self.by_name.get(name)
        if feed is None and len(self.feeds) < MAX_SOURCES:
            feed = self._add_feed(name)
            feed.candles.first = recv
            feed.life.since = self.now
            if not feed.open:
                feed.life.status = liveness.CLOSED
        return feed

    def _add_feed(self, name: str) -> Feed:
        feed = Feed(self.instrument, name)
        feed.open, feed.session_at = calendar.session(feed.calendar, self.now)
        self.by_name[name] = feed
        self.feeds.append(feed)
        self.feeds.sort(key=_name)
        self.legs.append(feed.leg)
        return feed

    def _end(self, feed: Feed, offset: i64) -> None:
        if self.stale_best:
            self._choose(self.now, offset)
        if feed.life.status != feed.reported:
            self._report(feed, offset)
        due = min(feed.deadline(), self.composite.deadline())
        if due < self.due:
            self.due = due

    # Dedup, validity, spike.

    def _is_new(self, feed: Feed, tick: Tick, event: i64, recv: i64, marks: i64, offset: i64) -> bool:
        state = feed.dedup
        newest: i64 = state.newest
        feed.arrived += 1
        if event > feed.event:
            feed.event = event
        feed.recv = recv
        if feed.report_at == NEVER:
            feed.report_at = (self.now // REPORT_NS + 1) * REPORT_NS
        if marks & flags.SNAPSHOT and event <= newest:
            self._reject(feed, tick, Refusal(flags.OLD_SNAPSHOT, event, newest, 0), offset)
            return False
        if dedup.repeats(state, tick, event):
            self._reject(feed, tick, Refusal(flags.DUPLICATE, event, newest, dedup.WINDOW), offset)
            return False
        if feed.contiguous and dedup.hole(state, tick.seq) and feed.open:
            self._write(liveness.skip(feed.life, newest, event), offset)
        if event > newest:
            state.newest = event
        if spike.must_reseed(feed.spike, recv):
            self._refute(feed, flags.SPIKE)
            spike.seed(feed.spike)
            feed.good = 0
        return True

    def _refuse(self, feed: Feed, tick: Tick, refusal: Refusal, offset: i64) -> None:
        self._reject(feed, tick, refusal, offset)
        if refusal.reason != flags.LATE:
            self._suspect(feed)

    def _suspect(self, feed: Feed) -> None:
        if feed.open and not feed.leg.suspect:
            feed.leg.suspect = True
            self.stale_best = True

    def _reject(self, feed: Feed, tick: Tick, refusal: Refusal, offset: i64) -> None:
        if not feed.rejected:
            feed.rejected = {}
        feed.rejected[refusal.reason] = feed.rejected.get(refusal.reason, 0) + 1
        record = Rejected(tick, refusal.reason, refusal.observed, refusal.reference, refusal.limit)
        self.out.append(Made(record, offset))

    def _refute(self, feed: Feed, reason: str) -> None:
        for held in spike.take_held(feed.spike):
            self._reject(feed, held.tick, Refusal(reason, held.x, held.median, held.band), held.offset)

    def _judge(self, feed: Feed, tick: Tick, x: i64, event: i64, recv: i64, offset: i64) -> None:
        state = feed.spike
        if not state.held and spike.inside(state, x):
            self._accept_clean(feed, tick, x, event, recv, offset)
            return
        if spike.is_third_level(state, x):
            self._refute(feed, flags.SPIKE)
        near = spike.band(state)
        agreeing = self._waiting_at(feed, x, near)
        agreed = len(agreeing) > 0 or self._is_traded(feed, x, near)
        decision = spike.judge(state, x, agreed)
        if decision == spike.RETURNED:
            self._refute(feed, flags.SPIKE)
            self._accept_clean(feed, tick, x, event, recv, offset)
        elif decision == spike.HOLD:
            spike.hold(state, tick, x, recv, offset)
            liveness.sign_of_life(feed.life, self.now, event, recv)
            self._suspect(feed)
        else:
            at_once = agreed and not state.held  # never held: no flag
            self._release(feed)
            if not at_once:
                tick = stamp.released(tick)
            self._accept_clean(feed, tick, x, event, recv, offset)
            for other in agreeing:
                self._release(other)
                self.due = min(self.due, other.deadline())

    def _waiting_at(self, feed: Feed, x: i64, near: i64) -> list[Feed]:
        """Other live sources that hold suspects at the same level."""
        found: list[Feed] = []
        for other in self.feeds:
            held = other.spike.held
            if (
                other is not feed
                and held
                and other.life.status == liveness.LIVE
                and validity.apart(held[0].x, x) <= near
            ):
                found.append(other)
        return found

    def _is_traded(self, feed: Feed, x: i64, near: i64) -> bool:
        """Whether another live source trades at this level already."""
        for other in self.feeds:
            if other is not feed and other.spike.last > 0 and other.life.status == liveness.LIVE:
                distance = validity.apart(other.spike.last, x)
                if distance <= near:
                    return True
        return False

    def _release(self, feed: Feed) -> None:
        """A real jump: the past is forgotten and the held ticks are accepted in order."""
        held = spike.take_held(feed.spike)
        spike.seed(feed.spike)
        for each in held:
            tick = stamp.released(each.tick)
            self._accept_clean(feed, tick, each.x, tick.ts_event, tick.ts_recv, each.offset)

    # Acceptance: liveness, candle, and what the best price needs. ``offset`` is the tick's own, which one that was
    # held keeps; gaps and candles carry that of the record at work, so that it never goes back for a key.

    def _accept_clean(self, feed: Feed, tick: Tick, x: i64, event: i64, recv: i64, offset: i64) -> None:
        self._accept(feed, tick, event, recv, offset)
        feed.good = x
        if isinstance(tick, Trade):
            spike.accept(feed.spike, x, -1, recv)
            if feed.open:
                rows = candle.add_trade(feed.candles, self.now, event, tick.seq, tick.price, tick.size)
                self._write_all(rows, self.offset)
            return
        bid: i64 = tick.bid
        ask: i64 = tick.ask
        spike.accept(feed.spike, x, (ask - bid) * 10, recv)
        feed.spread = ask - bid
        if feed.open:
            rows = candle.add_quote(feed.candles, self.now, event, tick.seq, bid, ask, x)
            if rows:
                self._write_all(rows, self.offset)
            self._requote(feed, tick, event)

    def _accept(self, feed: Feed, tick: Tick, event: i64, recv: i64, offset: i64) -> None:
        self.out.append(Made(tick, offset))
        feed.accepted += 1
        latency: i64 = recv - event
        feed.latency = feed.latency + (latency - feed.latency) // 16 if feed.accepted > 1 else latency
        life = feed.life
        before: i64 = life.status
        liveness.pace(life, recv)
        if liveness.sign_of_life(life, self.now, event, recv) and life.gap_cause:
            self._write(liveness.close_gap(life, event), self.offset)
        if life.status != before:
            self.stale_best = True
        for leg in self.legs:
            other = leg.life
            if other.status == liveness.QUIET and other is not life:
                liveness.peer_spoke(other, self.now)
                if other.deadline < self.due:
                    self.due = other.deadline

    def _requote(self, feed: Feed, tick: Quote, event: i64) -> None:
        clean = not tick.flags & flags.NOT_CLEAN
        best_price.quote(feed.leg, event, tick.bid, tick.ask, tick.bid_size, tick.ask_size, clean)
        self.stale_best = True

    def _choose(self, now: i64, offset: i64) -> None:
        best_price.sort(self.legs, best_price.MID)
        legs = [leg for leg in self.legs if leg.clean and not leg.suspect and leg.life.status == liveness.LIVE]
        best = best_price.choose(self.best, legs, now, self.trigger)
        self.stale_best = False
        for leg in self.legs:
            leg.is_new = False
        if best is None:
            return
        self.out.append(Made(best, offset))
        if best.state not in ("no_source", "locked", "crossed"):
            event: i64 = best.ts_event
            rows = candle.add_quote(self.composite, now, event, 0, best.bid, best.ask, best.consensus)
            if rows:
                self._write_all(rows, offset)

    # Deadlines.

    def _earliest(self) -> i64:
        due = self.composite.deadline()
        for feed in self.feeds:
            own = feed.deadline()
            if own < due:
                due = own
        return due

    def _fire(self, now: i64, offset: i64) -> None:
        self.trigger = now
        for feed in self.feeds:
            if feed.session_at <= now:
                self._turn_session(feed, now, offset)
        for feed in self.feeds:
            if 0 < feed.spike.deadline <= now:
                for held in spike.time_out(feed.spike):
                    self._reject(
                        feed,
                        held.tick,
                        Refusal(flags.SPIKE_TIMEOUT, held.x, held.median, held.band),
                        held.offset,
                    )
        for feed in self.feeds:
            if feed.life.deadline <= now:
                self._write(liveness.silence(feed.life, now, self._newest_peer(feed)), offset)
                self.stale_best = True
        for feed in self.feeds:
            if feed.candles.deadline() <= now:
                self._write_all(candle.on_time(feed.candles, now), offset)
        if self.stale_best:
            self._choose(now, offset)
        if self.composite.deadline() <= now:
            self._write_all(candle.on_time(self.composite, now), offset)
        for feed in self.feeds:
            if feed.report_at <= now or feed.life.status != feed.reported:
                self._report(feed, offset)

    def _turn_session(self, feed: Feed, now: i64, offset: i64) -> None:
        feed.open, feed.session_at = calendar.session(feed.calendar, now)
        if feed.open:
            self._write(liveness.open_session(feed.life, now), offset)
        else:
            feed.spike.reseed = True
            feed.leg.suspect = True  # Friday's quote is no quote on Sunday: a new one must come first
            self._write(liveness.close_session(feed.life, now), offset)
        self.stale_best = True

    def _newest_peer(self, feed: Feed) -> i64:
        newest: i64 = 0
        for other in self.feeds:
            if other is not feed and other.life.ticked > newest:
                newest = other.life.ticked
        return newest

    # Outputs.

    def _write(self, record: Gap | Candle | None, offset: i64) -> None:
        if record is not None:
            self.out.append(Made(record, offset))

    def _write_all(self, records: list[Candle], offset: i64) -> None:
        for record in records:
            self.out.append(Made(record, offset))

    def _report(self, feed: Feed, offset: i64) -> None:
        self.out.append(Made(status(self.name, feed), offset))
        feed.reported = feed.life.status
        feed.report_at = NEVER

    # State.

    def dump(self) -> bytes:
        """The whole state, with its version and the last applied offset."""
        out = BytesWriter()
        put_long(out, VERSION)
        put_long(out, self.offset)
        put_long(out, self.now)
        self.best.dump(out)
        candle.dump(self.composite, out)
        put_long(out, len(self.feeds))
        for feed in self.feeds:
            feed.dump(out)
        return out.getvalue()

    def load(self, data: bytes) -> None:
        """Take over what dump() gave. Raises ValueError where another version of this code did."""
        cursor = Cursor(data, 0)
        if cursor.long() != VERSION:
            raise ValueError(f"the state of {self.name} is not of version {VERSION}, which this code reads")
        self.offset = cursor.long()
        self.now = cursor.long()
        self.best.load(cursor)
        candle.load(self.composite, cursor)
        for _ in range(cursor.long()):
            self._add_feed(cursor.string()).load(cursor)
        self.due = self._earliest()


def _name(feed: Feed) -> str:
    return feed.name
