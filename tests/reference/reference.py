"""The oracle: docs/stages.md once more, slowly and obviously, over one partition's whole log.

Shares nothing with ``topology``. Deadlines are no timers here: before each record every one of them is
computed anew from what is remembered, and the earliest fires, until none is left before the record's time.
"""

from typing import TypeVar

from schemas import flags, topics
from schemas.instrument import SECOND, Instrument
from schemas.record import Best, Candle, Clock, Link, Quote, Rejected, Tick, Trade, asdict
from tests.reference import best_price, candle, dedup, liveness, spike, validity
from tests.reference.model import Arrived, Entry, Output, Source, Symbol

__all__ = ["Entry", "Output", "replay", "run"]

SKEW = 2 * SECOND
Stamped = TypeVar("Stamped", Quote, Trade, Link)
Fed = list[tuple[str, Tick, int]]  # source, tick, offset: what the candles get


def run(entries: list[Entry], instruments: dict[str, Instrument]) -> list[Output]:
    """Everything that one partition gives, in order of emission."""
    return replay(entries, instruments)[0]


def replay(entries: list[Entry], instruments: dict[str, Instrument]) -> tuple[list[Output], dict[str, Symbol]]:
    """As ``run``, with what the oracle remembers of each symbol at the end."""
    symbols: dict[str, Symbol] = {}
    out: list[Output] = []
    clock = 0
    for entry in entries:
        record = entry.record
        if isinstance(record, Clock):
            clock = max(clock, clamp_recv(record.ts_recv, entry.append))
            for name in sorted(symbols):
                advance(symbols[name], clock, entry.offset, out)
            continue
        if record.symbol not in instruments or not isinstance(record, Quote | Trade | Link | Candle):
            continue  # a dead letter: not the stages' concern
        if record.symbol not in symbols:
            symbols[record.symbol] = Symbol(instruments[record.symbol], clock)
        apply(symbols[record.symbol], record, entry, out)
    return out, symbols


def clamp_recv(recv: int, append: int) -> int:
    """No receive time is far ahead of the time at which Kafka took the record."""
    return append if recv > append + SKEW else recv


def clamp(record: Stamped, append: int) -> Stamped:
    """A record with believable times, and flags that say what was changed."""
    values = asdict(record)
    marks = 0
    recv = clamp_recv(record.ts_recv, append)
    if recv != record.ts_recv:
        marks |= flags.BAD_CLOCK
    event = record.ts_event
    if event <= 0:
        event, marks = recv, marks | flags.NO_EVENT_TIME
    elif event > recv + SKEW:
        event, marks = recv, marks | flags.BAD_CLOCK
    values |= {"ts_recv": recv, "ts_event": event}
    if "flags" in values:
        values["flags"] |= marks
    return type(record)(**values)


def apply(symbol: Symbol, record: Quote | Trade | Link | Candle, entry: Entry, out: list[Output]) -> None:
    """Time, deadlines, then the record itself."""
    if isinstance(record, Candle):
        advance(symbol, symbol.now, entry.offset, out)
        if record.source not in symbol.sources:
            new_source(symbol, record.source, symbol.now)
        out += [Output(topics.CANDLE, row, entry.offset) for row in candle.backfill(symbol, record)]
        finish(symbol, symbol.now, [], entry.offset, out)
        return
    record = clamp(record, entry.append)
    advance(symbol, record.ts_recv, entry.offset, out)
    source = symbol.sources.get(record.source)
    if source is None:
        source = new_source(symbol, record.source, record.ts_recv)
    if isinstance(record, Link):
        liveness.link(symbol, source, record)
        finish(symbol, record.ts_event, [], entry.offset, out)
        return
    fed = apply_tick(symbol, source, Arrived(record, entry.offset), out)
    finish(symbol, record.ts_event, fed, entry.offset, out)


def new_source(symbol: Symbol, name: str, recv: int) -> Source:
    """Meet a source for the first time."""
    known = symbol.instrument.source(name)
    source = Source(
        name=name,
        calendar=known.calendar or symbol.instrument.calendar,
        priority=known.priority,
        weight=known.weight,
        contiguous=known.contiguous,
        first_recv=recv,
    )
    symbol.sources[name] = source
    liveness.start(symbol, source)
    return source


