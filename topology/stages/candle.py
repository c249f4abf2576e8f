"""Build one-minute candles, exactly, from ticks that come late and out of order.

A minute is [t, t + 60 s), labelled by its start, filled by event time. Nothing is made up: a minute without
ticks has no row. A row may be provisional (revision -1), is final once (0), and is corrected by late ticks (1, 2...):

    event time   ---|-- minute --|-- lateness --|             the source's own ticks have moved on: final
    stream time  ---|-- minute --|----- grace -----|          or the source is silent: final by the clock
                                 |------ 15 minutes ------|   a late tick gives a new revision

First and last are decided by (event, sequence, offset), so the order of arrival within the lateness does not
matter. Exact rules: docs/stages.md.
"""

from typing import Final

from librt.strings import BytesWriter
from librt.vecs import extend, vec
from mypy_extensions import i64, mypyc_attr, u8

from schemas import flags
from schemas.avro import Cursor, put_bytes, put_long
from schemas.instrument import Rules
from schemas.record import Candle, asdict, fields
from topology.stages import liveness
from topology.stages.liveness import NEVER, Liveness

MINUTE: Final = 60_000_000_000
KEPT_NS: Final = 960_000_000_000  # closed minutes can be revised for 15 minutes; one more for the margin
Key = tuple[i64, i64]  # the order of ticks: event and sequence; of equals the later to arrive has the higher offset
NONE: Final[list[Candle]] = []  # what most ticks give


@mypyc_attr(acyclic=True)
class Minute:
    """One minute of one source: quotes, trades, and the order keys of their first and last."""

    def __init__(self, start: i64) -> None:
        self.start: i64 = start
        self.revision: i64 = -1
        self.changed = False  # since the last provisional row
        self.backfilled = False
        self.partial = False  # settled when it becomes final
        self.ticks: i64 = 0
        self.trades: i64 = 0
        self.volume: i64 = 0
        self.bid_open: i64 = 0
        self.bid_high: i64 = 0
        self.bid_low: i64 = 0
        self.bid_close: i64 = 0
        self.ask_open: i64 = 0
        self.ask_high: i64 = 0
        self.ask_low: i64 = 0
        self.ask_close: i64 = 0
        self.mid_open: i64 = 0
        self.mid_high: i64 = 0
        self.mid_low: i64 = 0
        self.mid_close: i64 = 0
        self.open: i64 = 0
        self.high: i64 = 0
        self.low: i64 = 0
        self.close: i64 = 0
        self.quote_first: Key = (0, 0)
        self.quote_last: Key = (0, 0)
        self.trade_first: Key = (0, 0)
        self.trade_last: Key = (0, 0)


@mypyc_attr(acyclic=True)
class Candles:
    """The minutes of one source of a symbol that may still change, oldest first; a minute is in one of two lists."""

    def __init__(self, symbol: str, source: str, rules: Rules, life: Liveness | None) -> None:
        self.symbol = symbol
        self.source = source
        self.life = life  # of the source; the composite has none
        self.lateness_ns: i64 = rules.lateness_ns
        self.grace_ns: i64 = rules.grace_ns
        self.provisional_ns: i64 = rules.provisional_ns
        self.minutes: list[Minute] = []  # open, or reopened by a late tick
        self.closed = vec[u8]()  # packed, one behind the other
        self.newest: i64 = 0  # start of the last of those; 0: there are none
        self.watermark: i64 = 0
        self.first: i64 = 0  # when the source was first heard of
        self.pending_end: i64 = NEVER  # the end of the oldest minute that is not final
        self.provisional_at: i64 = NEVER

    def deadline(self) -> i64:
        """When time alone changes something here."""
        if self.pending_end == NEVER:
            return self.provisional_at
        return min(self.pending_end + self.grace_ns, self.provisional_at)


