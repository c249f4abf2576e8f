"""`tickloom replay drop`: topics, groups, files and rows of a replay go; what it promoted stays, and its audit."""

import shutil
from typing import Final

from psycopg import sql

from schemas.instrument import ConfigError
from topology import admin
from topology.config import Settings
from topology.replay import ledger
from topology.running import alone
from topology.storage import database
from topology.storage.database import Connection

#: Every table that has rows by run; of a hypertable not its chunks.
TABLES: Final = """
    SELECT c.table_name FROM information_schema.columns c
    JOIN information_schema.tables t USING (table_schema, table_name)
    WHERE c.column_name = 'run' AND c.table_schema = current_schema() AND t.table_type = 'BASE TABLE'
    AND c.table_name <> 'replays' ORDER BY 1
"""


def drop(settings: Settings, name: str) -> list[str]:
    """Remove a replay; return what was removed. May be repeated. Raises ConfigError while it is at work."""
    run = ledger.full_name(name)
    folder = settings.state / "runs" / run
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / "lock", run, "replay"), database.connect(settings.database) as connection:
        unfinished = "SELECT count(*) FROM promotions WHERE replay = %s AND finished_at IS NULL"
        if connection.execute(unfinished, [run]).fetchone() != (0,):
            raise ConfigError(f"the promotion of {run} was interrupted: `tickloom replay promote {run}` first")
        done = admin.delete_run(settings.kafka, run)
        done += _rows(connection, run)
        is_known = bool(done) or ledger.find(connection, run) is not None
        for path in (folder, settings.data_dir / run, settings.data_dir / f"sink-{run}"):
            if path.is_dir():
                shutil.rmtree(path)
                done.append(f"removed {path}")
        if not is_known:
            ledger.known(connection, run)  # says which there are
        connection.execute("DELETE FROM replays WHERE run = %s", [run])  # last: until then it can be repeated
    return done


def _rows(connection: Connection, run: str) -> list[str]:
    done = []
    for (table,) in connection.execute(TABLES).fetchall():
        query = sql.SQL("DELETE FROM {} WHERE run = %s").format(sql.Identifier(table))
        if count := connection.execute(query, [run]).rowcount:
            done.append(f"deleted {count:,} rows of {table}")
    return done
