"""What flows in a run, gathered once for `tickloom status`: topics, lag, time, sources, gaps, database.

Rule: nothing here needs a worker, a sink or even both servers to run; what is away is said in the answer.
Reads the end of market.raw, market.source.status and market.data.gap (compacted, so their newest values per
key are the present), market.dead_letter, the consumer groups, the workers' web views, and the database. Writes
nothing.
"""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection, HTTPException
from typing import Any, Final

import msgspec
import psycopg
from confluent_kafka import KafkaException, Message
from psycopg import sql

from connectors.runtime.log import LogReader
from schemas.codec import Codec, DecodeError
from schemas.instrument import ConfigError
from schemas.record import Gap, Status, asdict
from schemas.topics import DEAD_LETTER, GAP, RAW, STATUS, named
from topology import admin
from topology.config import Settings, without_password
from topology.dead_letters.topic import open_reasons
from topology.storage import database

WORKER_S: Final = 2.0  # a worker whose event loop turns answers within this
READ_S: Final = 20.0  # a topic that takes longer to read is reported as far as it was read
TAIL: Final = 20  # records at the end of a partition among which its newest time is looked for
COUNT_MS: Final = 2000  # a table that takes longer to count is estimated
SECOND: Final = 1_000_000_000
ESTIMATE: Final = "SELECT reltuples::bigint FROM pg_class WHERE oid = %s::regclass"
TIMESCALEDB_ESTIMATE: Final = "SELECT approximate_row_count(%s::regclass)"
EXISTS: Final = "SELECT to_regclass(%s) IS NOT NULL"
# Of the composite source, which has a candle wherever another has; one look into the index a symbol.
NEWEST_CANDLE: Final = """
    SELECT max(newest.start) FROM (SELECT symbol FROM instruments WHERE run = %(run)s) AS known
    CROSS JOIN LATERAL (SELECT start FROM candles
        WHERE run = %(run)s AND symbol = known.symbol AND source = 'best' ORDER BY start DESC LIMIT 1) AS newest
"""
TABLES: Final = ("ticks", "best_prices", "candles", "gaps", "source_status", "dead_letter")


class Partition(msgspec.Struct, frozen=True):
    """One partition of market.raw. ``stream_time`` is 0 where no record carries a time."""

    number: int
    records: int
    worker_lag: int
    stream_time: int


class Worker(msgspec.Struct, frozen=True):
    """A worker as it describes itself. ``unready`` is empty where it has partitions and their state."""

    address: str
    unready: str = ""
    partitions: list[int] = []
    standby: dict[int, int] = {}  # partitions held ready for others, and how many changelog records behind


class Database(msgspec.Struct, frozen=True):
    """The database as the sink finds it. ``error`` is empty where it answers."""

    address: str
    error: str = ""
    version: str = ""
    timescaledb: str = ""  # its version; empty: plain PostgreSQL
    rows: dict[str, int] = {}
    estimated: list[str] = []  # tables too large to count: an estimate, over all runs
    newest_candle: int = 0


class _Readiness(msgspec.Struct, frozen=True):
    """What a worker answers."""

    error: str = ""
    partitions: list[int] = []
    standby: dict[int, int] = {}


class Overview(msgspec.Struct, frozen=True):
    """Everything that `tickloom status` says. ``kafka_error`` is empty where Kafka answers."""

    run: str
    broker: str
    kafka_error: str = ""
    topic_problems: list[str] = []
    incomplete: list[str] = []  # topics that took too long to read: what is said of them is not all
    partitions: list[Partition] = []
    groups: list[admin.Group] = []
    workers: list[Worker] = []
    sources: list[Status] = []
    rejections: dict[str, int] = {}
    dead_letters: dict[str, int] = {}  # by reason, without those that were sent back
    open_gaps: list[Gap] = []
    unreadable: int = 0  # records in the topics above that could not be decoded
    database: Database = Database("")


def gather(settings: Settings, codec: Codec) -> Overview:
    """Ask Kafka and the database. Raises nothing for a server that is away: the answer says so."""
    found = _database(settings)
    if not settings.broker:
        return Overview(settings.run, "", kafka_error="not running: `make up`", database=found)
    try:
        client = admin.connect(settings.kafka)
        return _kafka(settings, client, codec, found)
    except admin.BrokerError as error:
        away = str(error)
    except KafkaException as error:
        away = error.args[0].str()
    return Overview(settings.run, settings.broker, kafka_error=away, database=found)


def _kafka(settings: Settings, client: Any, codec: Codec, found: Database) -> Overview:
    run = settings.run
    reports = admin.inspect(client, run)
    problems = [f"{report.topic}: {line}" for report in reports for line in report.problems]
    groups = admin.groups(client, run)
    raw, status, gap = (named(topic.name, run) for topic in (RAW, STATUS, GAP))
    starts = admin.offsets(client, (raw, status, gap), admin.EARLIEST)
    # Up to what is committed: a reader would wait for the end of an open transaction, as one of a killed worker is.
    ends = admin.offsets(client, (raw, status, gap), admin.LATEST, admin.COMMITTED)
    is_there = any(report.found and report.topic == named(DEAD_LETTER.name, run) for report in reports)
    letters, are_all = open_reasons(settings, READ_S) if is_there else ({}, True)
    with LogReader(settings.kafka) as log:
        reader = Reader(log, codec)
        times = reader.newest_times(raw, starts.get(raw, {}), ends.get(raw, {}))
        sources = reader.newest(status, starts.get(status, {}), ends.get(status, {}), Status)
        gaps = reader.newest(gap, starts.get(gap, {}), ends.get(gap, {}), Gap)
    rejections: Counter[str] = Counter()
    for source in sources:
        rejections.update(source.rejected)
    return Overview(
        run=run,
        broker=settings.broker,
        topic_problems=problems,
        incomplete=reader.incomplete + ([] if are_all else [named(DEAD_LETTER.name, run)]),
        partitions=[
            Partition(number, end - starts[raw][number], groups[0].lag[raw][number], times.get(number, 0))
            for number, end in sorted(ends.get(raw, {}).items())
        ],
        groups=groups,
        workers=_workers(groups[0]),
        sources=sorted(sources, key=lambda source: (source.symbol, source.source)),
        rejections=dict(rejections.most_common()),
        dead_letters=letters,
        open_gaps=sorted((each for each in gaps if each.status == "open"), key=lambda each: each.start),
        unreadable=reader.unreadable,
        database=found,
    )