def add_quote(state: Candles, now: i64, event: i64, seq: i64, bid: i64, ask: i64, mid: i64) -> list[Candle]:
    """Fold a clean quote in; give the rows that this makes final or revises."""
    minute = _minute(state, now, event - event % MINUTE)
    if minute.bid_open == 0:  # not: no ticks. A fetched candle may have prices without a count
        minute.bid_open = minute.bid_high = minute.bid_low = minute.bid_close = bid
        minute.ask_open = minute.ask_high = minute.ask_low = minute.ask_close = ask
        minute.mid_open = minute.mid_high = minute.mid_low = minute.mid_close = mid
        minute.quote_first = minute.quote_last = (event, seq)
    else:
        if bid > minute.bid_high:
            minute.bid_high = bid
        elif bid < minute.bid_low:
            minute.bid_low = bid
        if ask > minute.ask_high:
            minute.ask_high = ask
        elif ask < minute.ask_low:
            minute.ask_low = ask
        if mid > minute.mid_high:
            minute.mid_high = mid
        elif mid < minute.mid_low:
            minute.mid_low = mid
        if not before(event, seq, minute.quote_last):
            minute.bid_close = bid
            minute.ask_close = ask
            minute.mid_close = mid
            minute.quote_last = (event, seq)
        elif before(event, seq, minute.quote_first):
            minute.bid_open = bid
            minute.ask_open = ask
            minute.mid_open = mid
            minute.quote_first = (event, seq)
    minute.ticks += 1
    return _folded(state, minute, now, event)


def add_trade(state: Candles, now: i64, event: i64, seq: i64, price: i64, size: i64) -> list[Candle]:
    """Fold a trade in; give the rows that this makes final or revises."""
    minute = _minute(state, now, event - event % MINUTE)
    if minute.open == 0:
        minute.open = minute.high = minute.low = minute.close = price
        minute.trade_first = minute.trade_last = (event, seq)
    else:
        minute.high = max(minute.high, price)
        minute.low = min(minute.low, price)
        if not before(event, seq, minute.trade_last):
            minute.close = price
            minute.trade_last = (event, seq)
        elif before(event, seq, minute.trade_first):
            minute.open = price
            minute.trade_first = (event, seq)
    minute.trades += 1
    minute.volume += size
    return _folded(state, minute, now, event)


def before(event: i64, seq: i64, key: Key) -> bool:
    """Whether a tick that arrives now comes before another in the order of ticks."""
    return event < key[0] or (event == key[0] and seq < key[1])


def _minute(state: Candles, now: i64, start: i64) -> Minute:
    """The minute of a tick; opened in its place if need be. Nearly always the last."""
    minutes = state.minutes
    at: i64 = len(minutes)
    while at > 0 and minutes[at - 1].start >= start:
        at -= 1
        if minutes[at].start == start:
            return minutes[at]
    minute = _reopened(state, start)
    if minute is not None:
        minutes.insert(at, minute)
        return minute
    minute = Minute(start)
    minutes.insert(at, minute)
    _close(state)
    _forget(state, now)
    if start + MINUTE < state.pending_end:
        state.pending_end = start + MINUTE
    return minute


def _reopened(state: Candles, start: i64) -> Minute | None:
    """A closed minute, unpacked; None where there is none."""
    if start > state.newest:
        return None
    found: Minute | None = None
    others: list[Minute] = []
    for minute in _unpacked(bytes(state.closed)):
        if minute.start == start:
            found = minute
        else:
            others.append(minute)
    if found is not None:
        _keep(state, others)
    return found


def _close(state: Candles) -> None:
    """Pack the minutes that are final."""
    still_open: list[Minute] = []
    for minute in state.minutes:
        if minute.revision < 0:
            still_open.append(minute)
        elif minute.start > state.newest:
            packed = _packed([minute], state.newest)
            state.closed = extend(state.closed, packed) if len(state.closed) > 0 else _stored(packed)
            state.newest = minute.start
        else:
            _keep(state, sorted([*_unpacked(bytes(state.closed)), minute], key=_start_of))
    state.minutes = still_open


def _keep(state: Candles, closed: list[Minute]) -> None:
    state.closed = _stored(_packed(closed, 0))
    state.newest = closed[-1].start if closed else 0


def _start_of(minute: Minute) -> i64:
    return minute.start


