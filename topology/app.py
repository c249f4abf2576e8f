"""The Faust application of the workers: `tickloom worker`, or `faust -A topology.app worker -l info`.

Wiring only. One agent over market.raw, one table (one composite state a symbol), a clock, the web views.
"""

import asyncio
import gc
import logging
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, Final

import faust
from aiokafka import AIOKafkaProducer
from aiokafka.errors import InvalidSessionTimeoutError, KafkaConnectionError, NodeNotReadyError
from faust.types import TP

from schemas import instrument, topics
from schemas.instrument import ConfigError
from schemas.registry import codec_for
from topology import admin, config, transport
from topology.agents import Tasks
from topology.config import Settings
from topology.delivery import COMMIT_SECONDS, end
from topology.disk import new_states
from topology.explain import explain, known_errors
from topology.loop import new_loop
from topology.membership import Membership
from topology.owners import Owners
from topology.table import StateTable
from topology.task import Task
from topology.transport import SETTINGS
from topology.watch import AGAIN_S, EVERY_S, Watch
from topology.web import views
from topology.web.serving import serve_on

CLOCK_SECONDS = 1.0
COMMIT_LIMIT_S = 5.0
TRANSACTION_TIMEOUT_MS = 10_000  # a dead worker's open transaction hides what is behind it for so long, at most
BATCH_BYTES = 1 << 20  # of one produced batch, and the broker's own limit

#: A topic's keys and values as they are.
BYTES: Final[dict[str, Any]] = {
    "key_serializer": "raw",
    "value_serializer": "raw",
    "key_type": bytes,
    "value_type": bytes,
}

log = logging.getLogger(__name__)


class App(transport.App):
    """The worker's application, which owns alone what it takes over."""

    tickloom: Tasks[Any]
    membership: Membership | None = None

    def restart_offset(self, tp: TP) -> int | None:
        """The offset at which reading begins for the state that was recovered (`transport.py`); None: the group's."""
        return self.tickloom.restart(tp.partition) if tp.topic == self.tickloom.raw else None

    async def _on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        # before Faust recovers their state: what an earlier owner could still commit would not be in it
        await self.tickloom.fence({tp.partition for tp in assigned if tp.topic == self.tickloom.raw})
        await super()._on_partitions_assigned(assigned, generation_id)

    def _crash(self, reason: BaseException) -> None:
        # of this or any other service; what a person can put right is one line
        if isinstance(reason, InvalidSessionTimeoutError):
            end(
                f"Kafka allows no session of {self.conf.broker_session_timeout:g} s: set TICKLOOM_SESSION_SECONDS, or "
                "the brokers' group.min.session.timeout.ms and group.max.session.timeout.ms"
            )
        super()._crash(reason)

    async def on_stop(self) -> None:
        """The worker ends: commit, then let the producers go."""
        await super().on_stop()
        await self.tickloom.stop()


def build(settings: Settings) -> App:
    """Make the application; nothing is connected yet. Raises ConfigError."""
    if settings.delivery == "exactly_once" and settings.commit_seconds > COMMIT_LIMIT_S:
        raise ConfigError(
            f"TICKLOOM_COMMIT_SECONDS={settings.commit_seconds:g}: exactly once a commit is due within "
            f"{COMMIT_LIMIT_S:g} s, as Kafka undoes a transaction after {TRANSACTION_TIMEOUT_MS // 1000}"
        )
    run = settings.run
    data = settings.data_dir / (run or "live")
    data.mkdir(parents=True, exist_ok=True)
    listener = config.worker_listener(settings)
    port = listener.getsockname()[1]
    app = App(
        admin.app_id(run),
        broker="tickloom://" + ";".join(settings.brokers),
        broker_credentials=config.faust_credentials(settings),
        datadir=str(data),
        web_host=settings.web_host,
        web_bind=settings.web_host,
        web_port=port,
        broker_client_id=f"{admin.CLIENT}{settings.web_host}:{port}",
        **SETTINGS | _group(settings),
    )
    app.membership = Membership(data)
    raw = topics.named(topics.RAW.name, run)
    source = app.topic(raw, **BYTES)
    changelog = app.topic(admin.state_topic(run), internal=True, **BYTES)
    table = StateTable(app, name="symbols", key_type=bytes, value_type=bytes, changelog_topic=changelog)
    app.tables.add(table)
    table.data.new_states = new_states(settings, data)
    instruments = instrument.load(settings.instruments)
    codec = codec_for(settings.schema_registry_url)
    tasks = Tasks(
        app,
        table,
        raw,
        [topics.named(topic.name, run) for topic in topics.TOPICS],
        task=lambda number: Task(number, instruments, codec),
        producer=partial(new_producer, config.aiokafka_options(settings)),
        owners=Owners(settings.kafka, admin.owners_topic(run)),
        delivery=settings.delivery,
        commit_seconds=settings.commit_seconds or COMMIT_SECONDS[settings.delivery],
    )

    drive(app, source, tasks)

    async def start() -> None:
        wrong = await asyncio.to_thread(admin.check_topics, settings.kafka, run)
        if wrong:
            end("; ".join(wrong))
        watch = await asyncio.to_thread(Watch, settings.kafka, run)
        await tasks.start(watch)
        while not app.should_stop:
            await asyncio.sleep(EVERY_S)
            if await asyncio.to_thread(watch.gone):
                await asyncio.sleep(AGAIN_S)
                if gone := await asyncio.to_thread(watch.gone):
                    end(gone)

    async def clock() -> None:
        await tasks.tick(codec)

    app.task(start)
    if not run:  # in other runs whoever feeds them writes the clock
        app.timer(CLOCK_SECONDS)(clock)
    views.install(app, tasks, settings, instruments)
    serve_on(app, listener)
    return app