def apply_tick(symbol: Symbol, source: Source, arrived: Arrived, out: list[Output]) -> Fed:
    """The stages up to liveness; gives what the candles are to be fed with."""
    source.arrived += 1
    if source.report_at is None:
        source.report_at = (symbol.now // liveness.REPORT + 1) * liveness.REPORT
    tick = arrived.tick
    source.newest_event, source.last_recv = max(source.newest_event, tick.ts_event), tick.ts_recv
    refusal = dedup.judge(source, tick)
    if refusal is not None:
        return carry_out(symbol, [rejection(source, arrived, refusal)], out)
    hole = dedup.hole(source, tick)
    if hole is not None and source.is_open:
        liveness.sequence_gap(symbol, source, *hole)
    dedup.remember(source, tick)
    decisions = spike.reseed(source) if spike.must_reseed(source, tick.ts_recv) else []
    refusal = validity.before_shape(tick, symbol.now, symbol.instrument)
    if refusal is None:
        refusal = validity.after_shape(tick, source.good, symbol.instrument)
    if refusal is None:
        values = asdict(tick)
        tick = type(tick)(**values | {"flags": tick.flags | validity.shape(tick)})
        arrived = Arrived(tick, arrived.offset)
    if refusal is not None:
        decisions.append(rejection(source, arrived, refusal))
    elif not validity.is_clean(tick):
        decisions.append(spike.Decision("accept", source, arrived))
    else:
        decisions += spike.step(symbol, source, arrived)
    return carry_out(symbol, decisions, out)


def rejection(source: Source, arrived: Arrived, refusal: dedup.Numbers) -> spike.Decision:
    """Refuse a tick at once."""
    return spike.Decision("reject", source, arrived, refusal[0], refusal[1:])


def carry_out(symbol: Symbol, decisions: list[spike.Decision], out: list[Output]) -> Fed:
    """Publish what was decided, in order, and tell liveness and best price."""
    fed: Fed = []
    for decision in decisions:
        source, tick, offset = decision.source, decision.arrived.tick, decision.arrived.offset
        if decision.deed == "reject":
            source.rejected[decision.reason] = source.rejected.get(decision.reason, 0) + 1
            out.append(Output(topics.REJECTED, Rejected(tick, decision.reason, *decision.numbers), offset))
            if source.is_open and decision.reason not in best_price.HARMLESS:
                best_price.suspect(source)
        elif decision.deed == "hold":
            liveness.sign_of_life(symbol, source, tick.ts_recv, tick.ts_event)
            if source.is_open:
                best_price.suspect(source)
        else:
            fed += accept(symbol, decision, out)
    return fed


def accept(symbol: Symbol, decision: spike.Decision, out: list[Output]) -> Fed:
    """Publish an accepted tick."""
    source, tick, offset = decision.source, decision.arrived.tick, decision.arrived.offset
    if decision.deed == "release":
        values = asdict(tick)
        tick = type(tick)(**values | {"flags": tick.flags | flags.RELEASED})
    out.append(Output(topics.TICK, tick, offset))
    source.accepted += 1
    is_clean = validity.is_clean(tick)
    if is_clean:
        source.good = validity.x_of(tick)
    if is_clean and isinstance(tick, Quote):
        source.spread = tick.ask - tick.bid
    liveness.accepted(symbol, source, tick)
    if not source.is_open:
        return []
    if isinstance(tick, Quote):
        best_price.accepted(source, tick)
    return [(source.name, tick, offset)] if is_clean else []


def advance(symbol: Symbol, to: int, offset: int, out: list[Output]) -> None:
    """Fire every deadline up to a time, each at its own; then it is that time."""
    to = max(to, symbol.now)
    while True:
        due = [at for at in all_deadlines(symbol) if at <= to]
        if not due:
            break
        symbol.now = max(symbol.now, min(due))
        fire(symbol, offset, out)
    symbol.now = to


def all_deadlines(symbol: Symbol) -> list[int]:
    """Every time at which something happens by itself."""
    due = []
    for source in symbol.sources.values():
        if source.next_change is not None:
            due.append(source.next_change)
        if source.held:
            due.append(hold_ends(symbol, source))
        silence = liveness.deadline(symbol, source)
        if silence is not None:
            due.append(silence[0])
        if source.report_at is not None:
            due.append(source.report_at)
    for series in symbol.series.values():
        due += candle.deadlines(symbol, series)
    return due


def hold_ends(symbol: Symbol, source: Source) -> int:
    """When what a source holds is given up."""
    return source.held[0].arrived.tick.ts_recv + symbol.instrument.rules.hold_ns


def fire(symbol: Symbol, offset: int, out: list[Output]) -> None:
    """All deadlines of this time: calendar, holds, liveness, candles, best, status."""
    for source in symbol.by_name():
        if source.next_change is not None and source.next_change <= symbol.now:
            liveness.session_change(symbol, source)
    for source in symbol.by_name():
        if source.held and hold_ends(symbol, source) <= symbol.now:
            carry_out(symbol, spike.time_out(source), out)
    for source in symbol.by_name():
        silence = liveness.deadline(symbol, source)
        if silence is not None and silence[0] <= symbol.now:
            liveness.fall_silent(symbol, source, silence[1])
    finish(symbol, symbol.now, [], offset, out, at_deadline=True)


def finish(symbol: Symbol, event: int, fed: Fed, offset: int, out: list[Output], *, at_deadline: bool = False) -> None:
    """What comes last of a record or time: gaps, source candles, best, candles of best, status."""
    out += [Output(topics.GAP, gap, offset) for gap in symbol.gap_outputs]
    symbol.gap_outputs.clear()
    rows = [row for name, tick, at in fed for row in candle.feed(symbol, name, tick, at)]
    if at_deadline:
        for name in sorted(set(symbol.series) - {"best"}):
            rows += candle.fire(symbol, symbol.series[name])
    out += [Output(topics.CANDLE, row, offset) for row in rows]
    best = best_price.recompute(symbol, event)
    rows = []
    if best is not None:
        out.append(Output(topics.BEST, best, offset))
        rows = feed_best(symbol, best, offset)
    if at_deadline and "best" in symbol.series:
        rows += candle.fire(symbol, symbol.series["best"])
    out += [Output(topics.CANDLE, row, offset) for row in rows]
    for source in symbol.by_name():
        reports = at_deadline and source.report_at is not None and source.report_at <= symbol.now
        if source.status_due or reports:
            source.status_due, source.report_at = False, None
            out.append(Output(topics.STATUS, liveness.status(symbol, source), offset))


def feed_best(symbol: Symbol, best: Best, offset: int) -> list[Candle]:
    """The candles of the composite source."""
    if best.state in ("no_source", "locked", "crossed"):
        return []
    return candle.feed(symbol, "best", best, offset)
