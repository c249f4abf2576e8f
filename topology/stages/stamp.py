"""The times of a record: believed as far as the broker's own clock allows, and what is changed is flagged."""

from typing import Final

from mypy_extensions import i64

from schemas import flags
from schemas.record import Quote, Tick, Trade

SKEW_NS: Final = 2_000_000_000  # how far a time may run ahead before it is a broken clock


def clamp(recv: i64, event: i64, marks: i64, append: i64) -> tuple[i64, i64, i64]:
    """Bound times that ran ahead: recv by the broker's append time, event by recv. All in ns."""
    if recv > append + SKEW_NS:
        recv = append
        marks |= flags.BAD_CLOCK
    if event <= 0:
        event = recv
        marks |= flags.NO_EVENT_TIME
    if event > recv + SKEW_NS:
        event = recv
        marks |= flags.BAD_CLOCK
    return recv, event, marks


def quote_with(tick: Quote, event: i64, recv: i64, marks: i64) -> Quote:
    if tick.flags == marks and tick.ts_event == event and tick.ts_recv == recv:
        return tick
    return Quote(
        tick.symbol, tick.source, event, recv, tick.bid, tick.ask, tick.bid_size, tick.ask_size,
        tick.id, tick.seq, marks,
    )  # fmt: skip


def trade_with(tick: Trade, event: i64, recv: i64, marks: i64) -> Trade:
    if tick.flags == marks and tick.ts_event == event and tick.ts_recv == recv:
        return tick
    return Trade(
        tick.symbol, tick.source, event, recv, tick.price, tick.size, tick.id, tick.seq, marks
    )  # fmt: skip


def released(tick: Tick) -> Tick:
    if isinstance(tick, Quote):
        return quote_with(tick, tick.ts_event, tick.ts_recv, tick.flags | flags.RELEASED)
    return trade_with(tick, tick.ts_event, tick.ts_recv, tick.flags | flags.RELEASED)
