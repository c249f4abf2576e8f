"""The best bid and ask across the sources of a symbol, and their consensus. A dead broker never wins.

Only quotes that are clean, alive and unsuspected take part. Of those, outliers against the median are left
out and let back in with hysteresis (CME CF indices do so: half the band, several good quotes). Across retail
brokers a crossed composite is normal (mark-ups, clocks), never an arbitrage: the older leg is dropped, else
the consensus stands in, and the state says so. Exact rules: docs/stages.md.
"""

from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64, mypyc_attr

from schemas.avro import Cursor, encode, put_boolean, put_long
from schemas.instrument import Instrument
from schemas.record import Best
from topology.stages.liveness import Liveness
from topology.stages.validity import apart

READMIT: Final = 3  # good quotes in a row
MID: Final = 0  # by what legs are sorted
BID: Final = 1
ASK: Final = 2


@mypyc_attr(acyclic=True)
class Leg:
    """The current quote of one source, and its standing. Lower priority is better."""

    def __init__(self, name: str, priority: int, weight: int, life: Liveness) -> None:
        self.name = name
        self.life = life
        self.priority: i64 = priority
        self.weight: i64 = weight
        self.bid: i64 = 0
        self.ask: i64 = 0
        self.bid_size: i64 = 0
        self.ask_size: i64 = 0
        self.event: i64 = 0
        self.mid: i64 = 0
        self.clean = False
        self.suspect = False
        self.excluded = False
        self.good: i64 = 0  # quotes in a row near the median, while excluded
        self.is_new = False  # not chosen from yet

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        put_long(out, self.bid)
        put_long(out, self.ask)
        put_long(out, self.bid_size)
        put_long(out, self.ask_size)
        put_long(out, self.event)
        put_boolean(out, self.clean)
        put_boolean(out, self.suspect)
        put_boolean(out, self.excluded)
        put_long(out, self.good)

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        self.bid = cursor.long()
        self.ask = cursor.long()
        self.bid_size = cursor.long()
        self.ask_size = cursor.long()
        self.event = cursor.long()
        self.clean = cursor.boolean()
        self.suspect = cursor.boolean()
        self.excluded = cursor.boolean()
        self.good = cursor.long()
        self.mid = (self.bid + self.ask) * 5


@mypyc_attr(acyclic=True)
class BestPrice:
    """The rules of one symbol and the best price last published."""

    def __init__(self, instrument: Instrument) -> None:
        self.symbol = instrument.symbol
        self.strategy: str = instrument.strategy
        self.outlier_bps: i64 = instrument.rules.outlier_bps
        self.skew_ns: i64 = instrument.rules.skew_ns
        self.last: Best | None = None
        self.event: i64 = 0
        self.state = ""  # while choosing

    def dump(self, out: BytesWriter) -> None:
        """Append the state."""
        put_boolean(out, self.last is not None)
        if self.last is not None:
            encode(out, self.last)

    def load(self, cursor: Cursor) -> None:
        """Take over what dump() gave."""
        if cursor.boolean():
            self.last = cursor.best()
            self.event = self.last.ts_event


def quote(leg: Leg, event: i64, bid: i64, ask: i64, bid_size: i64, ask_size: i64, clean: bool) -> None:
    """An accepted quote becomes the current one, unless it is older."""
    leg.suspect = not clean
    if event < leg.event:
        return
    leg.event = event
    leg.bid = bid
    leg.ask = ask
    leg.bid_size = bid_size
    leg.ask_size = ask_size
    leg.mid = (bid + ask) * 5
    leg.clean = leg.is_new = clean


def sort(legs: list[Leg], side: i64) -> None:
    """Sort by MID, BID or ASK: by insertion, as one leg has moved since the last time, if any."""
    n: i64 = len(legs)
    i: i64 = 1
    while i < n:
        leg = legs[i]
        at = i
        while at > 0 and _comes_before(leg, legs[at - 1], side):
            legs[at] = legs[at - 1]
            at -= 1
        if at < i:
            legs[at] = leg
        i += 1


def choose(state: BestPrice, legs: list[Leg], now: i64, event: i64) -> Best | None:
    """Choose among the eligible legs (sorted by mid).

    Gives a record where anything but its times changed, else None. ``now`` and ``event`` in ns.
    """
    if not legs and state.last is None:
        return None
    state.state = "normal"
    left = _without_outliers(state, legs)
    n: i64 = len(left)
    if n == 0:
        return _publish(state, now, event, "no_source", None, None, 0, 0)
    if n == 1:
        if state.state == "normal":
            state.state = "single_source"
        return _publish(state, now, event, state.state, left[0], left[0], left[0].mid, 1)
    centre = _weighted_median(left)
    bid, ask = _legs(state, left, centre)
    return _publish(state, now, event, state.state, bid, ask, centre.mid, n)


