"""Copy a part of one run's market.raw into another's: the same records in the same order with the same times.

The copy itself says how far it is: every record carries in a header where it stood, and the producer leaves no holes.
An interrupted copy goes on behind the last record of each partition.

A partition of the base becomes one of the replay, or several where that has a multiple of them: its symbols are
spread over those, its clocks and whatever has no symbol of ours go to each. So no symbol ever sees a clock that it did
not see before, and the results stay the same to the last byte.
"""

import time
from collections.abc import Callable
from typing import Any, Final

from confluent_kafka import KafkaError, KafkaException, Message

from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer, partition_of
from schemas import topics
from schemas.instrument import ConfigError
from topology.replay.ledger import Replay

REPORT_EVERY: Final = 1000  # records


class Copy:
    """One copy under way."""

    def __init__(self, log: LogReader, producer: RawProducer, replay: Replay) -> None:
        """Look how far it is. Raises ConfigError where the base has other partitions now, KafkaException."""
        self.total = sum(stretch.end - stretch.copied_from for stretch in replay.stretches)
        self.read = 0  # records of the base, those of an earlier attempt included
        self.written = 0
        self._log = log
        self._producer = producer
        self._replay = replay
        self._base_partitions = len(replay.stretches)
        self._symbols = {symbol.encode() for symbol in replay.symbols}
        bounds = log.bounds(replay.base_raw)
        if len(bounds) != self._base_partitions:
            raise ConfigError(f"{replay.base_raw} was made anew with other partitions: begin another --run")
        self._firsts = {number: first for number, (first, _) in bounds.items()}
        ends = {number: end for number, (_, end) in log.bounds(replay.raw).items()}
        self._ends = ends
        since = {number: max(0, end - 1) for number, end in ends.items()}
        self._last = {m.partition() or 0: origin_of(m) for m in log.read(replay.raw, since, ends)}

    def run(self, rate: float, report: Callable[[], None]) -> None:
        """Copy what is missing, at most ``rate`` records a second (0: as fast as can be).

        Raises ConfigError where the base has lost records meanwhile, ProducerError.
        """
        since, until = {}, {}
        for stretch in self._replay.stretches:
            copies = self._replay.copies_of(stretch.partition)
            reached = min(self._last.get(number, stretch.copied_from - 1) for number in copies)
            since[stretch.partition], until[stretch.partition] = reached + 1, stretch.end
            first = self._firsts[stretch.partition]
            if reached + 1 < min(first, stretch.end):
                raise ConfigError(
                    f"{self._replay.base_raw} has no longer the records {reached + 1} to {first} of partition "
                    f"{stretch.partition}: begin another --run"
                )
            self.read += max(0, reached + 1 - stretch.copied_from)
        began, before = time.monotonic(), self.read
        try:
            for message in self._log.read(self._replay.base_raw, since, until):
                self._copy(message)
                self.read += 1
                if self.read % REPORT_EVERY == 0:
                    report()
                    if rate:
                        time.sleep(max(0.0, began + (self.read - before) / rate - time.monotonic()))
        except KafkaException as error:
            if error.args[0].code() != KafkaError._AUTO_OFFSET_RESET:
                raise
            raise ConfigError(
                f"{self._replay.base_raw} has lost records that were still to be copied, as they are older than its "
                "retention.ms: begin another --run, or raise that first"
            ) from error
        self._producer.flush()
        report()
        self._check_ends()

    def _copy(self, message: Message) -> None:
        key, offset = message.key(), message.offset() or 0
        is_clock = key == topics.CLOCK_KEY
        if self._symbols and not is_clock and key not in self._symbols:
            return
        header = [(topics.OFFSET_HEADER, b"%d" % offset)]
        for number in self._targets(message.partition() or 0, key, is_clock):
            if offset > self._last.get(number, -1):
                self._producer.copy(key, message.value(), number, header, message.timestamp()[1])
                self._ends[number] += 1
                self.written += 1

    def _targets(self, partition: int, key: bytes | None, is_clock: bool) -> list[int]:
        copies = self._replay.copies_of(partition)
        if is_clock or len(copies) == 1:
            return copies
        number = partition_of(key, self._replay.partitions) if key else partition
        return [number] if number in copies else [partition]  # in a wrong partition before: it stays so

    def _check_ends(self) -> None:
        ends = {number: end for number, (_, end) in self._log.bounds(self._replay.raw).items()}
        if ends != self._ends:
            raise ConfigError(f"somebody else wrote into run {self._replay.run} during the replay: drop it, begin anew")


def origin_of(message: Message) -> int:
    """Where a copied record, or what came of a record, stood in market.raw. Raises ValueError without that header."""
    value = header(message, topics.OFFSET_HEADER)
    if value is None:
        raise ValueError(f"a record without header {topics.OFFSET_HEADER!r} in {message.topic()}")
    return int(value)


def header(message: Message, name: str) -> bytes | None:
    """The value of a header; None where there is none."""
    found: Any = message.headers() or ()
    return next((value for each, value in found if each == name), None)
