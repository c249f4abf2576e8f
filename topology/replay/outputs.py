"""Read what two runs made of the same records, so that it can be laid side by side.

Every output says by which record of its own run's market.raw it was made (header ``offset``); of a replay that is a
record of the copy, and ``Origins`` says where that one stood in the base. So an output of either run has the same name:
partition and offset in the base's market.raw.
"""

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from confluent_kafka import Message

from connectors.runtime.cluster import Cluster
from connectors.runtime.log import LogReader
from schemas.topics import Topic, named
from topology.replay.copy import header, origin_of
from topology.replay.ledger import Replay, Stretch

PROMOTED_HEADER: Final = "promoted"  # by which replay a record was put into the topic of another run
MARGIN_MS: Final = 60_000  # the clocks of two brokers may differ by so much


class Made(NamedTuple):
    """One output record. ``offset``: in the base's market.raw, of the record by which it was made."""

    offset: int
    key: bytes
    value: bytes | None
    partition: int  # where it is
    place: int  # at which offset there
    promoted: bool


class Origins:
    """Where the records of one partition of the copy stood: stretches of offsets that follow one another."""

    def __init__(self, log: LogReader, replay: Replay, number: int, stretch: Stretch) -> None:
        self._since = array("q", [0])
        self._from = array("q", [stretch.copied_from])
        bounds = log.bounds(replay.raw)
        _, end = bounds[number]
        if end != stretch.end - stretch.copied_from:  # some were left out: ask every record
            expected = stretch.copied_from
            for message in log.read(replay.raw, {number: 0}, {number: end}):
                origin = origin_of(message)
                if origin != expected:
                    self._since.append(message.offset() or 0)
                    self._from.append(origin)
                expected = origin + 1

    def of(self, offset: int) -> int:
        """Where a record of the copy stood."""
        at = bisect_right(self._since, offset) - 1
        return self._from[at] + offset - self._since[at]


class Outputs:
    """The outputs of both runs that one partition's stretch of market.raw has made."""

    def __init__(self, cluster: Cluster, replay: Replay, stretch: Stretch) -> None:
        """Look up what is needed. Raises KafkaException."""
        self.replay = replay
        self.stretch = stretch
        self._cluster = cluster
        number = stretch.partition
        with LogReader(cluster) as log:
            self._origins = {copy: Origins(log, replay, copy, stretch) for copy in replay.copies_of(number)}
            one = {number: stretch.start}, {number: stretch.start + 1}
            times = [message.timestamp()[1] for message in log.read(replay.base_raw, *one)]
        self._since_ms = times[0] - MARGIN_MS if times else 0

    def base(
        self, topic: Topic, *, everything: bool = False, watch: Callable[[int, int], None] = lambda *_: None
    ) -> Iterator[Made]:
        """What the base made, in the order of the topic; ``everything``: also what lies behind the stretch.

        ``watch`` is told of every record of the partition: its offset there, and that in market.raw; before the first
        one of the offset where reading begins, less one.
        """
        name, number = named(topic.name, self.replay.base), self.stretch.partition
        with LogReader(self._cluster) as log:
            first, end = log.bounds(name)[number]
            since = max(first, log.offsets_at(name, {number: self._since_ms})[number])
            watch(since - 1, -1)
            for message in log.read(name, {number: since}, {number: end}):
                made = _made(message, origin_of(message))
                watch(made.place, made.offset)
                is_within = self.stretch.start <= made.offset and (everything or made.offset < self.stretch.end)
                if is_within and self._is_wanted(message):
                    yield made

    def copy(self, topic: Topic) -> Iterator[Made]:
        """What the replay made, in the order of its topic."""
        name = named(topic.name, self.replay.run)
        with LogReader(self._cluster) as log:
            bounds = {number: bounds for number, bounds in log.bounds(name).items() if number in self._origins}
            since = {number: first for number, (first, _) in bounds.items()}
            for message in log.read(name, since, {number: end for number, (_, end) in bounds.items()}):
                made = _made(message, self._origins[message.partition() or 0].of(origin_of(message)))
                if self.stretch.start <= made.offset < self.stretch.end:
                    yield made

    def first_kept(self, topic: Topic) -> int:
        """From where in market.raw on the base's topic still has what was made; the beginning has been deleted."""
        name, number = named(topic.name, self.replay.base), self.stretch.partition
        with LogReader(self._cluster) as log:
            first, end = log.bounds(name)[number]
            if first == 0:
                return 0
            until = {number: min(end, first + 100)}  # held ticks come later than their neighbours
            return max((origin_of(m) for m in log.read(name, {number: first}, until)), default=self.stretch.end)

    def _is_wanted(self, message: Message) -> bool:
        symbols = self.replay.symbols
        return not symbols or symbol_of(message.key() or b"") in symbols


def _made(message: Message, offset: int) -> Made:
    place = message.partition() or 0, message.offset() or 0
    return Made(offset, message.key() or b"", message.value(), *place, header(message, PROMOTED_HEADER) is not None)


def symbol_of(key: bytes) -> str:
    """The symbol of an output's key."""
    return key.partition(b"|")[0].decode()
