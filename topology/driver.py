"""Run the topology in a test, without Kafka: pipe records in, let time pass, read each topic.

    driver = TopologyDriver(load())
    driver.pipe(Quote("EURUSD", "oanda", ts, ts, 109120, 109132))
    driver.advance(ts + 10 * SECOND)
    [best] = driver.read(topics.BEST)

Everything is synchronous and exact: the same code that the workers run, one partition, offsets from 0.
"""

from typing import Any, NamedTuple

from schemas import topics
from schemas.codec import Codec
from schemas.instrument import Instrument
from schemas.record import Clock, Record
from schemas.topics import Topic
from topology.stages.feed import status
from topology.stages.partition import Partition


class Output(NamedTuple):
    """One record of an output topic, with its key, bytes and source offset."""

    record: Any
    key: bytes
    value: bytes
    offset: int


class TopologyDriver:
    """One partition of the topology under test."""

    def __init__(self, instruments: dict[str, Instrument]) -> None:
        self._instruments = instruments
        self._codec = Codec()
        self._partition = Partition(0, instruments)
        self._saved: dict[bytes, bytes] = {}
        self._next = 0
        self._read: dict[str, int] = {}
        self._outputs: dict[str, list[Output]] = {topic.name: [] for topic in topics.TOPICS}

    def pipe(self, record: Record, append: int | None = None, offset: int | None = None) -> None:
        """Apply a record, as appended by the broker at ``append`` ns (default: when it was received).

        A record that the topology refuses goes to the topic market.dead_letter, with the reason as its value.
        """
        at = append if append is not None else int(getattr(record, "ts_recv", 0))
        offset = self._next if offset is None else offset
        self._next = offset + 1
        reason = self._partition.apply(record, offset, at)
        if reason:
            self._outputs[topics.DEAD_LETTER.name].append(Output(record, b"", reason.encode(), offset))
        for made in self._partition.out:
            output = Output(made.record, topics.key(made.record), self._codec.encode(made.record), made.offset)
            self._outputs[topics.OUTPUT_OF[type(made.record)].name].append(output)
        self._partition.out.clear()

    def advance(self, to_ns: int) -> None:
        """Let time pass: a clock record."""
        self.pipe(Clock(to_ns))

    def read(self, topic: Topic) -> list[Output]:
        """What a topic got since it was last read."""
        outputs = self._outputs[topic.name]
        start = self._read.get(topic.name, 0)
        self._read[topic.name] = len(outputs)
        return outputs[start:]

    def state(self, symbol: str) -> dict[str, Any]:
        """A symbol's sources and their standing, and its best price."""
        found = self._partition.symbols[symbol]
        sources = {feed.name: status(symbol, feed) for feed in found.feeds}
        return {"now": found.now, "offset": found.offset, "best": found.best.last, "sources": sources}

    def restart(self) -> None:
        """Save all state, drop it, and load it again, as a worker that comes back does."""
        self._saved.update({symbol.name.encode(): symbol.dump() for symbol in self._partition.take_touched(1.0)})
        own = self._partition.dump_own(self._next - 1)
        self._partition = Partition(0, self._instruments)
        self._partition.load_own(*own)
        for key, state in self._saved.items():
            self._partition.load(key, state)
