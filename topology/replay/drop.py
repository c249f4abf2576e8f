"""`tickloom replay drop`: topics, groups, files and rows of a replay go; what it promoted stays, and its audit."""

import shutil

from schemas.instrument import ConfigError
from topology import admin
from topology.config import Settings
from topology.replay import ledger
from topology.running import alone
from topology.storage import database


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
        rows = database.delete_run(connection, run)
        done += [f"deleted {count:,} rows of {table}" for table, count in rows.items()]
        is_known = bool(done) or ledger.find(connection, run) is not None
        for path in (folder, settings.data_dir / run, settings.data_dir / f"sink-{run}"):
            if path.is_dir():
                shutil.rmtree(path)
                done.append(f"removed {path}")
        if not is_known:
            ledger.known(connection, run)  # says which there are
        connection.execute("DELETE FROM replays WHERE run = %s", [run])  # last: until then it can be repeated
    return done
