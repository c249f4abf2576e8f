"""The Faust application of the sink: `tickloom sink`, or `faust -A topology.sink worker -l info`.

Reads the clean topics and the dead letters. Writes what has come, of all partitions together, in one transaction with
its offsets; then acks. Rule: an ack means committed. What can't be decoded or stored goes to market.dead_letter before
anything behind it is committed. Whatever else fails ends the process: an exception would only end the agent, and Faust
would ack what it was working on.
"""

import asyncio
import gc
import logging
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any, NamedTuple

import faust
import psycopg
from aiokafka import AIOKafkaProducer
from confluent_kafka import KafkaException

from schemas import instrument, topics
from schemas.instrument import ConfigError
from schemas.registry import codec_for
from topology import admin, config, transport
from topology.admin import SUNK
from topology.config import Settings
from topology.dead_letters import letter
from topology.explain import explain, known_errors
from topology.loop import new_loop
from topology.storage import database
from topology.storage.database import DatabaseAway
from topology.storage.resume import resume, topic_ids
from topology.storage.rows import Read, Reader, Refused
from topology.storage.tables import Row
from topology.storage.ticks import Block
from topology.storage.writer import DatabaseSetBackError, Writer
from topology.transport import SETTINGS
from topology.web import sink_views
from topology.web.serving import serve_on

BATCH_ROWS = 50_000  # of one transaction, about
LINGER_S = 0.1  # how long a row waits for company, where TICKLOOM_COMMIT_SECONDS does not say it
REPORT_S = 60.0
LOOK_S = 10.0  # between two looks whether the topics are still there
LOOK_AGAIN_S = 1.0  # where Kafka gave no answer

#: What a person can put right: one line is enough.
KNOWN = (ConfigError, ConnectionError, DatabaseAway, DatabaseSetBackError, psycopg.Error)

#: From one offset to another, by topic and partition.
Spans = Mapping[tuple[str, int], tuple[int, int]]

log = logging.getLogger(__name__)


class TopicsChangedError(Exception):
    """A topic was made anew while the sink was reading it."""


class Taken(NamedTuple):
    """One event of Faust's and what is in it."""

    event: Any
    place: tuple[str, int]  # topic, partition
    begin: int  # the offset of its first record
    end: int  # the offset after it
    read: Read


