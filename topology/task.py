"""One partition's work, without Kafka: records as they came in, output records as they go out.

Reads: the fetched records of one partition of market.raw. Remembers: the partition's symbols
(``stages/partition.py``). Gives: encoded outputs by topic, and what to save. No record is ever dropped: what can't be
decoded or applied becomes a dead letter with its coordinates and its reason.
"""

import struct
import traceback
from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

from schemas import flags, topics
from schemas.avro import put_long
from schemas.codec import Codec, DecodeError
from schemas.instrument import Instrument
from schemas.record import Best, Candle, Clock, Link, Quote, Record, Rejected, Trade
from topology.batch import Records, encode_headers
from topology.dead_letters import letter
from topology.fetched import Fetched
from topology.stages.partition import PARTITION_KEY, Partition
from topology.stages.pipeline import VERSION, Made, Symbol

MILLISECOND: Final = 1_000_000
ERROR_LENGTH: Final = 2_000  # of a traceback in a header
#: A state has up to 32 ids of each source, and must fit into a record of Kafka, as must what is made of a record.
RECORD_BYTES: Final = 64_000
NAME_LENGTH: Final = 256

_OFFSET: Final = struct.Struct(">q")
_OWN: Final = struct.Struct(">qBq")
_ONE_HEADER: Final = encode_headers([(topics.OFFSET_HEADER, b"")])[:-1]  # but for its value
_NUMBER_OF: Final[dict[type, int]] = {kind: topics.TOPICS.index(topic) for kind, topic in topics.OUTPUT_OF.items()}
_DEAD_LETTER: Final = topics.TOPICS.index(topics.DEAD_LETTER)


