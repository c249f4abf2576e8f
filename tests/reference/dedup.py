"""A tick that its source sent before, by its id or by its time, prices and sizes."""

from typing import Any

from schemas import flags
from schemas.record import Quote, Tick
from tests.reference.model import Source

Numbers = tuple[str, int, int, int]  # reason, observed, reference, limit


def identity(tick: Tick) -> Any:
    """What makes two ticks the same tick."""
    if tick.id:
        return tick.id
    if isinstance(tick, Quote):
        return ("quote", tick.ts_event, tick.bid, tick.ask, tick.bid_size, tick.ask_size)
    return ("trade", tick.ts_event, tick.price, tick.size)


def judge(source: Source, tick: Tick) -> Numbers | None:
    """Refuse old snapshots and repeats; changes nothing."""
    if tick.flags & flags.SNAPSHOT and tick.ts_event <= source.newest:
        return flags.OLD_SNAPSHOT, tick.ts_event, source.newest, 0
    if identity(tick) in source.remembered[-32:]:
        return flags.DUPLICATE, tick.ts_event, source.newest, 32
    return None


def hole(source: Source, tick: Tick) -> tuple[int, int] | None:
    """From when to when something is missing before this tick; changes nothing."""
    if not source.contiguous or tick.seq <= 0 or source.highest <= 0 or tick.seq <= source.highest + 1:
        return None
    return (source.newest, tick.ts_event) if tick.ts_event > source.newest else None


def remember(source: Source, tick: Tick) -> None:
    """Keep what the next ticks are compared with."""
    source.remembered.append(identity(tick))
    source.newest = max(source.newest, tick.ts_event)
    if source.contiguous and tick.seq > 0:
        source.highest = max(source.highest, tick.seq)
