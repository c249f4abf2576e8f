"""How records become rows: for each record type its table, the key of a row, and which of two rows stays.

Rule: no float and no Decimal on the way. A record is staged as it is, integers and text; the database makes exact
decimals of it, mantissa times the unit of the symbol. A row is only replaced by one that is as new or newer, so
records may come again, and late, without harm.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, Final

import msgspec

from schemas import flags
from schemas.codec import schemas
from schemas.instrument import Instrument, text
from schemas.record import Best, Candle, Gap, Quote, Status, Trade, astuple
from schemas.topics import CANDLE, GAP

#: A record, its offset in market.raw, and the Kafka record that it came in (for the dead letter, if need be).
Row = tuple[Any, int, Any]

UNITS: Final = "CREATE TEMP TABLE units (symbol text PRIMARY KEY, price numeric, mid numeric, size numeric)"
PUT_UNIT: Final = "INSERT INTO units VALUES (%s, %s::numeric, %s::numeric, %s::numeric)"

_COVERAGE: Final = flags.PARTIAL | flags.PROMOTED
_TYPES: Final[dict[Any, str]] = {"long": "bigint", "string": "text", int: "bigint", str: "text"}
_SPECIAL: Final = str.maketrans({"\\": "\\\\", "\t": "\\t", "\n": "\\n", "\r": "\\r"})


class DeadLetter(msgspec.Struct, frozen=True):
    """What stood at one place of a topic and could not be used. Key and value in hex; "-": there was none."""

    topic: str
    partition: int
    offset: int
    reason: str
    error: str
    key: str
    value: str
    written: int  # ns


class Deleted(msgspec.Struct, frozen=True):
    """A tombstone of a compacted topic: the row with this key goes."""

    table: str
    symbol: str
    source: str
    start: int  # ns

    @property
    def values(self) -> tuple[str, str, int]:
        """The key, as `DELETE` takes it after the run."""
        return self.symbol, self.source, self.start


class Load(msgspec.Struct, frozen=True):
    """How records of one type get into one table. The SQL names a staged record `s`, its units `u`."""

    record: type
    table: str
    key: tuple[str, ...]  # the columns, besides run, that make a row
    columns: Mapping[str, str]  # column: SQL of its value
    key_of: Callable[[Any, int], Any]  # the same key in Python
    rank_of: Callable[[Any, int], Any]  # of two rows with one key the higher stays; equal: the later
    newer: str  # the same in SQL, `t` being the row that is there
    scaled: bool = True  # the record has a symbol, whose units it needs

    @property
    def staged(self) -> str:
        """The staging table."""
        return f"staged_{self.record.__name__.lower()}"

    @property
    def staging(self) -> str:
        """SQL that makes the staging table."""
        columns = [f'"{name}" {kind}' for name, kind in staged_types(self.record).items()]
        return f"CREATE TEMP TABLE {self.staged} ({', '.join(columns)}, source_offset bigint) ON COMMIT DELETE ROWS"

    @property
    def upsert(self) -> str:
        """SQL that moves the staged rows on; takes the run."""
        units = " JOIN units u USING (symbol)" if self.scaled else ""
        return (
            f"INSERT INTO {self.table} AS t (run, {', '.join(self.columns)}) "
            f"SELECT %s, {', '.join(self.columns.values())} FROM {self.staged} s{units} "
            f"ON CONFLICT (run, {', '.join(self.key)}) DO UPDATE {self._replacement()}"
        )

    def _replacement(self) -> str:
        rest = [column for column in self.columns if column not in self.key]
        new = ", ".join(f"excluded.{column}" for column in rest)
        old = ", ".join(f"t.{column}" for column in rest)
        changes = f"({new}) IS DISTINCT FROM ({old})"  # a repeat leaves no dead row behind
        return f"SET ({', '.join(rest)}) = ROW ({new}) WHERE {self.newer} AND {changes}"


@cache
def staged_types(record: type) -> dict[str, str]:
    """The SQL type of every field of a record, in order."""
    if record is DeadLetter:
        return {field.name: _TYPES[field.type] for field in msgspec.structs.fields(record)}
    fields = schemas()[record.__name__]["fields"]
    return {field["name"]: _TYPES.get(str(field["type"]), "jsonb") for field in fields}


def fold(rows: Iterable[Row]) -> list[tuple[Load, list[Row]]]:
    """Of the rows with one key keep the newest, as the database may touch a row only once a statement."""
    kept: dict[type, dict[Any, Row]] = {}
    for row in rows:
        record, offset, _ = row
        load = LOADS[type(record)]
        held = kept.setdefault(type(record), {})
        key = load.key_of(record, offset)
        former = held.get(key)
        if former is None or load.rank_of(record, offset) >= load.rank_of(former[0], former[1]):
            held[key] = row
    return [(LOADS[kind], list(held.values())) for kind, held in kept.items()]


def copied(load: Load, rows: list[Row]) -> bytes:
    """The rows as COPY takes them, in its text format: measured faster to make than its binary one."""
    types = staged_types(load.record).values()
    line = "".join("%d\t" if kind == "bigint" else "%s\t" for kind in types) + "%d\n"
    plain = [(*_plain(record), offset) for record, offset, _ in rows]
    lines = "".join([line % values for values in plain])
    is_clean = "\\" not in lines and "\r" not in lines
    if not is_clean or lines.count("\t") != len(rows) * len(types) or lines.count("\n") != len(rows):
        lines = "".join([line % tuple(map(_escaped, values)) for values in plain])
    return lines.encode()


def _plain(record: Any) -> tuple[Any, ...]:
    if isinstance(record, DeadLetter):
        return msgspec.structs.astuple(record)
    values = astuple(record)
    if type(record) is Status:
        return (*values[:-1], json.dumps(record.rejected, sort_keys=True))
    return values


def _escaped(value: Any) -> Any:
    return value.translate(_SPECIAL) if isinstance(value, str) else value


def units(instruments: Mapping[str, Instrument]) -> list[tuple[str, str, str, str]]:
    """What a mantissa is multiplied by, per symbol: as decimal text, of prices, mids and sizes."""
    return [
        (symbol, text(1, each.price_scale), text(1, each.price_scale + 1), text(1, each.size_scale))
        for symbol, each in instruments.items()
    ]


def _price(field: str) -> str:
    return f"nullif(s.{field}, 0) * u.price"  # 0 stands for: there is none


def _mid(field: str) -> str:
    return f"nullif(s.{field}, 0) * u.mid"


def _time(field: str) -> str:
    return f"timestamptz 'epoch' + s.{field} / 1000 * interval '1 microsecond'"


def _time_or_null(field: str) -> str:
    return f"timestamptz 'epoch' + nullif(s.{field}, 0) / 1000 * interval '1 microsecond'"


def _same(*fields: str) -> dict[str, str]:
    return {field: f"s.{field}" for field in fields}


def _tick_key(tick: Quote | Trade, offset: int) -> tuple[str, int, str, int]:
    return tick.symbol, tick.ts_event // 1000, tick.source, offset


def _offset(_: Any, offset: int) -> int:
    return offset


def _candle_rank(candle: Candle, offset: int) -> tuple[bool, bool, int, int]:
    """Final beats provisional; of finals the better coverage, then the higher revision; then the later.

    One that a replay has put in the place of another stands as if it were complete, for that was decided by a person.
    """
    final = candle.revision >= 0
    return final, final and candle.flags & _COVERAGE != flags.PARTIAL, candle.revision, offset


def _candle_rank_sql(row: str) -> str:
    final = f"{row}.revision >= 0"
    return f"({final}, {final} AND {row}.flags & {_COVERAGE} <> {flags.PARTIAL}, {row}.revision, {row}.source_offset)"


DELETE: Final = {
    "candles": "DELETE FROM candles WHERE run = %s AND symbol = %s AND source = %s "
    "AND start = timestamptz 'epoch' + %s::bigint / 1000 * interval '1 microsecond'",
    "gaps": "DELETE FROM gaps WHERE run = %s AND symbol = %s AND source = %s AND start_ns = %s",
}
DELETABLE: Final = {CANDLE.name: "candles", GAP.name: "gaps"}  # the tables of the topics that may hold tombstones

_TIMES: Final = {
    "ts_event": _time("ts_event"),
    "ts_recv": _time("ts_recv"),
    "ts_event_ns": "s.ts_event",
    "ts_recv_ns": "s.ts_recv",
}
_TICK: Final = {**_TIMES, **_same("symbol", "source", "id", "seq", "source_offset"), "flags": "s.flags::integer"}
_TICK_KEY: Final = ("symbol", "ts_event", "source", "source_offset")
_NOT_OLDER: Final = "excluded.source_offset >= t.source_offset"
_QUOTED: Final = [f"{side}_{part}" for side in ("bid", "ask") for part in ("open", "high", "low", "close")]
_MIDS: Final = ["mid_open", "mid_high", "mid_low", "mid_close"]
_TRADED: Final = ["open", "high", "low", "close"]

LOADS: Final[dict[type, Load]] = {
    load.record: load
    for load in (
        Load(
            record=Quote,
            table="ticks",
            key=_TICK_KEY,
            columns={
                **_TICK,
                "bid": _price("bid"),
                "ask": _price("ask"),
                "bid_size": "s.bid_size * u.size",
                "ask_size": "s.ask_size * u.size",
            },
            key_of=_tick_key,
            rank_of=_offset,
            newer=_NOT_OLDER,
        ),
        Load(
            record=Trade,
            table="ticks",
            key=_TICK_KEY,
            columns={**_TICK, "price": _price("price"), "size": "s.size * u.size"},
            key_of=_tick_key,
            rank_of=_offset,
            newer=_NOT_OLDER,
        ),
        Load(
            record=Candle,
            table="candles",
            key=("symbol", "source", "start"),
            columns={
                **_same("symbol", "source"),
                "start": _time("start"),
                "revision": "s.revision::integer",
                **{field: _price(field) for field in _QUOTED},
                **{field: _mid(field) for field in _MIDS},
                **{field: _price(field) for field in _TRADED},
                "volume": "s.volume * u.size",
                **_same("ticks", "trades"),
                "flags": "s.flags::integer",
                "source_offset": "s.source_offset",
            },
            key_of=lambda candle, _: (candle.symbol, candle.source, candle.start),
            rank_of=_candle_rank,
            newer=f"{_candle_rank_sql('excluded')} >= {_candle_rank_sql('t')}",
        ),
        Load(
            record=Best,
            table="best_prices",
            key=("symbol",),
            columns={
                **_TIMES,
                **_same("symbol", "state", "bid_source", "ask_source", "source_offset"),
                "bid": _price("bid"),
                "ask": _price("ask"),
                "bid_size": "s.bid_size * u.size",
                "ask_size": "s.ask_size * u.size",
                "consensus": _mid("consensus"),
                "eligible": "s.eligible::integer",
            },
            key_of=lambda best, _: best.symbol,
            rank_of=_offset,
            newer=_NOT_OLDER,
        ),
        Load(
            record=Gap,
            table="gaps",
            key=("symbol", "source", "start_ns"),
            columns={
                **_same("symbol", "source", "cause", "status", "source_offset"),
                "start": _time("start"),
                "until": _time_or_null('"end"'),
                "start_ns": "s.start",
                "until_ns": 'nullif(s."end", 0)',
            },
            key_of=lambda gap, _: (gap.symbol, gap.source, gap.start),
            rank_of=_offset,
            newer=_NOT_OLDER,
        ),
        Load(
            record=Status,
            table="source_status",
            key=("symbol", "source"),
            columns={
                **_same("symbol", "source", "status", "latency_ns", "interval_ns", "rejected", "source_offset"),
                **_same("arrived", "accepted", "held", "gaps"),
                "since": _time_or_null("since"),
                "ts_event": _time_or_null("ts_event"),
                "ts_recv": _time_or_null("ts_recv"),
                "spread": "s.spread * u.price",
            },
            key_of=lambda status, _: (status.symbol, status.source),
            rank_of=_offset,
            newer=_NOT_OLDER,
        ),
        Load(
            record=DeadLetter,
            table="dead_letter",
            key=("topic", "partition", "record_offset", "reason"),
            columns={
                **_same("topic", "reason", "error"),
                "partition": "s.partition::integer",
                "record_offset": 's."offset"',
                "record_key": "decode(nullif(s.key, '-'), 'hex')",
                "record_value": "decode(nullif(s.value, '-'), 'hex')",
                "written_at": _time("written"),
            },
            key_of=lambda letter, _: (letter.topic, letter.partition, letter.offset, letter.reason),
            rank_of=lambda letter, _: letter.written,
            newer="excluded.written_at >= t.written_at",
            scaled=False,
        ),
    )
}