def _workers(group: admin.Group) -> list[Worker]:
    """Ask every worker how far it is."""
    if not group.addresses:
        return []
    with ThreadPoolExecutor(len(group.addresses)) as pool:
        return list(pool.map(_worker, group.addresses))


def _worker(address: str) -> Worker:
    connection = HTTPConnection(address, timeout=WORKER_S)
    try:
        connection.request("GET", "/readyz")
        answer = connection.getresponse()
        said = msgspec.json.decode(answer.read(), type=_Readiness)
    except (OSError, HTTPException, msgspec.DecodeError) as error:
        return Worker(address, f"its web views do not answer here: {' '.join(str(error).split())}")
    finally:
        connection.close()
    return Worker(address, said.error, said.partitions, said.standby)


def to_json(overview: Overview) -> str:
    """The overview as a JSON object; times in ns since the epoch, prices as in the topics."""
    return msgspec.json.format(msgspec.json.encode(overview, enc_hook=asdict), indent=2).decode()


class Reader:
    """Reads records from one offset to another, each topic for so long as one waits for an answer."""

    def __init__(self, log: LogReader, codec: Codec) -> None:
        self._log = log
        self._codec = codec
        self.unreadable = 0
        self.incomplete: list[str] = []  # topics that took longer

    def newest_times(self, topic: str, starts: dict[int, int], ends: dict[int, int]) -> dict[int, int]:
        """The largest ``ts_recv`` among the last records of each partition."""
        since = {number: max(starts[number], end - TAIL) for number, end in ends.items()}
        times: dict[int, int] = {}
        for message in self._read(topic, since, ends):
            record = self._decode(message)
            number = message.partition() or 0
            times[number] = max(times.get(number, 0), getattr(record, "ts_recv", 0))
        return times

    def newest(self, topic: str, starts: dict[int, int], ends: dict[int, int], kind: type) -> list[Any]:
        """The newest record of every key of a compacted topic."""
        last: dict[bytes, Message] = {}
        for message in self._read(topic, starts, ends):
            last[message.key() or b""] = message
        return [record for message in last.values() if isinstance(record := self._decode(message), kind)]

    def _decode(self, message: Message) -> Any:
        value = message.value()
        if value is None:  # a tombstone
            return None
        try:
            return self._codec.decode(value)
        except DecodeError:
            self.unreadable += 1
            return None

    def _read(self, topic: str, starts: dict[int, int], ends: dict[int, int]) -> Iterator[Message]:
        try:
            yield from self._log.read(topic, starts, ends, READ_S)
        except TimeoutError:
            self.incomplete.append(topic)


def _database(settings: Settings) -> Database:
    if not settings.database:
        return Database("", error="not running: `make up`")
    address = without_password(settings.database)
    try:
        with database.connect(settings.database) as connection:
            return _look(connection, address, settings.run)
    except (ConfigError, database.DatabaseAway, psycopg.Error) as error:
        return Database(address, error=" ".join(str(error).split()))


def _look(connection: Any, address: str, run: str) -> Database:
    found = "SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'"
    extension = connection.execute(found).fetchone()
    present = [table for table in TABLES if connection.execute(EXISTS, (table,)).fetchone()[0]]
    rows = {table: _count(connection, table, run, bool(extension)) for table in present}
    newest = connection.execute(NEWEST_CANDLE, {"run": run}).fetchone()[0] if "candles" in present else None
    return Database(
        address=address,
        version=connection.execute("SHOW server_version").fetchone()[0].split()[0],
        timescaledb=extension[0] if extension else "",
        rows={table: count for table, (count, _) in rows.items()},
        estimated=[table for table, (_, exact) in rows.items() if not exact],
        newest_candle=int(newest.timestamp()) * SECOND if newest else 0,
    )


def _count(connection: Any, table: str, run: str, timescaledb: bool) -> tuple[int, bool]:
    """The rows of a run, and whether they were counted; where that takes too long: of all runs, estimated."""
    try:
        with connection.transaction():
            connection.execute(sql.SQL("SET LOCAL statement_timeout = {}").format(COUNT_MS))
            query = sql.SQL("SELECT count(*) FROM {} WHERE run = %s").format(sql.Identifier(table))
            return int(connection.execute(query, (run,)).fetchone()[0]), True
    except psycopg.errors.QueryCanceled:
        row = connection.execute(TIMESCALEDB_ESTIMATE if timescaledb else ESTIMATE, (table,)).fetchone()
        return max(0, int(row[0])), False