class Sink:
    """What is read and not yet committed, and the task that commits it."""

    def __init__(
        self, writer: Writer, reader: Reader, check: Callable[[Spans], Awaitable[None]], linger_s: float = LINGER_S
    ) -> None:
        self.writer = writer
        self._reader = reader
        self._linger_s = linger_s
        self._check = check  # raises where the topics are not those that the database knows, or a span has records
        self._producer: AIOKafkaProducer | None = None
        self._waiting: deque[Taken] = deque()
        self.waiting = 0  # rows in those that wait
        self._came = asyncio.Event()
        self._room = asyncio.Event()
        self._hurry = False
        self._spans: dict[tuple[str, int], Any] = {}  # the life of a partition with us, as the transport names it
        self._next: dict[tuple[str, int], int] = {}  # everything below is in the tables
        self.written = 0  # rows
        self.refused: Counter[str] = Counter()  # rows that became dead letters, by reason
        self.commits = 0
        self.commit_seconds = 0.0  # that they took in all
        self._waiting_since = 0.0

    @property
    def commit_age(self) -> float:
        """How many seconds the oldest row waits to be committed; 0 where none does."""
        return time.monotonic() - self._waiting_since if self._waiting_since else 0.0

    async def add(self, event: Any) -> None:
        """Take an event; returns as soon as more may come."""
        records = event.value
        place = records[0].topic, records[0].partition
        taken = Taken(event, place, records[0].offset, records[-1].offset + 1, self._reader.read(records))
        records.clear()  # the event waits for its ack; what it brought need not
        self._waiting.append(taken)
        self._waiting_since = self._waiting_since or time.monotonic()
        self.waiting += taken.read.size
        self._came.set()
        await asyncio.sleep(0)  # the next event may be there already, but so may the database's answer
        while self.waiting >= BATCH_ROWS:
            self._room.clear()
            await self._room.wait()

    def hurry(self) -> None:
        """Commit what waits at once: partitions are about to be given up."""
        self._hurry = True
        self._came.set()

    async def run(self, producer: AIOKafkaProducer) -> None:
        """Commit what comes, for ever. Raises what should end the process."""
        self._producer = producer
        reported = time.monotonic()
        while True:
            batch = await self._batch()
            began = time.monotonic()
            await self._commit(batch)
            self.commits += 1
            self.commit_seconds += time.monotonic() - began
            self._waiting_since = began if self._waiting else 0.0
            for taken in batch:
                taken.event.ack()
            if time.monotonic() - reported > REPORT_S:
                log.info("%d rows written so far", self.written)
                reported = time.monotonic()

    async def _batch(self) -> list[Taken]:
        """What waits, as soon as it is enough or has waited long enough."""
        while not self._waiting:
            self._hurry = False
            self._came.clear()
            await self._came.wait()
        limit = time.monotonic() + self._linger_s
        while not self._hurry and self.waiting < BATCH_ROWS and (left := limit - time.monotonic()) > 0:
            self._came.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(left):  # wait_for can lose a cancellation (Python 3.11)
                    await self._came.wait()
        batch = []
        size = 0
        while self._waiting and size < BATCH_ROWS:
            batch.append(self._waiting.popleft())
            size += batch[-1].read.size
        self.waiting -= size
        self._room.set()
        return batch

    async def _commit(self, batch: list[Taken]) -> None:
        await self._begin(batch)
        offsets: dict[tuple[str, int], int] = {}
        rows: list[Row] = []
        blocks: list[Block] = []
        refused: Refused = []
        for taken in batch:
            first = offsets.get(taken.place, self._next[taken.place])
            read = taken.read if taken.begin >= first else taken.read.since(first)
            rows += read.rows
            refused += read.refused
            if read.ticks:
                blocks.append(read.ticks)
            offsets[taken.place] = max(first, taken.end)
        if refused:
            await self._refuse(refused)
        await self.writer.write(rows, blocks, offsets, self._refuse)
        self._next.update(offsets)
        self.written += len(rows) + sum(block.ticks for block in blocks)

    async def _begin(self, batch: list[Taken]) -> None:
        """Of partitions that are new to us: read how far they are in the tables, and see that nothing is passed over.

        A database that was set back under the sink that had them is behind the group.
        """
        new = {taken.place: taken.event.message.acks for taken in batch}
        new = {place: span for place, span in new.items() if self._spans.get(place) is not span}
        if new:
            stored = await self.writer.offsets()
            begins = {taken.place: taken.begin for taken in reversed(batch)}  # of each the first one's
            known = {place: stored.get(place, 0) for place in new}
            await self._checked({place: (at, begins[place]) for place, at in known.items() if at < begins[place]})
            self._next.update(known)
            self._spans.update(new)

    async def _checked(self, unread: Spans) -> None:
        """Nothing is stored before it is known of which topics; Kafka may be away for that while."""
        while True:
            try:
                await self._check(unread)
                return
            except (admin.BrokerError, KafkaException) as error:
                log.warning("Kafka does not say whether its topics are still the same (%s); asking again", error)
            await asyncio.sleep(LOOK_AGAIN_S)

    async def _refuse(self, refused: Refused) -> None:
        """Deliver the records to market.dead_letter."""
        assert self._producer is not None
        sent = []
        for (_, _, record), reason, error in refused:
            if record.topic == self._reader.dead_letters and letter.retried(record.headers) is None:
                raise RuntimeError(f"dead letter {record.partition}:{record.offset} can't be stored: {error}")
            key, value, headers = letter.write(record, reason, error)
            place: dict[str, Any] = {"key": key, "partition": record.partition, "headers": headers}
            sent.append(await self._producer.send(self._reader.dead_letters, value, **place))
        await asyncio.gather(*sent)
        self.refused.update(reason for _, reason, _ in refused)
        (_, _, record), reason, error = refused[0]
        log.error(
            "%d records went to %s, the first %s %d:%d %s (%s)",
            *(len(refused), self._reader.dead_letters, record.topic, record.partition, record.offset, reason, error),
        )


class App(transport.App):
    """The sink's application."""

    pace_s = LINGER_S / 2  # between two fetches
    tickloom: Sink
    writing: asyncio.Task[None] | None = None

    async def on_stop(self) -> None:
        """The process ends: commit what was taken, then let the database go."""
        await super().on_stop()
        if self.writing is not None:
            self.writing.cancel()
            await asyncio.gather(self.writing, return_exceptions=True)


