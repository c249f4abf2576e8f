"""Candles out of a real database, in each of the three formats."""

import json
from collections.abc import Iterator

import psycopg
import pytest
from click.testing import CliRunner, Result

from deploy.local import Stack
from tests.topology.databases import new_database
from topology import cli
from topology.storage.database import migrate

pytestmark = pytest.mark.integration

QUOTES = "run, symbol, source, start, revision, mid_open, mid_high, mid_low, mid_close"
TRADES = "open, high, low, close"
REST = "volume, ticks, trades, flags, source_offset"


@pytest.fixture(scope="module")
def database(stack: Stack) -> Iterator[str]:
    """A database with the sink's tables and 100 quoted minutes, one of them still open, and a traded one."""
    with new_database(stack) as address:
        migrate(address, say=lambda _: None)
        with psycopg.connect(address) as filled:
            fill(filled)
        yield address


def fill(connection: "psycopg.Connection[tuple[object, ...]]") -> None:
    connection.execute(
        "INSERT INTO instruments SELECT '', unnest(ARRAY['EURUSD', 'BTCUSDT']), 'fx', 5, 0, 'fx', 0, 1, 'best'"
    )
    connection.execute(
        "INSERT INTO source_status (run, symbol, source, status, latency_ns, interval_ns, spread, arrived, accepted,"
        " held, gaps, rejected, source_offset) VALUES ('', 'EURUSD', 'fxcm', 'live', 0, 0, 0, 0, 0, 0, 0, '{}', 0)"
    )
    connection.execute(
        f"INSERT INTO candles ({QUOTES}, {REST}) SELECT '', 'EURUSD', 'best',"
        " '2024-01-05 08:00Z'::timestamptz + n * interval '1 min', CASE WHEN n = 99 THEN -1 ELSE 0 END,"
        " 1.091235, 1.091240, 1.091230, 1.091236, 0.00, 10 + n, 0, CASE WHEN n = 0 THEN 512 ELSE 0 END, n"
        " FROM generate_series(0, 99) AS n"
    )
    connection.execute(
        f"INSERT INTO candles (run, symbol, source, start, revision, {TRADES}, {REST}) VALUES"
        " ('', 'BTCUSDT', 'best', '2024-01-05 08:00Z', 2, 44000.10, 44001.00, 43999.00, 44000.00, 1.5, 0, 3, 0, 1)"
    )


def candles(database: str, *arguments: str, run: str | None = None) -> Result:
    env = {"TICKLOOM_DATABASE": database, "TICKLOOM_RUN": run, "TICKLOOM_BROKER": None}
    return CliRunner().invoke(cli.main, ["candles", *arguments], env=env)


def test_without_a_time_the_newest_sixty_in_order(database: str) -> None:
    lines = candles(database, "EURUSD").output.splitlines()
    assert len(lines) == 61
    assert lines[0].split() == ["minute", "(UTC)", "open", "high", "low", "close", "volume", "quotes", "trades", "kind"]
    first, last = lines[1].split(), lines[-1].split()
    assert first[:6] == ["2024-01-05", "08:40", "1.091235", "1.091240", "1.091230", "1.091236"]
    assert last[1] == "09:39"
    assert lines[-2].endswith("mids, final")
    assert lines[-1].endswith("mids, provisional")


def test_the_start_is_included_and_the_end_is_not(database: str) -> None:
    result = candles(
        database, "EURUSD", "--from", "2024-01-05T08:00", "--to", "2024-01-05T09:02+01:00", "--format", "csv"
    )
    header, *rows = result.output.splitlines()
    assert [row.split(",")[0] for row in rows] == ["2024-01-05T08:00:00Z", "2024-01-05T08:01:00Z"]
    row = dict(zip(header.split(","), rows[0].split(","), strict=True))
    assert (row["mid_high"], row["open"], row["ticks"], row["flags"]) == ("1.091240", "", "10", "PARTIAL")


def test_json_keeps_prices_exact(database: str) -> None:
    text = candles(database, "BTCUSDT", "--format", "json").output
    (row,) = json.loads(text, parse_float=str)
    assert (row["open"], row["low"], row["revision"], row["mid_open"]) == ("44000.10", "43999.00", 2, None)


def test_a_table_shows_trades_where_there_are_any(database: str) -> None:
    line = candles(database, "BTCUSDT", "--from", "2024-01-05").output.splitlines()[1]
    assert line.split()[2:] == ["44000.10", "44001.00", "43999.00", "44000.00", "1.5", "0", "3", "revision", "2"]


@pytest.mark.parametrize(("shape", "empty"), [("csv", 1), ("table", 1), ("json", 1)])
def test_no_candles_in_a_time_is_said_and_no_error(database: str, shape: str, empty: int) -> None:
    result = candles(database, "EURUSD", "--from", "2030-01-01", "--format", shape)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == empty
    assert "no candles of EURUSD" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["EURUSE"], "no symbol EURUSE in the live run: did you mean EURUSD?"),
        (["XXX"], "known are BTCUSDT, EURUSD"),
        (["EURUSD", "--source", "nobody"], "there are best, fxcm"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_known_ones(database: str, arguments: list[str], says: str) -> None:
    result = candles(database, *arguments)
    assert result.exit_code == 1
    assert result.output.startswith("Error: ")
    assert says in result.output


def test_another_run_has_candles_of_its_own(database: str) -> None:
    assert "in run other" in candles(database, "EURUSD", run="other").output


def test_a_wrong_time_is_refused(database: str) -> None:
    result = candles(database, "EURUSD", "--from", "yesterday")
    assert result.exit_code == 2
    assert "2024-01-05T08:00" in result.output
    backwards = candles(database, "EURUSD", "--from", "2024-01-06", "--to", "2024-01-05")
    assert "--from is not before --to" in backwards.output


def test_a_database_without_tables_says_who_makes_them(stack: Stack, database: str) -> None:
    with new_database(stack) as empty:
        result = candles(empty, "EURUSD")
    assert result.exit_code == 1
    assert "tickloom sink" in result.output


def test_a_database_that_is_away_is_one_line(database: str) -> None:
    result = candles("postgresql://me:hunter2@127.0.0.1:1/db", "EURUSD")
    assert result.exit_code == 1
    assert result.output.startswith("Error: the database at 127.0.0.1:1 (TICKLOOM_DATABASE)")
    assert result.output.count("\n") == 1
    assert "hunter2" not in result.output
