"""What an undisturbed run makes of the very log that the disturbed run had, and how the two differ.

The results are functions of market.raw as it stands in Kafka, append times included. So the oracle is the task of a
worker, in one process, over one partition after the other, without Kafka, batches, commits or restarts; and for the
database the writer of a sink that gets all of it once, under another run's name, into the same tables. That these two
are right by themselves other tests show (tests/stages, tests/topology/test_database.py); here they are what nothing
has disturbed.
"""

import asyncio
import functools
import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import msgspec
import psycopg
from psycopg import sql

from schemas import topics
from schemas.codec import Codec
from schemas.instrument import Instrument
from schemas.topics import named
from tests.faults import log
from tests.faults.feed import Digest
from tests.faults.log import Record
from topology import admin
from topology.batch import Produced
from topology.fetched import fetched
from topology.storage.database import delete_run
from topology.storage.rows import Refused
from topology.storage.tables import DeadLetter
from topology.storage.writer import Writer
from topology.task import Task

EXAMPLES: Final = 5  # differences shown, of each place
SHOWN: Final = 160  # characters of a value
BATCH: Final = 5_000  # records and rows
INJECTED: Final = "injected"  # header of what the suite itself put into market.raw, beside the feed
#: Columns that are not functions of the log.
APART: Final = {"run", "written_at", "updated_at", "error"}
TABLES: Final = ("ticks", "best_prices", "candles", "gaps", "source_status", "dead_letter")


class Item(NamedTuple):
    """What is compared of a record; origin: its place in market.raw, and of a dead letter all it says of it."""

    key: bytes | None
    value: bytes | None
    origin: bytes


class Difference(msgspec.Struct, frozen=True):
    """One difference: in which topic or table, what is wrong, and an example."""

    where: str
    what: str
    example: str = ""


class Compared(msgspec.Struct):
    """What was compared, by topic or table, and how it differs."""

    records: dict[str, int]
    differences: list[Difference]
    number: int = 0  # of differences; of each kind only some are listed

    def add(self, where: str, count: int, found: Sequence[Difference]) -> None:
        """Count what was compared in one place."""
        self.records[where] = self.records.get(where, 0) + count
        self.number += len(found)
        known = sum(each.where == where for each in self.differences)
        self.differences += found[: max(0, EXAMPLES - known)]


def sequences(where: str, wanted: Sequence[Item], got: Sequence[Item], *, exactly: bool) -> list[Difference]:
    """Compare a topic that keeps everything: all values in their order; each once, where that is promised."""
    if not exactly:
        got = _firsts(got)
    if wanted == got:
        return []
    missing, extra = Counter(wanted), Counter(got)
    missing.subtract(got)
    extra.subtract(wanted)
    found = [Difference(where, "missing", show(each)) for each, count in missing.items() for _ in range(count)]
    known = set(wanted)
    for each, count in extra.items():
        what = "more than once" if each in known else "not in the undisturbed run"
        found += [Difference(where, what, show(each)) for _ in range(count)]
    if not found:
        place = next(n for n, (a, b) in enumerate(zip(wanted, got, strict=True)) if a != b)
        found.append(Difference(where, f"another order from record {place} on", show(got[place])))
    return found


def latest(where: str, wanted: Sequence[Item], got: Sequence[Item], *, exactly: bool) -> list[Difference]:
    """Compare a compacted topic: the last value of each key, and that no value stands in it that never was one.

    Kafka may have removed any but the last of a key; what is left stands there as often as it was made.
    """
    finals, ours = ({each.key: each for each in items} for items in (wanted, got))
    found = [Difference(where, "key missing", show(finals[key])) for key in finals.keys() - ours.keys()]
    found += [Difference(where, "unknown key", show(ours[key])) for key in ours.keys() - finals.keys()]
    for key in finals.keys() & ours.keys():
        if finals[key] != ours[key]:
            found.append(Difference(where, "last value", f"{show(finals[key])} is {show(ours[key])}"))
    extra = Counter(got) if exactly else Counter(set(got))
    extra.subtract(wanted)
    found += [Difference(where, "not in the undisturbed run so often", show(k)) for k, n in extra.items() if n > 0]
    return found


