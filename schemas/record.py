"""The records that flow through the topics: unchangeable, exact, integers only.

Times are nanoseconds since the epoch, UTC. Prices and sizes are integer mantissas at the
instrument's ``price_scale`` and ``size_scale`` (``schemas/instruments.yaml``): 1.09123 at scale 5 is
109123. A **mid** is exact too: ``(bid + ask) * 5``, one decimal finer than the price.

Compiled, they are C structs: a field costs a load, a record 20 ns. They refer to nothing that refers back, so the
garbage collector need not look at them (acyclic). The order of the fields is the wire order: ``schemas/*.avsc``
says the same, and a test compares the two.
"""

import inspect
from typing import Any, Final, TypeAlias, TypeVar, final

from mypy_extensions import i64, mypyc_attr


@mypyc_attr(acyclic=True)
class Fields:
    """What all records share: they are compared and shown by their fields."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Fields) and type(self) is type(other) and astuple(self) == astuple(other)

    def __hash__(self) -> int:
        return hash((type(self), *astuple(self)))

    def __repr__(self) -> str:
        shown = ", ".join([f"{name}={value!r}" for name, value in asdict(self).items()])
        return f"{type(self).__name__}({shown})"


@final
@mypyc_attr(acyclic=True)
class Quote(Fields):
    """A two-sided price of one source. A missing side is price 0, size 0 (ONE_SIDED)."""

    def __init__(
        self,
        symbol: str,
        source: str,
        ts_event: i64,  # the source's own time
        ts_recv: i64,  # stamped by the connector when the bytes arrived
        bid: i64,
        ask: i64,
        bid_size: i64 = 0,
        ask_size: i64 = 0,
        id: str = "",  # the source's own id of this update, where it has one
        seq: i64 = 0,  # the source's own sequence number; 0: none
        flags: i64 = 0,  # schemas.flags
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.bid: Final = bid
        self.ask: Final = ask
        self.bid_size: Final = bid_size
        self.ask_size: Final = ask_size
        self.id: Final = id
        self.seq: Final = seq
        self.flags: Final = flags


@final
@mypyc_attr(acyclic=True)
class Trade(Fields):
    """A transaction reported by a source."""

    def __init__(
        self,
        symbol: str,
        source: str,
        ts_event: i64,
        ts_recv: i64,
        price: i64,
        size: i64 = 0,
        id: str = "",
        seq: i64 = 0,
        flags: i64 = 0,
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.price: Final = price
        self.size: Final = size
        self.id: Final = id
        self.seq: Final = seq
        self.flags: Final = flags


@final
@mypyc_attr(acyclic=True)
class Link(Fields):
    """What a connector knows of its subscription: ``heartbeat``, ``connected`` or ``disconnected``."""

    def __init__(
        self,
        symbol: str,
        source: str,
        ts_event: i64,
        ts_recv: i64,
        event: str,
        reason: str = "",
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.event: Final = event
        self.reason: Final = reason


@final
@mypyc_attr(acyclic=True)
class Clock(Fields):
    """Time passes in this partition even when no market speaks. Written by live workers and importers."""

    def __init__(
        self,
        ts_recv: i64,
    ) -> None:
        self.ts_recv: Final = ts_recv


@final
@mypyc_attr(acyclic=True)
class Candle(Fields):
    """One minute ``[start, start + 60 s)`` of a source, or of the composite source ``best``.

    revision: -1 provisional, 0 final, 1 and up corrections by late ticks or by repair.
    Mids are at ``price_scale + 1``; a kind that did not occur (no trade, no quote) is all zeros.
    """

    def __init__(
        self,
        symbol: str,
        source: str,
        start: i64,
        revision: i64,
        bid_open: i64 = 0,
        bid_high: i64 = 0,
        bid_low: i64 = 0,
        bid_close: i64 = 0,
        ask_open: i64 = 0,
        ask_high: i64 = 0,
        ask_low: i64 = 0,
        ask_close: i64 = 0,
        mid_open: i64 = 0,
        mid_high: i64 = 0,
        mid_low: i64 = 0,
        mid_close: i64 = 0,
        open: i64 = 0,  # of trades, as high, low and close
        high: i64 = 0,
        low: i64 = 0,
        close: i64 = 0,
        volume: i64 = 0,  # traded size
        ticks: i64 = 0,  # quotes
        trades: i64 = 0,
        flags: i64 = 0,  # PARTIAL, BACKFILL
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.start: Final = start
        self.revision: Final = revision
        self.bid_open: Final = bid_open
        self.bid_high: Final = bid_high
        self.bid_low: Final = bid_low
        self.bid_close: Final = bid_close
        self.ask_open: Final = ask_open
        self.ask_high: Final = ask_high
        self.ask_low: Final = ask_low
        self.ask_close: Final = ask_close
        self.mid_open: Final = mid_open
        self.mid_high: Final = mid_high
        self.mid_low: Final = mid_low
        self.mid_close: Final = mid_close
        self.open: Final = open
        self.high: Final = high
        self.low: Final = low
        self.close: Final = close
        self.volume: Final = volume
        self.ticks: Final = ticks
        self.trades: Final = trades
        self.flags: Final = flags


@final
@mypyc_attr(acyclic=True)
class Best(Fields):
    """The best tradable bid and ask over the eligible sources, and their consensus.

    ``state``: normal, locked, crossed, single_source, low_confidence, no_source. With no_source all
    prices are 0 and the sources empty. ``consensus`` is the weighted median mid (price_scale + 1).
    """

    def __init__(
        self,
        symbol: str,
        ts_event: i64,
        ts_recv: i64,
        state: str,
        bid: i64,
        bid_size: i64,
        bid_source: str,
        ask: i64,
        ask_size: i64,
        ask_source: str,
        consensus: i64,
        eligible: i64,  # how many sources took part
    ) -> None:
        self.symbol: Final = symbol
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.state: Final = state
        self.bid: Final = bid
        self.bid_size: Final = bid_size
        self.bid_source: Final = bid_source
        self.ask: Final = ask
        self.ask_size: Final = ask_size
        self.ask_source: Final = ask_source
        self.consensus: Final = consensus
        self.eligible: Final = eligible


@final
@mypyc_attr(acyclic=True)
class Gap(Fields):
    """A stretch of one source without coverage: the ledger that repair works from.

    ``cause``: disconnect, stale, sequence. ``status``: open, closed, repaired. ``end`` is 0 while open.
    """

    def __init__(
        self,
        symbol: str,
        source: str,
        start: i64,
        end: i64,
        cause: str,
        status: str,
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.start: Final = start
        self.end: Final = end
        self.cause: Final = cause
        self.status: Final = status


@final
@mypyc_attr(acyclic=True)
class Status(Fields):
    """The scoreboard of one source: liveness, quality, and every tick accounted for.

    ``arrived = accepted + held + sum(rejected.values())``, always.
    """

    def __init__(
        self,
        symbol: str,
        source: str,
        status: str,  # live, quiet, stale, disconnected, closed
        since: i64,
        ts_event: i64,  # of the newest tick
        ts_recv: i64,
        latency_ns: i64,  # smoothed ts_recv - ts_event
        interval_ns: i64,  # smoothed time between ticks
        spread: i64,  # of the newest clean quote
        arrived: i64,
        accepted: i64,
        held: i64,
        gaps: i64,
        rejected: dict[str, int],
    ) -> None:
        self.symbol: Final = symbol
        self.source: Final = source
        self.status: Final = status
        self.since: Final = since
        self.ts_event: Final = ts_event
        self.ts_recv: Final = ts_recv
        self.latency_ns: Final = latency_ns
        self.interval_ns: Final = interval_ns
        self.spread: Final = spread
        self.arrived: Final = arrived
        self.accepted: Final = accepted
        self.held: Final = held
        self.gaps: Final = gaps
        self.rejected: Final = rejected


@final
@mypyc_attr(acyclic=True)
class Rejected(Fields):
    """A tick that was refused, why, and the numbers that led to it (same unit as the value judged)."""

    def __init__(
        self,
        tick: Quote | Trade,
        reason: str,
        observed: i64,
        reference: i64,
        limit: i64,
    ) -> None:
        self.tick: Final = tick
        self.reason: Final = reason
        self.observed: Final = observed
        self.reference: Final = reference
        self.limit: Final = limit


Tick: TypeAlias = Quote | Trade
Record: TypeAlias = Quote | Trade | Link | Clock | Candle | Best | Gap | Status | Rejected
RECORDS: tuple[type, ...] = (Quote, Trade, Link, Clock, Candle, Best, Gap, Status, Rejected)

R = TypeVar("R", bound=Fields)
_FIELDS: Final[dict[type, tuple[str, ...]]] = {cls: tuple(inspect.signature(cls).parameters) for cls in RECORDS}


def fields(cls: type) -> tuple[str, ...]:
    """The names of a record type's fields, in order."""
    return _FIELDS[cls]


def astuple(record: Fields) -> tuple[Any, ...]:
    """The fields of a record, in order."""
    return tuple([getattr(record, name) for name in _FIELDS[type(record)]])


def asdict(record: Fields) -> dict[str, Any]:
    """The fields of a record by name."""
    return dict(zip(_FIELDS[type(record)], astuple(record), strict=True))


def replace(record: R, **changes: Any) -> R:
    """A copy of a record with some fields changed."""
    return type(record)(**{**asdict(record), **changes})