def _without_outliers(state: BestPrice, legs: list[Leg]) -> list[Leg]:
    n: i64 = len(legs)
    if n < 2:
        if n == 1 and legs[0].excluded:
            state.state = "low_confidence"
        return legs
    ref: i64 = (legs[(n - 1) // 2].mid + legs[n // 2].mid) // 2
    band: i64 = state.outlier_bps * ref // 10_000
    if legs[n - 1].mid - legs[0].mid <= band and not _any_excluded(legs):
        return legs  # settled by the floor of the band alone, as most are
    band = max(band, 3 * _median_width(legs))
    if n == 2 and not legs[0].excluded and not legs[1].excluded:
        return _better_of_two(state, legs, band)
    if n > 2:
        for leg in legs:
            _exclude(leg, apart(leg.mid, ref), band)
    left = [leg for leg in legs if not leg.excluded]
    if not left:
        state.state = "low_confidence"
        return legs
    return left


def _any_excluded(legs: list[Leg]) -> bool:
    for leg in legs:  # noqa: SIM110  a generator would not compile to a plain loop
        if leg.excluded:
            return True
    return False


def _median_width(legs: list[Leg]) -> i64:
    """The upper median of the spreads, in mid units."""
    widths: list[int] = sorted([(leg.ask - leg.bid) * 5 for leg in legs])
    return widths[len(legs) // 2]


def _exclude(leg: Leg, distance: i64, band: i64) -> None:
    if distance > band:
        leg.excluded = True
        leg.good = 0
    elif leg.excluded and leg.is_new:
        leg.good = leg.good + 1 if distance <= band // 2 else 0
        leg.excluded = leg.good < READMIT


def _better_of_two(state: BestPrice, legs: list[Leg], band: i64) -> list[Leg]:
    first = legs[0]
    second = legs[1]
    if apart(first.mid, second.mid) <= band:
        return legs
    state.state = "low_confidence"
    return [first] if _is_preferred(first, second) else [second]


def _is_preferred(a: Leg, b: Leg) -> bool:
    return a.priority < b.priority or (a.priority == b.priority and a.name < b.name)


def _weighted_median(legs: list[Leg]) -> Leg:
    """Of sorted legs the one in the middle by weight."""
    total: i64 = 0
    for leg in legs:
        total += leg.weight
    running: i64 = 0
    for leg in legs:
        running += leg.weight
        if 2 * running >= total:
            return leg
    return legs[-1]


def _median_by(legs: list[Leg], side: i64) -> Leg:
    ordered = legs.copy()
    sort(ordered, side)
    return _weighted_median(ordered)


def _comes_before(a: Leg, b: Leg, side: i64) -> bool:
    mine: i64 = a.mid if side == MID else a.bid if side == BID else a.ask
    other: i64 = b.mid if side == MID else b.bid if side == BID else b.ask
    if mine != other:
        return mine < other
    return _is_preferred(a, b)


def _legs(state: BestPrice, legs: list[Leg], centre: Leg) -> tuple[Leg, Leg]:
    strategy = state.strategy
    if strategy == "best":
        return _best_legs(state, legs, centre)
    if strategy == "priority":
        chosen = min(legs, key=lambda leg: (leg.priority, leg.name))
    elif strategy == "latest":
        chosen = min(legs, key=lambda leg: (-leg.event, leg.priority, leg.name))
    elif strategy == "weighted":
        return _median_by(legs, BID), _median_by(legs, ASK)
    else:
        chosen = centre
    return chosen, chosen


def _best_legs(state: BestPrice, legs: list[Leg], centre: Leg) -> tuple[Leg, Leg]:
    crossed = False
    while True:
        bid = legs[0]
        ask = legs[0]
        for leg in legs:
            if _bids_better(leg, bid):
                bid = leg
            if _asks_better(leg, ask):
                ask = leg
        if bid.bid < ask.ask:
            return bid, ask
        if not crossed:
            crossed = True
            state.state = "locked" if bid.bid == ask.ask else "crossed"
        if apart(bid.event, ask.event) <= state.skew_ns:
            return centre, centre
        older = bid if bid.event < ask.event else ask
        legs = [leg for leg in legs if leg is not older]


def _bids_better(a: Leg, b: Leg) -> bool:
    if a.bid != b.bid:
        return a.bid > b.bid
    if a.priority != b.priority or a.event != b.event:
        return a.priority < b.priority or (a.priority == b.priority and a.event > b.event)
    return a.bid_size > b.bid_size or (a.bid_size == b.bid_size and a.name < b.name)


def _asks_better(a: Leg, b: Leg) -> bool:
    if a.ask != b.ask:
        return a.ask < b.ask
    if a.priority != b.priority or a.event != b.event:
        return a.priority < b.priority or (a.priority == b.priority and a.event > b.event)
    return a.ask_size > b.ask_size or (a.ask_size == b.ask_size and a.name < b.name)


def _publish(
    state: BestPrice, now: i64, event: i64, name: str, bid: Leg | None, ask: Leg | None, mid: i64, n: i64
) -> Best | None:
    last = state.last
    if bid is None or ask is None:
        if last is not None and last.state == name:
            return None
        if event > state.event:
            state.event = event
        state.last = Best(state.symbol, state.event, now, name, 0, 0, "", 0, 0, "", 0, 0)
        return state.last
    if last is not None and (
        last.bid == bid.bid
        and last.ask == ask.ask
        and last.consensus == mid
        and last.bid_size == bid.bid_size
        and last.ask_size == ask.ask_size
        and last.bid_source == bid.name
        and last.ask_source == ask.name
        and last.state == name
        and last.eligible == n
    ):
        return None
    if event > state.event:
        state.event = event
    state.last = Best(
        state.symbol, state.event, now, name, bid.bid, bid.bid_size, bid.name,
        ask.ask, ask.ask_size, ask.name, mid, n,
    )  # fmt: skip
    return state.last
