"""Fetched records become rows: what a sink makes of the clean topics and of the dead letters.

Rule: a record is a row, or it is refused with its reason; only where a topic says how things stand, and of minutes
that are provisional, the last word on each key is enough. Compiled by mypyc, for it is the work of every record.
"""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final, NamedTuple

from librt.strings import BytesWriter
from mypy_extensions import i64

from schemas import flags, topics
from schemas.codec import Codec, DecodeError
from schemas.instrument import Instrument
from schemas.record import Candle, Quote, Trade
from topology.admin import SUNK
from topology.dead_letters import letter
from topology.fetched import Fetched
from topology.storage.tables import DELETABLE, DeadLetter, Deleted, Row
from topology.storage.ticks import Block, Encoder

OFFSET_NAME: Final = topics.OFFSET_HEADER.encode()
NAME_LENGTH: Final = 500  # of a text that is part of a key of the table dead_letter

#: Rows that can't be stored, each with its dead-letter reason and the error.
Refused = list[tuple[Row, str, str]]


class Read(NamedTuple):
    """What some records of one partition hold."""

    rows: list[Row]
    ticks: Block | None
    refused: Refused

    @property
    def size(self) -> int:
        """How many rows there are."""
        return len(self.rows) + len(self.refused) + (self.ticks.ticks if self.ticks else 0)

    def since(self, offset: int) -> "Read":
        """The same without what comes from records before an offset of their topic."""
        rows = [*self.rows, *(self.ticks.rows() if self.ticks else [])]
        refused = [each for each in self.refused if each[0][2].offset >= offset]
        return Read([row for row in rows if row[2].offset >= offset], None, refused)


class Reader:
    """Reads the topics of one run."""

    def __init__(self, codec: Codec, run: str, instruments: Mapping[str, Instrument]) -> None:
        self.dead_letters = topics.named(topics.DEAD_LETTER.name, run)
        self._ticks = topics.named(topics.TICK.name, run)
        self._codec = codec
        self._encoder = Encoder(run, instruments)
        self._own = {topics.named(topic.name, run) for topic in SUNK} - {self.dead_letters}
        self._deletable = {topics.named(name, run): table for name, table in DELETABLE.items()}
        self._standing = {topics.named(topic.name, run) for topic in (topics.BEST, topics.STATUS)}
        self._candles = topics.named(topics.CANDLE.name, run)

    def read(self, records: Sequence[Fetched]) -> Read:
        """Read records of one partition; most ticks are encoded at once and not held as rows."""
        topic = records[0].topic
        if topic in self._standing:
            records = last_words(records)
        of_letters = topic == self.dead_letters
        of_ticks = topic == self._ticks
        out = BytesWriter()
        encoded: list[Fetched] = []
        rows: list[Row] = []
        refused: Refused = []
        for record in records:
            try:
                if not of_letters:
                    row = self._row(record)
                    made: Any = row[0]
                    if of_ticks and isinstance(made, (Quote, Trade)) and self._encoder.put(out, made, row[1]):
                        encoded.append(record)
                    else:
                        rows.append(row)
                elif self._is_for_us(record):
                    rows.append(self._dead_letter(record))
            except DecodeError as error:
                refused.append(((None, -1, record), error.reason, str(error)))
        if topic == self._candles:
            rows = newest(rows)
        block = Block(out.getvalue(), len(encoded), partial(self._again, encoded)) if encoded else None
        return Read(rows, block, refused)

    def _again(self, records: list[Fetched]) -> list[Row]:
        return [self._row(record) for record in records]

    def _row(self, record: Fetched) -> Row:
        value = record.value
        if value is None:
            if record.topic in self._deletable:
                return self._tombstone(record)
            value = b""
        offset = record.header(OFFSET_NAME)
        if offset is None:
            raise DecodeError(flags.UNDECODABLE, f"no header {topics.OFFSET_HEADER!r}")
        return self._codec.decode(value), _number(offset), record

    def _tombstone(self, record: Fetched) -> Row:
        """A key that somebody has deleted: `tickloom replay promote --delete-missing` does."""
        try:
            symbol, source, start = _text(record.key).split("|")
            return Deleted(self._deletable[record.topic], symbol, source, _bounded(int(start), 63)), -1, record
        except ValueError as error:
            raise DecodeError(flags.UNDECODABLE, f"the key of a tombstone: {error}") from error

    def _is_for_us(self, record: Fetched) -> bool:
        """Of market.dead_letter: letters, and those receipts that bring back what the sink could not store."""
        return letter.retried(record.headers) is None or letter.redelivered(record.headers)[0] in self._own

    def _dead_letter(self, record: Fetched) -> Row:
        """By its first place where the headers say that, so that it may come twice; else by its own."""
        if letter.retried(record.headers) is not None:
            topic, headers = letter.redelivered(record.headers)
            made, offset, _ = self._row(record.moved(topic, headers))
            return made, offset, record
        said = {name: _text(value) for name, value in record.headers if not name.startswith(letter.KEPT)}
        reason, error = said.pop("reason", ""), said.pop("error", "")
        topic, partition, offset = record.topic, record.partition, record.offset
        with suppress(KeyError, ValueError):
            place = _bounded(int(said["partition"]), 31), _bounded(int(said["offset"]), 63)
            topic = said.pop("topic")[-NAME_LENGTH:]
            partition, offset = place
            del said["partition"], said["offset"]
        error += "".join([f"; {name}: {value}" for name, value in said.items()])
        key, value = _hex(record.key), _hex(record.value)
        written = record.timestamp * 1_000_000
        return DeadLetter(topic, partition, offset, reason[:NAME_LENGTH], error, key, value, written), -1, record


