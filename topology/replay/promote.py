"""`tickloom replay promote`: what a replay made otherwise takes the place of what the live system has.

    compare -> plan, kept in the database -> for each symbol: one Kafka transaction, then one of the database

Everything is decided before the first record is written; what the live system has revised since, while the question
stood or the promotion was interrupted, is left alone (``overtaken``). A symbol's records become visible together; then,
together, its rows change, its part of the plan goes and its counts are noted. Interrupted, the next promotion of the
replay goes on with that plan: writing a symbol once more writes the same records, and the newest by key, or by source
offset, counts.

A candle gets a revision above the live one and the flag PROMOTED, by which every reader of rows lets it stand, whatever
its coverage; a gap gets a source offset not below the live one's. So a sink may read them before or after these rows
are written, or everything anew: the outcome is the same.
"""

import getpass
import socket
import time
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from contextlib import suppress
from typing import Any, Final

import msgspec
import psycopg
from confluent_kafka import KafkaException, Producer
from psycopg.types.json import Jsonb

from connectors.runtime.cluster import Cluster, client
from schemas import flags, topics
from schemas.codec import Codec
from schemas.instrument import ConfigError, Instrument
from schemas.record import replace
from schemas.topics import CANDLE, GAP, REJECTED, named
from topology.replay.compare import Comparison, Difference
from topology.replay.ledger import Replay, instruments_of
from topology.replay.outputs import PROMOTED_HEADER, Outputs
from topology.storage import tables
from topology.storage.database import Connection
from topology.storage.tables import DELETABLE, DELETE, LOADS

PROMOTED: Final = (CANDLE, GAP, REJECTED)  # the topics; the others say what was, or are no more than the present
LOCK: Final = 0x70726F6D6F7465  # "promote" as a number: one promotion at a time
TRANSACTION_S: Final = 60.0
TRANSACTION_RECORDS: Final = 10_000
TIMEOUT_MS: Final = 10_000  # of a transaction whose writer was killed: readers of its topics wait so long
ATTEMPTS: Final = 5  # of a symbol's rows, where a sink is writing the same ones


class Change(msgspec.Struct, frozen=True):
    """One record to be written. ``value`` None deletes the key."""

    symbol: str
    topic: str  # without the run
    partition: int
    key: bytes
    value: bytes | None
    source_offset: int


class Plan(msgspec.Struct):
    """What a promotion would do, and what it leaves alone."""

    changes: list[Change] = []
    kept: Counter[str] = msgspec.field(default_factory=Counter)  # why not promoted: how many

    def by_symbol(self) -> dict[str, list[Change]]:
        """The changes of each symbol, in order."""
        found: dict[str, list[Change]] = {}
        for each in self.changes:
            found.setdefault(each.symbol, []).append(each)
        return found


def counts(changes: Iterable[Change]) -> dict[str, dict[str, int]]:
    """By topic: how many records are written, how many keys deleted."""
    found: dict[str, dict[str, int]] = {}
    for each in changes:
        found.setdefault(each.topic, {"written": 0, "deleted": 0})["deleted" if each.value is None else "written"] += 1
    return found


def plan(cluster: Cluster, replay: Replay, codec: Codec, hold_ns: int, delete_missing: bool) -> Plan:
    """Compare, and decide what to write. Raises NotComparable, KafkaException."""
    made = Plan()

    def tell(difference: Difference) -> None:
        if difference.is_later:
            made.kept["the live system has a newer value from after the range"] += 1
        elif difference.copy is None and not delete_missing:
            made.kept["only live has it: --delete-missing deletes it"] += 1
        else:
            made.changes.append(_change(difference, codec))

    Comparison(cluster, replay, codec, hold_ns).run(tell, PROMOTED)
    made.changes.sort(key=lambda each: (each.symbol, each.topic, each.source_offset, each.key))
    return made


def overtaken(cluster: Cluster, replay: Replay) -> set[tuple[str, bytes]]:
    """Topic and key of what the base has a value of from after the range by now. Raises KafkaException."""
    return {
        (topic.name, made.key)
        for outputs in [Outputs(cluster, replay, each) for each in replay.stretches if each.start < each.end]
        for topic in (CANDLE, GAP)
        for made in outputs.base(topic, everything=True)
        if made.offset >= outputs.stretch.end
    }


