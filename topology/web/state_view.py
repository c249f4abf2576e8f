"""What a worker knows of its symbols, as plain data for JSON. Reads the state, changes nothing.

Prices and sizes are exact decimal text at the instrument's scale, a side that is missing is null. A time comes twice:
as ISO 8601 in UTC with nanoseconds (``start``) and as an integer (``start_ns``); one that never was is null.
Ages and deadlines count in the symbol's own time, not in that of the clock on the wall.
"""

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

from schemas import flags
from schemas.instrument import Instrument, text
from schemas.record import Best, Trade
from topology.stages import liveness
from topology.stages.best_price import Leg
from topology.stages.candle import Candles, Minute
from topology.stages.feed import Feed
from topology.stages.liveness import Liveness
from topology.stages.partition import Partition
from topology.stages.pipeline import Symbol
from topology.stages.spike import Held

SECOND: Final = 1_000_000_000
SIDES: Final = ("bid", "ask", "mid")
OHLC: Final = ("open", "high", "low", "close")

Data = dict[str, Any]


def iso(ns: int) -> str | None:
    """A time as ISO 8601 in UTC, to the nanosecond; None for none."""
    if not ns:
        return None
    return f"{datetime.fromtimestamp(ns // SECOND, UTC):%Y-%m-%dT%H:%M:%S}.{ns % SECOND:09}Z"


def summary(symbol: Symbol, partition: Partition) -> Data:
    """A symbol in one row: best price, the standing of its sources, and every tick accounted for."""
    statuses = [liveness.NAMES[feed.life.status] for feed in symbol.feeds]
    return {
        "symbol": symbol.name,
        "class": symbol.instrument.asset_class,
        "partition": partition.number,
        **_time("time", _now(symbol, partition)),
        "best": _best(symbol.best.last, symbol.instrument),
        "sources": {feed.name: status for feed, status in zip(symbol.feeds, statuses, strict=True)},
        "arrived": sum(feed.arrived for feed in symbol.feeds),
        "accepted": sum(feed.accepted for feed in symbol.feeds),
        "held": sum(len(feed.spike.held) for feed in symbol.feeds),
        "rejected": sum(sum(feed.rejected.values()) for feed in symbol.feeds),
        "open_gaps": sum(bool(feed.life.gap_cause) for feed in symbol.feeds),
    }


def details(symbol: Symbol, partition: Partition) -> Data:
    """Everything about a symbol: its best price, each source with its numbers, the minutes still open."""
    instrument = symbol.instrument
    return {
        "symbol": symbol.name,
        "class": instrument.asset_class,
        "calendar": instrument.calendar,
        "strategy": instrument.strategy,
        "price_scale": instrument.price_scale,
        "size_scale": instrument.size_scale,
        "partition": partition.number,
        "offset": symbol.offset,
        **_time("time", _now(symbol, partition)),
        "best": _best(symbol.best.last, instrument),
        "best_minutes": _open_minutes(symbol.composite, instrument),
        "sources": [_source(symbol, feed, _now(symbol, partition)) for feed in symbol.feeds],
    }


def scores(symbol: Symbol, _partition: Partition) -> list[Data]:
    """The scoreboard: one row a source."""
    return [{"symbol": symbol.name, "source": feed.name, **_score(feed, symbol.instrument)} for feed in symbol.feeds]


def shares(symbol: Symbol, _partition: Partition) -> list[Data]:
    """What each source adds to its total."""
    return [
        {
            "source": feed.name,
            "symbols": 1,
            "status": {liveness.NAMES[feed.life.status]: 1},
            "arrived": feed.arrived,
            "accepted": feed.accepted,
            "held": len(feed.spike.held),
            "gaps": feed.life.opened,
            "open_gaps": int(bool(feed.life.gap_cause)),
            "rejected": feed.rejected,
        }
        for feed in symbol.feeds
    ]


def totals(parts: Iterable[Data]) -> list[Data]:
    """The scoreboard summed up by source: of shares, or of totals."""
    found: dict[str, Data] = {}
    for part in parts:
        total = found.setdefault(part["source"], {"source": part["source"]})
        for name, value in part.items():
            if isinstance(value, int):
                total[name] = total.get(name, 0) + value
            elif isinstance(value, dict):
                counts = total.setdefault(name, {})
                for each, count in value.items():
                    counts[each] = counts.get(each, 0) + count
    return sorted(found.values(), key=lambda total: str(total["source"]))


def open_gaps(symbol: Symbol, partition: Partition) -> list[Data]:
    """The stretches that are missing right now: one row a source at most."""
    now = _now(symbol, partition)
    return [
        {"symbol": symbol.name, "source": feed.name, **gap, "lasting_ns": max(0, now - gap["start_ns"])}
        for feed in symbol.feeds
        if (gap := _open_gap(feed.life)) is not None
    ]


def _now(symbol: Symbol, partition: Partition) -> int:
    """The symbol's time: its own ``now`` follows the clock only where the clock changes something."""
    return max(symbol.now, partition.clock)


def _time(name: str, ns: int) -> Data:
    return {name: iso(ns), f"{name}_ns": ns or None}


def _price(value: int, scale: int) -> str | None:
    return text(value, scale) if value else None


