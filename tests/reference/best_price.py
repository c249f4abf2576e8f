"""The best bid and ask across the sources that can be believed now."""

from schemas import flags
from schemas.instrument import Rules
from schemas.record import Best, Quote, asdict, fields
from tests.reference.model import Source, Symbol
from tests.reference.spike import middle
from tests.reference.validity import is_clean, x_of


def accepted(source: Source, tick: Quote) -> None:
    """Take an accepted quote of an open session as the current one, unless it is older."""
    source.suspect = not is_clean(tick)
    if source.current is not None and tick.ts_event < source.current.ts_event:
        return
    source.current = tick
    source.new_quote = is_clean(tick)


def is_eligible(source: Source) -> bool:
    """Whether a source can take part."""
    quote = source.current
    return quote is not None and is_clean(quote) and not source.suspect and source.status == "live"


def reference_of(sources: list[Source], rules: Rules) -> tuple[int, int]:
    """The middle of the mids, and how far from it one may be."""
    mids = sorted(x_of(source.current) for source in sources)
    n = len(mids)
    ref = (mids[(n - 1) // 2] + mids[n // 2]) // 2
    half_spreads = [(source.current.ask - source.current.bid) * 5 for source in sources]
    return ref, max(rules.outlier_bps * ref // 10_000, 3 * middle(half_spreads))


def judge_outliers(sources: list[Source], rules: Rules) -> None:
    """Exclude and readmit, where three or more can be compared."""
    ref, band = reference_of(sources, rules)
    for source in sources:
        distance = abs(x_of(source.current) - ref)
        if distance > band:
            source.excluded, source.good_count = True, 0
        elif source.excluded and source.new_quote:
            source.good_count = source.good_count + 1 if distance <= band // 2 else 0
            if source.good_count >= 3:
                source.excluded, source.good_count = False, 0


def rank(source: Source) -> tuple[int, str]:
    """Priority and name: the smaller the better."""
    return source.priority, source.name


def weighted_median(sources: list[Source], value: object) -> Source:
    """The source that holds the weighted lower median of a value."""
    total = sum(source.weight for source in sources)
    running = 0
    for source in sorted(sources, key=lambda source: (value(source), *rank(source))):
        running += source.weight
        if 2 * running >= total:
            return source
    raise AssertionError("no weights")


def best_legs(sources: list[Source], consensus: Source, skew: int) -> tuple[Source, Source, str]:
    """Highest bid and lowest ask, the older of two that cross left out."""
    found = ""
    left = list(sources)
    while True:
        bid = min(
            left,
            key=lambda s: (-s.current.bid, s.priority, -s.current.ts_event, -s.current.bid_size, s.name),
        )
        ask = min(
            left,
            key=lambda s: (s.current.ask, s.priority, -s.current.ts_event, -s.current.ask_size, s.name),
        )
        if bid.current.bid < ask.current.ask:
            return bid, ask, found
        if not found:
            found = "locked" if bid.current.bid == ask.current.ask else "crossed"
        if abs(bid.current.ts_event - ask.current.ts_event) <= skew:
            return consensus, consensus, found
        left.remove(bid if bid.current.ts_event < ask.current.ts_event else ask)


def choose(symbol: Symbol) -> Best:
    """The record as it is now; its ``ts_event`` is still to be set."""
    rules, name = symbol.instrument.rules, symbol.instrument.symbol
    eligible = [source for source in symbol.by_name() if is_eligible(source)]
    if len(eligible) >= 3:
        judge_outliers(eligible, rules)
    for source in symbol.by_name():
        source.new_quote = False
    if not eligible:
        return Best(name, 0, symbol.now, "no_source", 0, 0, "", 0, 0, "", 0, 0)
    left = [source for source in eligible if not source.excluded]
    state = ""
    if not left:
        left, state = eligible, "low_confidence"
    elif len(eligible) == 2 and len(left) == 2:
        _, band = reference_of(left, rules)
        if abs(x_of(left[0].current) - x_of(left[1].current)) > band:
            left, state = [min(left, key=rank)], "low_confidence"
    if len(left) == 1 and not state:
        state = "single_source"
    consensus = weighted_median(left, lambda source: x_of(source.current))
    crossing = ""
    match symbol.instrument.strategy:
        case "best":
            bid, ask, crossing = best_legs(left, consensus, rules.skew_ns)
        case "priority":
            bid = ask = min(left, key=rank)
        case "latest":
            bid = ask = min(left, key=lambda source: (-source.current.ts_event, *rank(source)))
        case "weighted":
            bid = weighted_median(left, lambda source: source.current.bid)
            ask = weighted_median(left, lambda source: source.current.ask)
        case _:
            bid = ask = consensus
    return Best(
        symbol=name,
        ts_event=0,
        ts_recv=symbol.now,
        state=crossing or state or "normal",
        bid=bid.current.bid,
        bid_size=bid.current.bid_size,
        bid_source=bid.name,
        ask=ask.current.ask,
        ask_size=ask.current.ask_size,
        ask_source=ask.name,
        consensus=x_of(consensus.current),
        eligible=len(left),
    )


def same(one: Best, other: Best) -> bool:
    """Whether two records differ in their times only."""
    names = [name for name in fields(Best) if name not in ("ts_event", "ts_recv")]
    return all(getattr(one, name) == getattr(other, name) for name in names)


def recompute(symbol: Symbol, event: int) -> Best | None:
    """Choose again; None where nothing changed. ``event``: of the record or time that caused it."""
    chosen = choose(symbol)
    last = symbol.best
    if last is None and chosen.state == "no_source":
        return None
    if last is not None and same(chosen, last):
        return None
    values = asdict(chosen)
    values["ts_event"] = event if last is None else max(last.ts_event, event)
    symbol.best = Best(**values)
    symbol.eligible.append(frozenset(s.name for s in symbol.by_name() if is_eligible(s)))
    return symbol.best


def suspect(source: Source) -> None:
    """A tick of the source was held or refused."""
    source.suspect = True


#: Refused for these, a tick says nothing about its source's current quote.
HARMLESS = (flags.DUPLICATE, flags.OLD_SNAPSHOT, flags.LATE)