def _forget(state: Candles, now: i64) -> None:
    """Let go of what can no longer be revised: from the oldest, which must be final, on."""
    if len(state.closed) == 0:
        return
    packed = bytes(state.closed)
    if _start_in(Cursor(packed, 0)) + MINUTE + KEPT_NS >= now:
        return
    minutes = _unpacked(packed)
    while minutes:
        start = minutes[0].start
        if start + MINUTE + KEPT_NS >= now or state.minutes[0].start < start:
            break
        minutes.pop(0)
    _keep(state, minutes)


def _folded(state: Candles, minute: Minute, now: i64, event: i64) -> list[Candle]:
    if event > state.watermark:
        state.watermark = event
    if minute.revision < 0:
        if state.provisional_ns > 0:
            minute.changed = True
            if state.provisional_at == NEVER:
                state.provisional_at = (now // state.provisional_ns + 1) * state.provisional_ns
        if state.watermark < state.pending_end + state.lateness_ns:
            return NONE
    rows: list[Candle] = []
    if minute.revision >= 0:
        minute.revision += 1
        rows.append(_row(state, minute, minute.revision))
    if state.watermark >= state.pending_end + state.lateness_ns:
        _finish(state, state.watermark - state.lateness_ns, rows)
    return rows


def _finish(state: Candles, until: i64, rows: list[Candle]) -> None:
    """Make every minute final that ends at or before ``until``."""
    state.pending_end = NEVER
    for minute in state.minutes:
        if minute.revision < 0:
            end: i64 = minute.start + MINUTE
            if end <= until:
                minute.revision = 0
                minute.changed = False
                minute.partial = _is_partial(state, minute.start)
                rows.append(_row(state, minute, 0))
            elif state.pending_end == NEVER:
                state.pending_end = end
    _close(state)


def on_time(state: Candles, now: i64) -> list[Candle]:
    """Time has come to a deadline: make silent minutes final, show the others as they are."""
    rows: list[Candle] = []
    if state.pending_end != NEVER and now >= state.pending_end + state.grace_ns:
        _finish(state, now - state.grace_ns, rows)
    if now >= state.provisional_at:
        state.provisional_at = NEVER
        for minute in state.minutes:
            if minute.changed:
                minute.changed = False
                rows.append(_row(state, minute, -1))
    return rows


def replace(state: Candles, now: i64, candle: Candle) -> Candle | None:
    """Take a fetched candle where ours is absent or partial; None: ours is as good."""
    start: i64 = candle.start
    if start + MINUTE + KEPT_NS < now:
        return _fetched(candle, 0)
    minute = _minute(state, now, start)
    if minute.ticks or minute.trades:
        partial = minute.partial if minute.revision >= 0 else _is_partial(state, start)
        if minute.backfilled or not partial:
            return None
    elif minute.backfilled:
        return None
    for name in _PRICES:
        setattr(minute, name, getattr(candle, name))
    minute.revision = minute.revision + 1 if minute.revision >= 0 else 0
    minute.backfilled = True
    minute.changed = False
    # The fetched candle is the whole minute: what comes late is in it already, between its first and last.
    minute.quote_first = minute.trade_first = (start, 0)
    minute.quote_last = minute.trade_last = (start + MINUTE, 0)
    _finish(state, 0, [])
    return _fetched(candle, minute.revision)


_PRICES: Final = fields(Candle)[4:23]


def _fetched(candle: Candle, revision: i64) -> Candle:
    marks = (candle.flags & ~flags.PARTIAL) | flags.BACKFILL
    return Candle(**{**asdict(candle), "revision": revision, "flags": marks})


def _is_partial(state: Candles, start: i64) -> bool:
    life = state.life
    return life is not None and (state.first > start or liveness.overlaps(life, start, start + MINUTE))


def _row(state: Candles, m: Minute, revision: i64) -> Candle:
    marks: i64 = flags.BACKFILL if m.backfilled else 0
    if not m.backfilled and (m.partial if revision >= 0 else _is_partial(state, m.start)):
        marks = flags.PARTIAL
    return Candle(
        state.symbol, state.source, m.start, revision,
        m.bid_open, m.bid_high, m.bid_low, m.bid_close,
        m.ask_open, m.ask_high, m.ask_low, m.ask_close,
        m.mid_open, m.mid_high, m.mid_low, m.mid_close,
        m.open, m.high, m.low, m.close, m.volume, m.ticks, m.trades, marks,
    )  # fmt: skip


# Closed minutes lie packed: of 18, one is at work. Of a number only what differs from one near it is kept, of its start
# how long it is after that of the minute before it, of a minute without quotes or without trades nothing about those.

CHANGED: Final = 1
BACKFILLED: Final = 2
PARTIAL: Final = 4
QUOTED: Final = 8
TRADED: Final = 16
UNEVEN: Final = 32  # a fetched candle may begin within a minute
MIDWAY: Final = 64  # its mids are those between its bids and asks, as they are while the spread stays
MILLISECONDS: Final = 128  # the times of its ticks are whole ones, as most sources tell no more
ROOM: Final = 480  # bytes for the closed minutes of a source, which need no more as a rule: they need not move then
MARKS: Final = 256  # how many there may be; the revision stands above them
MS: Final = 1_000_000
LARGE: Final = i64(2**58)  # larger prices, as a fetched candle may have, don't give a mid of 64 bits


def _stored(packed: bytes) -> vec[u8]:
    return extend(vec[u8](capacity=ROOM), packed) if packed else vec[u8]()


def _packed(minutes: list[Minute], before: i64) -> bytes:
    """Minutes that are to lie behind one with the start ``before``; 0: behind none."""
    out = BytesWriter()
    for minute in minutes:
        _pack(out, minute, before)
        before = minute.start
    return out.getvalue()


def _pack(out: BytesWriter, m: Minute, before: i64) -> None:
    marks: i64 = CHANGED if m.changed else 0
    if m.backfilled:
        marks |= BACKFILLED
    if m.partial:
        marks |= PARTIAL
    if m.quote_last[0] != 0:
        marks |= QUOTED
    if m.trade_last[0] != 0:
        marks |= TRADED
    if m.start % MINUTE != 0:
        marks |= UNEVEN
    if _is_midway(m):
        marks |= MIDWAY
    unit: i64 = 1
    if _is_in_milliseconds(m):
        marks |= MILLISECONDS
        unit = MS
    put_long(out, m.revision * MARKS + marks)
    put_long(out, m.start - before if marks & UNEVEN else m.start // MINUTE - before // MINUTE)
    if marks & QUOTED:
        put_long(out, m.ticks)
        _put_prices(out, m.bid_open, m.bid_high, m.bid_low, m.bid_close)
        put_long(out, m.ask_open ^ m.bid_open)
        put_long(out, m.ask_high ^ m.bid_high)
        put_long(out, m.ask_low ^ m.bid_low)
        put_long(out, m.ask_close ^ m.bid_close)
        if not marks & MIDWAY:
            put_long(out, m.mid_open ^ _middle(m.bid_open, m.ask_open))
            put_long(out, m.mid_high ^ _middle(m.bid_high, m.ask_high))
            put_long(out, m.mid_low ^ _middle(m.bid_low, m.ask_low))
            put_long(out, m.mid_close ^ _middle(m.bid_close, m.ask_close))
        _put_keys(out, m.start, unit, m.quote_first, m.quote_last)
    if marks & TRADED:
        put_long(out, m.trades)
        put_long(out, m.volume)
        _put_prices(out, m.open, m.high, m.low, m.close)
        _put_keys(out, m.start, unit, m.trade_first, m.trade_last)


def _is_midway(m: Minute) -> bool:
    return (
        m.mid_open == _middle(m.bid_open, m.ask_open)
        and m.mid_high == _middle(m.bid_high, m.ask_high)
        and m.mid_low == _middle(m.bid_low, m.ask_low)
        and m.mid_close == _middle(m.bid_close, m.ask_close)
    )


def _put_prices(out: BytesWriter, open: i64, high: i64, low: i64, close: i64) -> None:
    put_long(out, open)
    put_long(out, high ^ open)
    put_long(out, low ^ open)
    put_long(out, close ^ open)


def _is_in_milliseconds(m: Minute) -> bool:
    return _are_in_milliseconds(m.start, m.quote_first, m.quote_last) and _are_in_milliseconds(
        m.start, m.trade_first, m.trade_last
    )


def _are_in_milliseconds(start: i64, first: Key, last: Key) -> bool:
    if last[0] == 0:  # there are none
        return True
    return (first[0] - start) % MS == 0 and (last[0] - start) % MS == 0


def _put_keys(out: BytesWriter, start: i64, unit: i64, first: Key, last: Key) -> None:
    put_long(out, (first[0] - start) // unit)
    put_long(out, first[1])
    put_long(out, (last[0] - first[0]) // unit)
    put_long(out, last[1] ^ first[1])


def _middle(bid: i64, ask: i64) -> i64:
    """What a mid is near to, if not equal."""
    return (bid + ask) * 5 if -LARGE < bid < LARGE and -LARGE < ask < LARGE else 0


def _start_in(cursor: Cursor) -> i64:
    """The start of the oldest of packed minutes."""
    marks = cursor.long()
    start = cursor.long()
    return start if marks & UNEVEN else start * MINUTE


def _unpacked(packed: bytes) -> list[Minute]:
    cursor = Cursor(packed, 0)
    minutes: list[Minute] = []
    before: i64 = 0
    while cursor.at < len(packed):
        minutes.append(_unpack(cursor, before))
        before = minutes[-1].start
    return minutes


def _unpack(c: Cursor, before: i64) -> Minute:
    marks = c.long()
    after = c.long()
    start: i64 = before + after if marks & UNEVEN else (before // MINUTE + after) * MINUTE
    m = Minute(start)
    unit: i64 = MS if marks & MILLISECONDS else 1
    m.revision = marks // MARKS
    m.changed = marks & CHANGED != 0
    m.backfilled = marks & BACKFILLED != 0
    m.partial = marks & PARTIAL != 0
    if marks & QUOTED:
        m.ticks = c.long()
        m.bid_open = c.long()
        m.bid_high = c.long() ^ m.bid_open
        m.bid_low = c.long() ^ m.bid_open
        m.bid_close = c.long() ^ m.bid_open
        m.ask_open = c.long() ^ m.bid_open
        m.ask_high = c.long() ^ m.bid_high
        m.ask_low = c.long() ^ m.bid_low
        m.ask_close = c.long() ^ m.bid_close
        m.mid_open = _middle(m.bid_open, m.ask_open)
        m.mid_high = _middle(m.bid_high, m.ask_high)
        m.mid_low = _middle(m.bid_low, m.ask_low)
        m.mid_close = _middle(m.bid_close, m.ask_close)
        if not marks & MIDWAY:
            m.mid_open ^= c.long()
            m.mid_high ^= c.long()
            m.mid_low ^= c.long()
            m.mid_close ^= c.long()
        m.quote_first = (c.long() * unit + start, c.long())
        m.quote_last = (c.long() * unit + m.quote_first[0], c.long() ^ m.quote_first[1])
    if marks & TRADED:
        m.trades = c.long()
        m.volume = c.long()
        m.open = c.long()
        m.high = c.long() ^ m.open
        m.low = c.long() ^ m.open
        m.close = c.long() ^ m.open
        m.trade_first = (c.long() * unit + start, c.long())
        m.trade_last = (c.long() * unit + m.trade_first[0], c.long() ^ m.trade_first[1])
    return m


def dump(state: Candles, out: BytesWriter) -> None:
    """Append the state."""
    put_bytes(out, bytes(state.closed))
    put_long(out, state.newest)
    put_bytes(out, _packed(state.minutes, 0))
    put_long(out, state.watermark)
    put_long(out, state.first)
    put_long(out, state.pending_end)
    put_long(out, state.provisional_at)


def load(state: Candles, cursor: Cursor) -> None:
    """Take over what dump() gave."""
    state.closed = _stored(cursor.octets())
    state.newest = cursor.long()
    state.minutes = _unpacked(cursor.octets())
    state.watermark = cursor.long()
    state.first = cursor.long()
    state.pending_end = cursor.long()
    state.provisional_at = cursor.long()
