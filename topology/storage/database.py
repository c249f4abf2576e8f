"""The database: reach it, and bring its schema up to date.

Rule: what is wrong with a setting is one line that names the setting and never shows a password; what may pass by
waiting is an error of its own kind. A migration is a numbered SQL file of deploy/migrations, applied once, in order,
by one process at a time, and never changed afterwards.
"""

import hashlib
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import psycopg
from psycopg import conninfo, sql

from schemas.instrument import ConfigError, Instrument, text

MIGRATIONS = Path(__file__).parents[2] / "deploy" / "migrations"
LOCK: Final = 0x7469636B6C6F6F6D  # "tickloom" as a number: the advisory lock of the schema

#: The server's side of a connection that was cut without a word holds its locks until the server notices: by default
#: after two hours, and the next connection waits for them.
NOTICE_LOSS: Final = "SET tcp_keepalives_idle = 15; SET tcp_keepalives_interval = 5; SET tcp_keepalives_count = 3"

#: What a server says of a setting that no waiting will put right.
_REFUSALS = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba.conf entry|not permitted to log in"
    r"|permission denied|certificate|does not support SSL"
)

#: Every table that has rows by run; of a hypertable not its chunks.
OF_RUNS: Final = """
    SELECT c.table_name FROM information_schema.columns c
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.column_name = 'run' AND c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
    AND c.table_name <> 'replays' ORDER BY 1
"""

Connection = psycopg.Connection[Any]
AsyncConnection = psycopg.AsyncConnection[Any]


class DatabaseAway(OSError):
    """The database can't be reached for now; waiting may help."""


def connect(dsn: str) -> Connection:
    """Connect in autocommit. Raises ConfigError where the address is wrong, DatabaseAway where nothing answers."""
    parameters = _parameters(dsn)
    try:
        connection = psycopg.connect(**parameters, autocommit=True)
        connection.execute(NOTICE_LOSS)
    except psycopg.OperationalError as error:
        raise _explained(error, parameters) from None  # it may show what was taken for a host
    return connection


async def connect_async(dsn: str) -> AsyncConnection:
    """Connect as `connect` does."""
    parameters = _parameters(dsn)
    try:
        connection = await psycopg.AsyncConnection.connect(**parameters, autocommit=True)
        await connection.execute(NOTICE_LOSS)
    except psycopg.OperationalError as error:
        raise _explained(error, parameters) from None
    return connection


def wait_for(dsn: str, say: Callable[[str], object]) -> None:
    """Return when the database answers; say once that it doesn't. Raises ConfigError."""
    wait = 0.1
    while True:
        try:
            connect(dsn).close()
            return
        except DatabaseAway as error:
            if wait == 0.1:
                say(f"{error}; waiting for it")
        time.sleep(wait)
        wait = min(wait * 2, 5.0)


def _parameters(dsn: str) -> dict[str, Any]:
    try:
        given = conninfo.conninfo_to_dict(dsn)
    except psycopg.ProgrammingError:
        given = {"port": "unreadable"}
    ports = str(given.get("port", "")).replace(",", "")
    if "@" in str(given.get("host", "")) or not (ports == "" or ports.isdecimal()):
        raise ConfigError(
            "TICKLOOM_DATABASE is not an address as in postgresql://user:password@host:5432/name "
            "(in a password write @ : / ? # % as %40 %3A %2F %3F %23 %25)"
        )
    # A server that vanished without a word is noticed after half a minute, not after a quarter of an hour.
    patience = {"connect_timeout": 10, "keepalives_idle": 15, "tcp_user_timeout": 30_000}
    return {**patience, "application_name": "tickloom", **given}


def _explained(error: psycopg.OperationalError, parameters: Mapping[str, Any]) -> Exception:
    place = f"{parameters.get('host', 'localhost')}:{parameters.get('port', 5432)}"
    said = str(error).rpartition("failed: ")[2].partition("\n")[0].strip()
    if _REFUSALS.search(said):
        return ConfigError(f"the database at {place} refuses what TICKLOOM_DATABASE says: {said}")
    return DatabaseAway(f"the database at {place} (TICKLOOM_DATABASE) can't be reached: {said}")


def migrate(dsn: str, say: Callable[[str], object] = print, folder: Path = MIGRATIONS) -> None:
    """Apply the steps that are missing. Raises ConfigError where the schema is not ours to go on with."""
    with connect(dsn) as connection:
        connection.execute("SELECT pg_advisory_lock(%s)", [LOCK])  # until this connection closes
        try:
            _migrate(connection, dsn, say, folder)
        except psycopg.errors.InsufficientPrivilege as error:
            user = connection.info.user
            raise ConfigError(
                f"the database user {user} may not change the schema ({_first_line(error)}): "
                f'GRANT CREATE ON SCHEMA public TO "{user}", or name the owner in TICKLOOM_DATABASE'
            ) from error


