"""Differences between a replay and its base for people and for programs: counts, then the first ones side by side."""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from rich.console import Console, RenderableType
from rich.table import Table

from schemas import flags
from schemas.codec import Codec
from schemas.instrument import Instrument, text
from schemas.record import Candle, Gap, Rejected, asdict
from schemas.topics import BEST, CANDLE, GAP, REJECTED, TICK
from topology.replay.compare import Comparison, Difference
from topology.replay.ledger import Replay
from topology.replay.outputs import Made
from topology.replay.promote import Plan, counts

SHORT: Final = {"tick": TICK, "rejected": REJECTED, "best": BEST, "candle": CANDLE, "gap": GAP}
TIMES: Final = ("ts_event", "ts_recv", "start", "end")
SIZES: Final = ("bid_size", "ask_size", "size", "volume")
PLAIN: Final = ("revision", "ticks", "trades", "seq", "eligible")
MIDS: Final = ("consensus",)


class First:
    """Keeps the first differences of every symbol and topic."""

    def __init__(self, limit: int) -> None:
        self.kept: dict[tuple[str, str], list[Difference]] = {}
        self._limit = limit

    def __call__(self, difference: Difference) -> None:
        """Take one more."""
        kept = self.kept.setdefault((difference.symbol, difference.topic.name), [])
        kept.append(difference)
        if len(kept) > 100 * self._limit:
            self._cut(kept)

    def all(self) -> Iterator[Difference]:
        """By symbol and topic, in the order of market.raw."""
        for _, kept in sorted(self.kept.items()):
            self._cut(kept)
            yield from kept

    def _cut(self, kept: list[Difference]) -> None:
        kept.sort(key=lambda each: each.offset)
        del kept[self._limit :]


class Shown(msgspec.Struct, frozen=True):
    """A difference as text. ``live`` and ``replay`` have the fields that differ, or all where one side has nothing."""

    symbol: str
    topic: str
    what: str
    partition: int  # of the live topics
    offset: int  # in the live market.raw
    record: str
    live: dict[str, str] | None
    replay: dict[str, str] | None


def shown(difference: Difference, codec: Codec, instruments: dict[str, Instrument]) -> Shown:
    """Decode both sides and leave out what is equal."""
    base, copy = (_decoded(made, codec) for made in (difference.base, difference.copy))
    instrument = instruments.get(difference.symbol)
    texts = [_fields(record, instrument) if record is not None else None for record in (base, copy)]
    if texts[0] is not None and texts[1] is not None:
        differing = [name for name in texts[0] if texts[0][name] != texts[1].get(name)]
        texts = [{name: each.get(name, "") for name in differing} for each in texts if each is not None]
    there = base if base is not None else copy
    return Shown(
        symbol=difference.symbol,
        topic=difference.topic.name,
        what=difference.what,
        partition=difference.partition,
        offset=difference.offset,
        record="" if there is None else _title(there),
        live=texts[0],
        replay=texts[1],
    )


def _decoded(made: Made | None, codec: Codec) -> Any:
    return codec.decode(made.value) if made is not None and made.value is not None else None


def _title(record: Any) -> str:
    if isinstance(record, Candle | Gap):
        return f"{record.source} {_time(record.start)}"
    tick = record.tick if isinstance(record, Rejected) else record
    return f"{getattr(tick, 'source', '')} {_time(tick.ts_event)}".strip()


def _fields(record: Any, instrument: Instrument | None) -> dict[str, str]:
    if isinstance(record, Rejected):
        numbers = {name: str(getattr(record, name)) for name in ("observed", "reference", "limit")}
        return {"reason": record.reason, **numbers, **_fields(record.tick, instrument)}
    values = asdict(record)
    return {
        name: _value(name, value, instrument)
        for name, value in values.items()
        if name not in ("symbol", "source") and value not in (0, "")
    }


