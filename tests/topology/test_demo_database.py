"""What the demo reads back from the database is what the records were, and nothing of a run is left behind."""

import pytest

from deploy.local import Stack
from schemas.instrument import SECOND, Instrument
from schemas.record import Candle, Gap
from topology.demo import rows
from topology.storage import database

pytestmark = pytest.mark.integration

START = 1_790_000_040 * SECOND
INSTRUMENTS = {"EURUSD": Instrument("EURUSD", "fx", 5, "always", size_scale=2)}
PUT_CANDLE = (
    "INSERT INTO candles (run, symbol, source, start, revision, bid_open, mid_high, volume, ticks, trades, flags, "
    "source_offset) VALUES (%s, 'EURUSD', %s, to_timestamp(%s), 1, %s, 1.091205, 12.34, 7, 2, 512, 99)"
)


def fill(connection: database.Connection, run: str) -> None:
    connection.execute(PUT_CANDLE, [run, "alfa", START // SECOND, "1.09120"])
    gap = "INSERT INTO gaps VALUES (%s, 'EURUSD', 'alfa', now(), NULL, 'stale', 'open', %s, NULL, 5)"
    connection.execute(gap, [run, START + 1])


def test_rows_come_back_as_the_integers_they_were(stack: Stack, run_name: str) -> None:
    database.migrate(stack.database, lambda _: None)
    with database.connect(stack.database) as connection:
        fill(connection, run_name)
        found = rows.stored(connection, run_name, INSTRUMENTS)
        assert rows.count(connection, run_name)["candles"] == 1
    key = ("EURUSD", "alfa", START)
    expected = Candle(*key, 1, bid_open=109_120, mid_high=1_091_205, volume=1_234, ticks=7, trades=2, flags=512)
    assert found.candles == {key: expected}
    assert list(found.gaps.values()) == [Gap("EURUSD", "alfa", START + 1, 0, "stale", "open")]


def test_a_price_finer_than_its_scale_is_not_rounded_away(stack: Stack, run_name: str) -> None:
    database.migrate(stack.database, lambda _: None)
    with database.connect(stack.database) as connection:
        connection.execute(PUT_CANDLE, [run_name, "alfa", START // SECOND, "1.091205"])
        with pytest.raises(ValueError, match=r"1\.091205 .* finer than 5 decimals"):
            rows.stored(connection, run_name, INSTRUMENTS)


def test_a_run_is_forgotten_and_another_is_not(stack: Stack, run_name: str) -> None:
    database.migrate(stack.database, lambda _: None)
    with database.connect(stack.database) as connection:
        for run in (run_name, run_name + "b"):
            fill(connection, run)
        assert database.delete_run(connection, run_name) == {"candles": 1, "gaps": 1}
        assert not any(rows.count(connection, run_name).values())
        assert rows.count(connection, run_name + "b")["gaps"] == 1
