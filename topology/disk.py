"""The workers' states on disk too (`state_store = "rocksdb"`): a worker that starts again reads only what came since.

The changelog is what counts. A partition's directory holds a beginning of it: states and the offset that they go up to,
written together after they were committed. Where it can't be a beginning of the present changelog, it is thrown away.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from confluent_kafka import TopicCollection

from schemas.instrument import ConfigError
from topology import admin
from topology.config import Settings
from topology.table import States

TOGETHER_S: Final = 1.0  # partitions are assigned many at a time: Kafka is asked once
STATE: Final = b"s"  # before the keys of states
OFFSET, ORIGIN, TOPIC = b"offset", b"origin", b"topic"

log = logging.getLogger(__name__)


class DiskStates(States):
    """The states of one partition, and on disk as of the last commit."""

    def __init__(self, path: Path, topic: str, end: int) -> None:
        """Read what is there. ``topic``, ``end``: Kafka's id of the changelog, and the offset after its last record."""
        super().__init__()
        self._db = _open(path)
        offset = int(self._db.get(OFFSET) or -1)
        if (self._db.get(TOPIC) or topic.encode()) != topic.encode() or offset >= end:
            log.warning("%s is of another changelog: thrown away", path)
            self.close()
            _driver().Rdict.destroy(str(path))
            self._db = _open(path)
        self._db.put(TOPIC, topic.encode())
        self._changed: dict[bytes, bytes | None] = {}  # since the last write
        self._failed = False
        self._read()

    def _read(self) -> None:
        offset = int(self._db.get(OFFSET) or -1)
        self.offset = offset if offset >= 0 else None
        self.origin = (self._db.get(ORIGIN) or b"").decode()
        self.values = {key[1:]: value for key, value in self._db.items() if key[:1] == STATE}

    def put(self, key: bytes, value: bytes | None) -> None:
        """Keep a state; None: there is none."""
        super().put(key, value)
        self._changed[key] = value

    def save(self, key: bytes, value: bytes) -> None:
        """The changelog has this record of the task that has them."""
        super().save(key, value)
        self._changed[key] = value

    def forget(self) -> None:
        """Go back to what is on disk."""
        self._changed.clear()
        try:
            self._read()
        except Exception as error:  # noqa: BLE001  it has no class of its own
            log.error("states can't be read from disk (%s): they are read from Kafka", error)
            super().forget()

    def reach(self, offset: int) -> None:
        """What the changelog has up to this offset is known: write it down."""
        super().reach(offset)
        batch = _driver().WriteBatch(raw_mode=True)
        for key, value in self._changed.items():
            if value is None:
                batch.delete(STATE + key)
            else:
                batch.put(STATE + key, value)
        batch.put(OFFSET, b"%d" % (self.offset or 0))
        batch.put(ORIGIN, self.origin.encode())
        try:
            self._db.write(batch)
        except Exception as error:  # noqa: BLE001  it has no class of its own
            if not self._failed:  # what is there stays a beginning; the next write takes up all that is missing
                log.error("states can't be written to disk (%s): a restart will read them from Kafka", error)
            self._failed = True
            return
        self._failed = False
        self._changed.clear()

    def close(self) -> None:
        """Let the files go."""
        try:
            self._db.close()
        except Exception as error:  # noqa: BLE001  it has no class of its own; what was written before stays good
            log.error("the states on disk were not closed in order: %s", error)


def new_states(settings: Settings, directory: Path) -> Callable[[int], States]:
    """What makes the states of a partition, in memory or on disk. Raises ConfigError where that is not installed."""
    if settings.state_store == "memory":
        return lambda _number: States()
    try:
        _driver()
    except ImportError as error:
        raise ConfigError("TICKLOOM_STATE_STORE=rocksdb needs more: pip install 'tickloom[rocksdb]'") from error
    changelog = admin.state_topic(settings.run)
    ends: dict[int, int] = {}
    topic, asked = "", 0.0

    def make(number: int) -> States:
        nonlocal topic, asked, ends
        try:
            if time.monotonic() - asked > TOGETHER_S:
                client = admin.connect(settings.kafka)
                found = client.describe_topics(TopicCollection([changelog]), request_timeout=admin.ANSWER_S)
                topic = str(found[changelog].result().topic_id)
                ends = admin.offsets(client, [changelog], admin.LATEST)[changelog]
                asked = time.monotonic()
            return DiskStates(directory / "states" / str(number), topic, ends[number])
        except Exception as error:  # noqa: BLE001  it has no class of its own
            log.error("%s can't be used (%s): the state is read from Kafka", directory / "states" / str(number), error)
            return States()

    return make


def _driver() -> Any:
    import rocksdict  # only where it was asked for

    return rocksdict


def _open(path: Path) -> Any:
    driver = _driver()
    path.mkdir(parents=True, exist_ok=True)
    options = driver.Options(raw_mode=True)
    options.create_if_missing(True)
    options.set_write_buffer_size(4 << 20)  # a partition's states are small, and written over and over
    options.set_max_write_buffer_number(2)
    return driver.Rdict(str(path), options=options)