def states(where: str, wanted: Iterable[tuple[bytes, bytes]], got: Iterable[Record]) -> list[Difference]:
    """Compare the changelog: what a worker would recover now is what the undisturbed run has in memory."""
    finals, ours = dict(wanted), {each.key: each.value for each in got}
    found = [Difference(where, "state missing", repr(key)) for key in finals.keys() - ours.keys()]
    found += [Difference(where, "unknown state", repr(key)) for key in ours.keys() - finals.keys()]
    both = finals.keys() & ours.keys()
    return found + [Difference(where, "another state", repr(key)) for key in both if finals[key] != ours[key]]


def _firsts(items: Sequence[Item]) -> list[Item]:
    """Each once, where it stood first."""
    return list(dict.fromkeys(items))


@functools.cache
def _codec() -> Codec:
    return Codec()  # it parses every schema: not once a difference


def show(item: Item) -> str:
    """An item as a person may read it."""
    key = (item.key or b"").decode(errors="replace")
    digest = hashlib.blake2b(item.value or b"", digest_size=4).hexdigest()
    try:
        text = repr(_codec().decode(item.value or b""))
    except ValueError:
        text = repr(item.value)
    return f"{key} from {item.origin.decode(errors='replace')} [{digest}] {text[:SHOWN]}"


# The undisturbed run.


class Undisturbed(NamedTuple):
    """What one partition of market.raw comes to."""

    outputs: dict[str, list[Item]]  # by topic
    states: list[tuple[bytes, bytes]]
    rows: list[tuple[Any, int]]  # for the database: record, source offset


def undisturbed(raw: Sequence[Record], task: Task) -> Undisturbed:
    """Run a partition through a task, once."""
    outputs: dict[str, list[Item]] = {topic.name: [] for topic in topics.TOPICS}
    rows: list[tuple[Any, int]] = []
    codec = Codec()
    for start in range(0, len(raw), BATCH):
        task.process([fetched(*record) for record in raw[start : start + BATCH]])
        for topic, made in zip(topics.TOPICS, task.take(), strict=True):
            outputs[topic.name] += [_item(topic.name, *each) for each in made]
            if topic in admin.SUNK:
                rows += [_row(codec, topic.name, each) for each in made]
    return Undisturbed(outputs, task.save(1.0) if raw else [], rows)


def _item(name: str, key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes]]) -> Item:
    said = dict(headers)
    if name == topics.DEAD_LETTER.name:  # but for the text of the error, which may name lines of the code
        return Item(key, value, b" ".join(said[part] for part in ("reason", "topic", "partition", "offset")))
    return Item(key, value, said[topics.OFFSET_HEADER])


def _row(codec: Codec, name: str, made: Produced) -> tuple[Any, int]:
    key, value, headers = made
    if name != topics.DEAD_LETTER.name:
        return codec.decode(value or b""), int(dict(headers)[topics.OFFSET_HEADER])
    said = {part: text.decode() for part, text in headers}
    place = said["topic"], int(said["partition"]), int(said["offset"])
    texts = ("-" if part is None else part.hex() for part in (key, value))
    return DeadLetter(*place, said["reason"], said["error"], *texts, 0), -1


# Comparing.


class Subject(msgspec.Struct, frozen=True):
    """The run that is looked at."""

    broker: str
    database: str  # empty: there was no sink
    run: str
    partitions: int
    instruments: dict[str, Instrument]
    exactly: bool


