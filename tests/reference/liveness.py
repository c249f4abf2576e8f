"""Whether a source is alive, and where its coverage has holes."""

from schemas.instrument import Rules
from schemas.record import Gap, Link, Status, Tick
from tests.reference import calendar
from tests.reference.model import SECOND, Source, Symbol

REPORT = 10 * SECOND


def ttl(source: Source, rules: Rules) -> int:
    """How long a sign of life is good for."""
    return min(max(rules.ttl_ns, 8 * source.interval), rules.ttl_max_ns)


def start(symbol: Symbol, source: Source) -> None:
    """Give a new source the status of its calendar."""
    source.is_open = calendar.is_open(source.calendar, symbol.now)
    source.next_change = calendar.next_change(source.calendar, symbol.now)
    source.status = "quiet" if source.is_open else "closed"
    source.since = symbol.now
    source.status_due = True


def become(symbol: Symbol, source: Source, status: str) -> None:
    """Enter a status; its record follows at the end of this record or time."""
    if source.status != status:
        source.status, source.since, source.status_due = status, symbol.now, True
        source.peer_spoke = None


def sign_of_life(symbol: Symbol, source: Source, recv: int, event: int) -> bool:
    """Note that a source lives; False where the record is too old to say so."""
    source.covered = event if source.covered is None else max(source.covered, event)
    if symbol.now > recv + ttl(source, symbol.instrument.rules):
        return False
    source.alive = recv if source.alive is None else max(source.alive, recv)
    source.down = False
    if source.is_open:
        become(symbol, source, "live")
    return True


def link(symbol: Symbol, source: Source, record: Link) -> None:
    """Apply a link record whose times are clamped."""
    if record.event == "disconnected":
        source.down = True
        source.suspect = True  # a quote from before a disconnect is none after it
        if source.is_open:
            become(symbol, source, "disconnected")
            open_gap(symbol, source, source.covered, "disconnect")
        return
    if record.event == "heartbeat":
        source.has_heartbeat = True
    sign_of_life(symbol, source, record.ts_recv, record.ts_event)


def accepted(symbol: Symbol, source: Source, tick: Tick) -> None:
    """Apply an accepted tick."""
    if source.accepted_recv is not None:
        passed = min(tick.ts_recv - source.accepted_recv, symbol.instrument.rules.ttl_max_ns)
        if passed > 0:
            source.interval = source.interval + (passed - source.interval) // 16 if source.interval else passed
    source.accepted_recv = max(tick.ts_recv, source.accepted_recv or 0)
    took = tick.ts_recv - tick.ts_event
    source.latency = took if source.latency is None else source.latency + (took - source.latency) // 16
    if sign_of_life(symbol, source, tick.ts_recv, tick.ts_event) and source.is_open:
        close_gap(symbol, source, tick.ts_event)
    for other in symbol.by_name():
        if other is not source and other.status == "quiet" and other.peer_spoke is None:
            other.peer_spoke = symbol.now


def open_gap(symbol: Symbol, source: Source, since: int | None, cause: str) -> None:
    """Open a gap, unless one is open or the source was never seen."""
    if since is None or source.covered is None or source.open_gap() is not None:
        return
    source.gaps.append([since, 0, cause])
    source.gaps_opened += 1
    symbol.gap_outputs.append(Gap(symbol.instrument.symbol, source.name, since, 0, cause, "open"))


def close_gap(symbol: Symbol, source: Source, end: int) -> None:
    """Close the open gap, if there is one."""
    gap = source.open_gap()
    if gap is None:
        return
    gap[1] = max(end, gap[0] + 1)
    symbol.gap_outputs.append(Gap(symbol.instrument.symbol, source.name, gap[0], gap[1], gap[2], "closed"))


def sequence_gap(symbol: Symbol, source: Source, first: int, last: int) -> None:
    """Write a hole in the sequence: known only when it is over."""
    source.gaps.append([first, last, "sequence"])
    source.gaps_opened += 1
    symbol.gap_outputs.append(Gap(symbol.instrument.symbol, source.name, first, last, "sequence", "closed"))


def deadline(symbol: Symbol, source: Source) -> tuple[int, str] | None:
    """When the silence of a source next means something, and the status it then gets."""
    patience = ttl(source, symbol.instrument.rules)
    if source.status == "live":
        assert source.alive is not None
        return source.alive + patience + 1, "stale" if is_expected(symbol, source) else "quiet"
    if source.status != "quiet":
        return None
    ends = []
    if source.alive is not None:
        ends.append(source.alive + symbol.instrument.rules.silence_ns)
    if source.peer_spoke is not None:
        ends.append(source.peer_spoke + patience)
    return (min(ends) + 1, "stale") if ends else None


def is_expected(symbol: Symbol, source: Source) -> bool:
    """Whether a source would have spoken by now if it could."""
    if source.has_heartbeat:
        return True
    assert source.alive is not None
    silent_since = source.alive + ttl(source, symbol.instrument.rules) // 2
    others = [other for other in symbol.by_name() if other is not source]
    return any(other.accepted_recv is not None and other.accepted_recv > silent_since for other in others)


def fall_silent(symbol: Symbol, source: Source, status: str) -> None:
    """A silence deadline fires."""
    become(symbol, source, status)
    if status == "stale":
        open_gap(symbol, source, source.covered, "stale")


def session_change(symbol: Symbol, source: Source) -> None:
    """The session of a source opens or closes."""
    assert source.next_change is not None
    edge = source.next_change
    source.next_change = calendar.next_change(source.calendar, edge)
    source.is_open = calendar.is_open(source.calendar, edge)
    if not source.is_open:
        source.session_closed = True
        source.suspect = True  # a quote from before the close is none after the open
        become(symbol, source, "closed")
        close_gap(symbol, source, edge)
        return
    if source.covered is not None:
        source.covered = max(source.covered, edge)  # nothing was missed while closed
    if source.down:
        become(symbol, source, "disconnected")
        open_gap(symbol, source, edge, "disconnect")
    else:
        become(symbol, source, "quiet")
        source.alive = edge if source.alive is None else max(source.alive, edge)


def status(symbol: Symbol, source: Source) -> Status:
    """The scoreboard of a source as it is now."""
    return Status(
        symbol=symbol.instrument.symbol,
        source=source.name,
        status=source.status,
        since=source.since,
        ts_event=source.newest_event,
        ts_recv=source.last_recv,
        latency_ns=source.latency or 0,
        interval_ns=source.interval,
        spread=source.spread,
        arrived=source.arrived,
        accepted=source.accepted,
        held=len(source.held),
        gaps=source.gaps_opened,
        rejected={reason: count for reason, count in source.rejected.items() if count},
    )
