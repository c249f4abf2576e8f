"""Refuse what cannot be a price; mark what is a price but not one to trade on.

Real feeds are crossed (10 % of one recorded FXCM feed), locked and one-sided: such quotes are kept and
flagged. A price that is ten or a hundred times the last good one is a decimal shift (Olsen's filters).
"""

from typing import Final

from mypy_extensions import i64, mypyc_attr

from schemas import flags
from schemas.instrument import Instrument
from schemas.record import Quote, Trade

LATE_NS: Final = 900_000_000_000  # 15 minutes: as long as candles can still be revised


@mypyc_attr(acyclic=True)
class Refusal:
    """Why a tick is refused: a reason of schemas.flags and the numbers that led to it."""

    def __init__(self, reason: str, observed: i64, reference: i64, limit: i64) -> None:
        self.reason = reason
        self.observed: i64 = observed
        self.reference: i64 = reference
        self.limit: i64 = limit


@mypyc_attr(acyclic=True)
class Bounds:
    """The limits of one instrument, in price units and basis points."""

    def __init__(self, instrument: Instrument) -> None:
        self.low: i64 = instrument.min_price
        self.high: i64 = instrument.max_price
        self.max_spread_bps: i64 = instrument.rules.max_spread_bps


def apart(a: i64, b: i64) -> i64:
    """The distance of two numbers."""
    return a - b if a > b else b - a


def judge_quote(bounds: Bounds, now: i64, quote: Quote, event: i64, good: i64) -> Refusal | None:
    """Refuse a quote or let it pass. ``good`` is the source's last good mid, 0 where there is none."""
    if event < now - LATE_NS:
        return Refusal(flags.LATE, event, now, LATE_NS)
    bid = quote.bid
    ask = quote.ask
    if bid <= 0 or ask <= 0:
        if bid < 0:
            return Refusal(flags.NOT_POSITIVE, bid, 0, 0)
        if ask < 0 or bid == 0 == ask:
            return Refusal(flags.NOT_POSITIVE, ask, 0, 0)
    if quote.bid_size < 0 or quote.ask_size < 0:
        return Refusal(flags.NEGATIVE_SIZE, quote.bid_size if quote.bid_size < 0 else quote.ask_size, 0, 0)
    refusal = _outside(bounds, bid) or _outside(bounds, ask)
    if refusal is not None or bid == 0 or ask == 0:
        return refusal
    if bid < ask and (ask - bid) > bounds.max_spread_bps * bid // 10_000:
        return Refusal(flags.SPREAD_TOO_WIDE, ask - bid, bid, bounds.max_spread_bps)
    return _shifted((bid + ask) * 5, good)


def judge_trade(bounds: Bounds, now: i64, trade: Trade, event: i64, good: i64) -> Refusal | None:
    """Refuse a trade or let it pass."""
    if event < now - LATE_NS:
        return Refusal(flags.LATE, event, now, LATE_NS)
    price = trade.price
    if price <= 0:
        return Refusal(flags.NOT_POSITIVE, price, 0, 0)
    if trade.size < 0:
        return Refusal(flags.NEGATIVE_SIZE, trade.size, 0, 0)
    return _outside(bounds, price) or _shifted(price * 10, good)


def quality(bid: i64, ask: i64) -> i64:
    """The flag that a quote earns by its prices, 0 for a clean one."""
    if bid == 0 or ask == 0:
        return flags.ONE_SIDED
    if bid < ask:
        return 0
    return flags.CROSSED if bid > ask else flags.LOCKED


def _outside(bounds: Bounds, price: i64) -> Refusal | None:
    if price == 0:  # a missing side
        return None
    if price < bounds.low:
        return Refusal(flags.OUT_OF_BOUNDS, price, 0, bounds.low)
    if price > bounds.high:
        return Refusal(flags.OUT_OF_BOUNDS, price, 0, bounds.high)
    return None


def _shifted(mid: i64, good: i64) -> Refusal | None:
    if good == 0 or (mid < 5 * good and good < 5 * mid):
        return None
    for factor in (10, 100):
        scale: i64 = factor
        if 20 * apart(mid, good * scale) <= good * scale or 20 * apart(mid * scale, good) <= good:
            return Refusal(flags.DECIMAL_SHIFT, mid, good, scale)
    return None
