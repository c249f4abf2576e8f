"""Write recorded ticks into a run's log, with clocks; go on where an interrupted import stopped.

The log itself is the progress. The same files give the same records in the same order, and the producer
leaves no holes: so what a partition holds is the beginning of what it should hold, and as many records are
skipped. The last of them are compared with the log, as the run may hold something else.

    ticks      to the partition of their symbol, in order of time over all files
    clocks     before the first tick of each second, to every partition that has a symbol of the import; and
               one to all partitions at the end: after the following minute and the grace of its candles, when
               whatever was open or waiting has been decided
    bad rows   to market.dead_letter, in the same way: as many as are there are skipped
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, final

from confluent_kafka import Message
from mypy_extensions import i64

from connectors.archive.file import BadRow, TickFile
from connectors.archive.merge import Row, batches
from connectors.runtime.cluster import Cluster
from connectors.runtime.log import LogReader
from connectors.runtime.producer import RawProducer
from schemas import flags, topics
from schemas.codec import Codec
from schemas.instrument import ConfigError
from schemas.record import Clock, Quote, Tick, Trade

SECOND: Final = 1_000_000_000
MINUTE: Final = 60 * SECOND
GRACE_NS: Final = 10 * SECOND  # of candles, by default
COMPARED = 50  # records at the end of each partition
REPORT_EVERY: Final = 1000  # rows


class OtherInput(ConfigError):
    """The run's log holds something else than these files; the text says what to do."""


@final
class Place:
    """Where the ticks of a symbol go, and how many went there."""

    def __init__(self, symbol: str, number: int) -> None:
        self.number = number  # of the partition
        self.key = symbol.encode()
        self.ticks: dict[str, int] = {}  # by source


class History:
    """Writes files into the log of one run."""

    def __init__(self, producer: RawProducer, cluster: Cluster, run: str, codec: Codec) -> None:
        """Look at what the log holds. Raises KafkaException."""
        self._places: dict[str, Place] = {}  # by symbol
        self.bad: Counter[str] = Counter()  # bad rows by file
        self.unreadable: list[BadRow] = []  # of those, the files as a whole
        self.rows = 0
        self.resumed = 0  # records that the log had already
        self.written = 0
        self._newest: i64 = 0  # of the times of the ticks so far
        self._next_clock: i64 = 0
        self._ours: list[int] = []  # the partitions that have a symbol of the import
        self._producer = producer
        self._codec = codec
        self._cluster = cluster
        self._run = run
        numbers = list(range(producer.partitions))
        self._position = dict.fromkeys(numbers, 0)  # the offset of the next record, by partition
        self._bad_position = dict.fromkeys(numbers, 0)
        with LogReader(cluster) as log:
            bounds = log.bounds(producer.topic)
            self.deleted = sum(first for first, _ in bounds.values())  # records of the log, by age or size
            self._there = {number: end for number, (_, end) in bounds.items()}
            since = {number: max(first, end - COMPARED) for number, (first, end) in bounds.items()}
            self._tail = {_place(message): message for message in log.read(producer.topic, since, self._there)}
            dead_letters = topics.named(topics.DEAD_LETTER.name, run)
            bad = [message.partition() or 0 for message in log.whole(dead_letters) if _is_bad_row(message)]
            self._bad_there = Counter(bad)

    def write(
        self,
        files: Iterable[TickFile],
        unreadable: Iterable[BadRow] = (),
        grace_ns: int = GRACE_NS,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        """Write everything and wait until Kafka has it. Raises ProducerError, OtherInput."""
        files = list(files)
        for whole in unreadable:
            self._bad(whole)
        self._ours = sorted({self._producer.partition_of(file.symbol) for file in files})
        for batch in batches(files):
            for start in range(0, len(batch), REPORT_EVERY):
                self._rows(batch[start : start + REPORT_EVERY])
                report()
        if self._newest:
            end = (self._newest // MINUTE + 2) * MINUTE + max(grace_ns, GRACE_NS)
            for number in self._position:
                self._clock(number, end)
        for number, position in self._position.items():
            if position < self._there[number]:
                raise self._other(number, position, "the log goes on after the last record of these files")
        self._producer.flush()
        report()
        self._check_ends()

    def _rows(self, rows: Sequence[Row]) -> None:
        self.rows += len(rows)
        for row in rows:
            if not isinstance(row, (Quote, Trade)):
                self._bad(row)
                continue
            recv: i64 = row.ts_recv
            if recv > self._newest:
                self._newest = recv
                if self._newest >= self._next_clock:
                    second = self._newest // SECOND
                    self._next_clock = (second + 1) * SECOND
                    for number in self._ours:
                        self._clock(number, second * SECOND)
            place = self._places.get(row.symbol)
            if place is None:
                place = self._places[row.symbol] = Place(row.symbol, self._producer.partition_of(row.symbol))
            place.ticks[row.source] = place.ticks.get(row.source, 0) + 1
            self._record(place.number, row, place.key)

    @property
    def ticks(self) -> Counter[tuple[str, str]]:
        """How many there were so far, by symbol and source."""
        return Counter(
            {(symbol, source): n for symbol, place in self._places.items() for source, n in place.ticks.items()}
        )

    def _clock(self, number: int, ts_ns: int) -> None:
        self._record(number, Clock(ts_ns), topics.CLOCK_KEY)

    def _record(self, number: int, record: Tick | Clock, key: bytes) -> None:
        """Write the next record of a partition, unless it is there already."""
        position = self._position[number]
        self._position[number] = position + 1
        if position >= self._there[number]:
            self.written += 1
            self._producer.put(number, key, self._codec.encode(record))
            return
        self.resumed += 1
        found = self._tail.get((number, position))
        if found and (found.value() != self._codec.encode(record) or found.key() != key):
            raise self._other(number, position, "its record there is another one")

    def _bad(self, row: BadRow) -> None:
        file = row.file
        self.bad[str(file.path)] += 1
        if row.line == 0:
            self.unreadable.append(row)
        number = self._producer.partition_of(file.symbol)
        position = self._bad_position[number]
        self._bad_position[number] = position + 1
        if position >= self._bad_there[number]:
            headers = {
                "reason": flags.BAD_ROW,
                "error": row.reason,
                "file": str(file.path),
                "line": str(row.line),
                "source": file.source,
            }
            encoded = [(name, value.encode()) for name, value in headers.items()]
            self._producer.dead_letter(file.symbol.encode(), row.text.encode(), encoded)

    def _check_ends(self) -> None:
        """Nobody else may have written here meanwhile. Raises OtherInput."""
        with LogReader(self._cluster) as log:
            ends = {number: end for number, (_, end) in log.bounds(self._producer.topic).items()}
        if ends != self._position:
            raise OtherInput(
                f"somebody else wrote into run {self._run} during the import: give this one a --run of its own"
            )

    def _other(self, number: int, offset: int, what: str) -> OtherInput:
        return OtherInput(
            f"run {self._run} holds other input (partition {number}, offset {offset}: {what}): choose another --run"
        )


def _place(message: Message) -> tuple[int, int]:
    return message.partition() or 0, message.offset() or 0


def _is_bad_row(message: Message) -> bool:
    return ("reason", flags.BAD_ROW.encode()) in (message.headers() or [])