def build(settings: Settings, ids: dict[str, str]) -> App:
    """Make the application; nothing is connected yet."""
    run = settings.run
    listener = config.sink_listener(settings)
    directory = settings.data_dir / f"sink-{run or 'live'}"  # Faust wants one; nothing is kept in it
    directory.mkdir(parents=True, exist_ok=True)
    app = App(
        admin.sink_id(run),
        broker="tickloom://" + ";".join(settings.brokers),
        broker_credentials=config.faust_credentials(settings),
        datadir=str(directory),
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=listener.getsockname()[1],
        **SETTINGS,
    )
    names = [topics.named(topic.name, run) for topic in SUNK]
    source = app.topic(*names, key_serializer="raw", value_serializer="raw", key_type=bytes, value_type=bytes)
    instruments = instrument.load(settings.instruments)
    writer = Writer(settings.database, run, admin.sink_id(run), instruments)
    reader = Reader(codec_for(settings.schema_registry_url), run, instruments)
    client = admin.connect(settings.kafka)

    async def check(unread: Spans) -> None:
        if await asyncio.to_thread(topic_ids, client, run) != ids:
            raise TopicsChangedError("a topic was deleted and made anew while it was read: start the sink again")
        empty = await asyncio.to_thread(admin.without_records, client, dict(unread))
        for (topic, number), (since, begin) in unread.items():
            if (topic, number) not in empty:
                raise DatabaseSetBackError(
                    f"{topic} {number} goes on at offset {begin}, but the database has it up to {since} only: it was "
                    "set back; when all sinks have ended the next start reads it again"
                )

    sink = app.tickloom = Sink(writer, reader, check, settings.commit_seconds or LINGER_S)

    @app.agent(source, name="rows")
    async def rows(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await sink.add(event)
            except Exception as error:  # noqa: BLE001  an exception that leaves an agent acks its event
                _end(error)

    async def start() -> None:
        app.writing = asyncio.create_task(_write(sink, writer, settings))  # outlives Faust's own tasks at the end

    async def look() -> None:
        try:
            await check({})
        except (ConfigError, TopicsChangedError) as error:
            _end(error)  # Kafka's clients would ask for a topic that was deleted for ever
        except (admin.BrokerError, KafkaException):
            return  # Kafka is away: that passes

    app.task(start)
    app.timer(LOOK_S)(look)
    sink_views.install(app, sink, run)
    serve_on(app, listener)
    return app


async def _write(sink: Sink, writer: Writer, settings: Settings) -> None:
    producer = AIOKafkaProducer(
        **config.aiokafka_options(settings), acks="all", enable_idempotence=True, max_request_size=2 << 20
    )
    try:
        await producer.start()
        await sink.run(producer)
    except Exception as error:  # noqa: BLE001  whatever it is, going on could ack what is not committed
        _end(error)
    finally:
        await producer.stop()
        await writer.close()


def _end(error: Exception) -> None:
    known = isinstance(error, (*KNOWN, TopicsChangedError))
    log.critical("%s; the sink ends", " ".join(str(error).split()) or repr(error), exc_info=not known)
    logging.shutdown()
    os._exit(1)


def prepare(settings: Settings) -> dict[str, str]:
    """Check the topics, bring the schema up to date, find where to go on; waits for a database that is away.

    Raises ConfigError where the cluster or the database are not fit, BrokerError where no Kafka answers.
    """
    wrong = admin.check_topics(settings.kafka, settings.run)
    if wrong:
        raise ConfigError("; ".join(wrong))
    database.wait_for(settings.database, log.warning)
    database.migrate(settings.database, log.info)
    with database.connect(settings.database) as connection:
        database.put_instruments(connection, settings.run, instrument.load(settings.instruments))
    return resume(settings)


def run_sink(settings: Settings) -> None:
    """Run a sink until SIGTERM or Ctrl-C. Raises what `prepare` does."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    app = build(settings, prepare(settings))
    gc.freeze()  # what is imported stays
    gc.set_threshold(50_000, 20, 50)  # rows come and go by the thousand without a cycle among them
    faust.Worker(app, loglevel="info", loop=new_loop()).execute_from_commandline()


def __getattr__(name: str) -> Any:
    """Make `app` when Faust's command line asks for it (`faust -A topology.sink`), not at every import."""
    if name != "app":
        raise AttributeError(name)
    try:
        settings = config.located(config.load())
        globals()["app"] = build(settings, prepare(settings))
    except tuple(known_errors()) as error:
        sys.exit(f"tickloom: {explain(error)}")
    return globals()["app"]