def _change(difference: Difference, codec: Codec) -> Change:
    base, copy, topic = difference.base, difference.copy, difference.topic
    made = copy or base
    assert made is not None
    value = copy.value if copy else None
    if topic is CANDLE and value is not None:
        candle = codec.decode(value)
        revision = codec.decode(base.value).revision + 1 if base and base.value else candle.revision
        marks = candle.flags | flags.PROMOTED
        value = codec.encode(replace(candle, revision=max(revision, candle.revision), flags=marks))
    offset = max(each.offset for each in (base, copy) if each is not None)
    return Change(difference.symbol, topic.name, difference.partition, made.key, value, offset)


class Promotion:
    """A promotion under way."""

    def __init__(self, connection: Connection, replay: Replay, number: int, resumed: bool) -> None:
        self.number = number
        self.resumed = resumed
        self._connection = connection
        self._replay = replay

    @classmethod
    def begin(
        cls,
        connection: Connection,
        replay: Replay,
        delete_missing: bool,
        make: Callable[[], Plan],
    ) -> "Promotion":
        """Go on with one that was interrupted, or note a new one; ``make`` is asked for its plan.

        The connection holds a lock from now on. Raises ConfigError where another one is under way or unfinished.
        """
        if not _scalar(connection, "SELECT pg_try_advisory_lock(%s)", LOCK):
            raise ConfigError("another promotion is under way: wait for it")
        query = "SELECT promotion, replay FROM promotions WHERE base = %s AND finished_at IS NULL"
        for number, run in connection.execute(query, [replay.base]).fetchall():
            if run != replay.run:
                raise ConfigError(f"the promotion of {run} was interrupted: `tickloom replay promote {run}` first")
            return cls(connection, replay, number, True)
        made = make()
        if not made.changes:
            return cls(connection, replay, 0, False)
        with connection.transaction():
            number = int(
                _scalar(
                    connection,
                    "INSERT INTO promotions (replay, base, promoted_by, stretches, rules_version, delete_missing) "
                    "VALUES (%s, %s, %s || ' as ' || current_user, %s, %s, %s) RETURNING promotion",
                    *(replay.run, replay.base, f"{getpass.getuser()}@{socket.gethostname()}"),
                    *(Jsonb(msgspec.to_builtins(replay.stretches)), replay.rules_version, delete_missing),
                )
            )
            _keep(connection, number, made)
        return cls(connection, replay, number, False)

    def left(self) -> list[str]:
        """The symbols that are still to be promoted."""
        query = "SELECT symbol FROM promoted_symbols WHERE promotion = %s AND done_at IS NULL ORDER BY symbol"
        return [symbol for (symbol,) in self._connection.execute(query, [self.number])]

    def changes(self, symbol: str) -> list[Change]:
        """What is to be written of a symbol, in order."""
        query = (
            "SELECT symbol, topic, partition, key, value, source_offset FROM promotion_changes "
            "WHERE promotion = %s AND symbol = %s ORDER BY number"
        )
        return [Change(*row) for row in self._connection.execute(query, [self.number, symbol])]

    def promote(
        self, producer: Producer, codec: Codec, rows: "Rows", symbol: str, later: Container[tuple[str, bytes]]
    ) -> int:
        """One symbol: its records, then its rows; give how many were left alone, as they are in ``later``.

        Raises KafkaException, psycopg.Error.
        """
        planned = self.changes(symbol)
        changes = [each for each in planned if (each.topic, each.key) not in later]
        _write(producer, self._replay, changes)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                with self._connection.transaction():
                    rows.put(changes, codec)
                    self._done(symbol, changes)
                break
            except psycopg.errors.OperationalError as error:
                is_passing = (error.sqlstate or "").startswith("40")  # a deadlock with the sink
                if not is_passing or attempt == ATTEMPTS:
                    raise
                time.sleep(0.1 * attempt)
        return len(planned) - len(changes)

    def _done(self, symbol: str, changes: Sequence[Change]) -> None:
        place = [self.number, symbol]
        self._connection.execute("DELETE FROM promotion_changes WHERE promotion = %s AND symbol = %s", place)
        self._connection.execute(
            "UPDATE promoted_symbols SET done_at = now(), counts = %s WHERE promotion = %s AND symbol = %s",
            [Jsonb(counts(changes)), *place],
        )

    def finish(self) -> None:
        """All symbols are done."""
        self._connection.execute("UPDATE promotions SET finished_at = now() WHERE promotion = %s", [self.number])


