"""The best bid and ask across the sources of a symbol, and their consensus. A dead broker never wins.

Only quotes that are clean, alive and unsuspected take part. Of those, outliers against the median are left
out and let back in with hysteresis (CME CF indices do so: half the band, several good quotes). Across retail
brokers a crossed composite is normal (mark-ups, clocks), never an arbitrage: the older leg is dropped, else
the consensus stands in, and the state says so. Exact rules: docs/stages.md.
"""

from typing import Any, Final

from mypy_extensions import i64

from schemas.instrument import Instrument
from schemas.record import Best
from topology.stages.validity import apart

READMIT: Final = 3  # good quotes in a row


class Leg:
    """The current quote of one source, and its standing. Lower priority is better."""

    def __init__(self, name: str, priority: int, weight: int) -> None:
        self.name = name
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

    def dump(self) -> list[Any]:
        """State as plain data."""
        return [
            *(self.bid, self.ask, self.bid_size, self.ask_size, self.event),
            *(self.clean, self.suspect, self.excluded, self.good),
        ]

    def load(self, data: list[Any]) -> None:
        """Take over what dump() gave."""
        self.bid, self.ask, self.bid_size, self.ask_size, self.event = data[:5]
        self.clean, self.suspect, self.excluded, self.good = data[5:]
        self.mid = (self.bid + self.ask) * 5


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

    def dump(self) -> list[Any] | None:
        """State as plain data."""
        last = self.last
        return None if last is None else [getattr(last, name) for name in last.__struct_fields__]

    def load(self, data: list[Any] | None) -> None:
        """Take over what dump() gave."""
        if data is not None:
            self.last = Best(*data)
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


def choose(state: BestPrice, legs: list[Leg], now: i64, event: i64) -> Best | None:
    """Choose among the eligible legs (sorted by name).

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
    centre = _weighted_median(left, 0)
    bid, ask = _legs(state, left, centre)
    return _publish(state, now, event, state.state, bid, ask, centre.mid, n)


def _without_outliers(state: BestPrice, legs: list[Leg]) -> list[Leg]:
    n: i64 = len(legs)
    if n < 2:
        if n == 1 and legs[0].excluded:
            state.state = "low_confidence"
        return legs
    mids: list[int] = sorted([leg.mid for leg in legs])
    low: i64 = mids[(n - 1) // 2]
    high: i64 = mids[n // 2]
    ref: i64 = (low + high) // 2
    halves: list[int] = sorted([(leg.ask - leg.bid) * 5 for leg in legs])
    spread: i64 = halves[n // 2]
    band = max(state.outlier_bps * ref // 10_000, 3 * spread)
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
    return [first] if first.priority <= second.priority else [second]


def _weighted_median(legs: list[Leg], side: int) -> Leg:
    """The leg in the middle by weight: of mids (side 0), bids (1) or asks (2)."""
    ordered: list[Leg] = []
    total: i64 = 0
    for leg in legs:  # an insertion sort: there are few, and a key function costs more than all of it
        at: i64 = len(ordered)
        while at > 0 and _comes_before(leg, ordered[at - 1], side):
            at -= 1
        ordered.insert(at, leg)
        total += leg.weight
    running: i64 = 0
    for leg in ordered:
        running += leg.weight
        if 2 * running >= total:
            return leg
    return ordered[-1]


def _comes_before(a: Leg, b: Leg, side: int) -> bool:
    mine: i64 = a.mid if side == 0 else a.bid if side == 1 else a.ask
    other: i64 = b.mid if side == 0 else b.bid if side == 1 else b.ask
    if mine != other:
        return mine < other
    return a.priority < b.priority or (a.priority == b.priority and a.name < b.name)


def _legs(state: BestPrice, legs: list[Leg], centre: Leg) -> tuple[Leg, Leg]:
    strategy = state.strategy
    if strategy == "best":
        return _best_legs(state, legs, centre)
    if strategy == "priority":
        chosen = min(legs, key=lambda leg: (leg.priority, leg.name))
    elif strategy == "latest":
        chosen = min(legs, key=lambda leg: (-leg.event, leg.priority, leg.name))
    elif strategy == "weighted":
        return _weighted_median(legs, 1), _weighted_median(legs, 2)
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