def _best(best: Best | None, instrument: Instrument) -> Data | None:
    """The best price as published; None before the first eligible source."""
    if best is None:
        return None
    scale, size_scale = instrument.price_scale, instrument.size_scale
    return {
        "state": best.state,
        "bid": _price(best.bid, scale),
        "bid_size": text(best.bid_size, size_scale),
        "bid_source": best.bid_source or None,
        "ask": _price(best.ask, scale),
        "ask_size": text(best.ask_size, size_scale),
        "ask_source": best.ask_source or None,
        **_spread(best.bid, best.ask, scale),
        "consensus": _price(best.consensus, scale + 1),
        "eligible": best.eligible,
        **_time("ts_event", best.ts_event),
        **_time("ts_recv", best.ts_recv),
    }


def _spread(bid: int, ask: int, scale: int) -> Data:
    if not bid or not ask:
        return {"spread": None, "spread_bps": None}
    return {"spread": text(ask - bid, scale), "spread_bps": text((ask - bid) * 1_000_000 // bid, 2)}


def _score(feed: Feed, instrument: Instrument) -> Data:
    life = feed.life
    return {
        "status": liveness.NAMES[life.status],
        **_time("since", life.since),
        **_time("ts_event", feed.event),
        **_time("ts_recv", feed.recv),
        "latency_ns": feed.latency,
        "interval_ns": life.interval,
        "spread": _price(feed.spread, instrument.price_scale),
        "arrived": feed.arrived,
        "accepted": feed.accepted,
        "held": len(feed.spike.held),
        "rejected": dict(feed.rejected),
        "gaps": life.opened,
        "open_gap": _open_gap(life),
    }


def _source(symbol: Symbol, feed: Feed, now: int) -> Data:
    instrument, life, leg = symbol.instrument, feed.life, feed.leg
    ttl = liveness.ttl(life)
    return {
        "source": feed.name,
        **_score(feed, instrument),
        "priority": leg.priority,
        "weight": leg.weight,
        "session": "open" if feed.open else "closed",
        "quote": _quote(feed.leg, instrument, now),
        "standing": _standing(feed),
        "ttl_ns": ttl,
        **_time("alive", life.alive),
        **_time("alive_until", life.alive + ttl if life.alive else 0),
        **_time("covered", life.covered),
        "heartbeats": life.heartbeats,
        "held_ticks": [_held(held, instrument) for held in feed.spike.held],
        "last_gaps": [{**_time("start", start), **_time("end", end)} for start, end in liveness.gaps(life)],
        "minutes": _open_minutes(feed.candles, instrument),
    }


def _quote(leg: Leg, instrument: Instrument, now: int) -> Data | None:
    scale, size_scale = instrument.price_scale, instrument.size_scale
    if not leg.event:
        return None
    return {
        "bid": _price(leg.bid, scale),
        "bid_size": text(leg.bid_size, size_scale),
        "ask": _price(leg.ask, scale),
        "ask_size": text(leg.ask_size, size_scale),
        **_spread(leg.bid, leg.ask, scale),
        "mid": _price(leg.mid, scale + 1) if leg.bid and leg.ask else None,
        **_time("ts_event", leg.event),
        "age_ns": max(0, now - leg.event),
    }


def _standing(feed: Feed) -> str:
    """Whether the current quote takes part in the best price, or why not."""
    leg = feed.leg
    if feed.life.status != liveness.LIVE:
        return liveness.NAMES[feed.life.status]
    if not leg.event:
        return "no quote"
    if not leg.clean:
        return "not clean"
    if leg.suspect:
        return "suspect"
    return "excluded" if leg.excluded else "eligible"


def _held(held: Held, instrument: Instrument) -> Data:
    """A suspect with the numbers that made it one: its mid (or price), the median it left, the band."""
    tick, scale = held.tick, instrument.price_scale
    prices = (
        {"kind": "trade", "price": _price(tick.price, scale), "size": text(tick.size, instrument.size_scale)}
        if isinstance(tick, Trade)
        else {"kind": "quote", "bid": _price(tick.bid, scale), "ask": _price(tick.ask, scale)}
    )
    return {
        **prices,
        "observed": text(held.x, scale + 1),
        "median": text(held.median, scale + 1),
        "band": text(held.band, scale + 1),
        **_time("ts_event", tick.ts_event),
        **_time("ts_recv", tick.ts_recv),
        "flags": flags.names(tick.flags),
        "offset": held.offset,
    }


def _open_gap(life: Liveness) -> Data | None:
    if not life.gap_cause:
        return None
    return {**_time("start", life.starts[-1]), "cause": life.gap_cause}


def _open_minutes(candles: Candles, instrument: Instrument) -> list[Data]:
    """The minutes that are not final yet."""
    return [_minute(minute, instrument) for minute in candles.minutes if minute.revision < 0]


def _minute(minute: Minute, instrument: Instrument) -> Data:
    scale = instrument.price_scale
    data: Data = {**_time("start", minute.start), "ticks": minute.ticks, "trades": minute.trades}
    if minute.ticks:
        for side in SIDES:
            digits = scale + 1 if side == "mid" else scale
            data[side] = {name: text(getattr(minute, f"{side}_{name}"), digits) for name in OHLC}
    if minute.trades:
        data["trade"] = {name: text(getattr(minute, name), scale) for name in OHLC}
        data["volume"] = text(minute.volume, instrument.size_scale)
    return data