class Task:
    """The work of one partition, from assignment to revocation."""

    def __init__(self, number: int, instruments: dict[str, Instrument], codec: Codec) -> None:
        self.number = number
        self.partition = Partition(number, instruments)
        self.codec = codec
        self.outputs = [Records() for _ in topics.TOPICS]
        self.waiting = 0  # how many outputs
        self.offset = -1  # of the last record processed
        self.delivered: i64 = -1  # what was made of the records up to here had been delivered when this one was loaded
        self.processed = 0  # records, since assignment
        self.dead_letters: dict[str, int] = {}
        self._name = ""  # of the last key asked for: most outputs of a record have it
        self._named = b""

    def process(self, records: list[Fetched]) -> None:
        """Apply fetched records in their order.

        Raises ConnectionError where no registry says what an older schema is: some are applied, the task is spent.
        """
        codec = self.codec
        partition = self.partition
        made = partition.out
        for record in records:
            offset: i64 = record.offset
            if offset <= partition.offset:  # applied before a restart
                continue
            value = record.value or b""
            milliseconds: i64 = record.timestamp
            try:
                decoded: Record = codec.decode(value)
            except DecodeError as error:
                self._dead_letter(record, error.reason, str(error))
                continue
            if not isinstance(decoded, Clock) and record.key != self._key(_symbol_of(decoded)):
                self._dead_letter(record, flags.KEY_MISMATCH, f"the value says {_symbol_of(decoded)}")
                continue
            if len(value) > RECORD_BYTES or _has_long_name(decoded):
                self._dead_letter(record, flags.OVERSIZED, flags.DEAD_LETTER_REASONS[flags.OVERSIZED])
                continue
            try:
                reason = partition.apply(decoded, offset, milliseconds * MILLISECOND)
            except Exception:  # noqa: BLE001  a defect of ours must not stop the partition nor be silent
                self._dead_letter(record, flags.FAILED, traceback.format_exc()[-ERROR_LENGTH:])
                reason = ""
            if reason:
                self._dead_letter(record, reason, flags.DEAD_LETTER_REASONS[reason])
            if made:
                if offset > self.delivered:
                    self._encode(made, decoded, value)
                made.clear()
        self.offset = records[-1].offset
        self.processed += len(records)

    def _encode(self, made: list[Made], decoded: Record, value: bytes) -> None:
        codec = self.codec
        origin: i64 = -1
        headers = b""
        for each in made:
            output = each.record
            if each.offset != origin:  # most outputs of a record share it
                origin = each.offset
                headers = _from_offset(origin)
            number: i64 = _NUMBER_OF[type(output)]
            if isinstance(output, (Quote, Best, Trade)):
                key = self._key(output.symbol)
            else:
                key = topics.key(output)
            if output is not decoded or not codec.is_current(value):
                encoded = codec.encode(output)
            else:
                encoded = value  # an accepted tick that nothing changed: the bytes as they came
            self.outputs[number].add(key, encoded, headers)
        self.waiting += len(made)

    def _key(self, name: str) -> bytes:
        if name != self._name:
            self._name = name
            self._named = name.encode()
        return self._named

    def _dead_letter(self, record: Fetched, reason: str, error: str) -> None:
        if record.offset <= self.delivered:
            return
        self.dead_letters[reason] = self.dead_letters.get(reason, 0) + 1
        key, kept, headers = letter.write(record, reason, error)
        self.outputs[_DEAD_LETTER].add(key, kept, encode_headers(headers))
        self.waiting += 1

    @property
    def unsaved(self) -> int:
        """How many symbols have changed since they were saved."""
        return len(self.partition.touched)

    @property
    def is_behind(self) -> bool:
        """Whether it has still to go over what had been processed before a crash."""
        return self.offset < self.delivered

    def take(self) -> list[Records]:
        """Hand over the outputs made since the last time, by topic in the order of TOPICS."""
        outputs = self.outputs
        self.outputs = [Records() for _ in topics.TOPICS]
        self.waiting = 0
        return outputs

    def save(self, share: float) -> list[tuple[bytes, bytes]]:
        """States of so many symbols as are ``share`` of all, then the partition's: (key, value) for the changelog."""
        saved = [_saved(symbol) for symbol in self.partition.take_touched(share)]
        behind, own = self.partition.dump_own(max(self.offset, self.partition.offset))
        reached = max(self.offset, self.delivered)  # records may be coming again
        return [*saved, (PARTITION_KEY + b"%d" % self.number, _OWN.pack(reached, VERSION, behind) + own)]

    def states(self) -> list[tuple[bytes, bytes]]:
        """The states of all symbols, as `save` gives them."""
        return [_saved(symbol) for symbol in self.partition.symbols.values()]

    def load(self, key: bytes, value: bytes) -> None:
        """Take over one saved record. Raises ValueError where it can't be."""
        if key.startswith(PARTITION_KEY):
            self.delivered = applied_offset(value)
            self.partition.load_own(state_offset(value), value[_OWN.size :])
        else:
            self.partition.load(key, value[_OFFSET.size :])


def _saved(symbol: Symbol) -> tuple[bytes, bytes]:
    return symbol.name.encode(), _OFFSET.pack(symbol.offset) + symbol.dump()


def _symbol_of(record: Record) -> str:
    if isinstance(record, Quote):
        return record.symbol
    if isinstance(record, Rejected):
        return record.tick.symbol
    if isinstance(record, Clock):
        return ""
    return record.symbol


def _has_long_name(record: Record) -> bool:
    if isinstance(record, (Quote, Trade)):
        return len(record.id) > NAME_LENGTH or len(record.source) > NAME_LENGTH
    return isinstance(record, (Link, Candle)) and len(record.source) > NAME_LENGTH


def _from_offset(origin: i64) -> bytes:
    """The headers of an output."""
    digits = str(origin).encode()
    out = BytesWriter()
    out.write(_ONE_HEADER)
    put_long(out, len(digits))
    out.write(digits)
    return out.getvalue()


def applied_offset(value: bytes) -> int:
    """The offset up to which a saved record has applied its symbol's records, or a partition's all of them."""
    return int(_OFFSET.unpack_from(value)[0])


def state_offset(value: bytes) -> int:
    """The offset up to which, by a partition's saved record, the saved states of its symbols have applied all.

    Raises ValueError where another version of this code wrote it.
    """
    if value[_OFFSET.size : _OFFSET.size + 1] != bytes([VERSION]):
        raise ValueError(f"the state is not of version {VERSION}, which this code reads")
    return int(_OWN.unpack_from(value)[2])