def _value(name: str, value: Any, instrument: Instrument | None) -> str:
    if name == "flags":
        return " ".join(flags.names(value)) or "0"
    if name in TIMES:
        return _time(value)
    if isinstance(value, str) or instrument is None or name in PLAIN:
        return str(value)
    if name in SIZES:
        return text(value, instrument.size_scale)
    return text(value, instrument.price_scale + (name in MIDS or name.startswith("mid_")))


def _time(ns: int) -> str:
    if not ns:
        return "open"
    seconds, rest = divmod(ns, 1_000_000_000)
    fraction = f".{rest:09}".rstrip("0") if rest else ""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}{fraction}"


def as_json(replay: Replay, comparison: Comparison, first: list[Shown]) -> bytes:
    """One object; counts by symbol and topic, then the first differences."""
    counts = [
        {"symbol": symbol, "topic": topic, **_counts(tally), "differences": dict(tally.differences)}
        for (symbol, topic), tally in sorted(comparison.found.items())
    ]
    whole = {
        "replay": replay.run,
        "base": replay.base,
        "rules_version": replay.rules_version,
        "stretches": replay.stretches,
        "differences": total(comparison),
        "topics": counts,
        "first": first,
    }
    return msgspec.json.format(msgspec.json.encode(whole), indent=2)


def _counts(tally: Any) -> dict[str, int]:
    names = {"base": "live", "copy": "replay", "equal": "equal", "undecided": "not_compared"}
    return {shown: getattr(tally, name) for name, shown in names.items()}


def total(comparison: Comparison) -> int:
    """All differences."""
    return sum(sum(tally.differences.values()) for tally in comparison.found.values())


def as_text(console: Console, replay: Replay, comparison: Comparison, first: list[Shown]) -> None:
    """Two tables and a sum."""
    console.print(_table(comparison))
    if first:
        console.print(_first(first))
    records = sum(stretch.end - stretch.start for stretch in replay.stretches)
    console.print(
        f"{total(comparison):,} differences between {replay.run} and {replay.base or 'the live system'} "
        f"over {records:,} records of {replay.base_raw}",
        highlight=False,
    )


def as_plan(console: Console, replay: Replay, plan: Plan) -> None:
    """What a promotion will write, and what it leaves alone."""
    table = Table("symbol", "topic", box=None, pad_edge=False, header_style="bold")
    for name in ("written", "deleted"):
        table.add_column(name, justify="right")
    for symbol, changes in plan.by_symbol().items():
        for topic, numbers in counts(changes).items():
            table.add_row(symbol, topic, f"{numbers['written']:,}", f"{numbers['deleted']:,}")
    if plan.changes:
        console.print(table)
    else:
        console.print(f"nothing to promote from {replay.run}", highlight=False)
    for reason, count in plan.kept.items():
        console.print(f"left alone: {count:,} ({reason})", highlight=False)


def _table(comparison: Comparison) -> RenderableType:
    table = Table("symbol", "topic", box=None, pad_edge=False, header_style="bold")
    for name in ("live", "replay", "equal", "not compared", "differ"):
        table.add_column(name, justify="right")
    table.add_column("how")
    for (symbol, topic), tally in sorted(comparison.found.items()):
        numbers = [f"{count:,}" for count in _counts(tally).values()]
        how = ", ".join(f"{what} {count:,}" for what, count in tally.differences.most_common())
        table.add_row(symbol, topic, *numbers, f"{sum(tally.differences.values()):,}", how)
    return table


def _first(first: list[Shown]) -> RenderableType:
    table = Table(
        "symbol", "topic", "record", "what", "live", "replay", title="the first differences", title_justify="left"
    )
    for each in first:
        table.add_row(each.symbol, each.topic, each.record, each.what, _side(each.live), _side(each.replay))
    return table


def _side(fields: dict[str, str] | None) -> str:
    return "-" if fields is None else "\n".join(f"{name} {value}" for name, value in fields.items())
