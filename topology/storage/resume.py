"""Where the sink goes on. The database decides, for it alone knows what its tables hold.

A database that was emptied, restored from a backup or taken over by a replica is behind what the group has committed
in Kafka: the group is set back to it, and reads again. Topics that were deleted and made anew count from 0 again: what
the database remembers of their offsets is dropped, so that the new records are neither skipped nor taken for old ones.
"""

import logging
import time
from typing import Any, Final

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaError, KafkaException, TopicCollection, TopicPartition

from schemas.instrument import ConfigError
from schemas.topics import RAW, named
from topology import admin
from topology.admin import SUNK
from topology.config import Settings
from topology.storage import database
from topology.storage.database import Connection

#: A group with members does not let its offsets be set; a killed process stays a member for its session timeout.
IN_USE: Final = (KafkaError.NON_EMPTY_GROUP, KafkaError.UNKNOWN_MEMBER_ID)

Offsets = dict[tuple[str, int], int]

log = logging.getLogger(__name__)


def topic_ids(client: Any, run: str) -> dict[str, str]:
    """Kafka's ids of the topics whose offsets the database remembers. Raises ConfigError where one is missing."""
    names = [named(topic.name, run) for topic in (RAW, *SUNK)]
    found = client.describe_topics(TopicCollection(names), request_timeout=admin.ANSWER_S)
    ids = {}
    for name, future in found.items():
        try:
            ids[name] = str(future.result().topic_id)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.UNKNOWN_TOPIC_OR_PART:
                raise
            raise ConfigError(f"{name} is missing: it was deleted; fix: {admin.create_command(run)}") from error
    return ids


def resume(settings: Settings) -> dict[str, str]:
    """Bring database and consumer group together before the sink starts; return the ids of its topics.

    Raises ConfigError, DatabaseAway, BrokerError, KafkaException.
    """
    client = admin.connect(settings.kafka)
    ids = topic_ids(client, settings.run)
    with database.connect(settings.database) as connection:
        _forget_former_topics(connection, settings.run, ids)
        _set_back(client, settings.run, connection)
    return ids


def _forget_former_topics(connection: Connection, run: str, ids: dict[str, str]) -> None:
    with connection.transaction():
        known = dict(connection.execute("SELECT topic, topic_id FROM stream_topics WHERE run = %s", [run]).fetchall())
        anew = [topic for topic, number in ids.items() if known.get(topic, number) != number]
        if anew:
            log.warning("%s: made anew since the database was filled; read from the beginning", ", ".join(anew))
            connection.execute("DELETE FROM stream_offsets WHERE run = %s AND topic = ANY (%s)", [run, anew])
        if named(RAW.name, run) in anew:
            for table in ("best_prices", "candles", "gaps", "source_status"):
                connection.execute(f"UPDATE {table} SET source_offset = -1 WHERE run = %s", [run])
        connection.cursor().executemany(
            "INSERT INTO stream_topics VALUES (%s, %s, %s) ON CONFLICT (run, topic) "
            "DO UPDATE SET topic_id = excluded.topic_id",
            [(run, topic, number) for topic, number in sorted(ids.items())],
        )


def _stored(connection: Connection, run: str) -> Offsets:
    query = "SELECT topic, partition, next_offset FROM stream_offsets WHERE run = %s AND consumer_group = %s"
    rows = connection.execute(query, [run, admin.sink_id(run)])
    return {(topic, partition): offset for topic, partition, offset in rows}


def _set_back(client: Any, run: str, connection: Connection) -> None:
    """Where the group has committed more than is stored, commit what is stored."""
    group = admin.sink_id(run)
    limit = time.monotonic() + admin.CHANGE_S
    while True:
        try:
            ahead = _ahead(client, run, connection)
            if not ahead:
                return
            log.warning("%s has committed more than is in the database: set back in %d partitions", group, len(ahead))
            answer = client.alter_consumer_group_offsets([ConsumerGroupTopicPartitions(group, ahead)])[group].result()
            code = next((at.error.code() for at in answer.topic_partitions if at.error), None)
        except KafkaException as error:
            code = error.args[0].code()
            if code not in (*IN_USE, *admin.PASSING):
                raise
        if code is not None and time.monotonic() > limit:
            raise admin.BrokerError(
                f"the offsets of {group} are ahead of the database and can't be set back (Kafka's error {code}): "
                "stop the sinks that run, then start one"
            )
        if code is not None:
            time.sleep(1.0 if code in IN_USE else 0.1)


def _ahead(client: Any, run: str, connection: Connection) -> list[TopicPartition]:
    """Where the group has committed more than is stored, with the offset that is."""
    group = admin.sink_id(run)
    ends = admin.offsets(client, [named(topic.name, run) for topic in SUNK], admin.LATEST)
    partitions = [(topic, number) for topic, numbers in ends.items() for number in numbers]
    committed = admin.committed(client, group, partitions)
    stored = _stored(connection, run)  # after the group's: a sink that runs stores first, and commits then
    ahead = {at: (stored.get(at, 0), offset) for at, offset in committed.items() if offset > stored.get(at, 0)}
    same = set(admin.without_records(client, ahead))  # markers of transactions are read, not stored
    return [TopicPartition(*at, since) for at, (since, _) in ahead.items() if at not in same]