def compare(subject: Subject, digests: dict[int, str] | None) -> Compared:
    """Read everything that the run has written and compare it; ``digests`` are of what was fed."""
    compared = Compared({}, [])
    reference = f"{subject.run}-undisturbed"
    if subject.database:
        with psycopg.connect(subject.database, autocommit=True) as connection:
            delete_run(connection, reference)
    for number in range(subject.partitions):
        made = _compare_partition(subject, number, digests, compared)
        if subject.database:
            _write_rows(subject, reference, made)
    if subject.database:
        with psycopg.connect(subject.database, autocommit=True) as connection:
            for table in TABLES:
                compared.add(f"table {table}", *rows(connection, table, subject.run, reference))
            delete_run(connection, reference)
    return compared


def _compare_partition(
    subject: Subject, number: int, digests: dict[int, str] | None, compared: Compared
) -> list[tuple[Any, int]]:
    raw = log.read(subject.broker, named(topics.RAW.name, subject.run), number)
    compared.add(topics.RAW.name, len(raw), fed(raw, number, digests) if digests is not None else [])
    wanted = undisturbed(raw, Task(number, subject.instruments, Codec()))
    for topic in topics.TOPICS:
        if topic is topics.RAW:
            continue
        found = log.read(subject.broker, named(topic.name, subject.run), number)
        got = [_item(topic.name, each.key, each.value, each.headers) for each in found]
        how = latest if topic.cleanup == "compact" else sequences
        items = wanted.outputs[topic.name]
        compared.add(topic.name, len(items), how(f"{topic.name}:{number}", items, got, exactly=subject.exactly))
    changelog = log.read(subject.broker, admin.state_topic(subject.run), number)
    compared.add("state", len(wanted.states), states(f"state:{number}", wanted.states, changelog))
    return wanted.rows


def fed(raw: Sequence[Record], number: int, digests: dict[int, str]) -> list[Difference]:
    """Whether market.raw holds what was fed, no hole, no repeat, beside what the suite injected."""
    digest = Digest()
    for each in raw:
        if INJECTED not in dict(each.headers):
            digest.add(number, each.value or b"")
    if digest.result().get(number, "") == digests.get(number, ""):
        return []
    return [Difference(f"{topics.RAW.name}:{number}", "is not what was fed")]


def _write_rows(subject: Subject, reference: str, made: list[tuple[Any, int]]) -> None:
    asyncio.run(_write(subject, reference, made))


async def _write(subject: Subject, reference: str, made: list[tuple[Any, int]]) -> None:
    async def refuse(refused: Refused) -> None:
        raise AssertionError(f"the undisturbed sink has to refuse {refused[0]}")

    writer = Writer(subject.database, reference, "undisturbed", subject.instruments)
    for start in range(0, len(made), BATCH):
        await writer.write([(*row, None) for row in made[start : start + BATCH]], [], {}, refuse)  # all staged
    await writer.close()


def rows(connection: psycopg.Connection[Any], table: str, run: str, reference: str) -> tuple[int, list[Difference]]:
    """Compare a table row by row; give how many rows there should be, and the differences."""
    query = "SELECT column_name FROM information_schema.columns WHERE table_name = %s ORDER BY ordinal_position"
    names = [name for (name,) in connection.execute(query, [table]) if name not in APART]
    columns = sql.SQL(", ").join(map(sql.Identifier, names))
    some = sql.SQL("SELECT {} FROM {} WHERE run = %s").format(columns, sql.Identifier(table))
    found = []
    for what, pair in (("row missing", (reference, run)), ("row not in the undisturbed run", (run, reference))):
        without = sql.SQL("{} EXCEPT ALL {}").format(some, some)
        found += [
            Difference(f"table {table}", what, str(row)[: 2 * SHOWN]) for row in connection.execute(without, pair)
        ]
    count = connection.execute(
        sql.SQL("SELECT count(*) FROM {} WHERE run = %s").format(sql.Identifier(table)), [reference]
    ).fetchone()
    assert count is not None
    return int(count[0]), found