def _migrate(connection: Connection, dsn: str, say: Callable[[str], object], folder: Path) -> None:
    connection.execute(
        "CREATE TABLE IF NOT EXISTS schema_migrations (version integer PRIMARY KEY, name text NOT NULL, "
        "checksum text NOT NULL, applied_at timestamptz NOT NULL DEFAULT now())"
    )
    steps = {int(path.name.split("_")[0]): path for path in sorted(folder.glob("[0-9]*_*.sql"))}
    applied = set()
    for version, name, checksum in connection.execute("SELECT version, name, checksum FROM schema_migrations"):
        if version not in steps:
            raise ConfigError(f"the database has the schema step {name} of a newer tickloom: upgrade this one")
        if checksum != _checksum(steps[version]):
            raise ConfigError(
                f"{steps[version].name} is applied in the database and was changed since: put the file back and "
                "write the change as a step of its own"
            )
        applied.add(version)
    has_timescaledb, found = _server(connection, dsn)
    for version, path in steps.items():
        waits = "-- needs timescaledb\n" in path.read_text() and not has_timescaledb
        if version not in applied and not waits:
            _apply(connection, version, path)
            say(f"database: applied {path.name}")
    say(f"database: {found}")


def _apply(connection: Connection, version: int, path: Path) -> None:
    statements = path.read_text().encode()
    put = "INSERT INTO schema_migrations (version, name, checksum) VALUES (%s, %s, %s)"
    done = (version, path.stem, _checksum(path))
    if b"-- no transaction\n" in statements:  # such a step is one statement that may be repeated
        connection.execute(statements)
        connection.execute(put, done)
        return
    with connection.transaction():
        connection.execute(statements)
        connection.execute(put, done)


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _server(connection: Connection, dsn: str) -> tuple[bool, str]:
    """Whether TimescaleDB is there, created where it is offered; and what was found, in words."""
    postgres = f"PostgreSQL {connection.info.server_version // 10_000}"
    plain = "ticks and candles are ordinary tables"
    query = "SELECT installed_version FROM pg_available_extensions WHERE name = 'timescaledb'"
    offered = connection.execute(query).fetchone()
    if offered is None:
        return False, f"{postgres} without TimescaleDB: {plain}"
    if offered[0] is None:
        try:
            with connect(dsn) as another:  # which it ends where it was not preloaded
                another.execute("CREATE EXTENSION IF NOT EXISTS timescaledb")
        except psycopg.Error as error:
            return False, f"{postgres} could not create the TimescaleDB it offers ({_first_line(error)}): {plain}"
        offered = connection.execute(query).fetchone()
    return True, f"{postgres} with TimescaleDB {offered and offered[0]}: ticks and candles are hypertables"


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def put_instruments(connection: Connection, run: str, instruments: Mapping[str, Instrument]) -> None:
    """Write what is configured. Raises ConfigError where a scale is not the one the run was written with."""
    query = "SELECT symbol, price_scale, size_scale FROM instruments WHERE run = %s"
    for symbol, *scales in connection.execute(query, [run]):
        ours = instruments.get(symbol)
        if ours and scales != [ours.price_scale, ours.size_scale]:
            raise ConfigError(
                f"{symbol}: price_scale and size_scale are {ours.price_scale} and {ours.size_scale}, but this run "
                f"is written with {scales[0]} and {scales[1]}: put them back, or begin another TICKLOOM_RUN"
            )
    with connection.transaction(), connection.cursor() as cursor:
        cursor.execute("SELECT pg_advisory_xact_lock(%s)", [LOCK])
        for table in ("instruments", "providers"):
            cursor.execute(f"DELETE FROM {table} WHERE run = %s AND symbol = ANY (%s)", [run, [*instruments]])
        for each in instruments.values():
            low, high = (text(price, each.price_scale) for price in (each.min_price, each.max_price))
            scales = [each.price_scale, each.size_scale]
            fixed = [run, each.symbol, each.asset_class, *scales, each.calendar, low, high, each.strategy]
            cursor.execute(
                "INSERT INTO instruments VALUES (%s, %s, %s, %s, %s, %s, %s::numeric, %s::numeric, %s)", fixed
            )
            cursor.executemany(
                "INSERT INTO providers VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)",
                [
                    (
                        *(run, name, each.symbol, source.symbol, source.divisor, source.priority, source.weight),
                        *(source.calendar or each.calendar, source.contiguous),
                    )
                    for name, source in each.sources.items()
                ],
            )


def delete_run(connection: Connection, run: str) -> dict[str, int]:
    """Delete a run's rows; give how many, by table. Its row of ``replays`` stays: by that a replay is known."""
    deleted = {}
    for (table,) in connection.execute(OF_RUNS).fetchall():
        query = sql.SQL("DELETE FROM {} WHERE run = %s").format(sql.Identifier(table))
        if count := connection.execute(query, [run]).rowcount:
            deleted[table] = count
    return deleted
