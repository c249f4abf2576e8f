"""What the database holds of a demo run: counted for the view, read back exactly for the summary.

Rule: prices come back as the integers they were; a value that is not one at its scale fails loudly.
"""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Final

import psycopg
from psycopg import sql
from psycopg.rows import dict_row

from schemas.instrument import Instrument
from schemas.record import Candle, Gap, fields
from topology.demo.report import Stored

SECOND: Final = 1_000_000_000
COUNTED: Final = ("ticks", "candles", "gaps", "best_prices", "source_status")
Connection = psycopg.Connection[Any]


def count(connection: Connection, run: str) -> dict[str, int]:
    """Rows of the run by table."""
    counts = {}
    for table in COUNTED:
        query = sql.SQL("SELECT count(*) FROM {} WHERE run = %s").format(sql.Identifier(table))
        row = connection.execute(query, [run]).fetchone()
        counts[table] = int(row[0]) if row else 0
    return counts


def stored(connection: Connection, run: str, instruments: Mapping[str, Instrument]) -> Stored:
    """Read the run back, prices and times as in the records."""
    ticks = connection.execute(
        "SELECT symbol, source, count(*) FROM ticks WHERE run = %s GROUP BY symbol, source", [run]
    )
    result = Stored(ticks={(symbol, source): number for symbol, source, number in ticks})
    with connection.cursor(row_factory=dict_row) as cursor:
        for row in cursor.execute("SELECT * FROM candles WHERE run = %s", [run]):
            candle = _candle(row, instruments[row["symbol"]])
            result.candles[candle.symbol, candle.source, candle.start] = candle
        for row in cursor.execute("SELECT * FROM gaps WHERE run = %s", [run]):
            start, end = row["start_ns"], row["until_ns"] or 0
            gap = Gap(row["symbol"], row["source"], start, end, row["cause"], row["status"])
            result.gaps[gap.symbol, gap.source, start] = gap
    return result


def _candle(row: dict[str, Any], instrument: Instrument) -> Candle:
    values: dict[str, Any] = {}
    for field in fields(Candle):
        value = row[field]
        if field == "start":
            values[field] = int(value.timestamp()) * SECOND
        elif value is None or isinstance(value, Decimal):
            values[field] = _mantissa(value or Decimal(0), _scale(field, instrument))
        else:
            values[field] = value
    return Candle(**values)


def _scale(field: str, instrument: Instrument) -> int:
    if field == "volume":
        return instrument.size_scale
    return instrument.price_scale + field.startswith("mid_")


def _mantissa(value: Decimal, scale: int) -> int:
    scaled = value.scaleb(scale)
    if scaled != int(scaled):
        raise ValueError(f"{value} in the database is finer than {scale} decimals")
    return int(scaled)
