"""A consumer that looks on, read committed: when new output comes, and how old the newest of it is."""

import threading
import time
from typing import Any

from confluent_kafka import KafkaError, TopicPartition

from schemas import topics
from schemas.codec import Codec
from schemas.topics import named
from tests.faults import log

SAMPLE_S = 0.1
WAIT_S = 0.05
SECOND = 1_000_000_000


class Watch:
    """Reads market.data.tick in a thread of its own."""

    def __init__(self, broker: str, run: str, partitions: int) -> None:
        self.failure: BaseException | None = None
        self._broker = broker
        self._name = named(topics.TICK.name, run)
        self._partitions = partitions
        self._lock = threading.Lock()
        self._offsets = dict.fromkeys(range(partitions), -1)  # highest source offset seen
        self._newest: dict[int, int] = {}  # ts_recv of the newest tick, ns
        self._ages: list[tuple[float, float]] = []  # (monotonic, age of the stalest partition's newest tick, s)
        self._latencies: list[float] = []  # s, of the newest tick of each look
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def offsets(self) -> dict[int, int]:
        """By partition the offset in market.raw of the newest tick that has come out."""
        with self._lock:
            return dict(self._offsets)

    def latencies(self) -> list[float]:
        """Seconds from receipt to being seen, since this was last asked."""
        with self._lock:
            found, self._latencies = self._latencies, []
            return found

    def oldest(self, since: float, until: float) -> float:
        """How old the newest output became at worst between two moments (monotonic), in seconds."""
        with self._lock:
            return max((age for at, age in self._ages if since <= at <= until), default=0.0)

    def stop(self) -> None:
        """End; raises what has failed."""
        self._ended.set()
        self._thread.join()
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            with log.consumer(self._broker, "faults-watch") as client:
                client.assign([TopicPartition(self._name, number, 0) for number in range(self._partitions)])
                while not self._ended.is_set():
                    self._see(client.consume(2_000, WAIT_S))
        except Exception as error:  # noqa: BLE001  told at the end
            self.failure = error

    def _see(self, messages: list[Any]) -> None:
        codec = Codec()
        last: dict[int, Any] = {}
        with self._lock:
            for message in messages:
                if message.error() is None:
                    number = message.partition()
                    last[number] = message
                    source = int(dict(message.headers())[topics.OFFSET_HEADER])
                    self._offsets[number] = max(source, self._offsets[number])
                elif message.error().code() not in (KafkaError._PARTITION_EOF, *log.STARTING):
                    raise RuntimeError(message.error())
            now = time.time_ns()
            for number, message in last.items():
                received = codec.decode(message.value()).ts_recv
                self._newest[number] = max(received, self._newest.get(number, 0))
                self._latencies.append((now - received) / SECOND)
            at = time.monotonic()
            if self._newest and (not self._ages or at - self._ages[-1][0] >= SAMPLE_S):
                self._ages.append((at, (now - min(self._newest.values())) / SECOND))
