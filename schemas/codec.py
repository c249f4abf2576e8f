"""Records to Kafka values and back.

Framing is Avro single-object encoding (``C3 01``, then the schema's CRC-64-AVRO fingerprint), or,
where ``SCHEMA_REGISTRY_URL`` is set, Confluent's (``00``, then the schema's id in the registry;
subjects are record names, as one topic holds several kinds of record). The current schemas are read
and written by ``avro.py``; an older version is read by fastavro and resolved to the current one.
"""

import io
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import fastavro
from fastavro.read import SchemaResolutionError
from fastavro.schema import SchemaParseException, fingerprint, to_parsing_canonical_form
from librt.strings import BytesWriter, read_i32_be, read_i64_le
from librt.vecs import vec
from mypy_extensions import i64

from schemas import avro, flags
from schemas.record import RECORDS, Record, Rejected, asdict, fields

HERE = Path(flags.__file__).parent  # our own __file__ is not where we are, once compiled
SINGLE_OBJECT = b"\xc3\x01"

#: Looks up a schema id of the registry and gives its JSON text. Raises LookupError where there is no such schema,
#: ConnectionError where the registry gives no answer.
SchemaOf = Callable[[int], str]


class DecodeError(ValueError):
    """Bytes that are not a record of ours; ``reason`` is a dead-letter reason."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason


@cache
def schemas() -> dict[str, Any]:
    """Every current schema, parsed, by record name."""
    return read_schemas(lambda name: HERE / f"{name.lower()}.avsc")


def read_schemas(path_of: Callable[[str], Path]) -> dict[str, Any]:
    """Parse one version of all schemas; Rejected refers to Quote and Trade by name."""
    parsed: dict[str, Any] = {}
    for cls in RECORDS:
        named = {f"tickloom.{n}": parsed[n] for n in ("Quote", "Trade")} if cls is Rejected else {}
        text = json.loads(path_of(cls.__name__).read_text())
        parsed[cls.__name__] = fastavro.parse_schema(text, named_schemas=named, expand=cls is Rejected)
    return parsed


def fingerprint_of(schema: Any) -> bytes:
    """The eight bytes that name a schema in a single-object message (little endian, as specified)."""
    return bytes.fromhex(fingerprint(to_parsing_canonical_form(schema), "CRC-64-AVRO"))


class Codec:
    """Encode and decode with one framing. Give ``ids`` and ``schema_of`` for Confluent's."""

    def __init__(self, ids: dict[str, int] | None = None, schema_of: SchemaOf | None = None) -> None:
        self._schema_of = schema_of
        self._headers: dict[type, bytes] = {}
        self._older: dict[bytes, tuple[str, Any]] = {}
        self._confluent = ids is not None
        self._size: i64 = 10 if ids is None else 5
        for cls in RECORDS:
            name = cls.__name__
            if ids is None:
                self._headers[cls] = SINGLE_OBJECT + fingerprint_of(schemas()[name])
            else:
                self._headers[cls] = b"\0" + ids[name].to_bytes(4, "big")
        self._marks = vec[i64]([self._mark(header) for header in self._headers.values()])
        if ids is None:
            self._learn_history()

    def encode(self, record: Record) -> bytes:
        """Make the Kafka value of a record."""
        out = BytesWriter()
        out.write(self._headers[type(record)])
        avro.encode(out, record)
        return out.getvalue()

    def is_current(self, value: bytes) -> bool:
        """Whether a value is in the schema and framing in which it would be written now."""
        return self._kind(value) >= 0

    def decode(self, value: bytes) -> Any:
        """Read a Kafka value. Raises DecodeError; ConnectionError where no registry says what an older schema is."""
        kind = self._kind(value)
        if kind < 0:
            return self._decode_older(value)
        try:
            return avro.decode(kind, value, self._size)
        except (ValueError, IndexError, OverflowError) as error:
            raise DecodeError(flags.UNDECODABLE, f"{RECORDS[kind].__name__}: {error}") from error

    def _kind(self, value: bytes) -> i64:
        """The place in RECORDS of what a value holds; -1: it is not in a current schema."""
        if len(value) < self._size:
            return -1
        if self._confluent:
            if value[0] != 0:
                return -1
        elif value[0] != 0xC3 or value[1] != 0x01:
            return -1
        mark = self._mark(value)
        marks = self._marks
        for kind in range(len(marks)):
            if marks[kind] == mark:
                return kind
        return -1

    def _mark(self, value: bytes) -> i64:
        """What names the schema in a value, as a number."""
        if self._confluent:
            return i64(read_i32_be(value, 1))
        return read_i64_le(value, 2)

    def _learn_history(self) -> None:
        for version in sorted({path.name.split(".")[1] for path in (HERE / "history").glob("*.avsc")}):
            for name, schema in read_schemas(_history_path(version)).items():
                self._older.setdefault(SINGLE_OBJECT + fingerprint_of(schema), (name, schema))

    def _decode_older(self, value: bytes) -> Any:
        header = value[: self._size]
        if header not in self._older:
            self._older[header] = self._look_up(header)
        name, schema = self._older[header]
        try:
            values: Any = fastavro.schemaless_reader(
                io.BytesIO(value[self._size :]), schema, schemas()[name], return_record_name=True
            )
            return _from_fields(name, values)
        except (LookupError, ValueError, EOFError, TypeError, OverflowError, SchemaResolutionError) as error:
            raise DecodeError(flags.UNDECODABLE, f"older {name}: {error}") from error

    def _look_up(self, header: bytes) -> tuple[str, Any]:
        if self._schema_of is None or len(header) < 5 or header[0] != 0:
            raise DecodeError(flags.UNKNOWN_SCHEMA, f"no schema is known for {header.hex() or 'no bytes at all'}")
        try:
            schema: Any = fastavro.parse_schema(json.loads(self._schema_of(int.from_bytes(header[1:], "big"))))
        except (LookupError, ValueError, TypeError, SchemaParseException) as error:
            raise DecodeError(flags.UNKNOWN_SCHEMA, f"schema id {header[1:].hex()}: {error}") from error
        full = str(schema.get("name", "")) if isinstance(schema, dict) else ""
        name = full.removeprefix("tickloom.")
        if name not in schemas():
            raise DecodeError(flags.UNKNOWN_SCHEMA, f"a record named {full!r}")
        return name, schema


def _history_path(version: str) -> Callable[[str], Path]:
    return lambda name: HERE / "history" / f"{name.lower()}.{version}.avsc"


def _from_fields(name: str, values: dict[str, Any]) -> Any:
    cls = next(cls for cls in RECORDS if cls.__name__ == name)
    if cls is Rejected:
        branch, tick = values["tick"]
        values["tick"] = _from_fields(branch.removeprefix("tickloom."), tick)
    return cls(**{field: values[field] for field in fields(cls)})


def to_dict(record: Record) -> dict[str, Any]:
    """The fields of a record as plain data, as fastavro takes and gives them."""
    values = asdict(record)
    if isinstance(record, Rejected):
        values["tick"] = (f"tickloom.{type(record.tick).__name__}", asdict(record.tick))
    return values
