"""What a tick cannot be: late, not positive, out of bounds, too wide, ten times the price."""

from schemas import flags
from schemas.instrument import Instrument
from schemas.record import Quote, Tick
from tests.reference.dedup import Numbers
from tests.reference.model import MINUTE

ALLOWED = 15 * MINUTE


def x_of(tick: Tick) -> int:
    """The mid of a quote or the price of a trade, at one decimal more than the price."""
    return (tick.bid + tick.ask) * 5 if isinstance(tick, Quote) else tick.price * 10


def shape(tick: Tick) -> int:
    """The flags that say how the two sides of a quote stand."""
    if not isinstance(tick, Quote):
        return 0
    if tick.bid == 0 or tick.ask == 0:
        return flags.ONE_SIDED
    if tick.bid > tick.ask:
        return flags.CROSSED
    return flags.LOCKED if tick.bid == tick.ask else 0


def is_clean(tick: Tick) -> bool:
    """A trade, or a quote that can take part in best price and candles."""
    return not isinstance(tick, Quote) or not tick.flags & flags.NOT_CLEAN


def before_shape(tick: Tick, now: int, instrument: Instrument) -> Numbers | None:
    """Rules 1 to 4."""
    if tick.ts_event < now - ALLOWED:
        return flags.LATE, tick.ts_event, now, ALLOWED
    is_quote = isinstance(tick, Quote)
    prices = [tick.bid, tick.ask] if is_quote else [tick.price]
    sizes = [tick.bid_size, tick.ask_size] if is_quote else [tick.size]
    for price in prices:
        if price < 0:
            return flags.NOT_POSITIVE, price, 0, 0
    if all(price == 0 for price in prices):
        return flags.NOT_POSITIVE, 0, 0, 0
    for size in sizes:
        if size < 0:
            return flags.NEGATIVE_SIZE, size, 0, 0
    for price in prices:
        if price != 0 and price < instrument.min_price:
            return flags.OUT_OF_BOUNDS, price, 0, instrument.min_price
        if price != 0 and price > instrument.max_price:
            return flags.OUT_OF_BOUNDS, price, 0, instrument.max_price
    return None


def after_shape(tick: Tick, good: int, instrument: Instrument) -> Numbers | None:
    """Rules 6 and 7."""
    if isinstance(tick, Quote):
        if shape(tick) == flags.ONE_SIDED:
            return None
        cap = instrument.rules.max_spread_bps
        if tick.bid < tick.ask and (tick.ask - tick.bid) * 10_000 > cap * tick.bid:
            return flags.SPREAD_TOO_WIDE, tick.ask - tick.bid, tick.bid, cap
    x = x_of(tick)
    if good != 0:
        for factor in (10, 100):
            if 20 * abs(x - good * factor) <= good * factor or 20 * abs(x * factor - good) <= good:
                return flags.DECIMAL_SHIFT, x, good, factor
    return None
