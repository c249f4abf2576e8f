"""Write batches of records into the database.

Rule: a batch is one transaction, and how far it was read is part of it, so tables and stream can't disagree whatever
crashes. A database that is away is waited for: the batch waits in memory, the rest in Kafka. A row that it refuses
is handed out before the batch without it is committed, so it is never lost.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from itertools import groupby
from typing import Any, Final, TypeVar

import psycopg

from schemas import flags
from schemas.instrument import Instrument
from topology.storage import tables
from topology.storage.database import AsyncConnection, DatabaseAway, connect_async
from topology.storage.rows import Refused
from topology.storage.tables import DELETE, LOADS, Deleted, Row
from topology.storage.ticks import COPY, HEADER, TRAILER, Block

FIRST_WAIT_S: Final = 0.1  # for a database that is away; doubled each time
LONGEST_WAIT_S: Final = 10.0
REPEATS: Final = 20  # batches: to find out in vain costs as much as to put one

#: SQLSTATE classes of one row that can't be stored: data, integrity, limits (a text too long for its index).
_OF_THE_ROW: Final = ("22", "23", "54")
#: Of a server that is away, full, stopping or a replica: connection, rollback, resources, locks, operator, system.
#: But not 53400, a limit of its configuration: it would be met again.
_OF_THE_SERVER: Final = ("08", "40", "530", "531", "532", "533", "55", "57", "58", "25006")

_READ_OFFSETS: Final = "SELECT topic, partition, next_offset FROM stream_offsets WHERE run = %s AND consumer_group = %s"
_PUT_OFFSETS: Final = (
    "INSERT INTO stream_offsets AS t (run, consumer_group, topic, partition, next_offset) "
    "SELECT %s, %s, * FROM unnest(%s::text[], %s::integer[], %s::bigint[]) "
    "ON CONFLICT (run, consumer_group, topic, partition) DO UPDATE "
    "SET next_offset = excluded.next_offset, updated_at = now() WHERE excluded.next_offset > t.next_offset"
)

#: Next offset by (topic, partition).
Offsets = Mapping[tuple[str, int], int]

T = TypeVar("T")

log = logging.getLogger(__name__)


class DatabaseSetBackError(Exception):
    """The database has lost what it had committed: a backup was restored, or a replica took over."""


class CopyError(Exception):
    """Ticks can't go straight into their table: they are there already, or one can't be stored."""


class Writer:
    """Writes the rows of one run; one batch at a time."""

    def __init__(self, dsn: str, run: str, group: str, instruments: Mapping[str, Instrument]) -> None:
        self._dsn = dsn
        self._run = run
        self._group = group
        self._repeats = 0  # how many batches not to try to put as new
        self._units = {unit[0]: unit for unit in tables.units(instruments)}
        self._connection: AsyncConnection | None = None
        self._committed: dict[tuple[str, int], int] = {}
        self.retries = 0  # attempts that failed as the database was away
        self.away_since = 0.0  # time.monotonic(); 0: it is there

    async def offsets(self) -> dict[tuple[str, int], int]:
        """How far each (topic, partition) is in the tables."""
        return await self._patiently(self._offsets)

    async def write(
        self,
        rows: Sequence[Row],
        blocks: Sequence[Block],
        offsets: Offsets,
        refuse: Callable[[Refused], Awaitable[None]],
    ) -> None:
        """Commit rows, encoded ticks and offsets; `refuse` gets the rows that can't be stored before that.

        Raises what neither waiting nor setting a row aside puts right: psycopg.Error, ConfigError,
        DatabaseSetBackError.
        """
        if blocks and self._repeats:
            self._repeats -= 1
            rows, blocks = _with_rows_of(blocks, rows), []
        refused = [(row, reason, flags.DEAD_LETTER_REASONS[reason]) for row in rows if (reason := self._unfit(row[0]))]
        while True:
            if refused:
                await refuse(refused)
                out = {id(row) for row, _, _ in refused}
                rows = [row for row in rows if id(row) not in out]
            try:
                refused = await self._patiently(partial(self._attempt, rows, blocks, offsets))
            except CopyError:
                self._repeats = REPEATS
                rows, blocks, refused = _with_rows_of(blocks, rows), [], []
                continue
            if not refused:
                self._committed.update(offsets)
                return

    async def close(self) -> None:
        """Let the connection go."""
        if self._connection is not None:
            await self._connection.close()
            self._connection = None

    def _unfit(self, record: Any) -> str:
        if type(record) is Deleted:
            return ""
        load = LOADS.get(type(record))
        if load is None:
            return flags.UNEXPECTED_RECORD
        return flags.UNKNOWN_SYMBOL if load.scaled and record.symbol not in self._units else ""

    async def _patiently(self, work: Callable[[AsyncConnection], Awaitable[T]]) -> T:
        """Do the work, waiting for the database where it is away."""
        wait, since = FIRST_WAIT_S, 0.0
        while True:
            try:
                if self._connection is None:
                    self._connection = await self._connect()
                result = await work(self._connection)
            except (DatabaseAway, psycopg.Error) as error:
                if not _is_of_the_server(error):
                    raise
                await self.close()
                self.retries += 1
                if not since:
                    since = self.away_since = time.monotonic()
                    log.warning("%s; nothing is lost, the sink waits for it", " ".join(str(error).split()))
            else:
                if since:
                    log.warning("the database is back after %.1f s", time.monotonic() - since)
                self.away_since = 0.0
                return result
            await asyncio.sleep(wait * random.uniform(0.5, 1.0))
            wait = min(wait * 2, LONGEST_WAIT_S)

    async def _connect(self) -> AsyncConnection:
        connection = await connect_async(self._dsn)
        try:
            await connection.execute("SET jit = off")  # it would compile again for every batch
            await connection.execute(tables.UNITS)
            async with connection.cursor() as cursor:
                await cursor.executemany(tables.PUT_UNIT, self._units.values())
            for load in LOADS.values():
                await connection.execute(load.staging)
            found = await self._offsets(connection) if self._committed else {}
        except BaseException:
            await connection.close()
            raise
        for place, offset in self._committed.items():
            if found.get(place, 0) < offset:
                raise DatabaseSetBackError(
                    f"the database is back without what it had committed ({place[0]} from offset "
                    f"{found.get(place, 0)}): the next start reads it again"
                )
        return connection

    async def _offsets(self, connection: AsyncConnection) -> dict[tuple[str, int], int]:
        cursor = await connection.execute(_READ_OFFSETS, [self._run, self._group])
        return {(topic, partition): offset async for topic, partition, offset in cursor}

    async def _attempt(
        self, rows: Sequence[Row], blocks: Sequence[Block], offsets: Offsets, connection: AsyncConnection
    ) -> Refused:
        """Commit everything and return nothing, or commit nothing and return what is in the way. Raises CopyError."""
        try:
            async with connection.transaction():
                await self._copy(connection, blocks)
                await self._put(connection, rows)
                places = [list(each) for each in zip(*offsets, strict=True)] or [[], []]
                values = [self._run, self._group, *places, [*offsets.values()]]
                await connection.execute(_PUT_OFFSETS, values)
        except psycopg.Error as error:
            if not _is_of_the_row(error):
                raise
            refused = await self._isolate(connection, rows)
            if not refused:
                raise
            return refused
        return []

    async def _put(self, connection: AsyncConnection, rows: Sequence[Row]) -> None:
        async with connection.cursor() as cursor:
            for is_deletion, part in groupby(rows, key=lambda row: type(row[0]) is Deleted):
                if is_deletion:  # of what came before it, not of what comes behind
                    for load in LOADS.values():
                        await cursor.execute(f"DELETE FROM {load.staged}")
                    for deleted, _, _ in part:
                        await cursor.execute(DELETE[deleted.table], [self._run, *deleted.values])
                    continue
                for load, kept in tables.fold(part):
                    async with cursor.copy(f"COPY {load.staged} FROM STDIN") as copy:
                        await copy.write(tables.copied(load, kept))
                    await cursor.execute(load.upsert, [self._run])

    async def _copy(self, connection: AsyncConnection, blocks: Sequence[Block]) -> None:
        """Put ticks straight into their table. Raises CopyError where one is there already or can't be stored.

        They are there already when a log is read again: so will the next ones be, and are not tried.
        """
        if not blocks:
            return
        try:
            async with connection.cursor() as cursor, cursor.copy(COPY) as copy:
                await copy.write(b"".join([HEADER, *(block.copied for block in blocks), TRAILER]))
        except psycopg.Error as error:
            if not _is_of_the_row(error):
                raise
            raise CopyError from error

    async def _isolate(self, connection: AsyncConnection, rows: Sequence[Row]) -> Refused:
        """Find the rows that can't be stored, by halves; nothing is committed."""
        error = await self._trial(connection, rows)
        if error is None:
            return []
        if len(rows) == 1:
            return [(rows[0], flags.UNSTORABLE, str(error).partition("\n")[0])]
        half = len(rows) // 2
        first = await self._isolate(connection, rows[:half])
        return first + await self._isolate(connection, rows[half:])

    async def _trial(self, connection: AsyncConnection, rows: Sequence[Row]) -> psycopg.Error | None:
        try:
            async with connection.transaction(force_rollback=True):
                await self._put(connection, rows)
        except psycopg.Error as error:
            if not _is_of_the_row(error):
                raise
            return error
        return None


def _with_rows_of(blocks: Sequence[Block], rows: Sequence[Row]) -> list[Row]:
    return [*rows, *(row for block in blocks for row in block.rows())]


def _is_of_the_row(error: psycopg.Error) -> bool:
    return (error.sqlstate or "").startswith(_OF_THE_ROW)


def _is_of_the_server(error: Exception) -> bool:
    if isinstance(error, psycopg.Error) and error.sqlstate:
        return error.sqlstate.startswith(_OF_THE_SERVER)
    return isinstance(error, DatabaseAway | psycopg.OperationalError)