def _scalar(connection: Connection, query: Any, *values: Any) -> Any:
    row = connection.execute(query, values).fetchone()
    assert row is not None
    return row[0]


def _keep(connection: Connection, number: int, made: Plan) -> None:
    symbols = made.by_symbol()
    with connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO promoted_symbols (promotion, symbol, counts) VALUES (%s, %s, %s)",
            [(number, symbol, Jsonb(counts(changes))) for symbol, changes in symbols.items()],
        )
        with cursor.copy("COPY promotion_changes FROM STDIN WITH (FORMAT BINARY)") as copy:
            copy.set_types(["int8", "text", "int4", "text", "int4", "bytea", "bytea", "int8"])
            for symbol, changes in symbols.items():
                for at, each in enumerate(changes):
                    place = (number, symbol, at, each.topic, each.partition)
                    copy.write_row((*place, each.key, each.value, each.source_offset))


def transactional(cluster: Cluster, base: str) -> Producer:
    """A producer that fences whichever promoted before and was not finished. Raises KafkaException."""
    producer = Producer(
        {
            **client(cluster),
            "transactional.id": named("tickloom-promote", base),
            "transaction.timeout.ms": TIMEOUT_MS,
            "partitioner": "murmur2_random",  # the partition is named; this is for safety
            "compression.type": "lz4",
            "log_level": 0,
        }
    )
    producer.init_transactions(TRANSACTION_S)
    return producer


def _write(producer: Producer, replay: Replay, changes: Sequence[Change]) -> None:
    for at in range(0, len(changes), TRANSACTION_RECORDS):
        producer.begin_transaction()
        try:
            _produce(producer, replay, changes[at : at + TRANSACTION_RECORDS])
            producer.commit_transaction(TRANSACTION_S)
        except BaseException:  # Ctrl-C, too: readers of what is committed would wait for it
            with suppress(KafkaException):
                producer.abort_transaction(TRANSACTION_S)
            raise


def _produce(producer: Producer, replay: Replay, changes: Iterable[Change]) -> None:
    promoted = (PROMOTED_HEADER, replay.run.encode())
    for each in changes:
        headers: Any = [(topics.OFFSET_HEADER, b"%d" % each.source_offset), promoted]
        while True:
            try:
                producer.produce(named(each.topic, replay.base), each.value, each.key, each.partition, headers=headers)
                break
            except BufferError:
                producer.poll(0.1)


class Rows:
    """Changes as rows of the base's tables: as the sink would write them."""

    def __init__(self, connection: Connection, run: str, instruments: dict[str, Instrument]) -> None:
        self._connection = connection
        self._run = run
        connection.execute(tables.UNITS)
        with connection.cursor() as cursor:
            cursor.executemany(tables.PUT_UNIT, tables.units(instruments))
        for load in LOADS.values():
            connection.execute(load.staging)

    def put(self, changes: Iterable[Change], codec: Codec) -> None:
        """Write and delete rows. Raises psycopg.Error."""
        written: list[tables.Row] = []
        for each in changes:
            table = DELETABLE.get(each.topic)
            if table is None:
                continue  # refusals have no table
            if each.value is None:
                symbol, source, start = each.key.decode().split("|")
                self._connection.execute(DELETE[table], [self._run, symbol, source, int(start)])
            else:
                written.append((codec.decode(each.value), each.source_offset, None))
        with self._connection.cursor() as cursor:
            for load, kept in tables.fold(written):
                with cursor.copy(f"COPY {load.staged} FROM STDIN") as copy:
                    copy.write(tables.copied(load, kept))
                cursor.execute(load.upsert, [self._run])


def check_scales(replay: Replay, instruments: dict[str, Instrument]) -> None:
    """Numbers of both must mean the same. Raises ConfigError."""
    for symbol, theirs in instruments_of(replay).items():
        ours = instruments.get(symbol)
        if ours is None or not replay.wants(symbol):
            continue
        if (ours.price_scale, ours.size_scale) != (theirs.price_scale, theirs.size_scale):
            raise ConfigError(f"{symbol} has other scales in the replay: its numbers can't be promoted")
