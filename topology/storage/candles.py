"""The candles of one symbol and source from the database, as a table, CSV or JSON, row by row.

Rule: times are UTC, the minute is its start, `--from` is included and `--to` is not; prices are exact
decimals, and empty where there was no quote, or no trade.
"""

import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final, LiteralString

import msgspec
from psycopg.rows import dict_row

from schemas import flags
from schemas.instrument import ConfigError
from topology.config import Settings
from topology.storage import database

NEWEST: Final = 60  # rows without --from
BATCH: Final = 5000
COLUMNS: Final[LiteralString] = (
    "start, revision, open, high, low, close, volume, "
    "bid_open, bid_high, bid_low, bid_close, ask_open, ask_high, ask_low, ask_close, "
    "mid_open, mid_high, mid_low, mid_close, ticks, trades, flags"
)
WHERE: Final[LiteralString] = (
    "FROM candles WHERE run = %(run)s AND symbol = %(symbol)s AND source = %(source)s "
    "AND (%(start)s::timestamptz IS NULL OR start >= %(start)s) "
    "AND (%(end)s::timestamptz IS NULL OR start < %(end)s)"
)

Row = dict[str, Any]


class Query(msgspec.Struct, frozen=True):
    """Which candles are asked for; without ``start`` the newest ones."""

    symbol: str
    source: str = "best"
    start: datetime | None = None
    end: datetime | None = None


@contextmanager
def reading(settings: Settings, query: Query) -> Iterator[Iterator[Row]]:
    """Give the candles in the order of time. Raises ConfigError where symbol or source are not known."""
    values = {**msgspec.structs.asdict(query), "run": settings.run}
    with database.connect(settings.database) as connection, connection.transaction():
        _check(connection, settings, query)
        if query.start is None:
            newest: LiteralString = f"SELECT {COLUMNS} {WHERE} ORDER BY start DESC LIMIT {NEWEST}"
            text: LiteralString = f"SELECT * FROM ({newest}) AS newest ORDER BY start"
        else:
            text = f"SELECT {COLUMNS} {WHERE} ORDER BY start"
        with connection.cursor("candles", row_factory=dict_row) as cursor:
            cursor.itersize = BATCH
            cursor.execute(text, values)
            yield (_readable(row) for row in cursor)


def _check(connection: database.Connection, settings: Settings, query: Query) -> None:
    run = f"run {settings.run}" if settings.run else "the live run"
    known = _names(connection, "SELECT DISTINCT symbol FROM instruments WHERE run = %s", settings.run)
    if query.symbol not in known:
        close = difflib.get_close_matches(query.symbol.upper(), known, n=1)
        hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(known) or 'none yet'}"
        raise ConfigError(f"no symbol {query.symbol} in {run}: {hint}")
    sources = _names(
        connection,
        "SELECT source FROM source_status WHERE run = %s AND symbol = %s",
        settings.run,
        query.symbol,
    )
    if query.source not in ["best", *sources]:
        raise ConfigError(
            f"no source {query.source} for {query.symbol} in {run}: there are {', '.join(['best', *sources])}"
        )


def _names(connection: database.Connection, text: LiteralString, *values: str) -> list[str]:
    return sorted(row[0] for row in connection.execute(text, values))


def _readable(row: Row) -> Row:
    """Say times, revision and flags in words."""
    row["start"] = row["start"].astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    row["flags"] = " ".join(flags.names(row["flags"]))
    return row


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)


def as_csv(rows: Iterator[Row]) -> Iterator[str]:
    """A line with the names, then a line a candle."""
    yield COLUMNS.replace(" ", "")
    for row in rows:
        yield ",".join(_text(value) for value in row.values())


def as_json(rows: Iterator[Row]) -> Iterator[str]:
    """An array with one object a line."""
    encoder = msgspec.json.Encoder(decimal_format="number")
    before = "["
    for row in rows:
        yield before + encoder.encode(row).decode()
        before = ","
    yield "]" if before == "," else "[]"


def as_table(rows: Iterator[Row]) -> Iterator[str]:
    """What a person reads: of trades, or of mids where there were none."""
    widths = (17, 12, 12, 12, 12, 14, 7, 7)
    names = ("minute (UTC)", "open", "high", "low", "close", "volume", "quotes", "trades", " kind")
    yield _line(names, widths)
    for row in rows:
        of = "" if row["open"] is not None else "mid_"
        prices = [_text(row[of + name]) for name in ("open", "high", "low", "close")]
        minute = row["start"][:16].replace("T", " ")
        counts = (_text(row["volume"]), str(row["ticks"]), str(row["trades"]))
        yield _line((minute, *prices, *counts, _kind(row, of)), widths)


def _kind(row: Row, of: str) -> str:
    revision = row["revision"]
    state = "provisional" if revision < 0 else f"revision {revision}" if revision else "final"
    return " " + ", ".join(filter(None, (of and "mids", state, row["flags"])))


def _line(cells: tuple[str, ...], widths: tuple[int, ...]) -> str:
    first = cells[0].ljust(widths[0])
    return first + "".join(cell.rjust(width) for cell, width in zip(cells[1:-1], widths[1:], strict=True)) + cells[-1]


FORMATS: Final[dict[str, Callable[[Iterator[Row]], Iterator[str]]]] = {
    "table": as_table,
    "csv": as_csv,
    "json": as_json,
}
