"""The records that flow through the topics: frozen, exact, integers only.

Times are nanoseconds since the epoch, UTC. Prices and sizes are integer mantissas at the
instrument's ``price_scale`` and ``size_scale`` (``schemas/instruments.yaml``): 1.09123 at scale 5 is
109123. A **mid** is exact too: ``(bid + ask) * 5``, one decimal finer than the price.

Records hold no references but to records and text, so the garbage collector need not look at them (gc=False).
The field order is the wire order: ``schemas/*.avsc`` says the same, and a test compares the two.
"""

from typing import TypeAlias

import msgspec


class Quote(msgspec.Struct, frozen=True, gc=False):
    """A two-sided price of one source. A missing side is price 0, size 0 (ONE_SIDED)."""

    symbol: str
    source: str
    ts_event: int  # the source's own time
    ts_recv: int  # stamped by the connector when the bytes arrived
    bid: int
    ask: int
    bid_size: int = 0
    ask_size: int = 0
    id: str = ""  # the source's own id of this update, where it has one
    seq: int = 0  # the source's own sequence number; 0: none
    flags: int = 0  # schemas.flags


class Trade(msgspec.Struct, frozen=True, gc=False):
    """A transaction reported by a source."""

    symbol: str
    source: str
    ts_event: int
    ts_recv: int
    price: int
    size: int = 0
    id: str = ""
    seq: int = 0
    flags: int = 0


class Link(msgspec.Struct, frozen=True, gc=False):
    """What a connector knows of its subscription: ``heartbeat``, ``connected`` or ``disconnected``."""

    symbol: str
    source: str
    ts_event: int
    ts_recv: int
    event: str
    reason: str = ""


class Clock(msgspec.Struct, frozen=True, gc=False):
    """Time passes in this partition even when no market speaks. Written by live workers and importers."""

    ts_recv: int


class Candle(msgspec.Struct, frozen=True, gc=False):
    """One minute ``[start, start + 60 s)`` of a source, or of the composite source ``best``.

    revision: -1 provisional, 0 final, 1 and up corrections by late ticks or by repair.
    Mids are at ``price_scale + 1``; a kind that did not occur (no trade, no quote) is all zeros.
    """

    symbol: str
    source: str
    start: int
    revision: int
    bid_open: int = 0
    bid_high: int = 0
    bid_low: int = 0
    bid_close: int = 0
    ask_open: int = 0
    ask_high: int = 0
    ask_low: int = 0
    ask_close: int = 0
    mid_open: int = 0
    mid_high: int = 0
    mid_low: int = 0
    mid_close: int = 0
    open: int = 0  # of trades, as high, low and close
    high: int = 0
    low: int = 0
    close: int = 0
    volume: int = 0  # traded size
    ticks: int = 0  # quotes
    trades: int = 0
    flags: int = 0  # PARTIAL, BACKFILL


class Best(msgspec.Struct, frozen=True, gc=False):
    """The best tradable bid and ask over the eligible sources, and their consensus.

    ``state``: normal, locked, crossed, single_source, low_confidence, no_source. With no_source all
    prices are 0 and the sources empty. ``consensus`` is the weighted median mid (price_scale + 1).
    """

    symbol: str
    ts_event: int
    ts_recv: int
    state: str
    bid: int
    bid_size: int
    bid_source: str
    ask: int
    ask_size: int
    ask_source: str
    consensus: int
    eligible: int  # how many sources took part


class Gap(msgspec.Struct, frozen=True, gc=False):
    """A stretch of one source without coverage: the ledger that repair works from.

    ``cause``: disconnect, stale, sequence. ``status``: open, closed, repaired. ``end`` is 0 while open.
    """

    symbol: str
    source: str
    start: int
    end: int
    cause: str
    status: str


class Status(msgspec.Struct, frozen=True, gc=False):
    """The scoreboard of one source: liveness, quality, and every tick accounted for.

    ``arrived = accepted + held + sum(rejected.values())``, always.
    """

    symbol: str
    source: str
    status: str  # live, quiet, stale, disconnected, closed
    since: int
    ts_event: int  # of the newest tick
    ts_recv: int
    latency_ns: int  # smoothed ts_recv - ts_event
    interval_ns: int  # smoothed time between ticks
    spread: int  # of the newest clean quote
    arrived: int
    accepted: int
    held: int
    gaps: int
    rejected: dict[str, int]


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A tick that was refused, why, and the numbers that led to it (same unit as the value judged)."""

    tick: Quote | Trade
    reason: str
    observed: int
    reference: int
    limit: int


Tick: TypeAlias = Quote | Trade
Record: TypeAlias = Quote | Trade | Link | Clock | Candle | Best | Gap | Status | Rejected
RECORDS: tuple[type, ...] = (Quote, Trade, Link, Clock, Candle, Best, Gap, Status, Rejected)