def _group(settings: Settings) -> dict[str, Any]:
    """How the workers of a run share its partitions."""
    return {
        "broker_session_timeout": settings.session_seconds,
        "broker_heartbeat_interval": min(0.5, settings.session_seconds / 8),
        "table_standby_replicas": settings.standby,
    }


def drive(app: App, source: Any, tasks: Tasks[Any]) -> None:
    """Give an application the agent that hands the runs of records of ``source`` to the tasks of its partitions.

    With ``App``, ``StateTable``, ``new_producer`` and ``run`` this makes a worker of any pipeline (``processor.py``).
    """
    app.tickloom = tasks

    @app.agent(source, name="ticks")
    async def ticks(stream: Any) -> None:
        async for event in stream.noack().events():
            try:
                await tasks.process(event, event.value)
            except ConnectionError as error:  # the schema registry is away: one line says it
                end(str(error))
            except Exception:  # noqa: BLE001  an exception that leaves an agent acks its event
                end("a run of records could not be processed", exc_info=True)

    @app.on_partitions_revoked.connect
    async def give_up(_app: Any, /, *args: Any, **_kwargs: Any) -> None:
        revoked: set[TP] = args[0]
        await tasks.close({tp.partition for tp in revoked if tp.topic == tasks.raw})


def new_producer(kafka: dict[str, Any], transactional_id: str | None) -> AIOKafkaProducer:
    """Make a producer of a transactional id, or with none the one for all that needs no transactions.

    ``kafka``: where it is and how to get in, as `config.aiokafka_options` gives it.
    """
    producer = AIOKafkaProducer(
        **kafka,
        acks="all",
        enable_idempotence=True,
        transactional_id=transactional_id,
        transaction_timeout_ms=TRANSACTION_TIMEOUT_MS,
        compression_type="snappy",  # aiokafka's lz4 works at level 9: a quarter of a worker's time
        max_batch_size=BATCH_BYTES,
        max_request_size=2 * BATCH_BYTES,
        # What takes longer than its transaction may can't be committed any more.
        request_timeout_ms=TRANSACTION_TIMEOUT_MS if transactional_id else 60_000,
    )
    producer.client.coordinator_lookup = _asked_again(producer.client.coordinator_lookup)
    return producer


def _asked_again(lookup: Callable[..., Awaitable[int]]) -> Callable[..., Awaitable[int]]:
    """Look a coordinator up so that a connection that breaks is one more reason to ask again.

    aiokafka 0.14's sender asks again where a node is not ready, and ends for good where the node that it asks goes
    down in that moment: a worker would end for every few brokers that are restarted.
    """

    async def asked(*arguments: Any) -> int:
        try:
            return await lookup(*arguments)
        except KafkaConnectionError as error:
            raise NodeNotReadyError(str(error)) from error

    return asked


def run_worker(settings: Settings) -> None:
    """Run a worker until SIGTERM or Ctrl-C.

    Raises ConfigError where the cluster is not fit for it, BrokerError where none answers.
    """
    wrong = admin.check_topics(settings.kafka, settings.run)
    if wrong:
        raise ConfigError("; ".join(wrong))
    run(build(settings))


def run(app: App) -> None:
    """Run an application until SIGTERM or Ctrl-C."""
    gc.freeze()  # what is imported stays: no need to look at it again and again
    gc.set_threshold(50_000, 20, 50)  # records come and go by the thousand without a cycle among them
    worker = faust.Worker(app, loglevel="info", loop=new_loop())
    worker.execute_from_commandline()


def __getattr__(name: str) -> Any:
    """Make `app` when Faust's command line asks for it (`faust -A topology.app`), not at every import."""
    if name != "app":
        raise AttributeError(name)
    try:
        globals()["app"] = build(config.located(config.load(), database=False))
    except tuple(known_errors()) as error:
        sys.exit(f"tickloom: {explain(error)}")
    return globals()["app"]