def last_words(records: Sequence[Fetched]) -> list[Fetched]:
    """Of records that only say how things stand, the last word on each key: the others are not even read.

    That is the one made of the latest record of market.raw, for at least once others may be written again behind it.
    """
    kept: dict[bytes, Fetched] = {}
    latest: dict[bytes, bytes] = {}
    others: list[Fetched] = []
    for record in records:
        key, offset = record.key, record.header(OFFSET_NAME)
        if key is None or offset is None or not offset.isdigit() or record.value is None:
            others.append(record)
            continue
        held = latest.get(key)
        if held is None or len(offset) > len(held) or (len(offset) == len(held) and offset >= held):
            latest[key] = offset
            kept[key] = record
    return [*kept.values(), *others]


def newest(rows: list[Row]) -> list[Row]:
    """Of candles, the last word on each minute while it is provisional: that is what would be left in the table."""
    kept: dict[str, Row] = {}
    others: list[Row] = []
    for row in rows:
        record: Any = row[0]
        if isinstance(record, Candle) and record.revision < 0:
            key = record.symbol + "|" + record.source + "|" + str(record.start)
            held = kept.get(key)
            if held is None or row[1] >= held[1]:
                kept[key] = row
        elif isinstance(record, Deleted):
            return rows  # of what came before it, not of what comes behind
        else:
            others.append(row)
    return [*kept.values(), *others]


def _number(value: bytes) -> i64:
    try:
        return _bounded(int(value), 63)
    except ValueError as error:
        raise DecodeError(flags.UNDECODABLE, f"header {topics.OFFSET_HEADER!r}: {error}") from error


def _bounded(number: int, bits: i64) -> int:
    limit = 1 << int(bits)
    if not -limit <= number < limit:
        raise ValueError(f"{number} has more than {bits} bits")
    return number


def _hex(value: bytes | None) -> str:
    return "-" if value is None else value.hex()


def _text(value: bytes | None) -> str:
    return (value or b"").decode(errors="replace").replace("\0", "\N{REPLACEMENT CHARACTER}")
