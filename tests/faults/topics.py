"""A topic is deleted under the running system: it must stop and say so, and make nothing up."""

from confluent_kafka.admin import AdminClient

from schemas import topics
from schemas.topics import named
from tests.faults.programs import Program
from tests.faults.world import FaultError, World
from topology import admin

STOP_S = 90.0  # a broker that does not know a topic is asked again for a while
SEEN_S = 30.0


def output_deleted(world: World) -> None:
    """An output topic is deleted under the running system: it stops and says so."""
    topic = named(topics.CANDLE.name, world.run)
    _deleted(world, topic)
    sink = world.sinks[0]  # which reads it
    world.until(lambda: sink.code is not None, STOP_S, f"{sink.name} goes on without {topic}")
    _assert_says(sink, topic)


def input_deleted(world: World) -> None:
    """market.raw is deleted under the running system: it stops and says so."""
    _deleted(world, named(topics.RAW.name, world.run))


def state_deleted(world: World) -> None:
    """The changelog is deleted under the running system: it stops and says so."""
    _deleted(world, admin.state_topic(world.run))


def _deleted(world: World, topic: str) -> None:
    world.tending = False
    client = AdminClient({"bootstrap.servers": world.broker, "log_level": 0})
    client.delete_topics([topic])[topic].result(30)
    world.fault("deleted", topic)
    worker = world.workers[0]
    took = world.until(lambda: worker.code is not None, STOP_S, f"{worker.name} goes on without {topic}")
    world.notes["stopped_after_s"] = round(took, 1)
    _assert_says(worker, topic)
    again = world.restart(worker)
    world.until(lambda: again.code is not None, SEEN_S, f"{again.name} starts without {topic}")
    _assert_says(again, topic)
    if topic in client.list_topics(timeout=10).topics:
        raise FaultError(f"{topic} is there again by nobody's order")


def _assert_says(program: Program, topic: str) -> None:
    """It ended with an error, and its last words name the topic."""
    if not program.code:
        raise FaultError(f"{program.name} ended with code {program.code} without {topic}:\n{program.tail()}")
    if topic not in program.tail(5):
        raise FaultError(f"the last words of {program.name} do not name {topic}:\n{program.tail(12)}")
